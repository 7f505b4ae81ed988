/* What became of outcomes that were sent: each is settled once, after the COMMIT that recorded it was acknowledged, or
 * when the row shows that it is not ours to write any more, or set aside by itself.
 *
 * Runs on the completer thread, without the GIL; changes the lists under the mutex, so that `pending` is never wrong.
 */
#ifndef RF_SETTLE_H
#define RF_SETTLE_H

#include "flush.h"

enum rf_verdict {
    RF_VERDICT_RECORDED = 1,   /* by us, now or in an earlier try whose reply was lost */
    RF_VERDICT_ELSEWHERE,      /* another hand finished this very attempt: its state stays */
    RF_VERDICT_FENCED,         /* the row belongs to another attempt */
    RF_VERDICT_GONE,           /* there is no row */
    RF_VERDICT_OURS            /* still running, still this attempt: its row was locked */
};

#define RF_ASIDE_FIRST (50 * RF_MS)   /* a locked row is tried again after this ... */
#define RF_ASIDE_LOCKED (400 * RF_MS) /* ... doubling up to this */
#define RF_STRAY_FIRST RF_SECOND      /* an outcome no form of which is accepted: somebody may mend the database */
#define RF_STRAY_MAX (30 * RF_SECOND)

static inline int64_t rf_doubling(int64_t first, int tries, int64_t most) {
    while (tries-- > 0 && first < most) first *= 2;
    return first < most ? first : most;
}

static const char *rf_field(const PGresult *rows, int row, int column, int *length) {
    *length = rf_pq.PQgetisnull(rows, row, column) ? -1 : rf_pq.PQgetlength(rows, row, column);
    return rf_pq.PQgetvalue(rows, row, column);
}

/* The row as stored, copied out of a result whose columns from `first` on are job.COLUMNS. NULL: memory is short. */
static rf_recorded *rf_recorded_new(const PGresult *rows, int row, int first) {
    size_t size = 0;
    int length;
    for (int column = 0; column < RF_COLUMNS; column++) {
        rf_field(rows, row, first + column, &length);
        if (length > 0) size += (size_t)length;
    }
    rf_recorded *recorded = malloc(sizeof *recorded + size);
    if (recorded == NULL) return NULL;
    size_t offset = 0;
    for (int column = 0; column < RF_COLUMNS; column++) {
        const char *value = rf_field(rows, row, first + column, &length);
        recorded->offset[column] = (uint32_t)offset;
        recorded->length[column] = length;
        if (length > 0) {
            memcpy(recorded->data + offset, value, (size_t)length);
            offset += (size_t)length;
        }
    }
    return recorded;
}

/* ---- verdicts ---- */

static bool rf_is_text(const char *value, int length, const char *text) {
    return length == (int)strlen(text) && memcmp(value, text, (size_t)length) == 0;
}

/* From the row as it stands: id, state, attempt, max_attempts, attempted_at. */
static int rf_judge(const rf_outcome *item, const PGresult *rows, int row) {
    int state_length, length;
    const char *state = rf_field(rows, row, 1, &state_length);
    const char *attempt = rf_field(rows, row, 2, &length);
    bool same_attempt = length == 2 && rf_load_i16(attempt) == item->attempt;
    const char *attempted_at = rf_field(rows, row, 4, &length);
    /* only a fetch writes attempted_at: it tells attempts apart even where `attempt` was given back */
    if (length != 8 || rf_load_i64(attempted_at) != item->attempted_at) return RF_VERDICT_FENCED;
    if (rf_is_text(state, state_length, "running")) return same_attempt ? RF_VERDICT_OURS : RF_VERDICT_FENCED;
    if (rf_is_text(state, state_length, rf_state_names[item->state])) return RF_VERDICT_RECORDED;
    bool again = item->state == RF_AVAILABLE || item->state == RF_RETRYABLE || item->state == RF_SCHEDULED;
    if (again && rf_is_text(state, state_length, "cancelled")) return RF_VERDICT_RECORDED;
    return RF_VERDICT_ELSEWHERE;
}

/* Whether the row is still this attempt's, which this client itself renewed meanwhile: then the outcome follows. */
static bool rf_follow(const rf_completer *c, rf_outcome *item, const PGresult *rows, int row) {
    int length;
    const char *attempted_at = rf_field(rows, row, 4, &length);
    for (size_t i = 0; i < c->move_count && length == 8; i++) {
        const rf_move *move = &c->moves[i];
        if (move->id != item->id || move->from != item->attempted_at || move->to != rf_load_i64(attempted_at)) continue;
        item->attempted_at = move->to;
        return true;
    }
    return false;
}

/* The first item with this id (sorted), or `count`. */
static size_t rf_find(const rf_outcome *items, size_t count, int64_t id) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (items[middle].id < id) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* ---- settling; with the mutex held ---- */

static void rf_settle_one(rf_completer *c, rf_outcome *item) {
    item->settled = 1;
    free(item->rich);
    item->rich = NULL;
    rf_slots_release(item->slots, item->run_ns);
    item->slots = NULL;
    atomic_fetch_sub_explicit(&c->held, 1, memory_order_relaxed);
}

/* It waits by itself from now on. Where memory is short it stays where it is, and is tried again with its batch. */
static bool rf_set_aside(rf_completer *c, rf_outcome *item, int64_t wait, const char *why) {
    if (c->aside_count == c->aside_capacity) {
        size_t capacity = c->aside_capacity == 0 ? 64 : c->aside_capacity * 2;
        rf_aside *grown = realloc(c->aside, capacity * sizeof *grown);
        if (grown == NULL) return false;
        c->aside = grown;
        c->aside_capacity = capacity;
    }
    rf_aside *aside = &c->aside[c->aside_count++];
    memset(aside, 0, sizeof *aside);
    aside->outcome = *item;
    aside->outcome.flags &= ~RF_TOUCHED;
    if (aside->outcome.tries < UINT8_MAX) aside->outcome.tries++;
    aside->next_ns = rf_now() + wait;
    snprintf(aside->why, sizeof aside->why, "%s", why);
    item->settled = 1; /* the entry is a husk now; what it owned lives on aside */
    item->rich = NULL;
    item->slots = NULL;
    RF_COUNT(c, set_aside, 1);
    return true;
}

static void rf_tell_recorded(rf_completer *c, const rf_outcome *item, const PGresult *rows, int row, int first,
                             int64_t now) {
    rf_recorded *recorded = rf_recorded_new(rows, row, first);
    if (recorded != NULL) {
        recorded->reason = item->reason;
        recorded->run_ns = item->run_ns;
        recorded->complete_ns = now - item->ended_ns;
        recorded->waited = item->rich == NULL ? -1 : item->rich->waited;
    }
    rf_recorded_put(c, recorded);
}

/* The statement was committed: `touched` its rows (NULL: the flags tell), `found` those it left alone. */
static void rf_settle(rf_completer *c, const rf_session *s, rf_outcome *items, size_t count, const PGresult *touched,
                      const PGresult *found, bool wanted) {
    int64_t now = rf_now(), refused = 0;
    for (size_t i = 0; i < count; i++)
        items[i].verdict = items[i].flags & RF_TOUCHED ? RF_VERDICT_RECORDED : RF_VERDICT_GONE;
    pthread_mutex_lock(&c->mutex);
    int rows = found == NULL ? 0 : rf_pq.PQntuples(found);
    for (int row = 0; row < rows; row++) {
        int64_t id = rf_load_i64(rf_pq.PQgetvalue(found, row, 0));
        for (size_t i = rf_find(items, count, id); i < count && items[i].id == id; i++) {
            if (items[i].flags & RF_TOUCHED) continue;
            items[i].verdict = (uint8_t)rf_judge(&items[i], found, row);
            if (items[i].verdict == RF_VERDICT_FENCED && rf_follow(c, &items[i], found, row))
                items[i].verdict = (uint8_t)rf_judge(&items[i], found, row);
            if (wanted && (items[i].verdict == RF_VERDICT_RECORDED || items[i].verdict == RF_VERDICT_ELSEWHERE))
                rf_tell_recorded(c, &items[i], found, row, 0, now);
        }
    }
    rows = touched == NULL || !wanted ? 0 : rf_pq.PQntuples(touched);
    for (int row = 0; row < rows; row++) {
        int64_t position = rf_load_i64(rf_pq.PQgetvalue(touched, row, 0));
        if (position >= 1 && (size_t)position <= count) rf_tell_recorded(c, &items[position - 1], touched, row, 1, now);
    }
    int64_t counts[RF_VERDICT_OURS + 1] = {0};
    for (size_t i = 0; i < count; i++) {
        rf_outcome *item = &items[i];
        if (item->settled) continue;
        if (item->verdict == RF_VERDICT_OURS) {
            if (s == &c->main) /* what the relief leaves over is the completer's to try */
                rf_set_aside(c, item, rf_doubling(RF_ASIDE_FIRST, item->tries, RF_ASIDE_LOCKED),
                             "the row is locked by another session");
            continue;
        }
        counts[item->verdict]++;
        if (item->verdict == RF_VERDICT_FENCED) refused = item->id;
        rf_settle_one(c, item);
    }
    RF_COUNT(c, recorded, counts[RF_VERDICT_RECORDED]);
    RF_COUNT(c, finished_elsewhere, counts[RF_VERDICT_ELSEWHERE]);
    RF_COUNT(c, fenced, counts[RF_VERDICT_FENCED]);
    RF_COUNT(c, gone, counts[RF_VERDICT_GONE]);
    rf_backlog_look(c);
    pthread_mutex_unlock(&c->mutex);
    if (wanted) rf_unpark(&c->recorded_park, 1);
    if (counts[RF_VERDICT_FENCED] > 0)
        rf_notice(c, RF_WARNING,
                  "%lld outcome(s) refused: the rows belong to another attempt by now (one of them: job %lld)",
                  (long long)counts[RF_VERDICT_FENCED], (long long)refused);
}

#endif
