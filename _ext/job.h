/* What a fetched job is in C, and the counters of its queue's slots.
 *
 * One rf_job is one malloc: the struct, then the row's column values as PostgreSQL sent them. The fetcher makes it, the
 * ring carries its pointer, `pop` wraps it in a Python row, which frees it. rf_claim is what an outcome needs of it; the
 * completer reads it through its address (`FetchedRow.claim`), so that the two extension modules share no Python type.
 */
#ifndef RF_JOB_H
#define RF_JOB_H

#include <stdatomic.h>
#include <stdint.h>

#include "wakeup.h"

#define RF_COLUMNS 16 /* river_fast/job_row.py COLUMNS, same order */

/* One queue's slots. `started` counts jobs that hold a slot; it is taken in pop and given back by rf_slots_release,
 * which the completer calls (batch, async: when the outcome is pushed; inline: when it is committed). */
typedef struct rf_slots {
    _Atomic int64_t started;
    _Atomic int64_t limit;          /* max_workers; writer: Python, through the fetcher */
    _Atomic int64_t done;           /* jobs that ended, ever */
    _Atomic int64_t run_time;       /* their run times summed, ns */
    _Atomic int32_t slot_waiters;   /* somebody found work but no free slot: workers of the other kind, or the fetcher */
    rf_park *park;                  /* worker threads of the queue */
    rf_wake *fetcher;               /* the fetcher's wake-up */
    rf_wake *loop;                  /* the event loop's wake-up */
} rf_slots;

/* The identity of one run, and where its slot is given back. */
typedef struct rf_claim {
    int64_t id;
    int64_t attempted_at;  /* microseconds since 2000-01-01 UTC, as stored; writer: a renewal, once it is committed */
    int64_t scheduled_at;  /* the same */
    int32_t attempt;
    int32_t queue;         /* the fetcher's queue index */
    int64_t started_ns;    /* monotonic, set by pop */
    rf_slots *slots;       /* NULL once the slot was given back (a stuck job), or if it never held one */
} rf_claim;

typedef struct rf_job {
    rf_claim claim;
    int64_t asked_ns;      /* monotonic, when its fetch was sent: a cancel before that is not for this run */
    int64_t fetched_ns;    /* the same clock, when the reply was there */
    int64_t renewing;      /* the attempted_at of a renewal that is under way, or of unknown outcome; 0: none */
    int32_t kind;          /* index in the registered kinds, -1 for an unknown one */
    int32_t undecodable;   /* the column whose value cannot be used, -1: none */
    int32_t resumed;       /* an earlier attempt left progress through its steps in the metadata */
    uint32_t offset[RF_COLUMNS];
    int32_t length[RF_COLUMNS]; /* -1: NULL */
    char data[];
} rf_job;

/* Any thread; whoever reads it meanwhile has the one or the other. */
static inline void rf_claim_renew(rf_claim *claim, int64_t attempted_at) {
    __atomic_store_n(&claim->attempted_at, attempted_at, __ATOMIC_RELAXED);
}

static inline int64_t rf_slots_started(rf_slots *slots) { return atomic_load_explicit(&slots->started, memory_order_relaxed); }
static inline int64_t rf_slots_done(rf_slots *slots) { return atomic_load_explicit(&slots->done, memory_order_relaxed); }

/* Who gets the slots of a claim gives the slot back; everybody after gets NULL. Any thread. */
static inline rf_slots *rf_claim_take_slots(rf_claim *claim) {
    return __atomic_exchange_n(&claim->slots, (rf_slots *)NULL, __ATOMIC_ACQ_REL);
}

/* Any thread, once per claim. `run_time` negative: the job never ran (given back), counters stay. */
static inline void rf_slots_release(rf_slots *slots, int64_t run_time) {
    if (slots == NULL) return;
    if (run_time >= 0) {
        atomic_fetch_add_explicit(&slots->run_time, run_time, memory_order_relaxed);
        atomic_fetch_add_explicit(&slots->done, 1, memory_order_relaxed);
    }
    /* seq_cst: a waiter announces itself, then reads `started`; we lower `started`, then read the waiters */
    atomic_fetch_sub_explicit(&slots->started, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&slots->slot_waiters, memory_order_seq_cst) != 0) {
        atomic_store_explicit(&slots->slot_waiters, 0, memory_order_seq_cst);
        if (slots->park != NULL) rf_unpark(slots->park, 1);
        if (slots->loop != NULL) rf_wake_signal(slots->loop);
        if (slots->fetcher != NULL) rf_wake_signal(slots->fetcher);
    }
}

#endif
