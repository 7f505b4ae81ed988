/* Rows of job_get_available, binary, to rf_job: one malloc each, values as PostgreSQL sent them. Never fails a batch:
 * a row that cannot be used is marked `undecodable`, and its job goes through the executor's error path.
 *
 * Fetcher thread; owns nothing.
 */
#ifndef RF_ROWS_H
#define RF_ROWS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "job.h"
#include "pq.h"

/* river_fast/job_row.py COLUMNS */
enum {
    RF_ID, RF_STATE, RF_ATTEMPT, RF_MAX_ATTEMPTS, RF_ATTEMPTED_AT, RF_CREATED_AT, RF_FINALIZED_AT, RF_SCHEDULED_AT,
    RF_PRIORITY, RF_ARGS, RF_ATTEMPTED_BY, RF_ERRORS, RF_KIND, RF_METADATA, RF_QUEUE_NAME, RF_TAGS
};

/* The order in which job_get_available returns them. */
static const int rf_fetched_columns[] = {RF_ID, RF_ATTEMPT, RF_MAX_ATTEMPTS, RF_ATTEMPTED_AT, RF_CREATED_AT,
                                         RF_SCHEDULED_AT, RF_PRIORITY, RF_ARGS, RF_ATTEMPTED_BY, RF_ERRORS, RF_KIND,
                                         RF_METADATA, RF_TAGS};
enum { RF_FETCHED_COLUMNS = sizeof rf_fetched_columns / sizeof rf_fetched_columns[0] };
enum { RF_ROW_ID = 0, RF_ROW_SCHEDULED_AT = 5, RF_ROW_PRIORITY = 6 };

static inline int64_t rf_read_int(const char *bytes, int32_t length) {
    uint64_t value = length > 0 && (bytes[0] & 0x80) ? UINT64_MAX : 0;
    for (int32_t i = 0; i < length; i++) value = value << 8 | (unsigned char)bytes[i];
    return (int64_t)value;
}

static inline void rf_write_int(char *bytes, int64_t value, int width) {
    for (int i = 0; i < width; i++) bytes[i] = (char)((uint64_t)value >> (8 * (width - 1 - i)));
}

/* Whether a binary array is whole and, with `nulls` false, free of NULL elements. */
static bool rf_array_good(const char *bytes, int32_t length, bool nulls) {
    if (length < 12) return false;
    int64_t dimensions = rf_read_int(bytes, 4), position = 12 + 8 * dimensions;
    if (dimensions < 0 || dimensions > 6 || position > length) return false;
    if (rf_read_int(bytes + 4, 4) == 0 || nulls) return true; /* no NULL inside, says the server */
    while (position < length) {
        if (position + 4 > length) return false;
        int64_t element = rf_read_int(bytes + position, 4);
        if (element < 0) return false;
        position += 4 + element;
    }
    return position == length;
}

/* The first column that cannot be used, -1: all good. */
static int32_t rf_job_check(const rf_job *job) {
    static const struct { int column, width; } fixed[] = {
        {RF_ATTEMPT, 2}, {RF_MAX_ATTEMPTS, 2}, {RF_ATTEMPTED_AT, 8}, {RF_CREATED_AT, 8}, {RF_SCHEDULED_AT, 8}, {RF_PRIORITY, 2}};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (job->length[fixed[i].column] != fixed[i].width) return fixed[i].column;
    if (job->length[RF_KIND] < 1) return RF_KIND;
    if (job->length[RF_ARGS] < 2 || job->data[job->offset[RF_ARGS]] != 1) return RF_ARGS;
    if (job->length[RF_METADATA] < 2 || job->data[job->offset[RF_METADATA]] != 1) return RF_METADATA;
    static const int arrays[] = {RF_ERRORS, RF_TAGS, RF_ATTEMPTED_BY};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        int column = arrays[i];
        if (job->length[column] >= 0 && !rf_array_good(job->data + job->offset[column], job->length[column], column != RF_ERRORS))
            return column;
    }
    return -1;
}

/* Whether the metadata may hold what an earlier attempt left of a resumable job (river_fast/resumable.py). */
static bool rf_job_resumed(const rf_job *job) {
    static const char mark[] = "\"river:resumable_";
    const int32_t size = (int32_t)sizeof mark - 1;
    if (job->length[RF_METADATA] <= size) return false; /* most: "{}" */
    const char *at = job->data + job->offset[RF_METADATA], *last = at + job->length[RF_METADATA] - size;
    while (at <= last && (at = (const char *)memchr(at, mark[0], (size_t)(last - at) + 1)) != NULL) {
        if (memcmp(at, mark, (size_t)size) == 0) return true;
        at++;
    }
    return false;
}

/* NULL where memory is short, or the row has no id at all. */
static rf_job *rf_job_from_row(PGresult *result, int row) {
    size_t size = 0;
    int32_t lengths[RF_FETCHED_COLUMNS];
    for (int i = 0; i < RF_FETCHED_COLUMNS; i++) {
        lengths[i] = rf_pq.PQgetlength(result, row, i);
        if (lengths[i] == 0 && rf_pq.PQgetisnull(result, row, i)) lengths[i] = -1;
        if (lengths[i] > 0) size += (size_t)lengths[i];
    }
    if (lengths[RF_ROW_ID] != 8 || size > UINT32_MAX) return NULL;
    rf_job *job = (rf_job *)malloc(sizeof *job + size);
    if (job == NULL) return NULL;
    memset(job, 0, sizeof *job);
    for (int column = 0; column < RF_COLUMNS; column++) job->length[column] = -1;
    uint32_t position = 0;
    for (int i = 0; i < RF_FETCHED_COLUMNS; i++) {
        int column = rf_fetched_columns[i];
        job->offset[column] = position;
        job->length[column] = lengths[i];
        if (lengths[i] <= 0) continue;
        memcpy(job->data + position, rf_pq.PQgetvalue(result, row, i), (size_t)lengths[i]);
        position += (uint32_t)lengths[i];
    }
    job->undecodable = rf_job_check(job);
    job->resumed = rf_job_resumed(job);
    job->claim.id = rf_read_int(job->data + job->offset[RF_ID], 8);
    job->claim.attempt = (int32_t)rf_read_int(job->data + job->offset[RF_ATTEMPT], job->length[RF_ATTEMPT]);
    job->claim.attempted_at = rf_read_int(job->data + job->offset[RF_ATTEMPTED_AT], job->length[RF_ATTEMPTED_AT]);
    job->claim.scheduled_at = rf_read_int(job->data + job->offset[RF_SCHEDULED_AT], job->length[RF_SCHEDULED_AT]);
    return job;
}

typedef struct rf_row_key {
    int64_t priority, scheduled_at, id;
    int row;
} rf_row_key;

static int rf_row_compare(const void *left, const void *right) {
    const rf_row_key *a = (const rf_row_key *)left, *b = (const rf_row_key *)right;
    if (a->priority != b->priority) return a->priority < b->priority ? -1 : 1;
    if (a->scheduled_at != b->scheduled_at) return a->scheduled_at < b->scheduled_at ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* UPDATE ... RETURNING has no order: the rows' numbers in (priority, scheduled_at, id), in `keys`. */
static void rf_rows_sort(PGresult *result, rf_row_key *keys, int count) {
    bool sorted = true;
    for (int row = 0; row < count; row++) {
        static const int columns[] = {RF_ROW_PRIORITY, RF_ROW_SCHEDULED_AT, RF_ROW_ID};
        int64_t values[3];
        for (int i = 0; i < 3; i++)
            values[i] = rf_read_int(rf_pq.PQgetvalue(result, row, columns[i]), rf_pq.PQgetlength(result, row, columns[i]));
        keys[row] = (rf_row_key){values[0], values[1], values[2], row};
        if (row > 0 && rf_row_compare(&keys[row - 1], &keys[row]) > 0) sorted = false;
    }
    if (!sorted) qsort(keys, (size_t)count, sizeof *keys, rf_row_compare);
}

#endif
