/* A queue's lanes under load: one pusher whose ring grows by successors and which takes jobs back as the fetcher does,
 * several workers that take slots, park and are woken. Each job is had exactly once, slots are never exceeded, nobody
 * sleeps for ever, and the low mark wakes the pusher.
 */
#include "harness.h"
#include "queue.h"

enum { WORKERS = 4, SLOTS = 3 };

static rf_queue *queue;
static rf_wake fetcher;
static uint64_t size;
static _Atomic uint64_t had[2]; /* started by workers; taken back */
static _Atomic uint64_t sum;
static _Atomic int running;

static rf_job *make(uint64_t id) {
    rf_job *job = (rf_job *)calloc(1, sizeof *job);
    CHECK(job != NULL);
    job->claim.id = (int64_t)id;
    return job;
}

static void account(int who, rf_job_cell *cell) {
    CHECK(cell->job->claim.id == cell->id);
    atomic_fetch_add(&sum, (uint64_t)cell->id);
    atomic_fetch_add(&had[who], 1);
    free(cell->job);
}

static void worker(void) {
    for (;;) {
        rf_job_cell cell;
        int taken = rf_queue_take(queue, RF_THREADS, &cell);
        if (taken == RF_ENDED) return;
        if (taken == RF_TAKEN) {
            CHECK(atomic_fetch_add(&running, 1) < SLOTS, "more jobs than slots");
            account(0, &cell);
            move_off();
            atomic_fetch_sub(&running, 1);
            rf_slots_release(&queue->slots, 1);
        } else {
            rf_queue_wait(queue);
        }
    }
}

static void pusher(void) {
    uint64_t id = 0;
    int64_t list[2 * 64];
    while (id < size) {
        uint64_t burst = 1 + rng() % (rng() % 16 == 0 ? 3000 : 40);
        for (; burst > 0 && id < size; burst--) {
            CHECK(rf_queue_push(queue, RF_THREADS, make(++id), rf_now()));
        }
        rf_unpark(&queue->park, 1 + (int)(rng() % WORKERS));
        int64_t listed = rf_queue_list(queue, list, 64);
        for (int64_t i = 0; i < listed; i++) CHECK(list[2 * i] >= 1 && list[2 * i] <= (int64_t)id);
        if (rng() % 8 == 0 && rf_queue_oldest(queue, RF_THREADS) != INT64_MAX) {
            rf_job_cell cell;
            if (rf_queue_pop(queue, RF_THREADS, &cell) == RF_TAKEN) {
                queue->own.taken_back++;
                account(1, &cell);
            }
        }
        if (rng() % 4 == 0) continue;
        /* as a fetch waits for room: the pop that empties the rings wakes us */
        atomic_store(&queue->low_mark, queue->own.pushed);
        while (rf_queue_ring(queue) > 0) {
            struct pollfd one = {fetcher.read_fd, POLLIN, 0};
            rf_unpark(&queue->park, WORKERS); /* the look's doubling, at its end */
            if (poll(&one, 1, 3000) == 0)
                CHECK(rf_queue_ring(queue) == 0, "nobody was woken: %d in the ring, %d parked, %d started",
                      (int)rf_queue_ring(queue), (int)rf_park_count(&queue->park), (int)queue->slots.started);
            rf_wake_clear(&fetcher);
        }
    }
    rf_queue_end(queue);
}

static void *body(void *number) {
    rng_seed(env("RF_SEED", 1) * 100 + (uint64_t)(intptr_t)number);
    start_together(WORKERS + 1);
    if ((intptr_t)number == 0) pusher();
    else worker();
    return NULL;
}

int main(void) {
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    size = env("RF_SIZE", 600) * 20;
    CHECK(rf_wake_open(&fetcher) == 0);
    queue = rf_queue_new("default", 7, 0);
    CHECK(queue != NULL);
    queue->fetcher = queue->slots.fetcher = &fetcher;
    atomic_init(&queue->slots.limit, SLOTS);
    run_threads(WORKERS + 1, body);
    CHECK(had[0] + had[1] == size, "%llu of %llu", (unsigned long long)(had[0] + had[1]), (unsigned long long)size);
    CHECK(sum == size * (size + 1) / 2, "a job was had twice, and another never");
    CHECK(queue->slots.started == 0 && rf_queue_starts(queue) == (int64_t)had[0]);
    rf_queue_free(queue);
    rf_wake_close(&fetcher);
    printf("ok n=%llu\n", (unsigned long long)size);
}
