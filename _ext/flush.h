/* What the completer says to the server: connect, and the three statements (COPY form, array form, read-back).
 *
 * Runs on the thread whose the session is, without the GIL. Each function is one operation with a deadline and answers RF_OK,
 * RF_REFUSED (`conn.sqlstate` says why) or RF_LOST (outcome unknown); none of them changes what is held.
 */
#ifndef RF_FLUSH_H
#define RF_FLUSH_H

#include "completer.h"

/* Fewer bare outcomes than this go as arrays: one round trip, not two (measured: arrays ahead up to 500, then COPY). */
#define RF_COPY_MIN (RF_RICH_MAX + 1)
#define RF_STATEMENT_BYTES (8 * 1024 * 1024)    /* error and metadata texts in one array statement */
#define RF_SET_PARAMS 9

static inline int64_t rf_operation_deadline(void) { return rf_now() + RF_OPERATION_DEADLINE; }

static inline bool rf_out_of_time(rf_completer *c) {
    return rf_now() >= atomic_load_explicit(&c->limit, memory_order_acquire);
}

/* Waits `ns`, less where close() allows less; input from the server is looked at, so a connection that dies is seen. */
static void rf_completer_pause(rf_completer *c, int64_t ns) {
    int64_t until = rf_now() + ns;
    while (rf_now() < until && !rf_out_of_time(c)) {
        int64_t limit = atomic_load_explicit(&c->limit, memory_order_acquire);
        rf_conn_idle(&c->main.conn, limit < until ? limit : until);
    }
}

/* ---- connect ---- */

static int rf_prepare_all(rf_completer *c, rf_session *s, int64_t deadline) {
    for (int text = RF_TEXT_COMPLETE; text < RF_TEXTS; text++) {
        bool staged = text == RF_TEXT_COMPLETE || text == RF_TEXT_COMPLETE_UNLOCKED;
        if (staged && !s->staging) continue;
        int result = rf_conn_prepare(&s->conn, rf_text_names[text], c->texts[text], deadline);
        if (result != RF_OK) return result;
    }
    return RF_OK;
}

static int rf_connect_once(rf_completer *c, rf_session *s) {
    int64_t deadline = rf_now() + RF_CONNECT_DEADLINE;
    int result = rf_conn_open(&s->conn, c->conninfo, deadline);
    if (s->conn.begin != NULL) return result; /* nothing is kept in a session that is shared */
    if (result == RF_OK) result = rf_conn_query(&s->conn, c->setup, NULL, deadline);
    if (result == RF_OK) result = rf_conn_query(&s->conn, c->texts[RF_TEXT_SESSION], NULL, deadline);
    if (result == RF_OK && c->copy) {
        result = rf_conn_query(&s->conn, c->texts[RF_TEXT_STAGING], NULL, deadline);
        s->staging = result == RF_OK;
        if (result == RF_REFUSED && s == &c->main)
            rf_notice(c, RF_WARNING, "no staging table (%s, SQLSTATE %s): outcomes are written in the array form",
                      s->conn.error, s->conn.sqlstate);
        if (result == RF_REFUSED) result = RF_OK;
    }
    if (result == RF_OK) result = rf_prepare_all(c, s, deadline);
    s->freeze_at = rf_now() + c->freeze_after;
    if (result == RF_REFUSED) rf_conn_close(&s->conn);
    return result;
}

/* One attempt; the next comes no sooner than RF_RECONNECT_PAUSE from now. */
static void rf_connect_try(rf_completer *c) {
    c->main.connect_at = rf_now() + RF_RECONNECT_PAUSE;
    if (rf_connect_once(c, &c->main) == RF_OK) {
        if (c->connected_before) RF_COUNT(c, reconnects, 1);
        c->connected_before = true;
        c->connect_failures = 0;
        rf_attend(c, RF_CONNECTED, 1, "");
    } else if (c->connect_failures++ % 60 == 0 && !rf_out_of_time(c)) { /* the first, then every half minute */
        rf_notice(c, RF_WARNING, "completer cannot connect, keeps trying: %s", c->main.conn.error);
    }
}

/* Until there is a connection; false: the deadline of close() came first. */
static bool rf_connect(rf_completer *c) {
    while (c->main.conn.pg == NULL) {
        if (rf_out_of_time(c)) return false;
        int64_t now = rf_now();
        if (now < c->main.connect_at) rf_completer_pause(c, c->main.connect_at - now);
        else rf_connect_try(c);
    }
    return !rf_out_of_time(c);
}

/* The connection was lost, or serves no more. */
static void rf_connection_gone(rf_completer *c) {
    rf_conn_close(&c->main.conn);
    c->main.staging = false;
    rf_attend(c, RF_CONNECTION_LOST, 0, c->main.conn.error);
    if (!rf_out_of_time(c)) rf_notice(c, RF_WARNING, "completer lost its connection: %s", c->main.conn.error);
}

/* ---- the COPY form ---- */

/* *touched: rows the UPDATE changed. */
static int rf_send_copy(rf_completer *c, rf_session *s, const rf_outcome *items, size_t count, bool unlocked,
                        int64_t *touched) {
    rf_buffer *message = &s->message;
    int64_t now = rf_now();
    enum { WIDTH = 2 + 4 * 4 + 8 + 2 + 8 + 16 };
    rf_buffer_clear(message);
    rf_copy_begin(message);
    if (rf_buffer_reserve(message, count * WIDTH)) {
        char *to = message->data + message->length;
        for (size_t i = 0; i < count; i++, to += WIDTH) {
            rf_store_i16(to, 4);
            rf_store_i32(to + 2, 8);
            rf_store_i64(to + 6, items[i].id);
            rf_store_i32(to + 14, 2);
            rf_store_i16(to + 18, (int16_t)items[i].attempt);
            rf_store_i32(to + 20, 8);
            rf_store_i64(to + 24, items[i].attempted_at);
            rf_store_i32(to + 32, 16); /* an interval: microseconds, days, months */
            rf_store_i64(to + 36, (now - items[i].ended_ns) / 1000);
            rf_store_i64(to + 44, 0);
        }
        message->length += count * WIDTH;
    }
    rf_copy_end(message);
    if (message->failed) {
        rf_conn_say(&s->conn, "53200", "out of memory for a COPY message");
        return RF_REFUSED;
    }
    PGresult *last;
    const char *sql = c->texts[unlocked ? RF_TEXT_COPY_UNLOCKED : RF_TEXT_COPY];
    int result = rf_conn_copy(&s->conn, sql, message->data, message->length, &last, rf_operation_deadline());
    if (result == RF_OK && last == NULL) return rf_conn_lost(&s->conn, "no reply to EXECUTE");
    if (result == RF_OK) *touched = atoll(rf_pq.PQcmdTuples(last));
    if (last != NULL) rf_pq.PQclear(last);
    return result;
}

/* ---- the array form ---- */

static void rf_put_outcome_arrays(rf_buffer *b, const rf_outcome *items, int32_t n, size_t starts[RF_SET_PARAMS + 1]) {
    int64_t now = rf_now();
    int param = 0;
#define RF_ARRAY(oid, nulls, write)                                                                                 \
    starts[param++] = b->length;                                                                                    \
    rf_array_begin(b, oid, n, nulls);                                                                               \
    for (int32_t i = 0; i < n; i++) {                                                                               \
        const rf_outcome *item = &items[i];                                                                         \
        const rf_rich *rich = item->rich;                                                                           \
        (void)rich;                                                                                                 \
        write;                                                                                                      \
    }
    RF_ARRAY(RF_OID_INT8, false, rf_array_i64(b, item->id))
    RF_ARRAY(RF_OID_INT2, false, rf_array_i16(b, (int16_t)item->attempt))
    RF_ARRAY(RF_OID_TIMESTAMPTZ, false, rf_array_i64(b, item->attempted_at))
    RF_ARRAY(RF_OID_TEXT, false, rf_array_bytes(b, rf_state_names[item->state], strlen(rf_state_names[item->state])))
    RF_ARRAY(RF_OID_INT8, false, rf_array_i64(b, (now - item->ended_ns) / 1000))
    RF_ARRAY(RF_OID_INT8, false, rf_array_i64(b, rich == NULL ? -1 : rich->delay))
    RF_ARRAY(RF_OID_BOOL, false, rf_array_bool(b, rich != NULL && rich->restore_attempt))
    RF_ARRAY(RF_OID_JSONB, true,
             rf_array_jsonb(b, rich == NULL ? NULL : rf_rich_error(rich), rich == NULL ? 0 : rich->error_length))
    RF_ARRAY(RF_OID_JSONB, true,
             rf_array_jsonb(b, rich == NULL ? NULL : rf_rich_metadata(rich), rich == NULL ? 0 : rich->metadata_length))
#undef RF_ARRAY
    starts[param] = b->length;
}

/* *rows: one for each row changed: the outcome's position from 1, then, if wanted, the job as stored. */
static int rf_send_arrays(rf_completer *c, rf_session *s, const rf_outcome *items, size_t count, bool unlocked,
                          bool wanted, PGresult **rows) {
    size_t starts[RF_SET_PARAMS + 1];
    const char *values[RF_SET_PARAMS];
    int lengths[RF_SET_PARAMS];
    rf_buffer_clear(&s->message);
    rf_put_outcome_arrays(&s->message, items, (int32_t)count, starts);
    if (s->message.failed) {
        rf_conn_say(&s->conn, "53200", "out of memory for an array statement");
        return RF_REFUSED;
    }
    for (int i = 0; i < RF_SET_PARAMS; i++) {
        values[i] = s->message.data + starts[i];
        lengths[i] = (int)(starts[i + 1] - starts[i]);
    }
    int text = (wanted ? RF_TEXT_SET_ROWS : RF_TEXT_SET) + (unlocked ? 1 : 0);
    return rf_conn_execute(&s->conn, rf_text_names[text], c->texts[text], RF_SET_PARAMS, values, lengths, rows,
                           rf_operation_deadline());
}

/* How many of the outcomes fit into one array statement: at most RF_RICH_MAX, and RF_STATEMENT_BYTES of text. */
static size_t rf_arrays_chunk(const rf_outcome *items, size_t count) {
    size_t bytes = 0, n = 0;
    while (n < count && n < RF_RICH_MAX) {
        bytes += rf_outcome_bytes(&items[n]);
        if (n > 0 && bytes > RF_STATEMENT_BYTES) break;
        n++;
    }
    return n;
}

/* ---- the read-back ---- */

/* *rows: the stored rows of those outcomes whose statement changed nothing. */
static int rf_send_read(rf_completer *c, rf_session *s, const rf_outcome *items, size_t count, bool wanted,
                        PGresult **rows) {
    int32_t n = 0;
    for (size_t i = 0; i < count; i++) n += !(items[i].flags & RF_TOUCHED);
    rf_buffer_clear(&s->message);
    rf_array_begin(&s->message, RF_OID_INT8, n, false);
    for (size_t i = 0; i < count; i++)
        if (!(items[i].flags & RF_TOUCHED)) rf_array_i64(&s->message, items[i].id);
    if (s->message.failed) {
        rf_conn_say(&s->conn, "53200", "out of memory for a read-back");
        return RF_REFUSED;
    }
    const char *values[1] = {s->message.data};
    int lengths[1] = {(int)s->message.length};
    int text = wanted ? RF_TEXT_READ_ROWS : RF_TEXT_READ;
    return rf_conn_execute(&s->conn, rf_text_names[text], c->texts[text], 1, values, lengths, rows,
                           rf_operation_deadline());
}

/* Temp tables are frozen by their session or by nobody. Says nothing and RF_OK where it is not the time. */
static int rf_freeze(rf_completer *c, rf_session *s) {
    if (s->conn.pg == NULL || !s->staging || rf_now() < s->freeze_at) return RF_OK;
    s->freeze_at = rf_now() + c->freeze_after;
    int result = rf_conn_query(&s->conn, c->texts[RF_TEXT_FREEZE], NULL, rf_operation_deadline());
    if (result == RF_REFUSED)
        rf_notice(c, RF_WARNING, "staging table could not be frozen: %s (SQLSTATE %s)", s->conn.error,
                  s->conn.sqlstate);
    return result;
}

#endif
