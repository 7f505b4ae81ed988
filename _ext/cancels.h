/* Remote cancels for jobs that have not started: remembered until the job starts, or for RF_CANCEL_KEPT.
 *
 * Any thread; bounded, the oldest is forgotten first. `count` lets pop pass by without the lock when there are none.
 */
#ifndef RF_CANCELS_H
#define RF_CANCELS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

typedef struct rf_cancel {
    int64_t id;
    int64_t at; /* monotonic; 0: used up */
} rf_cancel;

typedef struct rf_cancels {
    _Atomic int32_t count; /* entries that may still apply */
    pthread_mutex_t lock;  /* guards the rest */
    int next;
    rf_cancel entries[RF_CANCELS];
} rf_cancels;

static inline void rf_cancels_init(rf_cancels *cancels) {
    atomic_init(&cancels->count, 0);
    pthread_mutex_init(&cancels->lock, NULL);
    cancels->next = 0;
    for (int i = 0; i < RF_CANCELS; i++) cancels->entries[i] = (rf_cancel){0, 0};
}

static void rf_cancels_add(rf_cancels *cancels, int64_t id, int64_t now) {
    pthread_mutex_lock(&cancels->lock);
    if (cancels->entries[cancels->next].at == 0) atomic_fetch_add(&cancels->count, 1);
    cancels->entries[cancels->next] = (rf_cancel){id, now};
    cancels->next = (cancels->next + 1) % RF_CANCELS;
    pthread_mutex_unlock(&cancels->lock);
}

/* Whether job `id`, whose fetch was sent at `asked_ns`, was cancelled since (an older cancel was for an older run).
 * `use_up`: it is applied now. Expired entries are dropped on the way. */
static bool rf_cancels_has(rf_cancels *cancels, int64_t id, int64_t asked_ns, int64_t now, bool use_up) {
    if (atomic_load_explicit(&cancels->count, memory_order_acquire) == 0) return false;
    bool found = false;
    pthread_mutex_lock(&cancels->lock);
    for (int i = 0; i < RF_CANCELS; i++) {
        rf_cancel *entry = &cancels->entries[i];
        if (entry->at == 0) continue;
        bool mine = entry->id == id && entry->at >= asked_ns;
        found |= mine;
        if ((mine && use_up) || entry->at + RF_CANCEL_KEPT < now) {
            entry->at = 0;
            atomic_fetch_sub(&cancels->count, 1);
        }
    }
    pthread_mutex_unlock(&cancels->lock);
    return found;
}

#endif
