/* libpq through a table of function pointers, and one non-blocking connection with a deadline on every wait.
 *
 * The functions come by dlsym from the libpq that psycopg has loaded (packaging.md, route D): one libpq in the process,
 * nothing linked, no libpq headers needed. Each extension module has its own table, filled once at import.
 * Used by one thread at a time, without the GIL. A forked child never closes its parent's socket (`pid` is kept).
 */
#ifndef RF_PQ_H
#define RF_PQ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* ppoll */
#endif
#include <dlfcn.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "limits.h"
#include "wakeup.h"

typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
typedef struct pg_cancel PGcancel;
typedef unsigned int Oid;

typedef struct PGnotify { /* the one struct of libpq that we read; part of its stable ABI */
    char *relname;
    int be_pid;
    char *extra;
    struct PGnotify *next;
} PGnotify;

/* libpq's stable numbers */
enum { PG_CONNECTION_OK = 0, PG_CONNECTION_BAD = 1 };
enum { PG_POLLING_FAILED = 0, PG_POLLING_READING = 1, PG_POLLING_WRITING = 2, PG_POLLING_OK = 3 };
enum {
    PG_EMPTY_QUERY = 0, PG_COMMAND_OK = 1, PG_TUPLES_OK = 2, PG_COPY_OUT = 3, PG_COPY_IN = 4,
    PG_BAD_RESPONSE = 5, PG_NONFATAL_ERROR = 6, PG_FATAL_ERROR = 7
};
#define PG_DIAG_SQLSTATE 'C'
#define PG_DIAG_MESSAGE_PRIMARY 'M'

#define RF_PQ_FUNCTIONS(X)                                                                                         \
    X(PGconn *, PQconnectStart, (const char *))                                                                    \
    X(int, PQconnectPoll, (PGconn *))                                                                              \
    X(void, PQfinish, (PGconn *))                                                                                  \
    X(int, PQstatus, (const PGconn *))                                                                             \
    X(int, PQsocket, (const PGconn *))                                                                             \
    X(int, PQbackendPID, (const PGconn *))                                                                         \
    X(int, PQserverVersion, (const PGconn *))                                                                      \
    X(char *, PQerrorMessage, (const PGconn *))                                                                    \
    X(int, PQsetnonblocking, (PGconn *, int))                                                                      \
    X(int, PQconsumeInput, (PGconn *))                                                                             \
    X(int, PQisBusy, (PGconn *))                                                                                   \
    X(int, PQflush, (PGconn *))                                                                                    \
    X(int, PQsendQuery, (PGconn *, const char *))                                                                  \
    X(int, PQsendPrepare, (PGconn *, const char *, const char *, int, const Oid *))                                \
    X(int, PQsendQueryPrepared,                                                                                    \
      (PGconn *, const char *, int, const char *const *, const int *, const int *, int))                           \
    X(int, PQsendQueryParams,                                                                                      \
      (PGconn *, const char *, int, const Oid *, const char *const *, const int *, const int *, int))              \
    X(PGresult *, PQgetResult, (PGconn *))                                                                         \
    X(int, PQputCopyData, (PGconn *, const char *, int))                                                           \
    X(int, PQputCopyEnd, (PGconn *, const char *))                                                                 \
    X(int, PQresultStatus, (const PGresult *))                                                                     \
    X(char *, PQresultErrorField, (const PGresult *, int))                                                         \
    X(char *, PQcmdTuples, (PGresult *))                                                                           \
    X(int, PQntuples, (const PGresult *))                                                                          \
    X(int, PQnfields, (const PGresult *))                                                                          \
    X(char *, PQgetvalue, (const PGresult *, int, int))                                                            \
    X(int, PQgetlength, (const PGresult *, int, int))                                                              \
    X(int, PQgetisnull, (const PGresult *, int, int))                                                              \
    X(void, PQclear, (PGresult *))                                                                                 \
    X(PGnotify *, PQnotifies, (PGconn *))                                                                          \
    X(void, PQfreemem, (void *))                                                                                   \
    X(void *, PQsetNoticeReceiver, (PGconn *, void (*)(void *, const PGresult *), void *))                         \
    X(PGcancel *, PQgetCancel, (PGconn *))                                                                         \
    X(int, PQcancel, (PGcancel *, char *, int))                                                                    \
    X(void, PQfreeCancel, (PGcancel *))

typedef struct rf_pq_table {
#define X(result, name, arguments) result(*name) arguments;
    RF_PQ_FUNCTIONS(X)
#undef X
    int loaded;
} rf_pq_table;

static rf_pq_table rf_pq;

/* `path`: the file of a module that is loaded and linked to libpq, or of libpq itself. NULL, or the missing symbol. */
static const char *rf_pq_load(const char *path) {
    if (rf_pq.loaded) return NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (handle == NULL) handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) return "dlopen";
    /* never dlclosed: the table lives as long as the process */
#define X(result, name, arguments)                                                                                 \
    rf_pq.name = (result(*) arguments)dlsym(handle, #name);                                                        \
    if (rf_pq.name == NULL) return #name;
    RF_PQ_FUNCTIONS(X)
#undef X
    rf_pq.loaded = 1;
    return NULL;
}

/* ---- one connection ---- */

enum rf_conn_result {
    RF_OK = 0,
    RF_REFUSED = 1,  /* the server answered with an error: `sqlstate` and `error`; the connection lives */
    RF_LOST = 2,     /* the connection is gone, or the deadline passed and it was dropped: outcome unknown */
    RF_WOKEN = 3     /* rf_conn_idle: the wake-up came first */
};

typedef struct rf_conn {
    PGconn *pg;
    int pid;                     /* of the process that opened it */
    rf_wake *wake;               /* polled beside the socket; NULL: none */
    _Atomic int64_t *limit;      /* a second deadline that another thread may pull nearer (stop); NULL: none */
    int64_t (*tick)(void *);     /* called between waits, says in how many ns again; NULL: none */
    bool (*late)(void *, int64_t); /* asked where a reply is late, with the deadline: true, once: wait on. NULL: never */
    void *ticker;                /* the argument of both */
    const char *begin;           /* what opens a transaction in a session that a pooler shares; NULL: it is ours */
    char sqlstate[6];
    char error[512];
} rf_conn;

static inline void rf_conn_init(rf_conn *conn, rf_wake *wake, _Atomic int64_t *limit) {
    memset(conn, 0, sizeof *conn);
    conn->wake = wake;
    conn->limit = limit;
}

static inline void rf_conn_say(rf_conn *conn, const char *sqlstate, const char *text) {
    snprintf(conn->sqlstate, sizeof conn->sqlstate, "%s", sqlstate == NULL ? "" : sqlstate);
    snprintf(conn->error, sizeof conn->error, "%s", text == NULL ? "" : text);
    size_t end = strlen(conn->error);
    while (end > 0 && conn->error[end - 1] == '\n') conn->error[--end] = 0;
}

static void rf_conn_close(rf_conn *conn) {
    if (conn->pg == NULL) return;
    if (conn->pid == (int)getpid()) rf_pq.PQfinish(conn->pg);
    conn->pg = NULL;
}

static int rf_conn_lost(rf_conn *conn, const char *what) {
    char text[512];
    const char *reason = conn->pg == NULL ? "" : rf_pq.PQerrorMessage(conn->pg);
    snprintf(text, sizeof text, "%s%s%s", what, reason[0] ? ": " : "", reason);
    rf_conn_say(conn, "", text);
    rf_conn_close(conn);
    return RF_LOST;
}

static inline int64_t rf_conn_remaining(rf_conn *conn, int64_t deadline) {
    if (conn->limit != NULL) {
        int64_t limit = atomic_load_explicit(conn->limit, memory_order_acquire);
        if (limit < deadline) deadline = limit;
    }
    return deadline - rf_now();
}

/* Waits for `events` on the socket; a wake-up only makes it look at the deadline again. 1 ready, 0 deadline, -1 error. */
static int rf_conn_wait(rf_conn *conn, short events, int64_t deadline) {
    for (;;) {
        int64_t remaining = rf_conn_remaining(conn, deadline);
        if (remaining <= 0) return 0;
        struct pollfd fds[2] = {{rf_pq.PQsocket(conn->pg), events, 0},
                                {conn->wake == NULL ? -1 : conn->wake->read_fd, POLLIN, 0}};
        if (fds[0].fd < 0) return -1;
        int64_t slice = conn->tick == NULL ? remaining : conn->tick(conn->ticker);
        if (slice > remaining) slice = remaining;
        int64_t ms = (slice + RF_MS - 1) / RF_MS;
        int count = poll(fds, conn->wake == NULL ? 1 : 2, ms > 60000 ? 60000 : (int)ms);
        if (count < 0 && errno != EINTR) return -1;
        if (count > 0 && fds[0].revents != 0) return 1;
        if (count > 0 && fds[1].revents != 0) {
            /* Whoever signalled wants the deadline looked at (or left work for later): with the signal left pending
             * poll would spin, so it is taken here; callers look for work after every operation anyway. */
            rf_wake_clear(conn->wake);
        }
    }
}

static void rf_no_notice(void *unused, const PGresult *result) { (void)unused; (void)result; }

static int rf_conn_open(rf_conn *conn, const char *conninfo, int64_t deadline) {
    conn->pid = (int)getpid();
    conn->pg = rf_pq.PQconnectStart(conninfo);
    if (conn->pg == NULL) return rf_conn_lost(conn, "out of memory");
    rf_pq.PQsetNoticeReceiver(conn->pg, rf_no_notice, NULL);
    if (rf_pq.PQstatus(conn->pg) == PG_CONNECTION_BAD) return rf_conn_lost(conn, "cannot connect");
    int polling = PG_POLLING_WRITING;
    while (polling != PG_POLLING_OK) {
        int ready = rf_conn_wait(conn, polling == PG_POLLING_READING ? POLLIN : POLLOUT, deadline);
        if (ready == 0) return rf_conn_lost(conn, "connecting took too long");
        if (ready < 0) return rf_conn_lost(conn, "cannot connect");
        polling = rf_pq.PQconnectPoll(conn->pg);
        if (polling == PG_POLLING_FAILED) return rf_conn_lost(conn, "cannot connect");
    }
    if (rf_pq.PQsetnonblocking(conn->pg, 1) != 0) return rf_conn_lost(conn, "cannot set non-blocking");
    return RF_OK;
}

/* Sends all that libpq has buffered, reading meanwhile (else two full buffers would wait for each other). */
static int rf_conn_flush(rf_conn *conn, int64_t deadline) {
    for (;;) {
        int more = rf_pq.PQflush(conn->pg);
        if (more == 0) return RF_OK;
        if (more < 0) return rf_conn_lost(conn, "sending failed");
        int ready = rf_conn_wait(conn, POLLIN | POLLOUT, deadline);
        if (ready == 0) return rf_conn_lost(conn, "sending took too long");
        if (ready < 0 || rf_pq.PQconsumeInput(conn->pg) == 0) return rf_conn_lost(conn, "sending failed");
    }
}

/* The next result in *result (NULL: the command is over). RF_OK or RF_LOST; an error result is the caller's to judge. */
static int rf_conn_next(rf_conn *conn, PGresult **result, int64_t deadline) {
    *result = NULL;
    while (rf_pq.PQisBusy(conn->pg)) {
        int ready = rf_conn_wait(conn, POLLIN, deadline);
        if (ready == 0 && conn->late != NULL && conn->late(conn->ticker, deadline)) continue;
        if (ready == 0) return rf_conn_lost(conn, "no reply in time");
        if (ready < 0 || rf_pq.PQconsumeInput(conn->pg) == 0) return rf_conn_lost(conn, "receiving failed");
    }
    *result = rf_pq.PQgetResult(conn->pg);
    if (*result == NULL && rf_pq.PQstatus(conn->pg) == PG_CONNECTION_BAD) return rf_conn_lost(conn, "connection lost");
    return RF_OK;
}

static int rf_conn_note_error(rf_conn *conn, PGresult *result) {
    rf_conn_say(conn, rf_pq.PQresultErrorField(result, PG_DIAG_SQLSTATE),
                rf_pq.PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
    return RF_REFUSED;
}

/* Receives every result of what was sent. *last, if wanted, gets the last good result (caller clears), *rows the rows
 * its command touched. RF_OK, RF_REFUSED or RF_LOST. COPY is not for this function. */
static int rf_conn_finish(rf_conn *conn, PGresult **last, int64_t deadline) {
    int outcome = RF_OK;
    if (last != NULL) *last = NULL;
    for (;;) {
        PGresult *result;
        if (rf_conn_next(conn, &result, deadline) == RF_LOST) {
            if (last != NULL && *last != NULL) { rf_pq.PQclear(*last); *last = NULL; }
            return RF_LOST;
        }
        if (result == NULL) break;
        int status = rf_pq.PQresultStatus(result);
        if (status == PG_COMMAND_OK || status == PG_TUPLES_OK || status == PG_EMPTY_QUERY) {
            if (last != NULL && outcome == RF_OK) {
                if (*last != NULL) rf_pq.PQclear(*last);
                *last = result;
                continue;
            }
        } else {
            outcome = rf_conn_note_error(conn, result);
            if (last != NULL && *last != NULL) { rf_pq.PQclear(*last); *last = NULL; }
        }
        rf_pq.PQclear(result);
    }
    /* a FATAL error result (the server is going, 57P01) comes before the connection is seen to be gone */
    if (rf_pq.PQstatus(conn->pg) == PG_CONNECTION_BAD) return rf_conn_lost(conn, "connection lost");
    return outcome;
}

/* One simple-protocol message (may hold several statements: one implicit transaction). */
static int rf_conn_query(rf_conn *conn, const char *sql, PGresult **last, int64_t deadline) {
    if (conn->pg == NULL) return RF_LOST;
    if (rf_pq.PQsendQuery(conn->pg, sql) == 0) return rf_conn_lost(conn, "sending failed");
    if (rf_conn_flush(conn, deadline) != RF_OK) return RF_LOST;
    return rf_conn_finish(conn, last, deadline);
}

/* A simple message whose first statement is a COPY ... FROM STDIN, with all its data, and what follows it in the same
 * message: one implicit transaction, two round trips. As rf_conn_finish otherwise. */
static int rf_conn_copy(rf_conn *conn, const char *sql, const char *data, size_t length, PGresult **last,
                        int64_t deadline) {
    PGresult *begun;
    if (last != NULL) *last = NULL;
    if (conn->pg == NULL) return RF_LOST;
    if (rf_pq.PQsendQuery(conn->pg, sql) == 0) return rf_conn_lost(conn, "sending failed");
    if (rf_conn_flush(conn, deadline) != RF_OK || rf_conn_next(conn, &begun, deadline) != RF_OK) return RF_LOST;
    if (begun == NULL) return rf_conn_lost(conn, "no reply to COPY");
    int status = rf_pq.PQresultStatus(begun);
    if (status != PG_COPY_IN) {
        int outcome = status == PG_FATAL_ERROR ? rf_conn_note_error(conn, begun) : RF_LOST;
        rf_pq.PQclear(begun);
        if (outcome == RF_LOST) return rf_conn_lost(conn, "COPY did not begin");
        return rf_conn_finish(conn, NULL, deadline) == RF_LOST ? RF_LOST : RF_REFUSED;
    }
    rf_pq.PQclear(begun);
    const size_t chunk = 1 << 20; /* an int counts the bytes of one call */
    for (size_t sent = 0; sent < length;) {
        size_t part = length - sent < chunk ? length - sent : chunk;
        int put = rf_pq.PQputCopyData(conn->pg, data + sent, (int)part);
        if (put < 0) return rf_conn_lost(conn, "sending COPY data failed");
        if (put > 0) sent += part;
        if (rf_conn_flush(conn, deadline) != RF_OK) return RF_LOST;
    }
    int ended;
    while ((ended = rf_pq.PQputCopyEnd(conn->pg, NULL)) == 0)
        if (rf_conn_flush(conn, deadline) != RF_OK) return RF_LOST;
    if (ended < 0) return rf_conn_lost(conn, "ending COPY failed");
    if (rf_conn_flush(conn, deadline) != RF_OK) return RF_LOST;
    return rf_conn_finish(conn, last, deadline);
}

/* Sleeps while the connection is idle, until the wake-up, input from the server, or the deadline.
 * RF_WOKEN, RF_OK (something came: look at notifications) or RF_LOST; RF_REFUSED means the deadline passed. */
static int rf_conn_idle(rf_conn *conn, int64_t deadline) {
    int64_t remaining = deadline - rf_now();
    if (remaining < 0) remaining = 0;
    struct pollfd fds[2] = {{conn->pg == NULL ? -1 : rf_pq.PQsocket(conn->pg), POLLIN, 0},
                            {conn->wake == NULL ? -1 : conn->wake->read_fd, POLLIN, 0}};
#ifdef __linux__
    struct timespec wait = {remaining / RF_SECOND, remaining % RF_SECOND};
    int count = ppoll(fds, 2, &wait, NULL);
#else
    int64_t ms = (remaining + RF_MS - 1) / RF_MS;
    int count = poll(fds, 2, ms > 60000 ? 60000 : (int)ms);
#endif
    if (count <= 0) return RF_REFUSED;
    int woken = fds[1].revents != 0;
    if (woken) rf_wake_clear(conn->wake);
    if (conn->pg != NULL && fds[0].revents != 0) {
        if (rf_pq.PQconsumeInput(conn->pg) == 0) return rf_conn_lost(conn, "connection lost");
        return RF_OK;
    }
    return woken ? RF_WOKEN : RF_OK;
}

/* Asks the server to cancel what runs. Blocking, but only as long as a connect to a live server takes. */
static inline void rf_conn_cancel(rf_conn *conn) {
    char error[256];
    PGcancel *cancel = conn->pg == NULL ? NULL : rf_pq.PQgetCancel(conn->pg);
    if (cancel == NULL) return;
    rf_pq.PQcancel(cancel, error, sizeof error);
    rf_pq.PQfreeCancel(cancel);
}

#endif
