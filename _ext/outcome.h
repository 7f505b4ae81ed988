/* An outcome: what became of one attempt, from push until its COMMIT is acknowledged.
 *
 * Bare (a completion and nothing more) it lives in its ring slot; rich ones (errors, metadata, retries) own one malloc.
 * Made by the pushing thread, owned by the completer once pushed. Fills one cache line with its ring slot.
 */
#ifndef RF_OUTCOME_H
#define RF_OUTCOME_H

#include "job.h"
#include "limits.h"
#include "pgcopy.h"
#include "ring.h"
#include "ring_copies.h"
#include "sanitise.h"

/* Beyond this an error entry is cut before it is sent: longer than what attempt_error.py ever makes (16 Ki characters of
 * text, 64 Ki of trace), short enough not to hold up its batch. */
#define RF_ERROR_BYTES_MAX (512 * 1024)
#define RF_DELAY_MAX (INT64_C(3155760000) * 1000000) /* us: a hundred years; what lies beyond overflows timestamps */

enum rf_state { RF_AVAILABLE, RF_CANCELLED, RF_COMPLETED, RF_DISCARDED, RF_RETRYABLE, RF_SCHEDULED, RF_STATES };
static const char *const rf_state_names[RF_STATES] = {"available", "cancelled", "completed",
                                                      "discarded", "retryable", "scheduled"};
enum { RF_REASON_COMPLETED = 0, RF_REASONS = 5 }; /* job_set_state.Reason */

enum rf_outcome_flag {
    RF_TOUCHED = 2,   /* the statement just run changed its row */
    RF_MENDED = 4,    /* its texts were sanitised */
    RF_REPLACED = 8,  /* its texts were replaced by an error entry that says so */
    RF_STRAY = 16,    /* no form of it was accepted */
    RF_LAST_TRY = 32  /* and the completer is closed: this is its last try */
};

typedef struct rf_rich {
    int64_t waited;        /* us from scheduled_at to attempted_at, before the outcome changes scheduled_at */
    int64_t delay;         /* us from the end of the attempt to scheduled_at, -1: scheduled_at is left alone */
    uint32_t error_length;
    uint32_t metadata_length;
    bool has_error;
    bool has_metadata;
    bool restore_attempt;
    char data[];           /* error, then metadata */
} rf_rich;

typedef struct rf_outcome {
    int64_t id;
    int64_t attempted_at;
    int64_t ended_ns;      /* monotonic end of the attempt: the server gets ages, never our clock */
    int64_t run_ns;
    rf_slots *slots;       /* mode inline: released when this is settled */
    rf_rich *rich;         /* NULL: bare */
    int16_t attempt;
    uint8_t state;
    uint8_t reason;
    uint8_t flags;         /* the completer thread's alone, as are the next two */
    uint8_t verdict;
    uint8_t tries;         /* since it was first set aside */
    uint8_t settled;       /* nothing is left to do for it, the entry is a husk; written under the completer's mutex */
} rf_outcome;

_Static_assert(sizeof(rf_outcome) + sizeof(uint64_t) == RF_CACHE_LINE, "an outcome and its ring slot are one cache line");

RF_RING_DEFINE(rf_outcome_ring, rf_outcome)
RF_RING_COPIES(rf_outcome_ring, rf_outcome)

/* The bytes are copied. NULL where memory is short. */
static inline rf_rich *rf_rich_new(int64_t waited, int64_t delay, bool restore_attempt, const char *error, size_t error_length,
                                   const char *metadata, size_t metadata_length) {
    if (error_length > RF_BUFFER_MAX || metadata_length > RF_BUFFER_MAX) return NULL;
    rf_rich *rich = malloc(sizeof *rich + error_length + metadata_length);
    if (rich == NULL) return NULL;
    rich->waited = waited;
    rich->delay = delay > RF_DELAY_MAX ? RF_DELAY_MAX : delay;
    rich->restore_attempt = restore_attempt;
    rich->has_error = error != NULL;
    rich->has_metadata = metadata != NULL;
    rich->error_length = (uint32_t)error_length;
    rich->metadata_length = (uint32_t)metadata_length;
    if (error != NULL) memcpy(rich->data, error, error_length);
    if (metadata != NULL) memcpy(rich->data + error_length, metadata, metadata_length);
    return rich;
}

static inline const char *rf_rich_error(const rf_rich *rich) { return rich->has_error ? rich->data : NULL; }

static inline const char *rf_rich_metadata(const rf_rich *rich) {
    return rich->has_metadata ? rich->data + rich->error_length : NULL;
}

static inline size_t rf_outcome_bytes(const rf_outcome *outcome) {
    return outcome->rich == NULL ? 0 : (size_t)outcome->rich->error_length + outcome->rich->metadata_length;
}

static inline bool rf_is_object(const char *json, size_t length) {
    size_t i = 0;
    while (i < length && (json[i] == ' ' || json[i] == '\t' || json[i] == '\n' || json[i] == '\r')) i++;
    return i < length && json[i] == '{';
}

/* Puts `with` in the place of what the outcome carried; keeps the old where memory is short. */
static inline bool rf_outcome_replace(rf_outcome *outcome, rf_rich *with) {
    if (with == NULL) return false;
    free(outcome->rich);
    outcome->rich = with;
    return true;
}

/* First aid: the same outcome with storable texts. False where there is nothing to mend. */
static bool rf_outcome_mend(rf_outcome *outcome, rf_buffer *scratch) {
    rf_rich *rich = outcome->rich;
    if (rich == NULL || (outcome->flags & (RF_MENDED | RF_REPLACED))) return false;
    rf_buffer_clear(scratch);
    if (rich->has_error) rf_sanitise_json(scratch, rich->data, rich->error_length, RF_ERROR_TEXT_MAX);
    size_t error_length = scratch->length;
    if (rich->has_metadata) rf_sanitise_json(scratch, rf_rich_metadata(rich), rich->metadata_length, RF_BUFFER_MAX);
    if (scratch->failed) return false;
    const char *text = scratch->data == NULL ? "" : scratch->data;
    rf_rich *mended = rf_rich_new(rich->waited, rich->delay, rich->restore_attempt, rich->has_error ? text : NULL, error_length,
                                  rich->has_metadata ? text + error_length : NULL, scratch->length - error_length);
    outcome->flags |= RF_MENDED;
    return rf_outcome_replace(outcome, mended);
}

/* Second aid: the same state without the texts, and an error entry that holds what was refused and why. `discard`: the
 * state itself was refused (a constraint), so the job ends as discarded. */
static bool rf_outcome_give_up_texts(rf_outcome *outcome, const char *why, bool discard, rf_buffer *scratch) {
    rf_rich *rich = outcome->rich;
    if (outcome->flags & RF_REPLACED) return false;
    char before[768];
    rf_buffer_clear(scratch);
    if (rich != NULL && rich->has_error) {
        snprintf(before, sizeof before, "error that the database refused (%s): ", why);
        rf_error_entry(scratch, outcome->attempt, before, rich->data, rich->error_length, RF_ERROR_TEXT_MAX);
    } else {
        snprintf(before, sizeof before, "%s of outcome \"%s\" that the database refused (%s): ",
                 discard ? "state" : "metadata", rf_state_names[outcome->state], why);
        rf_error_entry(scratch, outcome->attempt, before, rich == NULL ? "" : rich->data,
                       rich == NULL ? 0 : rich->metadata_length, RF_ERROR_TEXT_MAX);
    }
    if (scratch->failed) return false;
    if (discard) outcome->state = RF_DISCARDED;
    rf_rich *replaced = rf_rich_new(rich == NULL ? -1 : rich->waited, discard || rich == NULL ? -1 : rich->delay,
                                    !discard && rich != NULL && rich->restore_attempt, scratch->data, scratch->length,
                                    NULL, 0);
    outcome->flags |= RF_REPLACED;
    return rf_outcome_replace(outcome, replaced);
}

static int rf_outcome_by_id(const void *a, const void *b) {
    int64_t left = ((const rf_outcome *)a)->id, right = ((const rf_outcome *)b)->id;
    return left < right ? -1 : left > right;
}

static int rf_outcome_bare_first(const void *a, const void *b) {
    bool left = ((const rf_outcome *)a)->rich != NULL, right = ((const rf_outcome *)b)->rich != NULL;
    return left != right ? left - right : rf_outcome_by_id(a, b);
}

/* By id, so that two completers lock rows in one order. Mostly sorted already: fetched in order, worked in order. */
static inline void rf_outcomes_sort(rf_outcome *items, size_t count, int (*compare)(const void *, const void *)) {
    for (size_t i = 1; i < count; i++) {
        if (compare(&items[i - 1], &items[i]) > 0) {
            qsort(items, count, sizeof *items, compare);
            return;
        }
    }
}

#endif
