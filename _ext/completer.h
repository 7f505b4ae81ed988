/* The completer's state, and what it tells other threads: attention, back-pressure, recorded rows.
 *
 * One writer per field: the completer thread, unless a comment says otherwise. `mutex` guards what several threads look
 * at (the lists of held outcomes, attention, recorded rows); pushes never take it but at the backlog's limit.
 */
#ifndef RF_COMPLETER_H
#define RF_COMPLETER_H

#include <pthread.h>
#include <stdarg.h>

#include "outcome.h"
#include "statement.h"

enum rf_mode { RF_MODE_BATCH, RF_MODE_INLINE, RF_MODE_ASYNC };
enum rf_attention_kind { RF_NOTICE = 1, RF_HOLD = 2, RF_CONNECTED = 3, RF_CONNECTION_LOST = 4 };

#define RF_ATTENTION_MAX 256   /* entries; the last quarter is kept from notices, so that HOLD and LOST find room */
#define RF_RECORDED_MAX 20000  /* rows kept for a reader: four full flushes */

/* The texts of sql/, by what they do; filled by the .pyx, freed by rf_completer_free. */
enum rf_text {
    RF_TEXT_SESSION, RF_TEXT_STAGING, RF_TEXT_COPY, RF_TEXT_COPY_UNLOCKED, RF_TEXT_FREEZE,
    RF_TEXT_COMPLETE, RF_TEXT_COMPLETE_UNLOCKED,
    RF_TEXT_SET, RF_TEXT_SET_UNLOCKED, RF_TEXT_SET_ROWS, RF_TEXT_SET_ROWS_UNLOCKED, RF_TEXT_READ, RF_TEXT_READ_ROWS,
    RF_TEXTS
};
static const char *const rf_text_names[RF_TEXTS] = {
    "completer_session", "outcome_staging", "outcome_copy", "outcome_copy_unlocked", "outcome_freeze",
    "job_complete_many", "job_complete_many_unlocked",
    "job_set_state_many", "job_set_state_many_unlocked", "job_set_state_many_rows", "job_set_state_many_rows_unlocked",
    "job_outcome_read", "job_outcome_read_rows"};

typedef struct rf_attention {
    int what;
    int64_t number;
    char text[368];
} rf_attention;

typedef struct rf_recorded { /* a row as stored: one malloc */
    int reason;
    int64_t run_ns;
    int64_t complete_ns;
    int64_t waited;              /* us from due to fetched, -1: the row still tells */
    uint32_t offset[RF_COLUMNS];
    int32_t length[RF_COLUMNS]; /* -1: NULL */
    char data[];
} rf_recorded;

typedef struct rf_aside { /* an outcome that waits by itself: its row is locked, or no form of it was accepted */
    rf_outcome outcome;
    int64_t next_ns;
    char why[120];
} rf_aside;

typedef struct rf_unrecorded {
    int64_t id;
    int32_t attempt;
    int32_t reason;
    char why[160];
} rf_unrecorded;

typedef struct rf_move { /* this client's own renewal of a run's attempted_at, committed or not */
    int64_t id, from, to;
} rf_move;

typedef struct rf_session { /* a connection that outcomes are written on; its thread's alone */
    rf_conn conn;
    rf_buffer message;
    bool staging;                  /* it has the staging table */
    int64_t connect_at;            /* no connection attempt before */
    int64_t freeze_at;
} rf_session;

typedef struct rf_relief { /* relief.h: a second thread and session, at work while the first is behind */
    rf_session session;
    rf_wake wake;
    _Atomic(int64_t) at;           /* the ring size at which a pusher wakes it; INT64_MAX: it needs no waking */
    _Atomic(int) started;          /* its thread was let in */
    _Atomic(int) busy;             /* the batch is the relief's; else what is left in it is the completer's to take */
    _Atomic(int) left;             /* how many it could not record: raised by the relief, lowered by the completer */
    rf_outcome batch[RF_BATCH_MAX]; /* guarded by the completer's mutex, as its own batch is */
    size_t batch_count;
} rf_relief;

#define RF_COMPLETER_COUNTERS(X)                                                                                    \
    X(flushes) X(relief_flushes) X(copy_flushes) X(array_flushes) X(recorded) X(fenced) X(gone)                      \
    X(finished_elsewhere) X(rejected) X(set_aside) X(retries) X(reconnects) X(dropped_rows) X(dropped_notices)

typedef struct rf_completer {
    rf_outcome_ring ring;
    _Atomic(uint32_t) armed;        /* the ring size at which a pusher wakes the completer; 0: it is awake */
    _Atomic(int64_t) hold_at;       /* the ring size at which a pusher raises HOLD; guarded by mutex for writing */
    _Atomic(int) want_rows;         /* writer: Python */
    _Atomic(int) started;           /* run() was called */
    _Atomic(int) ended;             /* run() is over, or will never be */
    _Atomic(int64_t) limit;         /* monotonic deadline of close(); INT64_MAX before */
    _Atomic(int64_t) held;          /* popped and not settled */
    int mode;
    bool copy;
    unsigned forks;                /* rf_forks at birth: a forked child has another number */
    rf_wake wake;
    rf_park room;                  /* pushers that wait for room in the ring */
    rf_park attention_park;
    rf_park recorded_park;
    char *conninfo;
    char *setup;
    char *begin;                   /* what opens a transaction in a session that is shared; empty: it is ours */
    char *texts[RF_TEXTS];
    int64_t freeze_after;
    size_t copy_min;               /* bare outcomes in a flush from which on they go by COPY */

    rf_session main;               /* the completer thread's alone, as are the next ones */
    rf_buffer scratch;
    int64_t flush_after;
    int connect_failures;
    bool connected_before;
    rf_relief relief;

    pthread_mutex_t mutex;         /* guards what follows */
    rf_outcome batch[RF_BATCH_MAX];
    size_t batch_count;
    rf_aside *aside;
    size_t aside_count, aside_capacity;
    rf_move *moves;                /* outcomes that were pushed with `from` may find their row with `to` */
    size_t move_count;
    bool holding;
    rf_attention attention[RF_ATTENTION_MAX];
    uint32_t attention_first, attention_count;
    rf_recorded **recorded;
    uint32_t recorded_first, recorded_count;
    rf_unrecorded *unrecorded;
    size_t unrecorded_count;
#define X(name) _Atomic(int64_t) count_##name;
    RF_COMPLETER_COUNTERS(X)
#undef X
} rf_completer;

#define RF_COUNT(c, counter, by) atomic_fetch_add_explicit(&(c)->count_##counter, (int64_t)(by), memory_order_relaxed)

/* ---- forks: a child has the parent's memory but not its thread, and must not touch its socket ---- */

static unsigned rf_forks;
static void rf_fork_child(void) { rf_forks++; }
static pthread_once_t rf_fork_once = PTHREAD_ONCE_INIT;
static void rf_fork_watch(void) { pthread_atfork(NULL, NULL, rf_fork_child); }

static inline bool rf_completer_forked(const rf_completer *c) { return c->forks != rf_forks; }

/* ---- birth and death ---- */

static rf_completer *rf_completer_new(int mode, bool copy) {
    rf_completer *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    pthread_once(&rf_fork_once, rf_fork_watch);
    c->forks = rf_forks;
    c->mode = mode;
    c->copy = copy;
    c->wake.read_fd = c->wake.write_fd = c->relief.wake.read_fd = c->relief.wake.write_fd = -1;
    c->freeze_after = 3600 * RF_SECOND;
    c->flush_after = RF_FLUSH_AFTER;
    atomic_init(&c->limit, INT64_MAX);
    atomic_init(&c->hold_at, RF_BACKLOG_MAX);
    atomic_init(&c->relief.at, INT64_MAX);
    pthread_mutex_init(&c->mutex, NULL);
    rf_park_init(&c->room);
    rf_park_init(&c->attention_park);
    rf_park_init(&c->recorded_park);
    if (rf_outcome_ring_init(&c->ring, RF_COMPLETION_RING) != 0 || rf_wake_open(&c->wake) != 0 ||
        rf_wake_open(&c->relief.wake) != 0) {
        rf_wake_close(&c->wake);
        rf_outcome_ring_free(&c->ring);
        free(c);
        return NULL;
    }
    rf_conn_init(&c->main.conn, &c->wake, &c->limit);
    rf_conn_init(&c->relief.session.conn, &c->relief.wake, &c->limit);
    return c;
}

static void rf_completer_free(rf_completer *c) {
    rf_outcome outcome;
    if (c == NULL) return;
    rf_conn_close(&c->main.conn);
    rf_conn_close(&c->relief.session.conn);
    while (rf_outcome_ring_pop(&c->ring, &outcome) == RF_POPPED) free(outcome.rich);
    for (size_t i = 0; i < c->batch_count; i++)
        if (!c->batch[i].settled) free(c->batch[i].rich);
    for (size_t i = 0; i < c->relief.batch_count; i++)
        if (!c->relief.batch[i].settled) free(c->relief.batch[i].rich);
    for (size_t i = 0; i < c->aside_count; i++) free(c->aside[i].outcome.rich);
    for (uint32_t i = 0; i < c->recorded_count; i++) free(c->recorded[(c->recorded_first + i) % RF_RECORDED_MAX]);
    for (int i = 0; i < RF_TEXTS; i++) free(c->texts[i]);
    free(c->recorded);
    free(c->aside);
    free(c->unrecorded);
    free(c->moves);
    free(c->conninfo);
    free(c->setup);
    free(c->begin);
    rf_buffer_free(&c->main.message);
    rf_buffer_free(&c->relief.session.message);
    rf_buffer_free(&c->scratch);
    rf_outcome_ring_free(&c->ring);
    rf_wake_close(&c->wake);
    rf_wake_close(&c->relief.wake);
    rf_park_destroy(&c->room);
    rf_park_destroy(&c->attention_park);
    rf_park_destroy(&c->recorded_park);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

/* ---- attention: what Python must do ---- */

/* With the mutex held. */
static void rf_attention_put(rf_completer *c, int what, int64_t number, const char *text) {
    uint32_t room = what == RF_NOTICE ? RF_ATTENTION_MAX * 3 / 4 : RF_ATTENTION_MAX;
    if (c->attention_count >= room) {
        RF_COUNT(c, dropped_notices, 1);
        return;
    }
    rf_attention *entry = &c->attention[(c->attention_first + c->attention_count++) % RF_ATTENTION_MAX];
    entry->what = what;
    entry->number = number;
    snprintf(entry->text, sizeof entry->text, "%s", text);
    rf_unpark(&c->attention_park, 1);
}

static void rf_attend(rf_completer *c, int what, int64_t number, const char *text) {
    pthread_mutex_lock(&c->mutex);
    rf_attention_put(c, what, number, text);
    pthread_mutex_unlock(&c->mutex);
}

enum { RF_INFO = 20, RF_WARNING = 30, RF_ERROR = 40 }; /* logging's levels */

__attribute__((format(printf, 3, 4))) static void rf_notice(rf_completer *c, int level, const char *format, ...) {
    char text[368];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    rf_attend(c, RF_NOTICE, level, text);
}

/* One entry into *entry, waiting up to `timeout` ns; false: none came. One thread. */
static bool rf_attention_take(rf_completer *c, rf_attention *entry, int64_t timeout) {
    int64_t until = rf_now() + timeout;
    for (;;) {
        uint32_t ticket = rf_park_prepare(&c->attention_park);
        pthread_mutex_lock(&c->mutex);
        bool found = c->attention_count > 0;
        if (found) {
            *entry = c->attention[c->attention_first];
            c->attention_first = (c->attention_first + 1) % RF_ATTENTION_MAX;
            c->attention_count--;
        }
        pthread_mutex_unlock(&c->mutex);
        int64_t remaining = until - rf_now();
        if (found || remaining <= 0 || atomic_load(&c->ended)) {
            rf_park_cancel(&c->attention_park);
            return found;
        }
        rf_park_wait(&c->attention_park, ticket, remaining);
    }
}

/* ---- the backlog: outcomes pushed and not acknowledged ---- */

/* Any thread, with the mutex held. HOLD at the limit, released as soon as the backlog is below it: it falls by whole
 * flushes, so it does not flutter; released at half, the completer ran dry while the next fetch was on its way (-7 %). */
static void rf_backlog_look(rf_completer *c) {
    int64_t held = atomic_load_explicit(&c->held, memory_order_relaxed);
    int64_t backlog = held + (int64_t)rf_outcome_ring_size(&c->ring);
    if (!c->holding && backlog >= RF_BACKLOG_MAX) {
        c->holding = true;
        rf_attention_put(c, RF_HOLD, 1, "");
    } else if (c->holding && backlog < RF_BACKLOG_MAX) {
        c->holding = false;
        rf_attention_put(c, RF_HOLD, 0, "");
    }
    atomic_store_explicit(&c->hold_at, c->holding ? INT64_MAX : RF_BACKLOG_MAX - held, memory_order_relaxed);
}

static void rf_backlog_limit(rf_completer *c) {
    pthread_mutex_lock(&c->mutex);
    rf_backlog_look(c);
    pthread_mutex_unlock(&c->mutex);
}

/* ---- recorded rows, for events ---- */

/* With the mutex held; a full list drops its oldest. */
static void rf_recorded_put(rf_completer *c, rf_recorded *row) {
    if (c->recorded == NULL) c->recorded = calloc(RF_RECORDED_MAX, sizeof *c->recorded);
    if (row == NULL || c->recorded == NULL) {
        free(row);
        RF_COUNT(c, dropped_rows, 1);
        return;
    }
    if (c->recorded_count == RF_RECORDED_MAX) {
        free(c->recorded[c->recorded_first]);
        c->recorded_first = (c->recorded_first + 1) % RF_RECORDED_MAX;
        c->recorded_count--;
        RF_COUNT(c, dropped_rows, 1);
    }
    c->recorded[(c->recorded_first + c->recorded_count++) % RF_RECORDED_MAX] = row;
}

/* Up to `max` rows into `rows`, the caller's from then on; waits up to `timeout` ns for the first. -1: ended and empty. */
static int rf_recorded_take(rf_completer *c, rf_recorded **rows, int max, int64_t timeout) {
    int64_t until = rf_now() + timeout;
    for (;;) {
        uint32_t ticket = rf_park_prepare(&c->recorded_park);
        bool ended = atomic_load(&c->ended) != 0;
        pthread_mutex_lock(&c->mutex);
        int count = 0;
        while (count < max && c->recorded_count > 0) {
            rows[count++] = c->recorded[c->recorded_first];
            c->recorded_first = (c->recorded_first + 1) % RF_RECORDED_MAX;
            c->recorded_count--;
        }
        pthread_mutex_unlock(&c->mutex);
        int64_t remaining = until - rf_now();
        if (count > 0 || ended || remaining <= 0) {
            rf_park_cancel(&c->recorded_park);
            return count > 0 ? count : ended ? -1 : 0;
        }
        rf_park_wait(&c->recorded_park, ticket, remaining);
    }
}

#endif
