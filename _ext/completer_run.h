/* The completer thread's body: rest until a flush is due, gather, flush, and at the end tell what was not recorded.
 *
 * Without the GIL from its first line to its last. An outcome is in the ring, in `batch`, or aside; it leaves the three
 * when it is settled (settle.h) or when close()'s deadline made the completer give up (here).
 */
#ifndef RF_COMPLETER_RUN_H
#define RF_COMPLETER_RUN_H

#include <sched.h>

#include "completer_doors.h"
#include "relief.h"

static int64_t rf_least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- gathering ---- */

/* Pops all there is, up to RF_BATCH_MAX. True: closed, and nothing will ever come again. */
static bool rf_gather(rf_completer *c) {
    int popped = RF_POPPED;
    pthread_mutex_lock(&c->mutex);
    rf_relief_take_left(c);
    size_t left = c->batch_count; /* counted as held already */
    while (c->batch_count < RF_BATCH_MAX) {
        popped = rf_outcome_ring_pop(&c->ring, &c->batch[c->batch_count]);
        if (popped != RF_POPPED) break;
        c->batch_count++;
    }
    atomic_fetch_add_explicit(&c->held, (int64_t)(c->batch_count - left), memory_order_relaxed);
    rf_backlog_look(c);
    pthread_mutex_unlock(&c->mutex);
    if (c->batch_count > 0) rf_unpark(&c->room, INT32_MAX);
    return popped == RF_CLOSED;
}

/* Fills the (empty) batch with those aside whose time has come. */
static void rf_gather_aside(rf_completer *c) {
    int64_t now = rf_now();
    size_t left = 0;
    pthread_mutex_lock(&c->mutex);
    for (size_t i = 0; i < c->aside_count; i++) {
        bool due = c->aside[i].next_ns <= now && c->batch_count < RF_RICH_MAX;
        if (due) c->batch[c->batch_count++] = c->aside[i].outcome;
        else c->aside[left++] = c->aside[i];
    }
    c->aside_count = left;
    pthread_mutex_unlock(&c->mutex);
}

/* When the first of those aside is due; INT64_MAX: none ever. A stop waits for locked rows as long as it may, but for
 * strays no longer than one last try takes: nobody will mend the database that soon. */
static int64_t rf_aside_due(rf_completer *c) {
    bool closed = rf_outcome_ring_is_closed(&c->ring);
    int64_t due = INT64_MAX;
    for (size_t i = 0; i < c->aside_count; i++) {
        rf_aside *aside = &c->aside[i];
        if (closed && (aside->outcome.flags & RF_LAST_TRY)) {
            aside->next_ns = INT64_MAX;
        } else if (closed && (aside->outcome.flags & RF_STRAY)) {
            aside->outcome.flags |= RF_LAST_TRY;
            aside->next_ns = rf_now();
        }
        due = rf_least(due, aside->next_ns);
    }
    return due;
}

/* ---- flushing ---- */

/* Bare outcomes by COPY and the rest as arrays, or all as arrays: where there are few, or rows are wanted back. */
static void rf_flush_forms(rf_completer *c, bool aside) {
    size_t bare = 0;
    for (size_t i = 0; i < c->batch_count; i++) bare += c->batch[i].rich == NULL;
    bool wanted = atomic_load_explicit(&c->want_rows, memory_order_relaxed) != 0;
    bool copy = !aside && !wanted && c->main.staging && bare >= c->copy_min;
    pthread_mutex_lock(&c->mutex);
    rf_outcomes_sort(c->batch, c->batch_count, copy ? rf_outcome_bare_first : rf_outcome_by_id);
    pthread_mutex_unlock(&c->mutex);
    if (!copy) bare = 0;
    if (copy) rf_record(c, c->batch, bare, RF_FORM_COPY, false);
    rf_record_arrays(c, c->batch + bare, c->batch_count - bare, aside);
}

static void rf_flush(rf_completer *c, bool aside) {
    while (rf_connect(c)) {
        RF_COUNT(c, flushes, 1);
        rf_flush_forms(c, aside);
        size_t left = 0;
        pthread_mutex_lock(&c->mutex);
        for (size_t i = 0; i < c->batch_count; i++)
            if (!c->batch[i].settled) c->batch[left++] = c->batch[i];
        c->batch_count = left;
        pthread_mutex_unlock(&c->mutex);
        if (left == 0) return;
        rf_completer_pause(c, RF_RETRY_FIRST); /* memory was short, or the deadline has come */
    }
}

/* ---- resting ---- */

/* Under light load and with nobody waiting, flushes come further apart. */
static void rf_pace(rf_completer *c, size_t flushed) {
    bool wanted = atomic_load_explicit(&c->want_rows, memory_order_relaxed) != 0;
    bool few = flushed < RF_FLUSH_FEW && rf_park_count(&c->room) == 0;
    c->flush_after = few && !wanted ? rf_doubling(c->flush_after, 1, RF_FLUSH_AFTER_MAX) : RF_FLUSH_AFTER;
}

/* Looks after the connection while there is nothing to write. */
static void rf_keep(rf_completer *c, int64_t now) {
    if (c->main.conn.pg == NULL) {
        if (now >= c->main.connect_at) rf_connect_try(c);
    } else if (rf_freeze(c, &c->main) == RF_LOST) {
        rf_connection_gone(c);
    }
}

/* Sleeps until a flush is due, an outcome aside is, or close() wants an end. */
static void rf_rest(rf_completer *c) {
    int64_t first_at = 0;
    for (;;) {
        bool closed = rf_outcome_ring_is_closed(&c->ring), busy = rf_relief_busy(c);
        uint32_t size = (uint32_t)rf_outcome_ring_size(&c->ring);
        int64_t now = rf_now();
        uint32_t enough = c->mode == RF_MODE_BATCH && !closed ? RF_FLUSH_ROWS : 1;
        int64_t aside_due = rf_aside_due(c);
        if (size >= enough || rf_relief_left(c) || rf_out_of_time(c)) return;
        if (closed && aside_due == INT64_MAX && !busy) return;
        if (size > 0 && first_at == 0) first_at = now;
        int64_t until = rf_least(aside_due, size > 0 ? first_at + c->flush_after : INT64_MAX);
        if (now >= until) return;
        rf_keep(c, now);
        until = rf_least(until, c->main.conn.pg == NULL ? c->main.connect_at : c->main.staging ? c->main.freeze_at : INT64_MAX);
        until = rf_least(until, atomic_load_explicit(&c->limit, memory_order_acquire));
        until = rf_least(until, now + 3600 * RF_SECOND);
        uint32_t armed = size > 0 ? enough : 1;
        atomic_store_explicit(&c->armed, armed, memory_order_seq_cst);
        atomic_thread_fence(memory_order_seq_cst); /* pairs with the fence in rf_completer_pushed */
        int result = RF_OK;
        /* looked at again: rf_keep may have taken the signal of any of them */
        if (rf_outcome_ring_size(&c->ring) < armed && rf_outcome_ring_is_closed(&c->ring) == closed &&
            rf_relief_busy(c) == busy && !rf_relief_left(c))
            result = rf_conn_idle(&c->main.conn, until);
        atomic_store_explicit(&c->armed, 0, memory_order_relaxed);
        if (result == RF_LOST) rf_connection_gone(c);
    }
}

/* ---- the end ---- */

/* With the mutex held. */
static void rf_give_up_one(rf_completer *c, rf_outcome *item, const char *why) {
    size_t count = c->unrecorded_count;
    if ((count & (count - 1)) == 0) { /* full: doubled, for a whole backlog may be told, within a stop's deadline */
        rf_unrecorded *grown = realloc(c->unrecorded, (count > 0 ? 2 * count : 1) * sizeof *grown);
        if (grown == NULL) why = NULL;
        else c->unrecorded = grown;
    }
    if (why != NULL) {
        rf_unrecorded *entry = &c->unrecorded[c->unrecorded_count++];
        entry->id = item->id;
        entry->attempt = item->attempt;
        entry->reason = item->reason;
        snprintf(entry->why, sizeof entry->why, "%s", why);
    }
    rf_settle_one(c, item);
}

/* With the mutex held, and again when it returns: until nothing is in the relief's hands. Its operations end by the
 * deadline too, and it takes nothing more once the ring is closed. */
static void rf_await_relief(rf_completer *c) {
    while (rf_relief_busy(c)) {
        pthread_mutex_unlock(&c->mutex);
        rf_conn_idle(&c->main.conn, rf_now() + RF_STOP_GRACE);
        pthread_mutex_lock(&c->mutex);
    }
}

/* What is still here was not acknowledged: it is told, never silently dropped. */
static void rf_give_up(rf_completer *c, const char *why) {
    rf_outcome outcome;
    char text[160];
    if (c->main.conn.error[0] == 0) snprintf(text, sizeof text, "%s", why);
    else snprintf(text, sizeof text, "%s; the last error: %.70s (SQLSTATE %s)", why, c->main.conn.error,
                  c->main.conn.sqlstate[0] ? c->main.conn.sqlstate : "none");
    pthread_mutex_lock(&c->mutex);
    rf_await_relief(c);
    for (size_t i = 0; i < c->batch_count; i++)
        if (!c->batch[i].settled) rf_give_up_one(c, &c->batch[i], text);
    c->batch_count = 0;
    for (size_t i = 0; i < c->relief.batch_count; i++)
        if (!c->relief.batch[i].settled) rf_give_up_one(c, &c->relief.batch[i], text);
    c->relief.batch_count = 0;
    for (size_t i = 0; i < c->aside_count; i++) rf_give_up_one(c, &c->aside[i].outcome, c->aside[i].why);
    c->aside_count = 0;
    int popped;
    while ((popped = rf_outcome_ring_pop(&c->ring, &outcome)) != RF_CLOSED) {
        if (popped == RF_EMPTY) { /* a push is in flight */
            sched_yield();
            continue;
        }
        atomic_fetch_add_explicit(&c->held, 1, memory_order_relaxed);
        rf_give_up_one(c, &outcome, text);
    }
    rf_backlog_look(c);
    pthread_mutex_unlock(&c->mutex);
}

static void rf_completer_end(rf_completer *c, const char *why) {
    rf_outcome_ring_close(&c->ring);
    rf_wake_signal(&c->relief.wake);
    rf_give_up(c, why);
    rf_conn_close(&c->main.conn);
    atomic_store(&c->ended, 1);
    rf_unpark(&c->room, INT32_MAX);
    rf_unpark(&c->recorded_park, INT32_MAX);
    rf_unpark(&c->attention_park, INT32_MAX);
}

/* Once; a second call returns at once. */
static void rf_completer_live(rf_completer *c) {
    if (rf_completer_forked(c) || atomic_exchange(&c->started, 1)) return;
    c->main.conn.begin = c->begin != NULL && c->begin[0] != 0 ? c->begin : NULL;
    while (!rf_out_of_time(c)) {
        rf_rest(c);
        bool drained = rf_gather(c);
        size_t gathered = c->batch_count;
        if (gathered > 0) {
            rf_flush(c, false);
            rf_pace(c, gathered);
        } else if (drained && rf_aside_due(c) == INT64_MAX && !rf_relief_busy(c) && !rf_relief_left(c)) {
            break;
        } else if (rf_outcome_ring_size(&c->ring) > 0) {
            sched_yield(); /* a push is in flight: its slot is taken, not yet published */
        }
        if (c->batch_count == 0 && rf_aside_due(c) <= rf_now()) {
            rf_gather_aside(c);
            if (c->batch_count > 0) rf_flush(c, true);
        }
    }
    rf_completer_end(c, "not acknowledged by the database before the deadline");
}

static void rf_completer_run(rf_completer *c) {
    sigset_t before;
    rf_block_signals(&before);
    rf_completer_live(c);
    rf_restore_signals(&before); /* whoever calls it may have other work: a blocked signal would outlive even an exec */
}

#endif
