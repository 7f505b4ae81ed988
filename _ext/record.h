/* How a batch is recorded whatever the server says: again at once, again later, over a new connection, past locked rows,
 * or split until the one outcome that is refused stands alone. SQLSTATE decides.
 *
 * Runs on the completer thread, without the GIL. Nothing is dropped here: what returns unsettled is the caller's still.
 */
#ifndef RF_RECORD_H
#define RF_RECORD_H

#include "settle.h"

#define RF_RETRY_FIRST (100 * RF_MS)
#define RF_RETRY_MAX (5 * RF_SECOND)
#define RF_AGAIN_MAX 10 /* serialization failures and deadlocks in a row before a pause */

enum rf_form { RF_FORM_COPY, RF_FORM_ARRAYS };
enum rf_reaction { RF_REACT_AGAIN, RF_REACT_PASS_LOCKED, RF_REACT_SPLIT, RF_REACT_RESET, RF_REACT_LATER };

static bool rf_is_class(const char *sqlstate, const char *two) { return strncmp(sqlstate, two, 2) == 0; }

static int rf_react(const char *sqlstate, size_t count) {
    static const char *const reset[] = {"08", "0A", "25", "26", "28", "3D", "3F", "42", NULL};
    static const char *const later[] = {"53", "55", "57", "58", NULL};
    if (sqlstate[0] == 0) return RF_REACT_RESET;
    if (rf_is_class(sqlstate, "40")) return RF_REACT_AGAIN;
    if (strcmp(sqlstate, "55P03") == 0) return RF_REACT_PASS_LOCKED;
    if (strcmp(sqlstate, "57014") == 0 && count > 1) return RF_REACT_SPLIT; /* it took too long: less at a time */
    /* a read-only server after a failover, a plan or a prepared statement or a staging table that is no more */
    for (int i = 0; reset[i] != NULL; i++)
        if (rf_is_class(sqlstate, reset[i])) return RF_REACT_RESET;
    for (int i = 0; later[i] != NULL; i++)
        if (rf_is_class(sqlstate, later[i])) return RF_REACT_LATER;
    return RF_REACT_SPLIT; /* the data (22, 23), limits (54), triggers (P0), a broken row (XX) */
}

/* One try over all of `items` (sorted by id). RF_OK: every one is settled, or left over by the relief. */
static int rf_record_once(rf_completer *c, rf_session *s, rf_outcome *items, size_t count, int form,
                          bool unlocked) {
    PGresult *touched = NULL, *found = NULL;
    bool wanted = form == RF_FORM_ARRAYS && atomic_load_explicit(&c->want_rows, memory_order_relaxed) != 0;
    int64_t changed = 0;
    int result;
    for (size_t i = 0; i < count; i++) items[i].flags &= ~RF_TOUCHED;
    if (form == RF_FORM_COPY) {
        RF_COUNT(c, copy_flushes, 1);
        result = rf_send_copy(c, s, items, count, unlocked, &changed);
        if (result == RF_OK && changed == (int64_t)count)
            for (size_t i = 0; i < count; i++) items[i].flags |= RF_TOUCHED;
    } else {
        RF_COUNT(c, array_flushes, 1);
        result = rf_send_arrays(c, s, items, count, unlocked, wanted, &touched);
        if (result == RF_OK && touched == NULL) result = rf_conn_lost(&s->conn, "no reply");
        if (result == RF_OK) {
            changed = rf_pq.PQntuples(touched);
            for (int row = 0; row < changed; row++) {
                int64_t position = rf_load_i64(rf_pq.PQgetvalue(touched, row, 0));
                if (position >= 1 && (size_t)position <= count) items[position - 1].flags |= RF_TOUCHED;
            }
        }
    }
    if (result == RF_OK && changed < (int64_t)count) {
        result = rf_send_read(c, s, items, count, wanted, &found);
        if (result == RF_OK && found == NULL) result = rf_conn_lost(&s->conn, "no reply");
    }
    if (result == RF_OK) rf_settle(c, s, items, count, touched, found, wanted);
    if (touched != NULL) rf_pq.PQclear(touched);
    if (found != NULL) rf_pq.PQclear(found);
    return result;
}

/* One outcome alone was refused for its data: mended, then without its texts; what is refused even then waits aside. */
static void rf_treat(rf_completer *c, rf_outcome *item) {
    char why[120];
    bool constraint = rf_is_class(c->main.conn.sqlstate, "23");
    snprintf(why, sizeof why, "SQLSTATE %s: %.80s", c->main.conn.sqlstate, c->main.conn.error);
    if (!(item->flags & (RF_MENDED | RF_REPLACED | RF_STRAY))) {
        RF_COUNT(c, rejected, 1);
        rf_notice(c, RF_WARNING,
                  "the database refused the outcome of job %lld (%s); it is recorded in a form that can be stored",
                  (long long)item->id, why);
    }
    if (!constraint && rf_outcome_mend(item, &c->scratch)) return;
    if (rf_outcome_give_up_texts(item, why, constraint, &c->scratch)) return;
    if (!(item->flags & RF_STRAY))
        rf_notice(c, RF_ERROR, "no form of the outcome of job %lld is accepted (%s); it is tried again until the stop",
                  (long long)item->id, why);
    item->flags |= RF_STRAY;
    pthread_mutex_lock(&c->mutex);
    rf_slots_release(item->slots, item->run_ns); /* its slot must not wait for somebody to mend the database */
    item->slots = NULL;
    rf_set_aside(c, item, rf_doubling(RF_STRAY_FIRST, item->tries, RF_STRAY_MAX), why);
    pthread_mutex_unlock(&c->mutex);
}

static void rf_record_arrays(rf_completer *c, rf_outcome *items, size_t count, bool unlocked);

/* Until every item is settled or aside; returns early where close()'s deadline passed. */
static void rf_record(rf_completer *c, rf_outcome *items, size_t count, int form, bool unlocked) {
    int again = 0, laters = 0;
    while (rf_connect(c)) {
        if (form == RF_FORM_COPY && !c->main.staging) { /* the new connection's server has no staging */
            rf_record_arrays(c, items, count, unlocked);
            return;
        }
        int result = rf_record_once(c, &c->main, items, count, form, unlocked);
        if (result == RF_OK) return;
        RF_COUNT(c, retries, 1);
        if (result == RF_LOST) {
            rf_connection_gone(c);
            continue;
        }
        int reaction = rf_react(c->main.conn.sqlstate, count);
        if (reaction == RF_REACT_AGAIN && ++again < RF_AGAIN_MAX) continue;
        if (reaction == RF_REACT_PASS_LOCKED && !unlocked) {
            unlocked = true;
            continue;
        }
        if (reaction == RF_REACT_SPLIT && count > 1) {
            rf_record(c, items, count / 2, form, unlocked);
            rf_record(c, items + count / 2, count - count / 2, form, unlocked);
            return;
        }
        if (reaction == RF_REACT_SPLIT) {
            rf_treat(c, items);
            if (items->settled) return;
            form = RF_FORM_ARRAYS;
            continue;
        }
        if (laters == 0 || reaction == RF_REACT_RESET)
            rf_notice(c, RF_WARNING, "outcomes could not be written, trying again: %s (SQLSTATE %s)", c->main.conn.error,
                      c->main.conn.sqlstate);
        if (reaction == RF_REACT_RESET) rf_connection_gone(c);
        rf_completer_pause(c, rf_doubling(RF_RETRY_FIRST, laters++, RF_RETRY_MAX));
    }
}

/* Too large to be sent at all, or no object: known before the server is asked. */
static void rf_check_texts(rf_completer *c, rf_outcome *item) {
    rf_rich *rich = item->rich;
    if (rich == NULL || (item->flags & RF_REPLACED)) return;
    if (rich->has_metadata && !rf_is_object(rf_rich_metadata(rich), rich->metadata_length)) {
        RF_COUNT(c, rejected, 1);
        rf_outcome_give_up_texts(item, "metadata is not a JSON object", false, &c->scratch);
    } else if (rich->has_error && !rf_is_object(rf_rich_error(rich), rich->error_length)) {
        RF_COUNT(c, rejected, 1);
        rf_outcome_give_up_texts(item, "the error entry is not a JSON object", false, &c->scratch);
    } else if (rich->error_length > RF_ERROR_BYTES_MAX && !(item->flags & RF_MENDED)) {
        RF_COUNT(c, rejected, 1);
        rf_outcome_mend(item, &c->scratch);
    }
}

/* The array form, in statements of a size that keeps its plan good. */
static void rf_record_arrays(rf_completer *c, rf_outcome *items, size_t count, bool unlocked) {
    for (size_t i = 0; i < count; i++) rf_check_texts(c, &items[i]);
    while (count > 0 && !rf_out_of_time(c)) {
        size_t chunk = rf_arrays_chunk(items, count);
        rf_record(c, items, chunk, RF_FORM_ARRAYS, unlocked);
        items += chunk;
        count -= chunk;
    }
}

#endif
