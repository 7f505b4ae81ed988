/* rf_park under load: no wake-up is lost, whoever leaves last and whatever signal interrupts.
 *
 * Every wait here ends by a wake-up: one that lasts RF_PATIENCE seconds is a lost one, and alarm() says so. The threads
 * wait as workers do: pop; prepare; pop once more; wait.
 */
#include "harness.h"
#include "ring.h"
#include "wakeup.h"

#include <limits.h>

RF_RING_DEFINE(ring, uint64_t)

typedef struct side {
    ring ring;
    rf_park park;
} side;

static side sides[2];
static uint64_t size;
static _Atomic uint64_t popped, producers_left;
static atomic_bool over;

static int pop_or_park(side *side, uint64_t *value, int64_t timeout) {
    for (;;) {
        int result = ring_pop(&side->ring, value);
        if (result != RF_EMPTY) return result;
        uint32_t ticket = rf_park_prepare(&side->park);
        result = ring_pop(&side->ring, value);
        if (result != RF_EMPTY) {
            rf_park_cancel(&side->park);
            return result;
        }
        rf_park_wait(&side->park, ticket, timeout);
    }
}

static void sides_open(uint64_t capacity) {
    for (int i = 0; i < 2; i++) {
        CHECK(ring_init(&sides[i].ring, capacity) == 0);
        rf_park_init(&sides[i].park);
    }
    atomic_store(&waiting_at_start, 0);
    atomic_store(&popped, 0);
    atomic_store(&over, false);
}

static void sides_close(void) {
    for (int i = 0; i < 2; i++) {
        CHECK(rf_park_count(&sides[i].park) == 0, "%d still announced", rf_park_count(&sides[i].park));
        rf_park_destroy(&sides[i].park);
        ring_free(&sides[i].ring);
    }
}

/* Two threads, each of which sleeps until the other has pushed: one lost wake-up stops both. */
static void *ping_pong(void *argument) {
    intptr_t me = (intptr_t)argument;
    rng_seed(env("RF_SEED", 1) * 2 + (uint64_t)me);
    for (uint64_t i = 0; i < size; i++) {
        uint64_t value;
        if (me == 1) {
            CHECK(pop_or_park(&sides[1], &value, -1) == RF_POPPED && value == i);
            RF_PAUSE();
        }
        CHECK(ring_try_push(&sides[1 - me].ring, &i) == RF_PUSHED);
        rf_unpark(&sides[1 - me].park, 1);
        if (me == 0) CHECK(pop_or_park(&sides[0], &value, -1) == RF_POPPED && value == i);
    }
    return NULL;
}

/* Producers push and wake one; the last one that leaves closes and wakes all; consumers park, meanwhile interrupted. */
enum { PRODUCERS = 3, CONSUMERS = 4 };

static void produce(void) {
    for (uint64_t i = 0; i < size;) {
        int result = ring_try_push(&sides[0].ring, &i);
        if (result == RF_PUSHED) {
            rf_unpark(&sides[0].park, 1);
            i++;
        } else { /* full: as a completer's pusher waits for room */
            CHECK(result == RF_FULL);
            uint32_t ticket = rf_park_prepare(&sides[1].park);
            if (ring_try_push(&sides[0].ring, &i) == RF_PUSHED) {
                rf_park_cancel(&sides[1].park);
                rf_unpark(&sides[0].park, 1);
                i++;
            } else rf_park_wait(&sides[1].park, ticket, -1);
        }
    }
    if (atomic_fetch_sub(&producers_left, 1) == 1) {
        ring_close(&sides[0].ring);
        rf_unpark(&sides[0].park, INT_MAX);
    }
}

static void consume(int64_t timeout) {
    uint64_t value;
    while (pop_or_park(&sides[0], &value, timeout) == RF_POPPED) {
        atomic_fetch_add_explicit(&popped, 1, memory_order_relaxed);
        rf_unpark(&sides[1].park, 1);
    }
}

static void *crowd(void *argument) {
    intptr_t me = (intptr_t)argument;
    rng_seed(env("RF_SEED", 1) * 16 + (uint64_t)me);
    start_together(PRODUCERS + CONSUMERS);
    if (me < PRODUCERS) produce();
    else consume(me == PRODUCERS ? 20000 : -1); /* one of them wakes by the clock as well */
    return NULL;
}

static void ignore(int signal) { (void)signal; }

static void *interrupt(void *argument) {
    pthread_t *main_thread = argument;
    while (!atomic_load(&over)) {
        pthread_kill(*main_thread, SIGUSR1);
        nanosleep(&(struct timespec){0, 20000}, NULL);
    }
    return NULL;
}

/* A sleeper whose every sleep is interrupted. */
static void interrupted(void) {
    pthread_t self = pthread_self(), interrupter, producer;
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = ignore}, NULL);
    CHECK(pthread_create(&interrupter, NULL, interrupt, &self) == 0);
    CHECK(pthread_create(&producer, NULL, ping_pong, (void *)0) == 0);
    ping_pong((void *)1);
    pthread_join(producer, NULL);
    atomic_store(&over, true);
    pthread_join(interrupter, NULL);
}

static void times_out(void) {
    int64_t begun = rf_now();
    rf_park_wait(&sides[0].park, rf_park_prepare(&sides[0].park), 2000000);
    int64_t slept = rf_now() - begun;
    CHECK(slept >= 2000000 && slept < INT64_C(1000000000) * 10, "slept %lld ns", (long long)slept);
    uint32_t ticket = rf_park_prepare(&sides[0].park);
    rf_unpark(&sides[0].park, 0); /* wakes nobody, and yet no ticket from before it sleeps */
    rf_park_wait(&sides[0].park, ticket, -1);
    ticket = rf_park_prepare(&sides[0].park);
    rf_park_wait(&sides[0].park, ticket, 0);
    rf_park_wait(&sides[0].park, rf_park_prepare(&sides[0].park), 0);
}

int main(void) {
    size = env("RF_SIZE", 2000);
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    uint64_t n = 0;
    sides_open(1);
    times_out();
    run_threads(2, ping_pong);
    sides_close();
    sides_open(2);
    interrupted();
    sides_close();
    n += 4 * size;
    for (uint64_t capacity = 1; capacity <= 64; capacity *= 8) {
        sides_open(capacity);
        atomic_store(&producers_left, PRODUCERS);
        run_threads(PRODUCERS + CONSUMERS, crowd);
        CHECK(atomic_load(&popped) == PRODUCERS * size);
        sides_close();
        n += PRODUCERS * size;
    }
    printf("ok n=%llu\n", (unsigned long long)n);
}
