/* What the database alone allows: the ceiling every figure of river_fast is held against.
 *
 * Some loops side by side, each with a connection of its own: fetch a batch of jobs in binary, record all of it as
 * completed by a binary COPY into a temp table and one UPDATE, again, until a fetch comes back empty. No job is made, no
 * code of a user runs, nothing is fenced: whatever a client does besides, it can only be slower. The statements are
 * therefore its own, the cheapest that leave a row as River would.
 *
 * Loads libpq at run time by the function table of the compiled part, so neither headers nor a linkable libpq are needed.
 *
 *   limit --dsn "dbname=x" --schema s --loops 2 --rows 5000 [--queue default] [--libpq libpq.so.5]
 *
 * Prints one JSON object. Works off what is in the schema's river_job; it never inserts.
 */
#include "../_ext/pq.h" /* first: it asks the C library for its extensions */

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/resource.h>

enum { LOOPS_MAX = 64, ROWS_MAX = 100000 };

/* ARRAY(SELECT ...) is evaluated once and gives a TID scan at every batch size; `= ANY (SELECT ...)` costs a fifth more. */
#define FETCH                                                                                                       \
    "PREPARE take (text, int, text) AS UPDATE %1$s.river_job SET state = 'running', attempt = attempt + 1,"        \
    " attempted_at = now(), attempted_by = array_append(attempted_by, $3)"                                          \
    " WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s.river_job WHERE state = 'available' AND queue = $1"             \
    " AND scheduled_at <= now() ORDER BY priority, scheduled_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))"              \
    " RETURNING id, attempt, attempted_at, max_attempts, priority, created_at, scheduled_at, kind, args, metadata, tags"
#define STAGE "CREATE TEMP TABLE done (id bigint) ON COMMIT DELETE ROWS"
/* A temp table has no statistics: without the array condition and with nested loops allowed the plan turns into a
 * sequential scan of the whole table. A condition on the state that no index can serve keeps it off the fetching index. */
#define COMPLETE                                                                                                    \
    "PREPARE complete AS UPDATE %1$s.river_job SET state = 'completed', finalized_at = now() FROM pg_temp.done"     \
    " WHERE river_job.id = done.id AND river_job.id = ANY (ARRAY(SELECT id FROM pg_temp.done))"                     \
    " AND (river_job.state = 'running') IS TRUE"
#define RECORD "COPY pg_temp.done FROM STDIN (FORMAT binary); EXECUTE complete"

static const char COPY_HEADER[19] = "PGCOPY\n\377\r\n"; /* 11 bytes of signature, then no flags and no extension */
static const char COPY_TRAILER[2] = {'\377', '\377'};
enum { COPY_ROW = 2 + 4 + 8 };

typedef struct loop {
    pthread_t thread;
    rf_conn conn;
    char *copy;           /* room for one batch in COPY's format */
    int64_t jobs, batches;
    int64_t first, last;  /* the first fetch sent, the last completion acknowledged */
} loop;

static const char *dsn = "", *schema = "public", *queue = "default";
static const char *libpq =
#ifdef __APPLE__
    "libpq.5.dylib";
#else
    "libpq.so.5";
#endif
static int loops = 2, rows = 5000;
static loop all[LOOPS_MAX];

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("limit: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static int64_t soon(void) { return rf_now() + 600 * RF_SECOND; }

static void must(loop *self, int outcome, const char *what) {
    if (outcome != RF_OK) fail("%s: %s %s", what, self->conn.sqlstate, self->conn.error);
}

static void say(loop *self, const char *format, const char *quoted) {
    char text[2048];
    snprintf(text, sizeof text, format, quoted);
    must(self, rf_conn_query(&self->conn, text, NULL, soon()), "preparing");
}

static void open_loop(loop *self, const char *quoted) {
    rf_conn_init(&self->conn, NULL, NULL);
    must(self, rf_conn_open(&self->conn, dsn, soon()), "connecting");
    say(self, "SET jit = off; SET enable_nestloop = off; SET client_min_messages = warning", quoted);
    say(self, STAGE, quoted);
    say(self, FETCH, quoted);
    say(self, COMPLETE, quoted);
    self->copy = malloc(sizeof COPY_HEADER + sizeof COPY_TRAILER + (size_t)rows * COPY_ROW);
    if (self->copy == NULL) fail("out of memory");
    memcpy(self->copy, COPY_HEADER, sizeof COPY_HEADER);
}

static PGresult *fetch(loop *self) {
    char limit[16];
    snprintf(limit, sizeof limit, "%d", rows);
    const char *values[3] = {queue, limit, "limit"};
    PGresult *result = NULL;
    if (rf_pq.PQsendQueryPrepared(self->conn.pg, "take", 3, values, NULL, NULL, 1) == 0) fail("cannot send a fetch");
    must(self, rf_conn_flush(&self->conn, soon()), "fetching");
    must(self, rf_conn_finish(&self->conn, &result, soon()), "fetching");
    if (result == NULL) fail("a fetch brought no result");
    return result;
}

/* The ids, as they came, in COPY's format. Takes the result over. */
static int stage(loop *self, PGresult *jobs) {
    static const char row_head[6] = {0, 1, 0, 0, 0, 8}; /* one column of eight bytes */
    int count = rf_pq.PQntuples(jobs);
    char *at = self->copy + sizeof COPY_HEADER;
    for (int i = 0; i < count; i++, at += COPY_ROW) {
        memcpy(at, row_head, sizeof row_head);
        memcpy(at + sizeof row_head, rf_pq.PQgetvalue(jobs, i, 0), 8);
    }
    memcpy(at, COPY_TRAILER, sizeof COPY_TRAILER);
    rf_pq.PQclear(jobs);
    return (int)(at + sizeof COPY_TRAILER - self->copy);
}

/* One message, one implicit transaction: two round trips. */
static void record(loop *self, int count, int bytes) {
    PGresult *result;
    if (rf_pq.PQsendQuery(self->conn.pg, RECORD) == 0) fail("cannot send a COPY");
    must(self, rf_conn_flush(&self->conn, soon()), "completing");
    must(self, rf_conn_next(&self->conn, &result, soon()), "completing");
    if (result == NULL || rf_pq.PQresultStatus(result) != PG_COPY_IN)
        fail("COPY was refused: %s", rf_pq.PQerrorMessage(self->conn.pg));
    rf_pq.PQclear(result);
    for (;;) { /* 0: libpq's buffer is full, send first */
        int put = rf_pq.PQputCopyData(self->conn.pg, self->copy, bytes);
        if (put > 0) break;
        if (put < 0) fail("cannot send rows");
        must(self, rf_conn_flush(&self->conn, soon()), "completing");
    }
    while (rf_pq.PQputCopyEnd(self->conn.pg, NULL) == 0) must(self, rf_conn_flush(&self->conn, soon()), "completing");
    must(self, rf_conn_flush(&self->conn, soon()), "completing");
    must(self, rf_conn_finish(&self->conn, &result, soon()), "completing");
    int updated = result == NULL ? -1 : atoi(rf_pq.PQcmdTuples(result));
    if (result != NULL) rf_pq.PQclear(result);
    if (updated != count) fail("%d jobs fetched, %d completed", count, updated);
}

static void *run(void *argument) {
    loop *self = argument;
    self->first = rf_now();
    for (;;) {
        PGresult *jobs = fetch(self);
        int count = rf_pq.PQntuples(jobs);
        if (count == 0) {
            rf_pq.PQclear(jobs);
            return NULL;
        }
        record(self, count, stage(self, jobs));
        self->last = rf_now();
        self->jobs += count;
        self->batches++;
    }
}

static int number(const char *text, int low, int high) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end != 0 || end == text || value < low || value > high) fail("%s is not a number from %d to %d", text, low, high);
    return (int)value;
}

static void read_options(int count, char **values) {
    static const struct option options[] = {
        {"dsn", required_argument, NULL, 'd'},   {"schema", required_argument, NULL, 's'},
        {"loops", required_argument, NULL, 'l'}, {"rows", required_argument, NULL, 'r'},
        {"queue", required_argument, NULL, 'q'}, {"libpq", required_argument, NULL, 'p'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, values, "", options, NULL)) != -1;) switch (option) {
            case 'd': dsn = optarg; break;
            case 's': schema = optarg; break;
            case 'l': loops = number(optarg, 1, LOOPS_MAX); break;
            case 'r': rows = number(optarg, 1, ROWS_MAX); break;
            case 'q': queue = optarg; break;
            case 'p': libpq = optarg; break;
            default: fail("usage: limit --dsn DSN --schema NAME --loops N --rows N [--queue NAME] [--libpq FILE]");
        }
    if (optind != count) fail("what is %s?", values[optind]);
}

static void quote(char *into, size_t room, const char *name) {
    char *end = into + room - 3;
    *into++ = '"';
    for (; *name != 0 && into < end; name++) {
        if (*name == '"') *into++ = '"';
        *into++ = *name;
    }
    if (*name != 0) fail("the schema's name is too long");
    *into++ = '"';
    *into = 0;
}

int main(int count, char **values) {
    char quoted[160];
    read_options(count, values);
    quote(quoted, sizeof quoted, schema);
    const char *missing = rf_pq_load(libpq);
    if (missing != NULL) fail("%s cannot be used as libpq (%s); name one with --libpq", libpq, missing);
    for (int i = 0; i < loops; i++) open_loop(&all[i], quoted);
    for (int i = 0; i < loops; i++)
        if (pthread_create(&all[i].thread, NULL, run, &all[i]) != 0) fail("cannot start a thread");

    int64_t jobs = 0, batches = 0, first = INT64_MAX, last = 0;
    for (int i = 0; i < loops; i++) {
        pthread_join(all[i].thread, NULL);
        rf_conn_close(&all[i].conn);
        free(all[i].copy);
        jobs += all[i].jobs;
        batches += all[i].batches;
        if (all[i].first < first) first = all[i].first;
        if (all[i].last > last) last = all[i].last;
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    double seconds = jobs == 0 ? 0 : (double)(last - first) / 1e9;
    printf("{\"loops\": %d, \"rows\": %d, \"jobs\": %" PRId64 ", \"batches\": %" PRId64
           ", \"seconds\": %.4f, \"jobs_per_s\": %.0f, \"client_cpu_us_per_job\": %.3f}\n",
           loops, rows, jobs, batches, seconds, jobs == 0 ? 0 : (double)jobs / seconds,
           jobs == 0 ? 0 : cpu / (double)jobs);
    return 0;
}
