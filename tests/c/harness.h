/* What every program here shares: a check that ends the process, seeded randomness, threads, and RF_PAUSE, which moves
 * a thread off between two steps of an operation, where races live.
 *
 * A program takes its size from the environment (RF_SIZE, RF_SEED), so that a failing run can be repeated, and ends
 * with one line `ok n=<operations checked>`.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Thread_local uint64_t rng_state = 88172645463325252u;

static inline uint64_t rng(void) { /* xorshift64 */
    uint64_t x = rng_state;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return rng_state = x;
}

static inline void rng_seed(uint64_t seed) {
    rng_state = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) | 1;
    for (int i = 0; i < 8; i++) rng();
}

/* One step in so many is followed by a yield, one in eight times as many by a sleep. */
static uint64_t move_off_odds = 128;
static inline void move_off(void) {
    uint64_t dice = rng() % (8 * move_off_odds);
    if (dice == 0) nanosleep(&(struct timespec){0, (long)(rng() % 50000)}, NULL);
    else if (dice <= 8) sched_yield();
}
#define RF_PAUSE() move_off()

static inline uint64_t env(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

#define CHECK(condition, ...)                                                                                      \
    do {                                                                                                           \
        if (!(condition)) {                                                                                        \
            fprintf(stderr, "FAILED %s:%d: %s: ", __FILE__, __LINE__, #condition);                                 \
            fprintf(stderr, " " __VA_ARGS__);                                                                      \
            fprintf(stderr, " (RF_SEED=%llu)\n", (unsigned long long)env("RF_SEED", 1));                           \
            fflush(NULL);                                                                                          \
            _exit(1);                                                                                              \
        }                                                                                                          \
    } while (0)

/* A thread's number is its argument; `body` runs in each. */
#define THREADS_MAX 16
static inline void run_threads(int count, void *(*body)(void *)) {
    pthread_t thread[THREADS_MAX];
    for (intptr_t i = 0; i < count; i++) CHECK(pthread_create(&thread[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < count; i++) pthread_join(thread[i], NULL);
}

/* All start at once: without it the first thread is often done before the second exists. */
static atomic_int waiting_at_start;
static inline void start_together(int count) {
    atomic_fetch_add(&waiting_at_start, 1);
    while (atomic_load(&waiting_at_start) < count) sched_yield();
}

/* A program that hangs has lost something: say so and end, instead of waiting for the one who started it. */
static void on_alarm(int signal) {
    (void)signal;
    static const char text[] = "FAILED: no end: something was lost\n";
    if (write(2, text, sizeof text - 1) < 0) _exit(2);
    _exit(1);
}
static inline void give_up_after(unsigned seconds) {
    signal(SIGALRM, on_alarm);
    alarm(seconds);
}

#endif
