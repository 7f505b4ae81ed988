/* The fetcher thread's life: adopt queues, look after waking and growing, give back, fetch or poll, sleep; and the end.
 *
 * Fetcher thread, without the GIL. Each round does one operation on the server at most, so that stop, pause and
 * `unstarted` are answered between two operations.
 */
#ifndef RF_FETCH_LOOP_H
#define RF_FETCH_LOOP_H

#include "fetch.h"
#include "give_back.h"
#include "payload.h"

/* ---- looks ---- */

/* Wakes or asks for worker threads where a ring does not empty by itself. */
static void rf_fetcher_look_threads(rf_fetcher *f, rf_queue *queue, int64_t now, bool started_some) {
    rf_pace *pace = &queue->own;
    int64_t held = (int64_t)rf_queue_held(queue, RF_THREADS), slots = queue->slots.limit - queue->slots.started;
    bool before = pace->threads_held;
    pace->threads_held = held > 0;
    if (held == 0 || !before) {
        pace->wakes = 1;
        pace->join_at = now + RF_GIL_WAIT;
        return;
    }
    int32_t threads = queue->threads, parked = rf_park_count(&queue->park);
    /* one that is awake inside pop waits for the GIL, one unborn does too: more of them would only wait as well */
    bool births = queue->unborn > 0 && now - queue->announced_at < RF_BIRTH;
    if (queue->waiting - parked <= 0 || started_some) pace->join_at = now + RF_GIL_WAIT;
    else if (now >= pace->join_at && rf_notices_join(&f->notices)) atomic_fetch_add(&f->counters.joins, 1);
    if (queue->waiting - parked > 0 || births) return;
    if (started_some && pace->mean_run < RF_SHORT_RUN) return;
    if (slots <= 0 || now < pace->crew_at) return;
    if (atomic_load(&f->hold)) return; /* what blocks is the completer's back-pressure: more threads would only join in */
    bool more_help = rf_crew_may_grow(&queue->crew, threads - parked);
    int64_t took = rf_now() - now;
    pace->crew_at = now + took * RF_CREW_SHARE; /* asking many threads takes a while: not too often */
    if (!more_help) return;
    if (parked > 0) {
        pace->wakes = pace->wakes * 2 < 1024 ? pace->wakes * 2 : 1024;
        int64_t most = held < slots ? held : slots;
        atomic_fetch_add(&f->counters.wakeups, 1);
        rf_unpark(&queue->park, (int)(pace->wakes < most ? pace->wakes : most));
        return;
    }
    int64_t missing = (int64_t)queue->max_threads - threads, more = threads < 1 ? 1 : threads;
    if (more > missing) more = missing;
    if (more > held) more = held;
    if (more > 0 && rf_notices_grow(&f->notices, queue, (int32_t)more, now)) atomic_fetch_add(&f->counters.grows, 1);
}

/* Every queue that holds jobs: measures, wakes, grows. In how many ns to look again; INT64_MAX: no ring holds any. */
static int64_t rf_fetcher_look(void *fetcher) {
    rf_fetcher *f = (rf_fetcher *)fetcher;
    int64_t now = rf_now(), again = INT64_MAX;
    for (int32_t i = 0; i < f->live_count; i++) {
        rf_queue *queue = f->live[i];
        rf_pace *pace = &queue->own;
        if (rf_queue_ring(queue) == 0) {
            pace->threads_held = false;
            if (!pace->held_at_look) continue;
            rf_pace_measure(queue, now);
            if (!pace->held_at_look) continue;
        }
        again = RF_LOOK_EVERY;
        if (now - pace->looked_at < RF_LOOK_EVERY * 3 / 4) continue;
        bool started_some = rf_queue_starts(queue) != pace->looked_starts;
        pace->looked_at = now;
        pace->looked_starts = rf_queue_starts(queue);
        rf_pace_measure(queue, now);
        rf_fetcher_look_threads(f, queue, now, started_some);
    }
    return again;
}

/* ---- hearing ---- */

static void rf_fetcher_adopt(rf_fetcher *f) {
    int32_t count = atomic_load_explicit(&f->queues, memory_order_acquire);
    if (count == f->adopted) return;
    if (f->live_count + (count - f->adopted) > f->live_room) {
        int32_t room = (f->live_count + count - f->adopted) * 2;
        rf_queue **live = (rf_queue **)realloc(f->live, (size_t)room * sizeof *live);
        if (live == NULL) return;
        f->live = live;
        f->live_room = room;
    }
    int64_t now = rf_now();
    for (; f->adopted < count; f->adopted++) {
        rf_queue *queue = rf_fetcher_queue(f, f->adopted);
        rf_pace_start(queue, now);
        f->live[f->live_count++] = queue;
        if (f->stopped) rf_queue_end(queue);
    }
}

static void rf_fetcher_hear(rf_fetcher *f) {
    if (f->conn.pg == NULL) return;
    char name[1024];
    PGnotify *notify;
    while ((notify = rf_pq.PQnotifies(f->conn.pg)) != NULL) {
        atomic_fetch_add(&f->counters.notifications, 1);
        bool ours = notify->be_pid == rf_pq.PQbackendPID(f->conn.pg); /* our own giving back */
        int length = rf_payload_queue(notify->extra, name, sizeof name);
        if (length < 0) atomic_fetch_add(&f->counters.garbage, 1);
        uint32_t hash = length < 0 ? 0 : rf_hash(name, (size_t)length);
        for (int32_t i = 0; i < f->live_count && length >= 0 && !ours; i++) {
            rf_queue *queue = f->live[i];
            if (queue->hash == hash && queue->name_length == length && memcmp(queue->name, name, (size_t)length) == 0)
                rf_pace_notified(queue, rf_now());
        }
        rf_pq.PQfreemem(notify);
    }
}

/* What all rings hold, into f->list; f->lock held, by the fetcher thread or while it does not run. */
static void rf_fetcher_list_all(rf_fetcher *f) {
    int32_t queues = atomic_load(&f->queues);
    int64_t room = 0;
    for (int32_t i = 0; i < queues; i++) room += rf_queue_ring(rf_fetcher_queue(f, i));
    int64_t *list = (int64_t *)realloc(f->list, (size_t)(room + 1) * 2 * sizeof *list);
    if (list == NULL) return;
    f->list = list;
    f->list_count = 0;
    for (int32_t i = 0; i < queues; i++) {
        rf_queue *queue = rf_fetcher_queue(f, i);
        if (atomic_load(&queue->refuse)) continue;
        f->list_count += rf_queue_list(queue, list + 2 * f->list_count, room - f->list_count);
    }
    f->told_list = f->asked_list;
}

static void rf_fetcher_tell(rf_fetcher *f) {
    pthread_mutex_lock(&f->lock);
    bool asked = f->asked_list > f->told_list;
    if (asked) rf_fetcher_list_all(f);
    pthread_mutex_unlock(&f->lock);
    if (asked) rf_unpark(&f->answered, INT_MAX);
}

/* ---- winding down ---- */

static void rf_fetcher_refuse(rf_queue *queue) { /* what is left may not start: nobody knows whose it is */
    atomic_store(&queue->refuse, 1);
    rf_queue_end(queue);
}

/* The stop's answer, once. */
static void rf_fetcher_stopped(rf_fetcher *f) {
    atomic_store(&f->limit, INT64_MAX);
    if (atomic_load(&f->closing)) atomic_store(&f->limit, atomic_load(&f->close_at));
    pthread_mutex_lock(&f->lock);
    f->stopped = true;
    pthread_mutex_unlock(&f->lock);
    rf_unpark(&f->answered, INT_MAX);
    rf_wake_signal(&f->loop_wake);
}

/* Steps 1 and 2 of the stop. True: done. */
static bool rf_fetcher_stop_step(rf_fetcher *f) {
    int64_t held = 0, given = 0, now = rf_now(), until = atomic_load(&f->stop_at) + RF_STOP_GRACE;
    atomic_store(&f->limit, until > now + RF_STOP_GRACE ? until : now + RF_STOP_GRACE);
    if (atomic_load(&f->closing)) atomic_store(&f->limit, atomic_load(&f->close_at));
    bool failed = false;
    for (int32_t i = 0; i < f->live_count; i++) {
        rf_queue *queue = f->live[i];
        int outcome = RF_OK;
        if (f->ready && rf_queue_ring(queue) > 0) outcome = rf_fetcher_give_back(f, queue, INT64_MAX, &given);
        if (outcome == RF_REFUSED) rf_fetcher_refuse(queue);
        failed |= outcome != RF_OK;
        if (!f->ready) held += rf_queue_ring(queue);
    }
    bool down = !f->ready && held > 0;
    pthread_mutex_lock(&f->lock);
    f->stop_given_back += given;
    f->unresolved |= failed;
    pthread_mutex_unlock(&f->lock);
    atomic_fetch_add(&f->counters.given_back, given);
    if (down && rf_now() < atomic_load(&f->stop_at)) return false; /* it may come back in time */
    for (int32_t i = 0; i < f->live_count; i++) {
        if (down) rf_fetcher_refuse(f->live[i]);
        else rf_queue_end(f->live[i]);
    }
    if (down) {
        pthread_mutex_lock(&f->lock);
        f->unresolved = true;
        pthread_mutex_unlock(&f->lock);
    }
    rf_fetcher_stopped(f);
    return true;
}

/* One paused, removed or overdue queue's unstarted jobs go back. True: an operation was made. */
static bool rf_fetcher_wind_down(rf_fetcher *f) {
    int64_t now = rf_now();
    for (int32_t i = 0; i < f->live_count; i++) {
        rf_queue *queue = f->live[i];
        bool removed = atomic_load(&queue->removed), paused = atomic_load(&queue->paused);
        int64_t ring = rf_queue_ring(queue);
        if (removed && ring == 0 && !queue->own.retired) rf_queue_end(queue);
        if (queue->own.retired) {
            if (ring == 0 && removed) f->live[i--] = f->live[--f->live_count];
            continue;
        }
        if (ring == 0 || !f->ready || now < f->retry_at) continue;
        /* at once where nothing more shall start; but what was just put back, cancelled, is left to the workers */
        int64_t before = removed || paused ? now - RF_LOOK_EVERY : now - queue->ring_wait, given = 0;
        if ((removed || paused) && !queue->own.wound) before = INT64_MAX;
        queue->own.wound = removed || paused;
        bool overdue = false;
        for (int kind = 0; kind < RF_LANES; kind++) overdue |= rf_queue_oldest(queue, kind) < before;
        if (!overdue) continue;
        int outcome = rf_fetcher_give_back(f, queue, before, &given);
        atomic_fetch_add(&f->counters.given_back, given);
        if (!removed && !paused) rf_pace_gave_back(queue, rf_now());
        else if (removed && outcome == RF_OK) rf_queue_end(queue); /* the cancelled ones inside still start */
        return true;
    }
    return false;
}

/* ---- fetching ---- */

/* The idle queues whose time has come: one is fetched from, more are polled together. True: an operation was made. */
static bool rf_fetcher_ask(rf_fetcher *f, int64_t now, int64_t *due) {
    rf_queue *asked[RF_POLL_QUEUES];
    int count = 0;
    for (int32_t i = 0; i < f->live_count && count < RF_POLL_QUEUES; i++) {
        rf_queue *queue = f->live[i];
        if (atomic_load(&queue->paused) || queue->own.retired || atomic_load(&queue->removed)) continue;
        int64_t at = rf_pace_ask(queue);
        if (at > now) {
            if (at < *due) *due = at;
            continue;
        }
        if (rf_pace_demand(queue, true) > 0) {
            asked[count++] = queue;
            continue;
        }
        rf_pace_asked(queue, now, rf_fetcher_roll(f)); /* no slot: asked as soon as there is one */
        queue->own.repeat = true;
        queue->own.empties = RF_EMPTY_FETCHES - 1;
    }
    if (count == 1) rf_fetcher_fetch(f, asked[0], rf_pace_demand(asked[0], true));
    if (count > 1) rf_fetcher_poll(f, asked, count);
    return count > 0;
}

/* The next queue in turn that is due. True: fetched. */
static bool rf_fetcher_turn(rf_fetcher *f, int64_t now, int64_t *due) {
    for (int32_t i = 0; i < f->live_count; i++) {
        int32_t place = (f->next + i) % f->live_count;
        rf_queue *queue = f->live[place];
        rf_pace *pace = &queue->own;
        if (atomic_exchange(&queue->poked, 0)) rf_pace_notified(queue, now);
        if (atomic_load(&queue->paused) || pace->retired || atomic_load(&queue->removed)) continue;
        int64_t at = rf_pace_due(queue, now);
        if (at == INT64_MAX) continue;
        if (at > now) {
            if (at < *due) *due = at;
            continue;
        }
        rf_pace_measure(queue, now);
        bool notified = pace->notified;
        int64_t demand = rf_pace_demand(queue, notified);
        if (demand == 0 && rf_pace_await_demand(queue, notified)) demand = rf_pace_demand(queue, notified);
        if (demand == 0) continue;
        rf_fetcher_fetch(f, queue, demand);
        f->next = (place + 1) % f->live_count;
        return true;
    }
    return false;
}

/* One round's operation, or 0 operations and when the next is due. */
static int64_t rf_fetcher_round(rf_fetcher *f) {
    int64_t now = rf_now(), due = now + RF_SECOND;
    int64_t look = rf_fetcher_look(f);
    if (look != INT64_MAX) due = now + look;
    if (atomic_load(&f->stopping) && !f->stopped && rf_fetcher_stop_step(f)) return 0;
    if (atomic_load(&f->stopping) && !f->stopped && atomic_load(&f->stop_at) < due) due = atomic_load(&f->stop_at);
    if (!f->ready) {
        int64_t step = due;
        rf_fetcher_connect(f, &step);
        return step < due ? step : due;
    }
    if (now >= f->heartbeat_at) { /* while jobs run on in a stop, too */
        rf_fetcher_heartbeat(f);
        return 0;
    }
    if (f->heartbeat_at < due) due = f->heartbeat_at;
    if (rf_fetcher_wind_down(f)) return 0;
    if (f->stopped || atomic_load(&f->stopping) || atomic_load(&f->hold)) return due;
    if (now < f->retry_at) return f->retry_at < due ? f->retry_at : due;
    if (rf_fetcher_turn(f, now, &due)) return 0;
    if (rf_fetcher_ask(f, now, &due)) return 0;
    return due;
}

/* After rf_fetcher_begin. */
static void rf_fetcher_live(rf_fetcher *f) {
    rf_conn_init(&f->conn, &f->wake, &f->limit);
    f->conn.tick = rf_fetcher_look;
    f->conn.ticker = f;
    f->conn.begin = f->begin[0] != 0 ? f->begin : NULL;
    f->dice = (uint32_t)rf_now() | 1;
    while (!atomic_load(&f->closing)) {
        rf_fetcher_adopt(f);
        rf_fetcher_hear(f);
        rf_fetcher_tell(f);
        int64_t due = rf_fetcher_round(f);
        if (due <= rf_now()) {
            if (f->conn.pg != NULL && rf_conn_idle(&f->conn, 0) == RF_LOST) rf_fetcher_lost(f, "the fetch connection was lost");
            continue;
        }
        if (rf_conn_idle(&f->conn, due) == RF_LOST) rf_fetcher_lost(f, "the fetch connection was lost");
    }
    rf_fetcher_adopt(f);
    atomic_store(&f->stopping, 1);
    if (!f->stopped) {
        rf_fetcher_stop_step(f);
        for (int32_t i = 0; i < f->live_count && !f->stopped; i++) rf_fetcher_refuse(f->live[i]);
        if (!f->stopped) {
            f->unresolved = true;
            rf_fetcher_stopped(f);
        }
    }
    rf_conn_close(&f->conn);
    f->ready = false;
    pthread_mutex_lock(&f->lock);
    atomic_store(&f->state, RF_FINISHED);
    pthread_mutex_unlock(&f->lock);
    rf_unpark(&f->answered, INT_MAX);
    rf_unpark(&f->notices.park, INT_MAX);
}

static void rf_fetcher_run(rf_fetcher *f) {
    sigset_t before;
    rf_block_signals(&before);
    rf_fetcher_live(f);
    rf_restore_signals(&before); /* whoever calls it may have other work: a blocked signal would outlive even an exec */
}

#endif
