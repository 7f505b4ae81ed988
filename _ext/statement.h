/* A statement with binary parameters and a binary reply: prepared, where the session is ours; or, where a pooler
 * shares the session, sent whole in a transaction of its own, which leaves nothing behind in it.
 */
#ifndef RF_STATEMENT_H
#define RF_STATEMENT_H

#include "pq.h"

#define RF_PARAMS_MAX 16

static int rf_conn_prepare(rf_conn *conn, const char *name, const char *sql, int64_t deadline) {
    if (conn->pg == NULL) return RF_LOST;
    if (rf_pq.PQsendPrepare(conn->pg, name, sql, 0, NULL) == 0) return rf_conn_lost(conn, "sending failed");
    if (rf_conn_flush(conn, deadline) != RF_OK) return RF_LOST;
    return rf_conn_finish(conn, NULL, deadline);
}

/* Ends the transaction as its statement ended: the reply counts only with the commit's. */
static int rf_conn_end(rf_conn *conn, int outcome, PGresult **reply, int64_t deadline) {
    if (outcome == RF_OK) {
        outcome = rf_conn_query(conn, "COMMIT", NULL, deadline);
        if (outcome != RF_OK && *reply != NULL) {
            rf_pq.PQclear(*reply);
            *reply = NULL;
        }
    } else if (outcome == RF_REFUSED) {
        char sqlstate[sizeof conn->sqlstate], error[sizeof conn->error];
        memcpy(sqlstate, conn->sqlstate, sizeof sqlstate);
        memcpy(error, conn->error, sizeof error);
        rf_conn_query(conn, "ROLLBACK", NULL, deadline); /* lost on the way, it is rolled back all the same */
        memcpy(conn->sqlstate, sqlstate, sizeof sqlstate);
        memcpy(conn->error, error, sizeof error);
    }
    return outcome;
}

/* *reply: the rows, the caller's to clear; NULL but for RF_OK. `name` NULL: not prepared, sent whole. */
static int rf_conn_execute(rf_conn *conn, const char *name, const char *sql, int count, const char *const *values,
                           const int *lengths, PGresult **reply, int64_t deadline) {
    int formats[RF_PARAMS_MAX], outcome, sent;
    *reply = NULL;
    if (conn->pg == NULL || count > RF_PARAMS_MAX) return RF_LOST;
    for (int i = 0; i < count; i++) formats[i] = 1;
    if (conn->begin != NULL) {
        outcome = rf_conn_query(conn, conn->begin, NULL, deadline);
        if (outcome != RF_OK) return rf_conn_end(conn, outcome, reply, deadline);
    }
    if (conn->begin == NULL && name != NULL) {
        sent = rf_pq.PQsendQueryPrepared(conn->pg, name, count, values, lengths, formats, 1);
    } else {
        sent = rf_pq.PQsendQueryParams(conn->pg, sql, count, NULL, values, lengths, formats, 1);
    }
    if (sent == 0) return rf_conn_lost(conn, "sending failed");
    if (rf_conn_flush(conn, deadline) != RF_OK) return RF_LOST;
    outcome = rf_conn_finish(conn, reply, deadline);
    return conn->begin == NULL ? outcome : rf_conn_end(conn, outcome, reply, deadline);
}

#endif
