/* What other threads do with the completer: push outcomes, ask what is pending, close. Any thread, with or without the
 * GIL; only `rf_completer_push_wait` ever waits.
 */
#ifndef RF_COMPLETER_DOORS_H
#define RF_COMPLETER_DOORS_H

#include "completer.h"

/* ---- push: any thread ---- */

/* After a successful push. No system call unless the completer sleeps and this push is the one it waits for. */
static inline void rf_completer_pushed(rf_completer *c) {
    /* the completer arms, then looks at the ring; we publish, then look whether it is armed: one of us sees the other */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t armed = atomic_load_explicit(&c->armed, memory_order_relaxed);
    int64_t size = (int64_t)rf_outcome_ring_size(&c->ring);
    if (armed != 0 && size >= (int64_t)armed && atomic_exchange_explicit(&c->armed, 0, memory_order_seq_cst) != 0)
        rf_wake_signal(&c->wake);
    int64_t relief_at = atomic_load_explicit(&c->relief.at, memory_order_relaxed);
    if (size >= relief_at && atomic_exchange_explicit(&c->relief.at, INT64_MAX, memory_order_seq_cst) != INT64_MAX)
        rf_wake_signal(&c->relief.wake);
    if (size >= atomic_load_explicit(&c->hold_at, memory_order_relaxed)) rf_backlog_limit(c);
}

static inline void rf_claim_read(rf_outcome *outcome, const rf_claim *claim, int state, int reason, rf_rich *rich) {
    int64_t now = rf_now();
    outcome->id = claim->id;
    outcome->attempted_at = __atomic_load_n(&claim->attempted_at, __ATOMIC_RELAXED); /* a renewal may just write it */
    outcome->ended_ns = now;
    outcome->run_ns = claim->started_ns > 0 ? now - claim->started_ns : 0;
    outcome->slots = NULL;
    outcome->rich = rich;
    outcome->attempt = (int16_t)claim->attempt;
    outcome->state = (uint8_t)state;
    outcome->reason = (uint8_t)reason;
    outcome->flags = 0;
    outcome->verdict = 0;
    outcome->tries = 0;
    outcome->settled = 0;
}

/* RF_PUSHED, RF_FULL or RF_CLOSED; never waits. `outcome` was read from `claim`. */
static inline int rf_completer_try_push(rf_completer *c, rf_claim *claim, rf_outcome *outcome) {
    if (rf_completer_forked(c)) return RF_CLOSED;
    /* taken before the push: afterwards the completer thread may be done with it already. Who takes it gives it back,
     * once: this outcome, or the watch over stuck jobs */
    rf_slots *slots = rf_claim_take_slots(claim);
    if (c->mode == RF_MODE_INLINE) outcome->slots = slots;
    int64_t run_ns = outcome->run_ns;
    int pushed = rf_outcome_ring_try_push(&c->ring, outcome);
    if (pushed != RF_PUSHED) {
        __atomic_store_n(&claim->slots, slots, __ATOMIC_RELEASE);
        return pushed;
    }
    if (c->mode != RF_MODE_INLINE) rf_slots_release(slots, run_ns);
    rf_completer_pushed(c);
    return RF_PUSHED;
}

/* Waits outside of the ring until there is room; without the GIL. RF_PUSHED or RF_CLOSED. */
static int rf_completer_push_wait(rf_completer *c, rf_claim *claim, rf_outcome *outcome) {
    for (;;) {
        if (rf_completer_forked(c)) return RF_CLOSED;
        uint32_t ticket = rf_park_prepare(&c->room);
        int pushed = rf_completer_try_push(c, claim, outcome);
        if (pushed != RF_FULL) {
            rf_park_cancel(&c->room);
            return pushed;
        }
        rf_park_wait(&c->room, ticket, RF_SECOND);
    }
}

static inline int rf_completer_try_bare(rf_completer *c, rf_claim *claim) {
    rf_outcome outcome;
    rf_claim_read(&outcome, claim, RF_COMPLETED, RF_REASON_COMPLETED, NULL);
    return rf_completer_try_push(c, claim, &outcome);
}

static int rf_completer_bare_wait(rf_completer *c, rf_claim *claim) {
    rf_outcome outcome;
    rf_claim_read(&outcome, claim, RF_COMPLETED, RF_REASON_COMPLETED, NULL);
    return rf_completer_push_wait(c, claim, &outcome);
}

/* Owns `rich` from here on, whatever comes of it. */
static int rf_completer_rich(rf_completer *c, rf_claim *claim, int state, int reason, rf_rich *rich, bool wait) {
    rf_outcome outcome;
    rf_claim_read(&outcome, claim, state, reason, rich);
    int pushed = wait ? rf_completer_push_wait(c, claim, &outcome) : rf_completer_try_push(c, claim, &outcome);
    if (pushed != RF_PUSHED) free(rich);
    return pushed;
}

/* ---- what is pending ---- */

typedef struct rf_pending {
    int64_t id;
    int64_t attempted_at;
} rf_pending;

/* Every outcome pushed and not acknowledged; any thread, at any moment: pops and settlements happen under the mutex, so
 * what is between ring and COMMIT is always in one of the lists. *list is the caller's to free; -1: memory is short. */
static int64_t rf_completer_pending(rf_completer *c, rf_pending **list) {
    *list = NULL;
    if (rf_completer_forked(c)) return 0;
    pthread_mutex_lock(&c->mutex);
    uint64_t head = atomic_load_explicit(&c->ring.head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&c->ring.tail, memory_order_acquire) >> 1;
    size_t most = (size_t)(tail - head) + c->batch_count + c->relief.batch_count + c->aside_count + 1;
    rf_pending *found = malloc(most * sizeof *found);
    int64_t count = 0;
    if (found == NULL) {
        pthread_mutex_unlock(&c->mutex);
        return -1;
    }
    for (size_t i = 0; i < c->batch_count; i++)
        if (!c->batch[i].settled)
            found[count++] = (rf_pending){c->batch[i].id, c->batch[i].attempted_at};
    for (size_t i = 0; i < c->relief.batch_count; i++)
        if (!c->relief.batch[i].settled)
            found[count++] = (rf_pending){c->relief.batch[i].id, c->relief.batch[i].attempted_at};
    for (size_t i = 0; i < c->aside_count; i++)
        found[count++] = (rf_pending){c->aside[i].outcome.id, c->aside[i].outcome.attempted_at};
    for (uint64_t at = head; at != tail; at++) { /* published slots stay as they are until popped, and nobody pops now */
        rf_outcome_ring_cell *cell = &c->ring.cells[at & c->ring.mask];
        if (atomic_load_explicit(&cell->sequence, memory_order_acquire) == (at << 1 | 1))
            found[count++] = (rf_pending){cell->value.id, cell->value.attempted_at};
    }
    pthread_mutex_unlock(&c->mutex);
    *list = found;
    return count;
}

/* ---- renewals of attempted_at ---- */

/* Takes the place of all that was known of them before. `moves` is ours from here on. False: forked. */
static bool rf_completer_moved(rf_completer *c, rf_move *moves, size_t count) {
    if (rf_completer_forked(c)) return false;
    pthread_mutex_lock(&c->mutex);
    rf_move *before = c->moves;
    c->moves = moves;
    c->move_count = count;
    pthread_mutex_unlock(&c->mutex);
    free(before);
    return true;
}

/* ---- close ---- */

/* Any thread, any number of times: the nearest deadline counts. Returns at once. */
static void rf_completer_close(rf_completer *c, int64_t timeout) {
    if (rf_completer_forked(c)) return;
    int64_t now = rf_now();
    int64_t deadline = timeout < 0 ? now : timeout > INT64_MAX - now ? INT64_MAX : now + timeout;
    int64_t limit = atomic_load(&c->limit);
    while (deadline < limit && !atomic_compare_exchange_weak(&c->limit, &limit, deadline)) { }
    rf_outcome_ring_close(&c->ring);
    atomic_store(&c->armed, 0);
    rf_wake_signal(&c->wake);
    rf_wake_signal(&c->relief.wake);
    rf_unpark(&c->room, INT32_MAX);
}

#endif
