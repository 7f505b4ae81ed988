/* One queue of the client: its slots, its two job rings (worker threads', event loop's), and how threads wait for them.
 *
 * The fetcher thread alone pushes, and writes `own`; worker threads and the loop pop; Python's threads set the flags.
 * A ring grows by a successor: the old one is closed, poppers move on when it is drained. Nothing here is freed before
 * the fetcher is: claims point to the slots.
 */
#ifndef RF_QUEUE_H
#define RF_QUEUE_H

#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "crew.h"
#include "job.h"
#include "limits.h"
#include "ring.h"
#include "ring_copies.h"
#include "wakeup.h"

/* Beside the job what the fetcher, only writer of cells, may read of a cell while others pop and free the job. */
typedef struct rf_job_cell {
    rf_job *job;
    int64_t id;
    int64_t attempted_at;
    int64_t fetched_ns; /* monotonic: the ring holds a job `ring_wait` at most */
} rf_job_cell;

RF_RING_DEFINE(rf_job_ring, rf_job_cell)
RF_RING_COPIES(rf_job_ring, rf_job_cell)

typedef struct rf_lane {
    rf_job_ring ring;
    _Atomic(struct rf_lane *) next; /* set before `ring` is closed for growth */
    struct rf_lane *older;          /* for the end, when all are freed */
} rf_lane;

enum { RF_THREADS = 0, RF_LOOP = 1, RF_LANES = 2 };
enum rf_take_result { RF_TAKEN = 0, RF_NOTHING = 1, RF_ENDED = 2, RF_NO_SLOT = 3 };

/* What the fetcher thread alone knows of a queue; see pace.h. */
typedef struct rf_pace {
    rf_lane *newest[RF_LANES];
    int64_t pushed;          /* both lanes, ever; minus `popped`: what the rings hold */
    int64_t taken_back;      /* popped by the fetcher itself; `popped` minus this: jobs started */
    int64_t token_base;      /* tokens earned = (now - token_base) / cooldown */
    bool notified;           /* asks: one token, past the ring's gate */
    bool again;              /* the last fetch was full: at once */
    bool repeat;             /* the last fetches found jobs: as tokens come */
    int empties;             /* empty fetches in a row */
    int64_t repeat_at;       /* no repeat before; 0: as tokens come */
    int64_t unsaid;          /* jobs found since the last notification by fetches that had other reasons */
    int64_t unsaid_until;    /* inserters leave notifications out, as far as was seen lately */
    int64_t ask_at;          /* the poll */
    int64_t recheck_at[2];   /* after the last notification; 0: none */
    int64_t rest_until;      /* its jobs came back unstarted */
    int64_t rest;
    int64_t starts_at_rest;
    int limit;               /* bound of the next LIMIT, doubling */
    double row_bytes;        /* mean seen */
    double rate;             /* starts a second while the ring held jobs; 0: prefetch nothing */
    int64_t mean_run;        /* ns, of the last looks; -1: unknown */
    int64_t seen_done, seen_run_time, seen_starts, seen_at;
    bool held_at_look;       /* the rings held jobs at the last look */
    bool threads_held;       /* the threads' ring did */
    int64_t looked_at, looked_starts;
    int64_t crew_at;         /* when the crew may be asked again whether it wants a CPU */
    int wakes;
    int64_t join_at;         /* a worker that waits for the GIL until then is joined by another thread */
    bool wound;              /* paused or removed, and given back once */
    bool retired;            /* rings closed */
} rf_pace;

typedef struct rf_queue {
    rf_slots slots;
    rf_park park;
    rf_crew crew;
    rf_wake *fetcher;
    _Atomic(rf_lane *) lane[RF_LANES]; /* where poppers look first */
    _Atomic int64_t popped;
    _Atomic int64_t low_mark;      /* wake the fetcher when `popped` reaches it */
    _Atomic int32_t threads;       /* started (announced) and not ended; without those of stuck jobs */
    _Atomic int32_t unborn;        /* announced, not yet in pop */
    _Atomic int32_t waiting;       /* inside pop, asleep or waiting for the GIL */
    _Atomic int64_t announced_at;
    _Atomic int64_t growing;       /* GROW was sent at this time; 0: answered */
    _Atomic int32_t grow;          /* threads to ask for, until take_attention reads it */
    _Atomic(struct rf_queue *) grow_next;
    _Atomic int32_t loop_listed;
    _Atomic(struct rf_queue *) loop_next;
    _Atomic int32_t paused, removed, poked;
    _Atomic int32_t ended;         /* rings closed for good: pop returns what is left, then None */
    _Atomic int32_t refuse;        /* what is left in the rings may not start any more */
    _Atomic int64_t prefetch_now, mean_now; /* for queue_stats; writer: the fetcher */
    uint64_t birth;                /* unlike the address never used again */
    int32_t index;
    int32_t max_workers, max_threads, prefetch;
    int64_t cooldown, poll_interval, ring_wait;
    rf_pace own;
    uint32_t hash;
    int32_t name_length;
    char name[];
} rf_queue;

static inline uint32_t rf_hash(const char *text, size_t length) { /* FNV-1a */
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash;
}

static rf_queue *rf_queue_new(const char *name, int32_t length, int32_t index) {
    static _Atomic uint64_t births = 1;
    rf_queue *queue = (rf_queue *)calloc(1, sizeof *queue + (size_t)length + 1);
    if (queue == NULL) return NULL;
    memcpy(queue->name, name, (size_t)length);
    queue->name_length = length;
    queue->hash = rf_hash(name, (size_t)length);
    queue->index = index;
    queue->birth = atomic_fetch_add(&births, 1);
    rf_park_init(&queue->park);
    queue->slots.park = &queue->park;
    atomic_init(&queue->low_mark, INT64_MAX);
    queue->own.mean_run = -1;
    atomic_init(&queue->mean_now, -1);
    return queue;
}

static void rf_queue_free(rf_queue *queue) {
    for (int kind = 0; kind < RF_LANES; kind++) {
        rf_lane *lane = queue->own.newest[kind];
        while (lane != NULL) {
            rf_job_cell cell;
            while (rf_job_ring_pop(&lane->ring, &cell) == RF_POPPED) free(cell.job);
            rf_lane *older = lane->older;
            rf_job_ring_free(&lane->ring);
            free(lane);
            lane = older;
        }
    }
    rf_park_destroy(&queue->park);
    rf_crew_free(&queue->crew);
    free(queue);
}

/* ---- poppers: worker threads, the loop, the fetcher giving back ---- */

static inline int rf_queue_pop(rf_queue *queue, int kind, rf_job_cell *cell) {
    for (;;) {
        rf_lane *lane = atomic_load_explicit(&queue->lane[kind], memory_order_acquire);
        if (lane == NULL) return atomic_load(&queue->ended) ? RF_ENDED : RF_NOTHING;
        int result = rf_job_ring_pop(&lane->ring, cell);
        if (result == RF_POPPED) {
            /* seq_cst: the fetcher sets the mark, then reads `popped`; we raise `popped`, then read the mark */
            int64_t popped = atomic_fetch_add_explicit(&queue->popped, 1, memory_order_seq_cst) + 1;
            if (popped >= atomic_load_explicit(&queue->low_mark, memory_order_seq_cst)) {
                atomic_store_explicit(&queue->low_mark, INT64_MAX, memory_order_seq_cst);
                rf_wake_signal(queue->fetcher);
            }
            return RF_TAKEN;
        }
        if (result == RF_EMPTY) return RF_NOTHING;
        rf_lane *next = atomic_load_explicit(&lane->next, memory_order_acquire);
        if (next == NULL) return RF_ENDED;
        atomic_compare_exchange_strong(&queue->lane[kind], &lane, next);
    }
}

/* A moment's count of what a lane holds. */
static inline uint64_t rf_queue_held(rf_queue *queue, int kind) {
    uint64_t held = 0;
    rf_lane *lane = atomic_load_explicit(&queue->lane[kind], memory_order_acquire);
    for (; lane != NULL; lane = atomic_load_explicit(&lane->next, memory_order_acquire)) held += rf_job_ring_size(&lane->ring);
    return held;
}

static inline bool rf_queue_take_slot(rf_queue *queue) {
    int64_t started = atomic_load_explicit(&queue->slots.started, memory_order_relaxed);
    do {
        if (started >= atomic_load_explicit(&queue->slots.limit, memory_order_relaxed)) return false;
    } while (!atomic_compare_exchange_weak_explicit(&queue->slots.started, &started, started + 1, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return true;
}

/* The next job with a slot for it. No call that waits, so the caller may hold the GIL from here until the job is known
 * to Python: there is no moment in which it is neither in the ring nor there. */
static inline int rf_queue_take(rf_queue *queue, int kind, rf_job_cell *cell) {
    if (atomic_load_explicit(&queue->refuse, memory_order_acquire)) return RF_ENDED;
    if (rf_queue_held(queue, kind) == 0) return atomic_load(&queue->ended) ? RF_ENDED : RF_NOTHING;
    if (!rf_queue_take_slot(queue)) return RF_NO_SLOT;
    int result = rf_queue_pop(queue, kind, cell);
    if (result != RF_TAKEN) rf_slots_release(&queue->slots, -1);
    return result;
}

/* After RF_NO_SLOT: asks to be woken for a slot. True: one came free meanwhile, look again. */
static inline bool rf_queue_await_slot(rf_queue *queue) {
    atomic_store_explicit(&queue->slots.slot_waiters, 1, memory_order_seq_cst);
    return atomic_load_explicit(&queue->slots.started, memory_order_seq_cst)
        < atomic_load_explicit(&queue->slots.limit, memory_order_relaxed);
}

static inline bool rf_queue_over(rf_queue *queue) {
    return atomic_load(&queue->refuse) || (atomic_load(&queue->ended) && rf_queue_held(queue, RF_THREADS) == 0);
}

/* A worker thread, without the GIL: until there seems to be a job and a slot (true), or RF_IDLE_THREAD passed (false). */
static bool rf_queue_wait(rf_queue *queue) {
    int64_t until = rf_now() + RF_IDLE_THREAD;
    for (;;) {
        uint32_t ticket = rf_park_prepare(&queue->park);
        if (rf_queue_over(queue) || (rf_queue_held(queue, RF_THREADS) > 0 && rf_queue_await_slot(queue))) {
            rf_park_cancel(&queue->park);
            return true;
        }
        int64_t remaining = until - rf_now();
        if (remaining <= 0) {
            rf_park_cancel(&queue->park);
            return false;
        }
        rf_park_wait(&queue->park, ticket, remaining);
        if (rf_queue_held(queue, RF_THREADS) > 0) return true;
    }
}

/* One of the queue's threads wants to end for idleness: may it? Then it is counted out. */
static inline bool rf_queue_dismiss(rf_queue *queue) {
    int32_t threads = atomic_load(&queue->threads);
    do {
        if (threads <= RF_IDLE_THREADS) return false;
    } while (!atomic_compare_exchange_weak(&queue->threads, &threads, threads - 1));
    rf_crew_leave(&queue->crew);
    return true;
}

/* ---- the fetcher thread ---- */

static inline int64_t rf_queue_ring(rf_queue *queue) {
    return queue->own.pushed - atomic_load_explicit(&queue->popped, memory_order_seq_cst);
}

/* Jobs started, ever. */
static inline int64_t rf_queue_starts(rf_queue *queue) {
    return atomic_load_explicit(&queue->popped, memory_order_seq_cst) - queue->own.taken_back;
}

/* A new lane behind the newest; the old one is closed, and drained by the poppers. False where memory is short. */
static bool rf_queue_grow(rf_queue *queue, int kind) {
    rf_lane *old = queue->own.newest[kind];
    rf_lane *lane = (rf_lane *)malloc(sizeof *lane);
    if (lane == NULL) return false;
    if (rf_job_ring_init(&lane->ring, old == NULL ? RF_FIRST_FETCH : (old->ring.mask + 1) * 2) != 0) {
        free(lane);
        return false;
    }
    atomic_init(&lane->next, NULL);
    lane->older = old;
    queue->own.newest[kind] = lane;
    if (old == NULL) {
        atomic_store_explicit(&queue->lane[kind], lane, memory_order_release);
    } else {
        atomic_store_explicit(&old->next, lane, memory_order_release);
        rf_job_ring_close(&old->ring);
    }
    return true;
}

/* False where memory is short. A ring may be FULL with room behind: its next slot is still being read by a popper that
 * was moved off. It is given a moment, then a new lane is begun: the fetcher waits for nobody. */
static bool rf_queue_push(rf_queue *queue, int kind, rf_job *job, int64_t now) {
    rf_job_cell cell = {job, job->claim.id, job->claim.attempted_at, now};
    rf_lane *lane = queue->own.newest[kind];
    if (lane == NULL && !rf_queue_grow(queue, kind)) return false;
    queue->own.pushed++; /* before the push: a popper's count must never be ahead */
    for (int tries = 0;; tries++) {
        lane = queue->own.newest[kind];
        if (rf_job_ring_try_push(&lane->ring, &cell) == RF_PUSHED) return true;
        if (rf_job_ring_size(&lane->ring) <= lane->ring.mask && tries < RF_PUSH_TRIES) {
            sched_yield();
        } else if (!rf_queue_grow(queue, kind)) {
            queue->own.pushed--;
            return false;
        }
    }
}

/* When the oldest job of a lane was fetched; INT64_MAX: empty. Its cell was written by this thread. */
static int64_t rf_queue_oldest(rf_queue *queue, int kind) {
    rf_lane *lane = atomic_load_explicit(&queue->lane[kind], memory_order_acquire);
    for (; lane != NULL; lane = atomic_load_explicit(&lane->next, memory_order_acquire)) {
        uint64_t head = atomic_load_explicit(&lane->ring.head, memory_order_acquire);
        uint64_t tail = atomic_load_explicit(&lane->ring.tail, memory_order_acquire) >> 1;
        if (head < tail) return lane->ring.cells[head & lane->ring.mask].value.fetched_ns;
    }
    return INT64_MAX;
}

/* (id, attempted_at) of what the queue's rings hold, to `out` (room for `room` pairs); the number of pairs. */
static int64_t rf_queue_list(rf_queue *queue, int64_t *out, int64_t room) {
    int64_t count = 0;
    for (int kind = 0; kind < RF_LANES; kind++) {
        rf_lane *lane = atomic_load_explicit(&queue->lane[kind], memory_order_acquire);
        for (; lane != NULL; lane = atomic_load_explicit(&lane->next, memory_order_acquire)) {
            uint64_t head = atomic_load_explicit(&lane->ring.head, memory_order_acquire);
            uint64_t tail = atomic_load_explicit(&lane->ring.tail, memory_order_acquire) >> 1;
            for (; head < tail && count < room; head++, count++) {
                rf_job_cell *cell = &lane->ring.cells[head & lane->ring.mask].value;
                out[2 * count] = cell->id;
                out[2 * count + 1] = cell->attempted_at;
            }
        }
    }
    return count;
}

/* No more pushes; what is inside may still be popped. Any thread once the fetcher's is not running. */
static void rf_queue_end(rf_queue *queue) {
    queue->own.retired = true;
    for (int kind = 0; kind < RF_LANES; kind++)
        if (queue->own.newest[kind] != NULL) rf_job_ring_close(&queue->own.newest[kind]->ring);
    atomic_store(&queue->ended, 1);
    rf_unpark(&queue->park, INT_MAX);
}

#endif
