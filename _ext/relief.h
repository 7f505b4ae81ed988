/* A second hand for the completer: while more outcomes wait than one flush takes, a second connection records some too.
 *
 * Fetching and completing do not take the server equally long, and a flush is held up now and then (a GIN index's pending
 * list, a checkpoint). With one connection for each, fetching then stops at the backlog's limit and a core stands idle.
 * The relief does the plain thing only: one try of the COPY form over bare outcomes. What does not end as recorded is left
 * to the completer thread, which knows what to do about lost connections, locked rows and refused batches.
 *
 * Its own thread, without the GIL. Pops happen under the mutex, so the ring still has one reader at a time.
 */
#ifndef RF_RELIEF_H
#define RF_RELIEF_H

#include <sched.h>

#include "record.h"

/* ---- what the completer thread asks ---- */

/* Whether outcomes are in the relief's hands; it signals `wake` when they no longer are. */
static inline bool rf_relief_busy(rf_completer *c) { return atomic_load(&c->relief.busy) != 0; }

static inline bool rf_relief_left(rf_completer *c) { return atomic_load(&c->relief.left) != 0; }

/* With the mutex held and the batch empty: what the relief could not record becomes the completer's batch. */
static void rf_relief_take_left(rf_completer *c) {
    rf_relief *r = &c->relief;
    if (rf_relief_busy(c) || r->batch_count == 0) return;
    memcpy(c->batch, r->batch, r->batch_count * sizeof *c->batch);
    c->batch_count = r->batch_count;
    r->batch_count = 0;
    atomic_store(&r->left, 0);
    rf_wake_signal(&r->wake);
}

/* ---- the relief's own thread ---- */

static bool rf_relief_over(rf_completer *c) { return rf_outcome_ring_is_closed(&c->ring) || rf_out_of_time(c); }

/* Not where rows are wanted back: they are told in one order, by one hand. */
static bool rf_relief_may(rf_completer *c) { return !rf_relief_left(c) && atomic_load(&c->want_rows) == 0; }

static bool rf_relief_wanted(rf_completer *c) {
    return rf_relief_may(c) && rf_outcome_ring_size(&c->ring) >= RF_RELIEF_AT;
}

/* Until it is wanted, or over, or its connection has been idle for long enough. */
static void rf_relief_rest(rf_completer *c) {
    rf_relief *r = &c->relief;
    int64_t until = rf_now() + RF_RELIEF_KEPT;
    if (rf_relief_may(c)) atomic_store(&r->at, RF_RELIEF_AT);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the fence in rf_completer_pushed */
    if (!rf_relief_wanted(c) && !rf_relief_over(c)) rf_conn_idle(&r->session.conn, until);
    atomic_store(&r->at, INT64_MAX);
    if (rf_now() >= until) rf_conn_close(&r->session.conn);
}

/* No connection, or no staging table: the completer thread goes on alone, and says if something is wrong. */
static bool rf_relief_connect(rf_completer *c) {
    rf_session *s = &c->relief.session;
    if (s->conn.pg != NULL) return true;
    if (rf_now() >= s->connect_at) {
        s->connect_at = rf_now() + RF_RELIEF_PAUSE;
        if (rf_connect_once(c, s) == RF_OK && s->staging) return true;
        rf_conn_close(&s->conn);
    }
    if (!rf_relief_over(c)) rf_conn_idle(&s->conn, s->connect_at); /* connecting may have taken the close's signal */
    return false;
}

/* False: there was nothing any more, or it may not: looked at under the mutex, for who closes gives up what is left
 * under it, and connecting may have taken a while. */
static bool rf_relief_gather(rf_completer *c) {
    rf_relief *r = &c->relief;
    pthread_mutex_lock(&c->mutex);
    bool may = rf_relief_may(c) && !rf_relief_over(c);
    while (may && r->batch_count < RF_BATCH_MAX && rf_outcome_ring_pop(&c->ring, &r->batch[r->batch_count]) == RF_POPPED)
        r->batch_count++;
    size_t count = r->batch_count;
    if (count > 0) atomic_store(&r->busy, 1);
    rf_outcomes_sort(r->batch, count, rf_outcome_bare_first);
    atomic_fetch_add_explicit(&c->held, (int64_t)count, memory_order_relaxed);
    rf_backlog_look(c);
    pthread_mutex_unlock(&c->mutex);
    if (count > 0) rf_unpark(&c->room, INT32_MAX);
    return count > 0;
}

static void rf_relief_flush(rf_completer *c) {
    rf_relief *r = &c->relief;
    rf_session *s = &r->session;
    size_t bare = 0, left = 0;
    while (bare < r->batch_count && r->batch[bare].rich == NULL) bare++;
    RF_COUNT(c, relief_flushes, 1);
    int result = bare == 0 ? RF_OK : rf_record_once(c, s, r->batch, bare, RF_FORM_COPY, false);
    if (result == RF_OK) result = rf_freeze(c, s);
    if (result != RF_OK) { /* the completer's to judge; it must not come again at once */
        rf_conn_close(&s->conn);
        s->connect_at = rf_now() + RF_RELIEF_PAUSE;
    }
    pthread_mutex_lock(&c->mutex);
    for (size_t i = 0; i < r->batch_count; i++)
        if (!r->batch[i].settled) r->batch[left++] = r->batch[i];
    r->batch_count = left;
    atomic_store(&r->left, (int)left);
    atomic_store(&r->busy, 0);
    pthread_mutex_unlock(&c->mutex);
    rf_wake_signal(&c->wake);
}

/* Its thread's body; once, and only where outcomes are gathered and there can be a staging table. */
static void rf_relief_run(rf_completer *c) {
    sigset_t before;
    if (rf_completer_forked(c) || c->mode != RF_MODE_BATCH || !c->copy || atomic_exchange(&c->relief.started, 1)) return;
    rf_block_signals(&before);
    while (!rf_relief_over(c)) {
        if (!rf_relief_wanted(c)) rf_relief_rest(c);
        else if (!rf_relief_connect(c)) continue;
        else if (rf_relief_gather(c)) rf_relief_flush(c);
        else sched_yield(); /* a push is in flight: its slot is taken, not yet published */
    }
    rf_conn_close(&c->relief.session.conn);
    rf_restore_signals(&before);
}

#endif
