/* How much a queue asks for, and when (hotpath.md 2): tokens, prefetch, rechecks. Pure arithmetic over one queue.
 *
 * Fetcher thread; `now` is monotonic ns.
 */
#ifndef RF_PACE_H
#define RF_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "queue.h"

static void rf_pace_start(rf_queue *queue, int64_t now) {
    rf_pace *pace = &queue->own;
    pace->token_base = now - RF_TOKENS * queue->cooldown;
    pace->limit = RF_FIRST_FETCH;
    pace->ask_at = now;
    pace->seen_at = now;
    pace->empties = RF_EMPTY_FETCHES;
}

/* When the queue will have `count` tokens. */
static inline int64_t rf_pace_tokens_at(rf_queue *queue, int count) {
    return queue->own.token_base + count * queue->cooldown;
}

static inline void rf_pace_spend(rf_queue *queue, int64_t now) {
    int64_t oldest = now - RF_TOKENS * queue->cooldown;
    if (queue->own.token_base < oldest) queue->own.token_base = oldest;
    queue->own.token_base += queue->cooldown;
}

/* What the workers will start within RF_PREFETCH_HORIZON; 0 for unknown and for long jobs. */
static int64_t rf_pace_prefetch(rf_queue *queue) {
    rf_pace *pace = &queue->own;
    if (queue->prefetch == 0 || pace->mean_run < 0 || pace->mean_run >= RF_PREFETCH_RUN_TIME) return 0;
    int64_t most = queue->prefetch < 0 ? RF_FETCH_MAX : queue->prefetch;
    double starts = pace->rate * (double)RF_PREFETCH_HORIZON / (double)RF_SECOND;
    if (pace->mean_run >= RF_SHORT_RUN) { /* no more than all slots could start: a rate seen for a moment says little */
        double possible = (double)queue->slots.limit * (double)RF_PREFETCH_HORIZON / (double)pace->mean_run;
        if (starts > possible) starts = possible;
    }
    return starts > (double)most ? most : (int64_t)starts;
}

/* How many rows to ask for; 0: none now. A notified queue passes the ring's gate. */
static int64_t rf_pace_demand(rf_queue *queue, bool notified) {
    rf_pace *pace = &queue->own;
    int64_t prefetch = rf_pace_prefetch(queue), ring = rf_queue_ring(queue);
    int64_t limit = queue->slots.limit;
    if (!notified && ring > (prefetch == 0 ? 0 : (limit + prefetch) / 2)) return 0;
    int64_t demand = limit - queue->slots.started - ring + prefetch;
    if (demand > pace->limit) demand = pace->limit;
    if (demand > RF_FETCH_MAX) demand = RF_FETCH_MAX;
    if (demand > 1 && pace->row_bytes > 0) {
        double budget = (double)RF_FETCH_BYTES / pace->row_bytes;
        if ((double)demand > budget) demand = budget < 1 ? 1 : (int64_t)budget;
    }
    return demand > 0 ? demand : 0;
}

/* After a demand of 0: asks poppers and finished jobs to wake the fetcher. True: it changed meanwhile, look again. */
static bool rf_pace_await_demand(rf_queue *queue, bool notified) {
    int64_t prefetch = rf_pace_prefetch(queue);
    int64_t gate = prefetch == 0 ? 0 : (queue->slots.limit + prefetch) / 2;
    if (!notified && rf_queue_ring(queue) > gate) atomic_store(&queue->low_mark, queue->own.pushed - gate);
    else rf_queue_await_slot(queue);
    return rf_pace_demand(queue, notified) > 0;
}

/* When the queue wants to fetch, leaving demand aside; INT64_MAX: it has no reason to. */
static int64_t rf_pace_due(rf_queue *queue, int64_t now) {
    rf_pace *pace = &queue->own;
    int64_t due = INT64_MAX;
    if (pace->again) due = now;
    else if (pace->notified) due = rf_pace_tokens_at(queue, 1);
    else if (pace->repeat) {
        due = rf_pace_tokens_at(queue, 1 + RF_TOKENS_KEPT);
        if (due < pace->repeat_at) due = pace->repeat_at;
    }
    if (due == INT64_MAX) return due;
    return due < pace->rest_until ? pace->rest_until : due;
}

/* When the queue wants to be asked about, alone or in the common poll. */
static inline int64_t rf_pace_ask(rf_queue *queue) {
    rf_pace *pace = &queue->own;
    int64_t at = pace->ask_at;
    for (int i = 0; i < 2; i++)
        if (pace->recheck_at[i] != 0 && pace->recheck_at[i] < at) at = pace->recheck_at[i];
    if (at < rf_pace_tokens_at(queue, 1)) at = rf_pace_tokens_at(queue, 1); /* no poll is faster than the cooldown */
    return at < pace->rest_until ? pace->rest_until : at;
}

/* It was asked, by a fetch or the poll. `dice` spreads the polls of many clients: uniform in 0..255. */
static void rf_pace_asked(rf_queue *queue, int64_t now, uint32_t dice) {
    rf_pace *pace = &queue->own;
    pace->ask_at = now + queue->poll_interval - queue->poll_interval / 10 * (int64_t)dice / 255;
    for (int i = 0; i < 2; i++)
        if (pace->recheck_at[i] <= now) pace->recheck_at[i] = 0;
}

static void rf_pace_notified(rf_queue *queue, int64_t now) {
    rf_pace *pace = &queue->own;
    pace->notified = true;
    pace->unsaid = 0;
    pace->recheck_at[0] = now + RF_RECHECK_FIRST;
    pace->recheck_at[1] = now + RF_RECHECK_LAST;
}

/* A fetch found nothing: two in a row end the repeating, a cooldown between them, however many tokens are saved up. But
 * where jobs come unsaid, a stream that paused for a moment would then wait for its next notification, or for a recheck:
 * there the repeating goes on, at gaps that double. */
static void rf_pace_empty(rf_queue *queue, int64_t now) {
    rf_pace *pace = &queue->own;
    int64_t gap = queue->cooldown << (pace->empties < 16 ? pace->empties : 16);
    pace->repeat_at = now + gap;
    if (++pace->empties < RF_EMPTY_FETCHES) return;
    if (now < pace->unsaid_until && gap <= RF_RECHECK_FIRST) return;
    pace->repeat = false;
    pace->unsaid = 0;
}

/* A fetch that asked for `asked` brought `rows` of `bytes`. `unsaid`: no notification was its reason. */
static void rf_pace_fetched(rf_queue *queue, int64_t now, bool unsaid, int64_t asked, int64_t rows, double bytes) {
    rf_pace *pace = &queue->own;
    if (rows == 0) {
        rf_pace_empty(queue, now);
        return;
    }
    if (unsaid && (pace->unsaid += rows) >= RF_UNSAID_ROWS) pace->unsaid_until = now + RF_RECHECK_LAST;
    pace->repeat_at = 0;
    double mean = bytes / (double)rows, blend = (pace->row_bytes * 3 + mean) / 4;
    pace->row_bytes = mean > blend ? mean : blend; /* quick to fear, slow to forget */
    pace->empties = 0;
    pace->repeat = true;
    pace->again = rows >= asked && (asked >= RF_FULL_FETCH || asked * 2 >= queue->slots.limit);
    if (rows >= pace->limit && pace->limit < RF_FETCH_MAX) pace->limit = pace->limit * 2 < RF_FETCH_MAX ? pace->limit * 2 : RF_FETCH_MAX;
}

/* A fetch of known kinds alone reads every job that stands before ours, each time anew: of kinds that nobody takes there
 * may be a million. Then it rests, so that walking takes a fifth of the time at most. True: it has walked. */
static bool rf_pace_walked(rf_queue *queue, int64_t now, int64_t took, int64_t asked, int64_t rows) {
    rf_pace *pace = &queue->own;
    if (rows >= asked || took < RF_WALK_SHORT || took / (rows + 1) < RF_WALK_ROW) return false;
    if (pace->rest_until < now + took * RF_WALK_REST) pace->rest_until = now + took * RF_WALK_REST;
    return true;
}

/* Its jobs waited too long in the ring: no prefetch, and a rest that doubles until somebody starts a job. */
static void rf_pace_gave_back(rf_queue *queue, int64_t now) {
    rf_pace *pace = &queue->own;
    int64_t starts = rf_queue_starts(queue);
    pace->rest = pace->rest == 0 || starts != pace->starts_at_rest ? RF_REST_FIRST : pace->rest * 2;
    pace->starts_at_rest = starts;
    if (pace->rest > RF_REST_MAX) pace->rest = RF_REST_MAX;
    pace->rest_until = now + pace->rest;
    pace->rate = 0;
    pace->again = false;
    pace->repeat = true; /* when it is rested: there are jobs */
    pace->empties = 0;
}

/* A look at what happened since the last one: run times, and how fast jobs are started while there are some. */
static void rf_pace_measure(rf_queue *queue, int64_t now) {
    rf_pace *pace = &queue->own;
    int64_t done = queue->slots.done, run_time = queue->slots.run_time;
    int64_t starts = rf_queue_starts(queue);
    if (done > pace->seen_done) {
        int64_t mean = (run_time - pace->seen_run_time) / (done - pace->seen_done);
        pace->mean_run = pace->mean_run < 0 ? mean : (pace->mean_run + mean) / 2;
        pace->seen_done = done;
        pace->seen_run_time = run_time;
        atomic_store_explicit(&queue->mean_now, pace->mean_run, memory_order_relaxed);
    }
    bool holds = rf_queue_ring(queue) > 0;
    int64_t elapsed = now - pace->seen_at;
    if (elapsed < RF_LOOK_EVERY / 4) return; /* too short to tell; the next look sees it all */
    if (pace->held_at_look) {
        double rate = (double)(starts - pace->seen_starts) * (double)RF_SECOND / (double)elapsed;
        double weight = (double)elapsed / (double)(elapsed + RF_PREFETCH_HORIZON / 2);
        /* where the ring ran dry meanwhile, the rate is a lower bound */
        if (pace->rate == 0) pace->rate = rate;
        else if (holds || rate > pace->rate) pace->rate += (rate - pace->rate) * weight;
    }
    pace->held_at_look = holds;
    pace->seen_starts = starts;
    pace->seen_at = now;
    atomic_store_explicit(&queue->prefetch_now, rf_pace_prefetch(queue), memory_order_relaxed);
}

#endif
