/* The fetcher's state, and its operations on the server: connect and lock, fetch, poll, give back.
 *
 * Fetcher thread, without the GIL; the atomics are for the other threads (fetcher.pyx). Every operation has a deadline.
 */
#ifndef RF_FETCH_H
#define RF_FETCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cancels.h"
#include "metrics.h"
#include "notices.h"
#include "pace.h"
#include "queue.h"
#include "rows.h"
#include "statement.h"

enum { RF_NEW = 0, RF_RUNNING = 1, RF_FINISHED = 2 };
enum { RF_QUEUE_CHUNK = 1024, RF_QUEUE_CHUNKS = 1024 };

typedef struct rf_counters {
    _Atomic int64_t fetches, fetched, empty_fetches, fetch_errors, given_back, polls, wakeups, grows, joins, reconnects,
        notifications, garbage, undecodable, lost_fetches, heartbeats;
} rf_counters;

/* The statements, prepared under the names of their files. */
enum { RF_GET, RF_BACK, RF_POLL, RF_LOCK, RF_HEART, RF_STATEMENTS };
static const char *const rf_statements[RF_STATEMENTS] = {"job_get_available", "job_give_back", "queue_poll", "client_lock",
                                                         "client_heartbeat"};

typedef struct rf_fetcher {
    /* written at birth */
    int32_t pid, generation;         /* forks seen then */
    bool notify;                     /* whether the server has NOTIFY, for what is given back */
    int64_t lock_key, heartbeat_key; /* 0: no lock; not registered */
    char *conninfo, *setup, *begin, *sql[RF_STATEMENTS], *client_id;
    int32_t client_id_length, kinds_count;
    const char **kinds;              /* NUL-terminated */
    char *only_kinds;                /* all of them as an array: no others are fetched. NULL: whatever there is */
    int only_kinds_length;
    int32_t *kind_table;             /* positions in `kinds`, -1: none; open addressing */
    uint32_t kind_mask;
    uint8_t *kind_lanes;
    /* queues: written with add_lock held, read by all */
    _Atomic(_Atomic(rf_queue *) *) chunks[RF_QUEUE_CHUNKS];
    _Atomic int32_t queues;
    pthread_mutex_t add_lock;
    /* any thread */
    rf_wake wake, loop_wake;
    _Atomic(rf_queue *) loop_list;
    rf_cancels cancels;
    rf_notices notices;
    rf_metrics *metrics;             /* NULL: nobody asked; set before the thread starts */
    rf_counters counters;
    _Atomic int32_t state, hold, closing, stopping;
    _Atomic int64_t limit;           /* the connection's second deadline: stop's, close's */
    _Atomic int64_t stop_at, close_at;
    pthread_mutex_t lock;            /* guards the answers */
    rf_park answered;
    bool stopped, unresolved;        /* the stop's answer */
    int64_t stop_given_back;
    int64_t asked_list, told_list;   /* unstarted: request and answer numbers */
    int64_t *list, list_count;
    /* the fetcher thread's own */
    rf_conn conn;
    bool ready;                      /* prepared, lock had */
    bool was_ready, warned_lock;
    int64_t connect_at, lock_at, lock_since, heartbeat_at, retry_at, error_pause, noticed_at, walked_at;
    char noticed[6];
    int32_t adopted, live_count, live_room, next;
    rf_queue **live;
    rf_row_key *keys;
    char *bytes;                     /* a binary array parameter being built */
    size_t bytes_room;
    uint32_t dice;
} rf_fetcher;

static inline rf_queue *rf_fetcher_queue(rf_fetcher *f, int64_t index) {
    if (index < 0 || index >= atomic_load_explicit(&f->queues, memory_order_acquire)) return NULL;
    return atomic_load_explicit(&f->chunks[index / RF_QUEUE_CHUNK], memory_order_relaxed)[index % RF_QUEUE_CHUNK];
}

static inline uint32_t rf_fetcher_roll(rf_fetcher *f) { /* xorshift; spreading polls needs no better */
    f->dice ^= f->dice << 13;
    f->dice ^= f->dice >> 17;
    f->dice ^= f->dice << 5;
    return f->dice & 255;
}

/* ---- trouble ---- */

static void rf_fetcher_notice(rf_fetcher *f, int level, const char *what, const char *sqlstate, const char *error) {
    int64_t now = rf_now();
    if (strcmp(f->noticed, sqlstate) == 0 && now < f->noticed_at + RF_NOTICE_AGAIN && f->noticed_at != 0) return;
    snprintf(f->noticed, sizeof f->noticed, "%s", sqlstate);
    f->noticed_at = now;
    char text[400];
    snprintf(text, sizeof text, sqlstate[0] ? "%s: %s (SQLSTATE %s)" : "%s: %s", what, error, sqlstate);
    rf_notices_add(&f->notices, RF_NOTICE, -1, level, text);
}

static void rf_fetcher_lost(rf_fetcher *f, const char *what) {
    rf_fetcher_notice(f, RF_LOG_WARNING, what, "", f->conn.error);
    rf_conn_close(&f->conn);
    if (f->ready) rf_notices_add(&f->notices, RF_CONNECTION_LOST, -1, 0, f->conn.error);
    f->ready = false;
}

/* The server refused a statement. Some refusals a new connection may cure (a pooler or a failover behind our back). */
static void rf_fetcher_refused(rf_fetcher *f, const char *what) {
    const char *state = f->conn.sqlstate;
    rf_fetcher_notice(f, RF_LOG_ERROR, what, state, f->conn.error);
    bool lasting = strncmp(state, "42", 2) == 0 || strncmp(state, "3F", 2) == 0; /* no such table, no right to it */
    f->error_pause = lasting || f->error_pause * 2 > RF_ERROR_PAUSE_MAX ? RF_ERROR_PAUSE_MAX
                   : f->error_pause == 0 ? RF_ERROR_PAUSE : f->error_pause * 2;
    f->retry_at = rf_now() + f->error_pause;
    if (strcmp(state, "26000") == 0 || strcmp(state, "25006") == 0 || strcmp(state, "0A000") == 0)
        rf_fetcher_lost(f, "the connection cannot be used any more");
}

/* ---- operations ---- */

/* A reply is late: at the stop's limit what runs is cancelled, and its reply awaited for a moment more. */
static bool rf_fetcher_late(void *fetcher, int64_t deadline) {
    rf_fetcher *f = (rf_fetcher *)fetcher;
    f->conn.late = NULL; /* once an operation */
    if (rf_now() >= deadline || atomic_load(&f->closing)) return false;
    rf_conn_cancel(&f->conn);
    atomic_store(&f->limit, rf_now() + RF_STOP_GRACE);
    if (atomic_load(&f->closing)) atomic_store(&f->limit, atomic_load(&f->close_at));
    return true;
}

static int rf_fetcher_execute(rf_fetcher *f, int statement, int count, const char *const *values, const int *lengths,
                              PGresult **result) {
    f->conn.late = rf_fetcher_late;
    const char *name = statement == RF_HEART ? NULL : rf_statements[statement]; /* its table may come and go */
    int outcome = rf_conn_execute(&f->conn, name, f->sql[statement], count, values, lengths, result,
                                  rf_now() + RF_OPERATION_DEADLINE);
    f->conn.late = NULL;
    return outcome;
}

/* The lock of the liveness key: without it this client would be taken for dead. *at: since when, by the server. */
static int rf_fetcher_lock(rf_fetcher *f, bool *had, int64_t *at) {
    PGresult *result;
    char key[8];
    const char *values[] = {key};
    const int lengths[] = {8};
    *had = f->lock_key == 0;
    *at = 0;
    if (*had) return RF_OK;
    rf_write_int(key, f->lock_key, 8);
    int outcome = rf_fetcher_execute(f, RF_LOCK, 1, values, lengths, &result);
    if (result == NULL) return outcome;
    if (rf_pq.PQntuples(result) == 1 && rf_pq.PQgetlength(result, 0, 1) == 8) {
        const unsigned char *time = (const unsigned char *)rf_pq.PQgetvalue(result, 0, 1);
        uint64_t microseconds = 0;
        for (int i = 0; i < 8; i++) microseconds = microseconds << 8 | time[i];
        *had = rf_pq.PQgetvalue(result, 0, 0)[0] != 0;
        *at = (int64_t)microseconds;
    }
    rf_pq.PQclear(result);
    return outcome;
}

/* A client whose id does not tell whether it lives says so itself, before it fetches and from then on. */
static void rf_fetcher_heartbeat(rf_fetcher *f) {
    PGresult *result;
    char key[8], locks[1] = {f->lock_key != 0};
    const char *values[] = {f->client_id, key, locks};
    const int lengths[] = {f->client_id_length, 8, 1};
    rf_write_int(key, f->heartbeat_key, 8);
    f->heartbeat_at = rf_now() + (f->lock_key != 0 ? RF_HEARTBEAT_LOCKED : RF_HEARTBEAT);
    int outcome = rf_fetcher_execute(f, RF_HEART, 3, values, lengths, &result);
    if (result != NULL) rf_pq.PQclear(result);
    if (outcome == RF_OK) atomic_fetch_add(&f->counters.heartbeats, 1);
    /* it works on: should it die, its jobs wait for the rescuer */
    if (outcome == RF_REFUSED) rf_fetcher_notice(f, RF_LOG_ERROR, "the heartbeat was refused", f->conn.sqlstate, f->conn.error);
    if (outcome == RF_LOST) rf_fetcher_lost(f, "the connection was lost during a heartbeat");
}

static int rf_fetcher_open(rf_fetcher *f) {
    int64_t deadline = rf_now() + RF_CONNECT_DEADLINE;
    int outcome = rf_conn_open(&f->conn, f->conninfo, deadline);
    if (f->conn.begin != NULL) return outcome; /* nothing is kept in a session that is shared */
    if (outcome == RF_OK) outcome = rf_conn_query(&f->conn, f->setup, NULL, deadline);
    for (int i = 0; i < RF_STATEMENTS && outcome == RF_OK; i++) {
        if (i == RF_LOCK && f->lock_key == 0) continue; /* a server without such locks may refuse to hear of them */
        if (i == RF_HEART) continue;
        outcome = rf_conn_prepare(&f->conn, rf_statements[i], f->sql[i], deadline);
    }
    return outcome;
}

/* One step towards a usable connection; *due: when the next step is worth trying. */
static void rf_fetcher_connect(rf_fetcher *f, int64_t *due) {
    int64_t now = rf_now();
    if (f->conn.pg == NULL) {
        if (now < f->connect_at) {
            *due = f->connect_at;
            return;
        }
        f->connect_at = now + RF_RECONNECT_PAUSE;
        int outcome = rf_fetcher_open(f);
        if (outcome == RF_REFUSED) {
            rf_fetcher_notice(f, RF_LOG_ERROR, "the fetch connection cannot be set up", f->conn.sqlstate, f->conn.error);
            f->connect_at = now + RF_ERROR_PAUSE_MAX;
            rf_conn_close(&f->conn);
        } else if (outcome == RF_LOST) {
            rf_fetcher_lost(f, "the fetch connection cannot be made");
        }
        if (outcome != RF_OK) {
            *due = f->connect_at;
            return;
        }
        f->lock_at = f->lock_since = rf_now();
        f->warned_lock = false;
    }
    if (rf_now() < f->lock_at) {
        *due = f->lock_at;
        return;
    }
    bool had = false;
    int64_t had_at = 0;
    int outcome = rf_fetcher_lock(f, &had, &had_at);
    if (outcome == RF_LOST) rf_fetcher_lost(f, "the fetch connection was lost");
    if (outcome == RF_REFUSED) rf_fetcher_refused(f, "the liveness lock was refused");
    if (!had) {
        now = rf_now();
        f->lock_at = now + RF_LOCK_RETRY;
        if (now - f->lock_since >= RF_LOCK_WARN && !f->warned_lock && outcome == RF_OK) {
            f->warned_lock = true;
            rf_notices_add(&f->notices, RF_NOTICE, -1, RF_LOG_WARNING,
                           "the liveness lock of this client id is held by another session: a second client with this id, "
                           "or the server still keeps a dead one's; nothing is fetched until it is free");
        }
        *due = f->lock_at;
        return;
    }
    f->ready = true;
    f->noticed_at = f->retry_at = f->error_pause = 0;
    f->heartbeat_at = f->heartbeat_key == 0 ? INT64_MAX : 0;
    if (f->was_ready) atomic_fetch_add(&f->counters.reconnects, 1);
    char text[24] = "";
    if (had_at != 0) snprintf(text, sizeof text, "%lld", (long long)had_at);
    rf_notices_add(&f->notices, RF_CONNECTED, -1, f->was_ready ? 0 : 1, text);
    f->was_ready = true;
    now = rf_now();
    for (int32_t i = 0; i < f->live_count; i++) f->live[i]->own.ask_at = now; /* notifications were missed */
    *due = now;
}

static int32_t rf_fetcher_kind(rf_fetcher *f, const char *kind, int32_t length) {
    uint32_t at = rf_hash(kind, (size_t)length) & f->kind_mask;
    for (int32_t i; (i = f->kind_table[at]) >= 0; at = (at + 1) & f->kind_mask)
        if (strncmp(f->kinds[i], kind, (size_t)length) == 0 && f->kinds[i][length] == 0) return i;
    return -1;
}

/* ---- the loop's ready list ---- */

static void rf_fetcher_list_loop(rf_fetcher *f, rf_queue *queue) {
    if (atomic_exchange(&queue->loop_listed, 1) != 0) return;
    rf_queue *head = atomic_load(&f->loop_list);
    do atomic_store_explicit(&queue->loop_next, head, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&f->loop_list, &head, queue));
}

/* The next queue of a list that was taken whole; from here it may be listed again. */
static rf_queue *rf_fetcher_next_loop(rf_queue **list) {
    rf_queue *queue = *list;
    if (queue == NULL) return NULL;
    *list = atomic_load_explicit(&queue->loop_next, memory_order_relaxed);
    atomic_store(&queue->loop_listed, 0);
    return queue;
}

/* ---- fetch ---- */

/* After pushes to a lane: wakes as few as will do. */
static void rf_fetcher_pushed(rf_fetcher *f, rf_queue *queue, int kind, int64_t count, int64_t now) {
    if (kind == RF_LOOP) {
        rf_fetcher_list_loop(f, queue);
        rf_wake_signal(&f->loop_wake);
        return;
    }
    int64_t mean = queue->own.mean_run, wake = 1;
    if (mean >= RF_SHORT_RUN) {
        int64_t slots = queue->slots.limit - queue->slots.started, parked = rf_park_count(&queue->park);
        wake = count < slots ? count : slots;
        if (wake > parked) wake = parked;
        if (wake < 1) wake = 1;
    }
    if (rf_park_count(&queue->park) > 0) atomic_fetch_add(&f->counters.wakeups, 1);
    rf_unpark(&queue->park, (int)wake);
    if (atomic_load(&queue->threads) <= 0 && rf_notices_grow(&f->notices, queue, 1, now)) atomic_fetch_add(&f->counters.grows, 1);
}

/* The rows of a reply into the queue's rings, in River's order; their bytes. */
static double rf_fetcher_accept(rf_fetcher *f, rf_queue *queue, PGresult *result, int64_t asked_ns) {
    int rows = rf_pq.PQntuples(result);
    int64_t now = rf_now(), pushed[RF_LANES] = {0, 0};
    double bytes = 0;
    rf_row_key *keys = (rf_row_key *)realloc(f->keys, (size_t)rows * sizeof *keys);
    if (keys != NULL) {
        f->keys = keys;
        rf_rows_sort(result, keys, rows);
    }
    for (int i = 0; i < rows; i++) {
        rf_job *job = rf_job_from_row(result, keys == NULL ? i : keys[i].row);
        int kind = -1;
        if (job != NULL) {
            job->claim.queue = queue->index;
            job->asked_ns = asked_ns;
            job->fetched_ns = now;
            job->kind = rf_fetcher_kind(f, job->data + job->offset[RF_KIND], job->length[RF_KIND] < 0 ? 0 : job->length[RF_KIND]);
            kind = job->kind >= 0 ? f->kind_lanes[job->kind] : RF_THREADS;
            if (job->undecodable >= 0) atomic_fetch_add(&f->counters.undecodable, 1);
        }
        if (job != NULL && rf_queue_ring(queue) == 0) { /* the rate is measured from here */
            queue->own.held_at_look = true;
            queue->own.seen_at = now;
            queue->own.seen_starts = rf_queue_starts(queue);
        }
        if (job != NULL)
            for (int c = 0; c < RF_COLUMNS; c++) bytes += job->length[c] > 0 ? job->length[c] : 0;
        if (job == NULL || !rf_queue_push(queue, kind, job, now)) {
            free(job); /* out of memory: the row stays running, reclaim frees it */
            rf_fetcher_notice(f, RF_LOG_ERROR, "a fetched job was dropped", "53200", "out of memory");
            continue;
        }
        pushed[kind]++;
    }
    for (int kind = 0; kind < RF_LANES; kind++)
        if (pushed[kind] > 0) rf_fetcher_pushed(f, queue, kind, pushed[kind], now);
    return bytes;
}

static void rf_fetcher_walked(rf_fetcher *f, rf_queue *queue, int64_t now, int64_t took) {
    if (took < RF_WALK_WARN || (f->walked_at != 0 && now < f->walked_at + RF_WALK_WARN_AGAIN)) return;
    f->walked_at = now;
    char text[300];
    snprintf(text, sizeof text,
             "fetching from queue %s took %lld ms: jobs of kinds that are not known here stand before ours "
             "(Config.fetch_only_known_kinds); it is asked less often, and ours start later: give them a queue of their own",
             queue->name, (long long)(took / RF_MS));
    rf_notices_add(&f->notices, RF_NOTICE, -1, RF_LOG_WARNING, text);
}

static void rf_fetcher_fetch(rf_fetcher *f, rf_queue *queue, int64_t demand) {
    rf_pace *pace = &queue->own;
    int64_t asked_ns = rf_now();
    if (!pace->again) rf_pace_spend(queue, asked_ns);
    bool unsaid = !pace->notified && !pace->again;
    pace->again = pace->notified = false;
    rf_pace_asked(queue, asked_ns, rf_fetcher_roll(f));
    char limit[8];
    rf_write_int(limit, demand, 8);
    const char *values[] = {queue->name, limit, f->client_id, f->only_kinds};
    const int lengths[] = {queue->name_length, 8, f->client_id_length, f->only_kinds_length};
    PGresult *result;
    int outcome = rf_fetcher_execute(f, RF_GET, f->only_kinds == NULL ? 3 : 4, values, lengths, &result);
    if (outcome == RF_OK) {
        int64_t rows = rf_pq.PQntuples(result), replied = rf_now();
        atomic_fetch_add(rows == 0 ? &f->counters.empty_fetches : &f->counters.fetched, rows == 0 ? 1 : rows);
        atomic_fetch_add(&f->counters.fetches, 1);
        if (f->metrics != NULL && rf_metrics_add(f->metrics, queue->index, rows, rf_now() - asked_ns))
            rf_unpark(&f->notices.park, 1);
        double bytes = rows == 0 ? 0 : rf_fetcher_accept(f, queue, result, asked_ns);
        rf_pq.PQclear(result);
        int64_t now = rf_now();
        rf_pace_fetched(queue, now, unsaid, demand, rows, bytes);
        if (f->only_kinds != NULL && rf_pace_walked(queue, now, replied - asked_ns, demand, rows))
            rf_fetcher_walked(f, queue, now, replied - asked_ns);
        f->error_pause = 0;
        return;
    }
    atomic_fetch_add(&f->counters.fetch_errors, 1);
    pace->notified = true; /* to be asked again, whatever it was that failed */
    if (outcome == RF_REFUSED) {
        rf_fetcher_refused(f, "fetching jobs failed");
        return;
    }
    atomic_fetch_add(&f->counters.lost_fetches, 1);
    if (atomic_load(&f->stopping)) { /* claimed or not, nobody knows: the report says so */
        pthread_mutex_lock(&f->lock);
        f->unresolved = true;
        pthread_mutex_unlock(&f->lock);
    }
    rf_fetcher_lost(f, "the connection was lost during a fetch");
}

#endif
