/* When a queue fetches, by a clock of the test's own: a job that was told of costs two empty fetches more; a stream whose
 * inserters leave notifications out is followed through its pauses, and left soon after its end. */
#include "harness.h"
#include "limits.h"
#include "pace.h"

static uint64_t checked;

typedef struct run {
    rf_queue *queue;
    int64_t now, jobs, oldest;    /* the clock; committed and not fetched, the first of them when */
    int64_t fetches, empties, worst;
} run;

static run begin(void) {
    run r = {.queue = rf_queue_new("q", 1, 0), .now = RF_SECOND};
    r.queue->cooldown = 2 * RF_MS;
    r.queue->poll_interval = 3600 * RF_SECOND;
    atomic_store(&r.queue->slots.limit, 100);
    rf_pace_start(r.queue, r.now);
    rf_pace_asked(r.queue, r.now, 0);
    r.queue->own.repeat = false;
    return r;
}

static void fetch(run *r) {
    rf_pace *pace = &r->queue->own;
    bool unsaid = !pace->notified && !pace->again;
    if (!pace->again) rf_pace_spend(r->queue, r->now);
    pace->again = pace->notified = false;
    rf_pace_asked(r->queue, r->now, 0);
    r->fetches++;
    r->empties += r->jobs == 0;
    if (r->jobs > 0 && r->now - r->oldest > r->worst) r->worst = r->now - r->oldest;
    rf_pace_fetched(r->queue, r->now, unsaid, 100, r->jobs, (double)r->jobs * 100);
    r->jobs = 0;
    checked++;
}

/* The fetcher's rounds until then, a tenth of a millisecond apart; every fetch is done at once. */
static void pass(run *r, int64_t until) {
    for (; r->now < until; r->now += RF_MS / 10)
        if (rf_pace_due(r->queue, r->now) <= r->now || rf_pace_ask(r->queue) <= r->now) fetch(r);
}

static void insert(run *r, bool tell) {
    if (r->jobs++ == 0) r->oldest = r->now;
    if (tell) rf_pace_notified(r->queue, r->now);
}

static void check_told_jobs(void) {
    run r = begin();
    int64_t every = 20 * RF_MS + (int64_t)(rng() % 40) * RF_MS;
    for (int i = 0; i < 50; i++) {
        insert(&r, true);
        pass(&r, r.now + every);
    }
    CHECK(r.worst == 0);
    CHECK(r.empties <= 2 * 50 + 2);
    pass(&r, r.now + 10 * RF_SECOND);
    CHECK(r.empties <= 2 * 50 + 2 + 2); /* the two rechecks */
    rf_queue_free(r.queue);
}

static void check_unsaid_streams(void) {
    run r = begin();
    for (int i = 0; i < 120; i++) { /* until a recheck: then it is seen that jobs come unsaid */
        insert(&r, i == 0);
        pass(&r, r.now + RF_MS);
    }
    r.worst = 0;
    int64_t longest = 0, said = r.now;
    for (int i = 0; i < 400; i++) {
        int64_t pause = (int64_t)(rng() % 8 == 0 ? rng() % 50 : rng() % 4) * RF_MS;
        if (pause > longest) longest = pause;
        pass(&r, r.now + pause);
        insert(&r, r.now - said >= 100 * RF_MS);
        if (r.now - said >= 100 * RF_MS) said = r.now;
    }
    pass(&r, r.now + 100 * RF_MS);
    CHECK(r.jobs == 0);
    CHECK(r.worst <= longest + 4 * r.queue->cooldown, "%lld us, longest %lld", (long long)r.worst / 1000, (long long)longest / 1000);
    r.empties = 0;
    pass(&r, r.now + 10 * RF_SECOND);
    CHECK(r.empties <= 8 + 2);
    rf_queue_free(r.queue);
}

/* Fetches of known kinds alone that read past many jobs of others: a fifth of the time, whoever asks how often. */
static void check_walks(void) {
    rf_queue *queue = rf_queue_new("q", 1, 0);
    queue->cooldown = 2 * RF_MS;
    atomic_store(&queue->slots.limit, 100);
    int64_t now = RF_SECOND, walked = 0, began = now;
    rf_pace_start(queue, now);
    CHECK(!rf_pace_walked(queue, now, RF_WALK_SHORT - 1, 100, 0));                 /* short */
    CHECK(!rf_pace_walked(queue, now, 50 * RF_MS, 100, 100));                      /* all that was asked for */
    CHECK(!rf_pace_walked(queue, now, 40 * RF_MS, 5000, 1000));                    /* it brought what it took */
    CHECK(queue->own.rest_until == 0);
    for (; now < began + 10 * RF_SECOND; now += RF_MS / 10) {
        rf_pace_notified(queue, now);
        if (rf_pace_due(queue, now) > now) continue;
        int64_t took = 10 * RF_MS + (int64_t)(rng() % 200) * RF_MS, rows = (int64_t)(rng() % 3);
        rf_pace_spend(queue, now);
        queue->own.again = queue->own.notified = false;
        now += took;
        walked += took;
        rf_pace_fetched(queue, now, false, 100, rows, (double)rows);
        CHECK(rf_pace_walked(queue, now, took, 100, rows));
        CHECK(rf_pace_ask(queue) >= now + took * RF_WALK_REST);
        checked++;
    }
    CHECK(walked <= (now - began) / 5 + 250 * RF_MS && walked >= (now - began) / 6 - 250 * RF_MS);
    rf_queue_free(queue);
}

int main(void) {
    uint64_t size = env("RF_SIZE", 600) / 10;
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    rng_seed(env("RF_SEED", 1));
    for (uint64_t i = 0; i < size; i++) {
        check_told_jobs();
        check_unsaid_streams();
        if (i % 10 == 0) check_walks();
    }
    printf("ok n=%llu\n", (unsigned long long)checked);
    return 0;
}
