/* What the compiled fetcher wants Python to do: log, grow a queue's threads, know of the connection.
 *
 * Any thread writes, one thread reads (`take_attention`). Notices are bounded, the oldest are dropped; GROW is a number
 * in the queue and cannot be lost.
 */
#ifndef RF_NOTICES_H
#define RF_NOTICES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "limits.h"
#include "queue.h"
#include "wakeup.h"

enum { RF_GROW = 1, RF_NOTICE = 2, RF_CONNECTED = 3, RF_CONNECTION_LOST = 4 };
enum { RF_LOG_INFO = 20, RF_LOG_WARNING = 30, RF_LOG_ERROR = 40 }; /* Python's logging levels */

typedef struct rf_notice {
    int32_t what;
    int32_t queue; /* -1: none */
    int64_t number;
    char text[400];
} rf_notice;

typedef struct rf_notices {
    pthread_mutex_t lock; /* guards list, first, count */
    int first, count;
    rf_notice list[RF_NOTICES];
    _Atomic int64_t dropped;
    _Atomic(rf_queue *) growing; /* queues with `grow` set, linked by grow_next; pushed by one thread, taken whole */
    rf_park park;
} rf_notices;

static inline void rf_notices_init(rf_notices *notices) {
    pthread_mutex_init(&notices->lock, NULL);
    notices->first = notices->count = 0;
    atomic_init(&notices->dropped, 0);
    atomic_init(&notices->growing, NULL);
    rf_park_init(&notices->park);
}

static void rf_notices_add(rf_notices *notices, int32_t what, int32_t queue, int64_t number, const char *text) {
    pthread_mutex_lock(&notices->lock);
    if (notices->count == RF_NOTICES) {
        notices->first = (notices->first + 1) % RF_NOTICES;
        notices->count--;
        atomic_fetch_add(&notices->dropped, 1);
    }
    rf_notice *notice = &notices->list[(notices->first + notices->count++) % RF_NOTICES];
    notice->what = what;
    notice->queue = queue;
    notice->number = number;
    snprintf(notice->text, sizeof notice->text, "%s", text);
    pthread_mutex_unlock(&notices->lock);
    rf_unpark(&notices->park, 1);
}

static bool rf_notices_take(rf_notices *notices, rf_notice *out) {
    pthread_mutex_lock(&notices->lock);
    bool some = notices->count > 0;
    if (some) {
        *out = notices->list[notices->first];
        notices->first = (notices->first + 1) % RF_NOTICES;
        notices->count--;
    }
    pthread_mutex_unlock(&notices->lock);
    return some;
}

static bool rf_notices_waiting(rf_notices *notices) {
    if (atomic_load(&notices->growing) != NULL) return true;
    pthread_mutex_lock(&notices->lock);
    bool some = notices->count > 0;
    pthread_mutex_unlock(&notices->lock);
    return some;
}

/* The fetcher thread: ask for `count` more threads, once until Python answers. True: asked. */
static bool rf_notices_grow(rf_notices *notices, rf_queue *queue, int32_t count, int64_t now) {
    int64_t asked = atomic_load(&queue->growing);
    if (asked != 0 && now - asked < RF_GROW_AGAIN) return false;
    atomic_store(&queue->growing, now);
    if (atomic_exchange(&queue->grow, count) != 0) return false; /* listed already */
    rf_queue *head = atomic_load(&notices->growing);
    do atomic_store_explicit(&queue->grow_next, head, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&notices->growing, &head, queue));
    rf_unpark(&notices->park, 1);
    return true;
}

/* The next queue that asks for threads, and how many; NULL: none. `list` starts as an exchange of `growing`. */
static rf_queue *rf_notices_next_grow(rf_queue **list, int32_t *count) {
    rf_queue *queue = *list;
    if (queue == NULL) return NULL;
    *list = atomic_load_explicit(&queue->grow_next, memory_order_relaxed);
    *count = atomic_exchange(&queue->grow, 0); /* from here it may be listed again */
    return queue;
}

/* The fetcher thread: a worker waits for the GIL; let the reader wait for it too. CPython takes it from whoever holds it
 * when one waiter saw nobody else take it for a whole switch interval. Each that takes it and lets it go meanwhile (the
 * caller's own insert) begins that interval anew, and a single waiter waits two or three; of two that began at different
 * times, one saw a whole interval. Who gets it then is whoever waits the longest: the worker. */
static inline bool rf_notices_join(rf_notices *notices) {
    if (rf_park_count(&notices->park) == 0) return false; /* it waits for the GIL already, or has it */
    rf_unpark(&notices->park, 1);
    return true;
}

/* The reader, without the GIL: until there is something, or `timeout` ns passed. */
static void rf_notices_wait(rf_notices *notices, int64_t timeout) {
    int64_t until = rf_now() + timeout;
    uint32_t ticket = rf_park_prepare(&notices->park);
    int64_t remaining = until - rf_now();
    if (rf_notices_waiting(notices) || remaining <= 0) rf_park_cancel(&notices->park);
    else rf_park_wait(&notices->park, ticket, remaining);
}

#endif
