/* Unstarted jobs go back to the database: available again, attempt restored, the queue notified; and the idle queues'
 * common poll, which sends the same kind of arrays.
 *
 * Fetcher thread. A job with a remote cancel never goes back: it starts, cancelled, and ends through the executor.
 */
#ifndef RF_GIVE_BACK_H
#define RF_GIVE_BACK_H

#include "fetch.h"

enum { RF_OID_INT4 = 23, RF_OID_INT8 = 20, RF_OID_TEXT = 25, RF_OID_TIMESTAMPTZ = 1184, RF_ARRAY_HEADER = 20 };

static void rf_array_header(char *bytes, int oid, int count) {
    const int fields[] = {1, 0, oid, count, 1}; /* of no elements too: the server takes that for an empty array */
    for (int i = 0; i < 5; i++) rf_write_int(bytes + 4 * i, fields[i], 4);
}

/* Adds one fixed-width element behind the header; `position` counts elements. */
static void rf_array_put(char *bytes, int position, int64_t value, int width) {
    char *at = bytes + RF_ARRAY_HEADER + position * (4 + width);
    rf_write_int(at, width, 4);
    rf_write_int(at + 4, value, width);
}

static void rf_fetcher_back_to_ring(rf_fetcher *f, rf_queue *queue, rf_job *job) {
    int kind = job->kind >= 0 ? f->kind_lanes[job->kind] : RF_THREADS;
    int64_t now = rf_now();
    if (!rf_queue_push(queue, kind, job, now)) {
        free(job);
        return;
    }
    rf_fetcher_pushed(f, queue, kind, 1, now);
}

/* Sends `count` jobs back. Settled ones are freed; cancelled and refused ones return to the ring. RF_OK: all settled. */
static int rf_fetcher_return(rf_fetcher *f, rf_queue *queue, rf_job **jobs, int count, int64_t *given) {
    char ids[RF_ARRAY_HEADER + 12 * RF_GIVE_BACK_ROWS], attempts[RF_ARRAY_HEADER + 8 * RF_GIVE_BACK_ROWS],
        times[RF_ARRAY_HEADER + 12 * RF_GIVE_BACK_ROWS];
    rf_array_header(ids, RF_OID_INT8, count);
    rf_array_header(attempts, RF_OID_INT4, count);
    rf_array_header(times, RF_OID_TIMESTAMPTZ, count);
    for (int i = 0; i < count; i++) {
        rf_array_put(ids, i, jobs[i]->claim.id, 8);
        rf_array_put(attempts, i, jobs[i]->claim.attempt, 4);
        rf_array_put(times, i, jobs[i]->claim.attempted_at, 8);
    }
    const char *values[] = {ids, attempts, times, f->notify ? queue->name : NULL};
    const int lengths[] = {RF_ARRAY_HEADER + 12 * count, RF_ARRAY_HEADER + 8 * count, RF_ARRAY_HEADER + 12 * count, queue->name_length};
    PGresult *result;
    int outcome = rf_fetcher_execute(f, RF_BACK, 4, values, lengths, &result);
    for (int i = 0; i < count; i++) {
        bool keep = outcome == RF_REFUSED; /* nothing was written: they are still ours */
        for (int row = 0; outcome == RF_OK && row < rf_pq.PQntuples(result); row++) {
            if (rf_read_int(rf_pq.PQgetvalue(result, row, 0), 8) != jobs[i]->claim.id) continue;
            keep = rf_pq.PQgetvalue(result, row, 1)[0] != 0; /* cancelled, and we did not know */
            if (keep) rf_cancels_add(&f->cancels, jobs[i]->claim.id, rf_now());
            else ++*given;
            break;
        }
        if (keep) rf_fetcher_back_to_ring(f, queue, jobs[i]);
        else free(jobs[i]); /* given back, fenced off, locked by somebody, or unknown: not ours to start any more */
    }
    if (outcome == RF_OK) rf_pq.PQclear(result);
    if (outcome == RF_REFUSED) rf_fetcher_refused(f, "giving jobs back failed");
    if (outcome == RF_LOST) rf_fetcher_lost(f, "the connection was lost while jobs were given back");
    return outcome;
}

/* Takes from the rings what was fetched before `before` and gives it back. RF_OK, or what went wrong. */
static int rf_fetcher_give_back(rf_fetcher *f, rf_queue *queue, int64_t before, int64_t *given) {
    rf_job *jobs[RF_GIVE_BACK_ROWS], *cancelled[RF_GIVE_BACK_ROWS];
    int outcome = RF_OK;
    int64_t left = rf_queue_ring(queue); /* what was there: cancelled ones come back to the ring's end */
    for (int kind = 0; kind < RF_LANES; kind++) {
        while (outcome == RF_OK && left > 0 && rf_queue_oldest(queue, kind) < before) {
            int count = 0, kept = 0;
            rf_job_cell cell;
            while (count < RF_GIVE_BACK_ROWS && kept < RF_GIVE_BACK_ROWS && left > 0 && rf_queue_oldest(queue, kind) < before) {
                if (rf_queue_pop(queue, kind, &cell) != RF_TAKEN) break;
                left--;
                queue->own.taken_back++;
                if (rf_cancels_has(&f->cancels, cell.id, cell.job->asked_ns, rf_now(), false)) cancelled[kept++] = cell.job;
                else jobs[count++] = cell.job;
            }
            for (int i = 0; i < kept; i++) rf_fetcher_back_to_ring(f, queue, cancelled[i]);
            if (count == 0) break;
            outcome = rf_fetcher_return(f, queue, jobs, count, given);
        }
    }
    return outcome;
}

/* Asks once for all of `queues` and marks those with due jobs. */
static void rf_fetcher_poll(rf_fetcher *f, rf_queue **queues, int count) {
    size_t size = RF_ARRAY_HEADER;
    for (int i = 0; i < count; i++) size += 4 + (size_t)queues[i]->name_length;
    if (size > f->bytes_room) {
        char *bytes = (char *)realloc(f->bytes, size);
        if (bytes == NULL) return;
        f->bytes = bytes;
        f->bytes_room = size;
    }
    rf_array_header(f->bytes, RF_OID_TEXT, count);
    size_t position = RF_ARRAY_HEADER;
    int64_t now = rf_now();
    for (int i = 0; i < count; i++) {
        rf_write_int(f->bytes + position, queues[i]->name_length, 4);
        memcpy(f->bytes + position + 4, queues[i]->name, (size_t)queues[i]->name_length);
        position += 4 + (size_t)queues[i]->name_length;
    }
    uint32_t dice = rf_fetcher_roll(f); /* the same for all, so that they stay together */
    for (int i = 0; i < count; i++) rf_pace_asked(queues[i], now, dice);
    const char *values[] = {f->bytes, f->only_kinds};
    const int lengths[] = {(int)size, f->only_kinds_length};
    PGresult *result;
    int outcome = rf_fetcher_execute(f, RF_POLL, f->only_kinds == NULL ? 1 : 2, values, lengths, &result);
    atomic_fetch_add(&f->counters.polls, 1);
    if (outcome == RF_REFUSED) rf_fetcher_refused(f, "polling the queues failed");
    if (outcome == RF_LOST) rf_fetcher_lost(f, "the fetch connection was lost");
    if (outcome != RF_OK) return;
    for (int row = 0; row < rf_pq.PQntuples(result); row++) {
        int64_t at = rf_read_int(rf_pq.PQgetvalue(result, row, 0), 8);
        if (at >= 1 && at <= count) queues[at - 1]->own.notified = true;
    }
    rf_pq.PQclear(result);
}

#endif
