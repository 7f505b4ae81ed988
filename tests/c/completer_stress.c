/* The whole completer, its relief too, against a made-up libpq that loses connections: threads push, ask and read while
 * it flushes, then a close races them. Every outcome taken is recorded once the completer ends, and none is ever not told as pending. */
#define _GNU_SOURCE 1 /* ppoll */
#define RF_RELIEF_AT 50
#include "harness.h"
#include "completer_run.h"

enum { PUSHERS = 4 };
static rf_completer *completer;
static _Atomic uint64_t taken, asked, rows_taken;
static int64_t deadline_pushes;

/* ---- a libpq of our own: a connection for each thread that opens one, used by it alone ---- */

struct pg_result { int status; int rows; };
static int server_fd;
static _Thread_local struct { int count; unsigned step; bool copy, lost; } server;
static _Thread_local struct pg_result results[3];

static PGconn *fake_start(const char *s) { (void)s; server.lost = false; server.step = 9; return (PGconn *)&server; }
static int fake_poll(PGconn *c) { (void)c; return PG_POLLING_OK; }
static void fake_finish(PGconn *c) { (void)c; }
static int fake_status(const PGconn *c) { (void)c; return server.lost ? PG_CONNECTION_BAD : PG_CONNECTION_OK; }
static int fake_socket(const PGconn *c) { (void)c; return server_fd; }
static char *fake_message(const PGconn *c) { (void)c; return (char *)"lost"; }
static int fake_zero(PGconn *c) { (void)c; return 0; }
static int fake_one(PGconn *c) { (void)c; return 1; }
static int fake_set(PGconn *c, int on) { (void)c; (void)on; return 0; }
static int fake_query(PGconn *c, const char *sql) {
    (void)c;
    server.step = 0, server.copy = strcmp(sql, "copy") == 0, server.count = 0;
    return 1;
}
static int fake_prepare(PGconn *c, const char *n, const char *q, int k, const Oid *o) {
    (void)n; (void)q; (void)k; (void)o;
    return fake_query(c, "prepare");
}
static int fake_execute(PGconn *c, const char *name, int n, const char *const *values, const int *l, const int *f, int r) {
    (void)name; (void)n; (void)l; (void)f; (void)r;
    fake_query(c, "execute");
    server.count = (int)(rf_load_i64(values[0] + 8) & 0xffffffff);
    return 1;
}
static int fake_put(PGconn *c, const char *data, int length) { (void)c; (void)data; server.count = (length - 21) / 52; return 1; }
static int fake_end(PGconn *c, const char *e) { (void)c; (void)e; return 1; }
static PGresult *fake_result(PGconn *c) {
    (void)c;
    RF_PAUSE();
    unsigned last = server.copy ? 2 : 0;
    if (server.step > last) return NULL;
    if (server.step == last && rng() % 50 == 0) { /* committed or not: the client cannot know */
        server.lost = true;
        server.step = 9;
        return NULL;
    }
    PGresult *result = &results[server.step];
    result->status = server.copy ? (server.step == 0 ? PG_COPY_IN : PG_COMMAND_OK) : PG_TUPLES_OK;
    result->rows = server.count;
    server.step++;
    return result;
}
static int fake_result_status(const PGresult *r) { return r->status; }
static char *fake_field(const PGresult *r, int field) { (void)r; (void)field; return (char *)""; }
static char *fake_tuples(PGresult *r) { static _Thread_local char text[16]; snprintf(text, sizeof text, "%d", r->rows); return text; }
static int fake_rows(const PGresult *r) { return r->rows; }
static char *fake_value(const PGresult *r, int row, int column) {
    static _Thread_local char bytes[8];
    (void)r;
    rf_store_i64(bytes, column == 0 ? row + 1 : 0);
    return bytes;
}
static int fake_length(const PGresult *r, int row, int column) { (void)r; (void)row; (void)column; return 8; }
static int fake_null(const PGresult *r, int row, int column) { (void)r; (void)row; (void)column; return 0; }
static void fake_clear(PGresult *r) { (void)r; }
static void *fake_receiver(PGconn *c, void (*f)(void *, const PGresult *), void *a) { (void)c; (void)f; (void)a; return NULL; }

static void fake_libpq(void) {
    server_fd = eventfd(0, EFD_NONBLOCK);
    rf_pq = (rf_pq_table){
        .PQconnectStart = fake_start, .PQconnectPoll = fake_poll, .PQfinish = fake_finish, .PQstatus = fake_status,
        .PQsocket = fake_socket, .PQerrorMessage = fake_message, .PQsetnonblocking = fake_set, .PQconsumeInput = fake_one,
        .PQisBusy = fake_zero, .PQflush = fake_zero, .PQsendQuery = fake_query, .PQsendPrepare = fake_prepare,
        .PQsendQueryPrepared = fake_execute, .PQgetResult = fake_result, .PQputCopyData = fake_put, .PQputCopyEnd = fake_end,
        .PQresultStatus = fake_result_status, .PQresultErrorField = fake_field, .PQcmdTuples = fake_tuples,
        .PQntuples = fake_rows, .PQgetvalue = fake_value, .PQgetlength = fake_length, .PQgetisnull = fake_null,
        .PQclear = fake_clear, .PQsetNoticeReceiver = fake_receiver, .loaded = 1};
}

/* ---- the threads ---- */

static void push_all(void) {
    for (int64_t i = 0; i < deadline_pushes; i++) {
        rf_claim claim = {.id = (int64_t)(rng() >> 2), .attempted_at = i, .attempt = 1, .started_ns = 1};
        int pushed = rng() % 4 ? rf_completer_bare_wait(completer, &claim)
                               : rf_completer_rich(completer, &claim, RF_RETRYABLE, 2,
                                                   rf_rich_new(0, 5, false, "{}", 2, NULL, 0), true);
        if (pushed == RF_CLOSED) return;
        CHECK(pushed == RF_PUSHED);
        atomic_fetch_add(&taken, 1);
        RF_PAUSE();
    }
}

static void *body(void *number) {
    rng_seed(env("RF_SEED", 1) * 100 + (uint64_t)(intptr_t)number);
    start_together(PUSHERS + 4);
    if ((intptr_t)number < PUSHERS) {
        push_all();
        if ((intptr_t)number == 0) rf_completer_close(completer, 30 * RF_SECOND);
    } else if ((intptr_t)number == PUSHERS) {
        rf_completer_run(completer);
    } else if ((intptr_t)number == PUSHERS + 3) {
        rf_relief_run(completer);
    } else if ((intptr_t)number == PUSHERS + 1) {
        while (!atomic_load(&completer->ended)) {
            rf_pending *list;
            rf_attention entry;
            int64_t count = rf_completer_pending(completer, &list);
            CHECK(count >= 0);
            free(list);
            rf_attention_take(completer, &entry, RF_MS);
            atomic_store(&completer->want_rows, rng() % 8 == 0);
            rf_wake_signal(&completer->relief.wake);
            atomic_fetch_add(&asked, 1);
        }
    } else {
        rf_recorded *rows[64];
        int count;
        while ((count = rf_recorded_take(completer, rows, 64, RF_MS)) >= 0) {
            for (int i = 0; i < count; i++) free(rows[i]);
            atomic_fetch_add(&rows_taken, (uint64_t)count);
        }
    }
    return NULL;
}

int main(void) {
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    deadline_pushes = (int64_t)env("RF_SIZE", 600) * 20;
    fake_libpq();
    completer = rf_completer_new((int)(env("RF_SEED", 1) % 3), true);
    CHECK(completer != NULL);
    completer->copy_min = 40;
    completer->conninfo = strdup("");
    completer->setup = strdup("");
    for (int i = 0; i < RF_TEXTS; i++)
        completer->texts[i] = strdup(i == RF_TEXT_COPY || i == RF_TEXT_COPY_UNLOCKED ? "copy" : "text");
    run_threads(PUSHERS + 4, body);
    CHECK(completer->count_recorded == (int64_t)atomic_load(&taken), "%lld of %lld", (long long)completer->count_recorded,
          (long long)atomic_load(&taken));
    CHECK(completer->unrecorded_count == 0 && atomic_load(&completer->held) == 0);
    rf_completer_free(completer);
    close(server_fd);
    printf("ok n=%llu\n", (unsigned long long)atomic_load(&taken));
    return 0;
}
