/* What the ring costs by the item: push and pop in one thread, between two threads, many to one, one to many.
 *
 * Two rings are measured: of a word, and of a whole cache line with its sequence number, which an outcome's slot is.
 * Prints nanoseconds an item, the median of the rounds and their range. RF_ITEMS and RF_ROUNDS change the size.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "ring.h"
#include "wakeup.h"

typedef struct line {
    uint64_t word[7];
} line;

enum { ROUNDS_MAX = 101, THREADS_MAX = 8, SPINS = 64 };

#define BENCH_DEFINE(name, type)                                                                                   \
    RF_RING_DEFINE(name, type)                                                                                     \
                                                                                                                   \
    typedef struct name##_run {                                                                                    \
        name ring;                                                                                                 \
        uint64_t each;                                                                                             \
        _Atomic uint64_t sum;                                                                                      \
    } name##_run;                                                                                                  \
                                                                                                                   \
    static void *name##_producer(void *argument) {                                                                 \
        name##_run *run = (name##_run *)argument;                                                                  \
        type value = {0};                                                                                          \
        for (uint64_t i = 0, spins = 0; i < run->each;) {                                                          \
            if (name##_try_push(&run->ring, &value) == RF_PUSHED) i++;                                             \
            else if (++spins % SPINS == 0) sched_yield();                                                          \
        }                                                                                                          \
        return NULL;                                                                                               \
    }                                                                                                              \
                                                                                                                   \
    static void *name##_consumer(void *argument) {                                                                 \
        name##_run *run = (name##_run *)argument;                                                                  \
        uint64_t count = 0, spins = 0;                                                                             \
        for (int result; (result = name##_pop(&run->ring, &(type){0})) != RF_CLOSED;) {                            \
            if (result == RF_POPPED) count++;                                                                      \
            else if (++spins % SPINS == 0) sched_yield();                                                          \
        }                                                                                                          \
        atomic_fetch_add(&run->sum, count);                                                                        \
        return NULL;                                                                                               \
    }                                                                                                              \
                                                                                                                   \
    /* ns an item; no producers: one thread that fills and empties the ring by turns */                            \
    static double name##_round(uint64_t capacity, int producers, int consumers, uint64_t items) {                  \
        static name##_run run;                                                                                     \
        pthread_t thread[2 * THREADS_MAX];                                                                         \
        if (name##_init(&run.ring, capacity) != 0) abort();                                                        \
        run.each = producers > 0 ? items / (uint64_t)producers : 0;                                                \
        atomic_store(&run.sum, 0);                                                                                 \
        int64_t begun = rf_now();                                                                                  \
        for (int i = 0; i < producers + consumers; i++)                                                            \
            pthread_create(&thread[i], NULL, i < producers ? name##_producer : name##_consumer, &run);             \
        for (uint64_t done = 0; producers == 0 && done < items;) {                                                 \
            type value = {0};                                                                                      \
            while (name##_try_push(&run.ring, &value) == RF_PUSHED) done++;                                        \
            while (name##_pop(&run.ring, &value) == RF_POPPED) {}                                                  \
        }                                                                                                          \
        for (int i = 0; i < producers; i++) pthread_join(thread[i], NULL);                                         \
        name##_close(&run.ring);                                                                                   \
        for (int i = producers; i < producers + consumers; i++) pthread_join(thread[i], NULL);                     \
        double ns = (double)(rf_now() - begun) / (double)items;                                                    \
        if (producers > 0 && atomic_load(&run.sum) != run.each * (uint64_t)producers) abort();                     \
        name##_free(&run.ring);                                                                                    \
        return ns;                                                                                                 \
    }

BENCH_DEFINE(word_ring, uint64_t)
BENCH_DEFINE(line_ring, line)

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint64_t setting(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

int main(void) {
    static const struct {
        const char *name;
        int producers, consumers;
    } shapes[] = {{"one thread", 0, 0}, {"1 to 1", 1, 1}, {"4 to 1 (outcomes)", 4, 1}, {"1 to 4 (jobs)", 1, 4}};
    uint64_t items = setting("RF_ITEMS", 1000000), rounds = setting("RF_ROUNDS", 5);
    if (rounds > ROUNDS_MAX) rounds = ROUNDS_MAX;
    printf("ns an item, median (range) of %llu rounds of %llu\n", (unsigned long long)rounds, (unsigned long long)items);
    printf("%-20s %10s  %24s  %24s\n", "", "capacity", "word", "cache line");
    for (int s = 0; s < 4; s++) {
        for (uint64_t capacity = 64; capacity <= 16384; capacity *= 16) {
            double ns[2][ROUNDS_MAX];
            for (uint64_t i = 0; i < rounds; i++) { /* alternating, so that a slow moment falls on both */
                ns[0][i] = word_ring_round(capacity, shapes[s].producers, shapes[s].consumers, items);
                ns[1][i] = line_ring_round(capacity, shapes[s].producers, shapes[s].consumers, items);
            }
            printf("%-20s %10llu", shapes[s].name, (unsigned long long)capacity);
            for (int r = 0; r < 2; r++) {
                qsort(ns[r], rounds, sizeof(double), by_value);
                printf("  %8.1f (%5.1f .. %6.1f)", ns[r][rounds / 2], ns[r][0], ns[r][rounds - 1]);
            }
            printf("\n");
        }
    }
}
