/* The ring under N producers, M consumers and two closers that close at a random moment.
 *
 * Claims: every accepted push is popped, once, whole; a consumer sees each producer's values in order; a push begun
 * after a close returned is refused; a pop begun after a CLOSED brings nothing; the counters may wrap (RF_RING_START).
 */
#include "harness.h"
#include "ring.h"

typedef struct value {
    uint64_t producer, number, third[3]; /* wider than one copy, so that a torn read shows */
} value;

RF_RING_DEFINE(ring, value)

static struct {
    ring ring;
    int producers, consumers, closers;
    uint64_t each, close_after;
    _Atomic uint64_t tries;
    atomic_bool close_returned, closed_seen;
    uint64_t accepted[THREADS_MAX];
    _Atomic uint8_t *popped[THREADS_MAX]; /* times, by producer and number */
} run;

static void produce(uint64_t me) {
    for (uint64_t number = 0; number < run.each;) {
        value value = {me, number, {~number, number * 3, me ^ number}};
        bool after = atomic_load(&run.close_returned);
        int result = ring_try_push(&run.ring, &value);
        atomic_fetch_add_explicit(&run.tries, 1, memory_order_relaxed);
        CHECK(!after || result == RF_CLOSED, "a push after the close returned %d", result);
        if (result == RF_CLOSED) break;
        if (result == RF_FULL) sched_yield();
        else run.accepted[me] = ++number;
    }
}

static void consume(void) {
    uint64_t next[THREADS_MAX] = {0};
    for (;;) {
        value value;
        bool after = atomic_load(&run.closed_seen);
        int result = ring_pop(&run.ring, &value);
        CHECK(!after || result == RF_CLOSED, "a pop after CLOSED returned %d", result);
        if (result == RF_CLOSED) break;
        if (result == RF_EMPTY) {
            sched_yield();
            continue;
        }
        CHECK(value.producer < (uint64_t)run.producers && value.number < run.each, "never pushed");
        CHECK(value.third[0] == ~value.number && value.third[1] == value.number * 3
                  && value.third[2] == (value.producer ^ value.number), "torn");
        CHECK(value.number >= next[value.producer], "out of order");
        next[value.producer] = value.number + 1;
        CHECK(atomic_fetch_add(&run.popped[value.producer][value.number], 1) == 0, "popped twice");
    }
    atomic_store(&run.closed_seen, true);
}

static void *body(void *argument) {
    int me = (int)(intptr_t)argument;
    rng_seed(env("RF_SEED", 1) * 1000 + (uint64_t)me + run.close_after);
    start_together(run.producers + run.consumers + run.closers);
    if (me < run.producers) produce((uint64_t)me);
    else if (me < run.producers + run.consumers) consume();
    else {
        while (atomic_load_explicit(&run.tries, memory_order_relaxed) < run.close_after) sched_yield();
        ring_close(&run.ring);
        CHECK(ring_is_closed(&run.ring));
        atomic_store(&run.close_returned, true);
    }
    return NULL;
}

static uint64_t round_of(uint64_t capacity, int producers, int consumers, uint64_t each) {
    memset(&run, 0, sizeof run);
    CHECK(ring_init(&run.ring, capacity) == 0);
    run.producers = producers, run.consumers = consumers, run.closers = 2, run.each = each;
    run.close_after = rng() % ((uint64_t)producers * each); /* tries never end below it: each is tried until accepted */
    for (int i = 0; i < producers; i++) run.popped[i] = calloc(each, 1);
    atomic_store(&waiting_at_start, 0);
    run_threads(producers + consumers + run.closers, body);
    uint64_t total = 0;
    for (int i = 0; i < producers; i++) {
        for (uint64_t number = 0; number < each; number++)
            CHECK(run.popped[i][number] == (number < run.accepted[i]), "accepted %d, popped %d times",
                  number < run.accepted[i], run.popped[i][number]);
        total += run.accepted[i];
        free((void *)run.popped[i]);
    }
    value value = {0};
    CHECK(ring_pop(&run.ring, &value) == RF_CLOSED && ring_try_push(&run.ring, &value) == RF_CLOSED);
    CHECK(ring_size(&run.ring) == 0);
    ring_free(&run.ring);
    return total;
}

/* Closing with nobody else about, and the arithmetic at the edges. */
static uint64_t one_thread(uint64_t capacity) {
    ring ring;
    value out, in = {0};
    CHECK(ring_init(&ring, capacity) == 0);
    for (uint64_t round = 0; round < 3 * capacity + 9; round++) {
        uint64_t many = 1 + rng() % capacity;
        for (in.number = 0; in.number < many; in.number++) CHECK(ring_try_push(&ring, &in) == RF_PUSHED);
        CHECK(ring_size(&ring) == many);
        if (many == capacity) CHECK(ring_try_push(&ring, &in) == RF_FULL);
        for (uint64_t i = 0; i < many; i++) CHECK(ring_pop(&ring, &out) == RF_POPPED && out.number == i);
        CHECK(ring_pop(&ring, &out) == RF_EMPTY && ring_size(&ring) == 0);
    }
    CHECK(ring_try_push(&ring, &in) == RF_PUSHED && !ring_is_closed(&ring));
    ring_close(&ring), ring_close(&ring);
    CHECK(ring_try_push(&ring, &in) == RF_CLOSED && ring_is_closed(&ring) && ring_size(&ring) == 1);
    CHECK(ring_pop(&ring, &out) == RF_POPPED && ring_pop(&ring, &out) == RF_CLOSED);
    CHECK(ring_pop(&ring, &out) == RF_CLOSED && ring_try_push(&ring, &in) == RF_CLOSED);
    ring_free(&ring);
    return capacity;
}

int main(void) {
    static const uint64_t capacities[] = {1, 2, 8, 1024};
    static const int threads[][2] = {{1, 1}, {1, 4}, {4, 1}, {3, 3}};
    uint64_t n = 0, each = env("RF_SIZE", 2000);
    rng_seed(env("RF_SEED", 1));
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    ring ring;
    CHECK(ring_init(&ring, 0) == -1 && ring_init(&ring, 3) == -1 && ring_init(&ring, UINT64_C(1) << 63) == -1);
    for (int c = 0; c < 4; c++) {
        n += one_thread(capacities[c]);
        for (int t = 0; t < 4; t++)
            for (int repeat = 0; repeat < 6; repeat++)
                n += round_of(capacities[c], threads[t][0], threads[t][1], 1 + rng() % each);
    }
    printf("ok n=%llu\n", (unsigned long long)n);
}
