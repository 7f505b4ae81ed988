/* What other threads do to the fetcher, without the GIL where they wait: birth and death, queues, stop, `unstarted`.
 *
 * Any thread. A forked child may only free: `rf_forks` tells it apart without a system call.
 */
#ifndef RF_FETCHER_DOORS_H
#define RF_FETCHER_DOORS_H

#include "fetch_loop.h"

static int rf_forks; /* raised in each forked child, which has one thread then */

static pthread_key_t rf_home; /* the birth of the queue that a worker thread pops from (_Thread_local confuses TSan) */

static void rf_count_fork(void) { rf_forks++; }

/* At import; not 0: it failed. */
static int rf_doors_open(void) { return pthread_atfork(NULL, NULL, rf_count_fork) || pthread_key_create(&rf_home, NULL); }

static rf_fetcher *rf_fetcher_new(void) {
    rf_fetcher *f = (rf_fetcher *)calloc(1, sizeof *f);
    if (f == NULL) return NULL;
    f->generation = rf_forks;
    f->pid = (int32_t)getpid();
    f->wake.read_fd = f->wake.write_fd = f->loop_wake.read_fd = f->loop_wake.write_fd = -1;
    pthread_mutex_init(&f->add_lock, NULL);
    pthread_mutex_init(&f->lock, NULL);
    rf_park_init(&f->answered);
    rf_cancels_init(&f->cancels);
    rf_notices_init(&f->notices);
    atomic_init(&f->limit, INT64_MAX);
    atomic_init(&f->stop_at, INT64_MAX);
    if (rf_wake_open(&f->wake) != 0 || rf_wake_open(&f->loop_wake) != 0) {
        rf_wake_close(&f->wake);
        rf_wake_close(&f->loop_wake);
        free(f);
        return NULL;
    }
    return f;
}

/* The registered kinds as a binary array, for statements that ask for no others. False: no memory. */
static bool rf_fetcher_list_kinds(rf_fetcher *f) {
    size_t size = RF_ARRAY_HEADER;
    for (int32_t i = 0; i < f->kinds_count; i++) size += 4 + strlen(f->kinds[i]);
    f->only_kinds = (char *)malloc(size);
    if (f->only_kinds == NULL) return false;
    f->only_kinds_length = (int)size;
    rf_array_header(f->only_kinds, RF_OID_TEXT, f->kinds_count);
    char *at = f->only_kinds + RF_ARRAY_HEADER;
    for (int32_t i = 0; i < f->kinds_count; i++) {
        int32_t length = (int32_t)strlen(f->kinds[i]);
        rf_write_int(at, length, 4);
        memcpy(at + 4, f->kinds[i], (size_t)length);
        at += 4 + length;
    }
    return true;
}

/* The registered kinds in an open-addressed table, after `kinds` is filled. False: no memory. */
static bool rf_fetcher_index_kinds(rf_fetcher *f, bool only_known) {
    if (only_known && !rf_fetcher_list_kinds(f)) return false;
    uint32_t size = 8;
    while (size < 2 * (uint32_t)f->kinds_count) size *= 2;
    f->kind_table = (int32_t *)malloc(size * sizeof *f->kind_table);
    if (f->kind_table == NULL) return false;
    f->kind_mask = size - 1;
    for (uint32_t i = 0; i < size; i++) f->kind_table[i] = -1;
    for (int32_t i = 0; i < f->kinds_count; i++) {
        uint32_t at = rf_hash(f->kinds[i], strlen(f->kinds[i])) & f->kind_mask;
        while (f->kind_table[at] >= 0) at = (at + 1) & f->kind_mask;
        f->kind_table[at] = i;
    }
    return true;
}

/* After `run` ended, or in a forked child (where the connection is the parent's and stays open). */
static void rf_fetcher_free(rf_fetcher *f) {
    if (f == NULL) return;
    rf_conn_close(&f->conn);
    rf_wake_close(&f->wake);
    rf_wake_close(&f->loop_wake);
    for (int32_t i = 0; i < f->queues; i++) rf_queue_free(rf_fetcher_queue(f, i));
    for (int i = 0; i < RF_QUEUE_CHUNKS; i++) free(f->chunks[i]);
    char *texts[] = {f->conninfo, f->setup, f->begin, f->client_id, f->only_kinds};
    for (int i = 0; i < RF_STATEMENTS; i++) free(f->sql[i]);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) free(texts[i]);
    for (int32_t i = 0; i < f->kinds_count; i++) free((char *)f->kinds[i]);
    free(f->kinds);
    free(f->kind_table);
    free(f->kind_lanes);
    free(f->live);
    free(f->keys);
    free(f->bytes);
    free(f->list);
    free(f->metrics);
    free(f);
}

/* ---- flags and counts, each with its wake-up ---- */

static void rf_queue_poke(rf_fetcher *f, rf_queue *queue) {
    atomic_store(&queue->poked, 1);
    rf_wake_signal(&f->wake);
}

static void rf_queue_set_paused(rf_fetcher *f, rf_queue *queue, bool paused) {
    atomic_store(&queue->paused, paused);
    if (!paused) atomic_store(&queue->poked, 1);
    rf_wake_signal(&f->wake);
}

static void rf_fetcher_hold(rf_fetcher *f, bool on) {
    atomic_store(&f->hold, on);
    if (!on) rf_wake_signal(&f->wake);
}

static void rf_queue_born(rf_queue *queue, int32_t count) {
    int32_t unborn = atomic_load(&queue->unborn);
    while (unborn > 0 && !atomic_compare_exchange_weak(&queue->unborn, &unborn, unborn > count ? unborn - count : 0)) continue;
}

/* `count` worker threads will come to pop; negative: so many will not, or serve nobody for now. */
static void rf_queue_announce(rf_queue *queue, int32_t count) {
    int64_t now = rf_now();
    atomic_fetch_add(&queue->threads, count);
    if (count > 0) {
        atomic_fetch_add(&queue->unborn, count);
        atomic_store(&queue->announced_at, now);
        atomic_store(&queue->growing, 0);
    } else {
        rf_queue_born(queue, -count);
        atomic_store(&queue->growing, now); /* no thread could be had: not asked for again at once */
    }
}

/* A thread in pop: the first time it comes to this queue it is no longer unborn. */
static inline void rf_queue_arrive(rf_queue *queue) {
    void *birth = (void *)(uintptr_t)queue->birth;
    if (pthread_getspecific(rf_home) == birth) return;
    pthread_setspecific(rf_home, birth);
    rf_queue_born(queue, 1);
    rf_crew_enter(&queue->crew, queue->max_threads);
}

static inline void rf_queue_waiting(rf_queue *queue, int32_t change) { atomic_fetch_add(&queue->waiting, change); }
static inline void rf_queue_leave(rf_queue *queue) {
    atomic_fetch_sub(&queue->threads, 1);
    rf_crew_leave(&queue->crew);
}
static inline rf_queue *rf_fetcher_take_loop_list(rf_fetcher *f) { return atomic_exchange(&f->loop_list, NULL); }
static inline rf_queue *rf_notices_take_growing(rf_notices *notices) { return atomic_exchange(&notices->growing, NULL); }

/* The right to run, once. */
static bool rf_fetcher_begin(rf_fetcher *f) {
    pthread_mutex_lock(&f->lock);
    bool fresh = atomic_load(&f->state) == RF_NEW;
    if (fresh) atomic_store(&f->state, RF_RUNNING); /* from here the queues' `own` is the fetcher thread's */
    pthread_mutex_unlock(&f->lock);
    return fresh;
}

/* Makes a queue known under the next index; -1 where there is no room or memory. */
static int32_t rf_fetcher_add(rf_fetcher *f, const char *name, int32_t length, rf_queue *settings) {
    pthread_mutex_lock(&f->add_lock);
    int32_t index = atomic_load(&f->queues);
    _Atomic(rf_queue *) *chunk = NULL;
    rf_queue *queue = NULL;
    if (index < RF_QUEUE_CHUNK * RF_QUEUE_CHUNKS) {
        chunk = atomic_load(&f->chunks[index / RF_QUEUE_CHUNK]);
        if (chunk == NULL) {
            chunk = (_Atomic(rf_queue *) *)calloc(RF_QUEUE_CHUNK, sizeof *chunk);
            atomic_store(&f->chunks[index / RF_QUEUE_CHUNK], chunk);
        }
        queue = chunk == NULL ? NULL : rf_queue_new(name, length, index);
    }
    if (queue != NULL) {
        queue->max_workers = settings->max_workers;
        queue->max_threads = settings->max_threads;
        queue->prefetch = settings->prefetch;
        queue->cooldown = settings->cooldown;
        queue->poll_interval = settings->poll_interval;
        queue->ring_wait = settings->ring_wait > 0 ? settings->ring_wait : RF_RING_WAIT;
        atomic_init(&queue->paused, settings->paused);
        atomic_init(&queue->slots.limit, settings->max_workers);
        queue->fetcher = queue->slots.fetcher = &f->wake;
        queue->slots.loop = &f->loop_wake;
        atomic_store(&chunk[index % RF_QUEUE_CHUNK], queue);
        atomic_store_explicit(&f->queues, index + 1, memory_order_release);
    }
    pthread_mutex_unlock(&f->add_lock);
    pthread_mutex_lock(&f->lock);
    bool over = atomic_load(&f->state) == RF_FINISHED || (atomic_load(&f->state) == RF_NEW && f->stopped);
    pthread_mutex_unlock(&f->lock);
    if (queue != NULL && over) rf_queue_end(queue);
    rf_wake_signal(&f->wake);
    return queue == NULL ? -1 : index;
}

/* No more fetches from it; without a fetcher thread there is nothing to give back. */
static void rf_queue_remove(rf_fetcher *f, rf_queue *queue) {
    atomic_store(&queue->removed, 1);
    pthread_mutex_lock(&f->lock);
    if (atomic_load(&f->state) != RF_RUNNING) rf_queue_end(queue);
    pthread_mutex_unlock(&f->lock);
    rf_wake_signal(&f->wake);
}

static void rf_fetcher_end_all(rf_fetcher *f) {
    for (int32_t i = 0; i < atomic_load(&f->queues); i++) rf_queue_end(rf_fetcher_queue(f, i));
    rf_wake_signal(&f->loop_wake);
}

/* Until `done` says so (f->lock held) or `until`. */
static bool rf_fetcher_await(rf_fetcher *f, bool (*done)(rf_fetcher *, int64_t), int64_t argument, int64_t until) {
    for (;;) {
        uint32_t ticket = rf_park_prepare(&f->answered);
        pthread_mutex_lock(&f->lock);
        bool answered = done(f, argument);
        pthread_mutex_unlock(&f->lock);
        int64_t remaining = until - rf_now();
        if (answered || remaining <= 0) {
            rf_park_cancel(&f->answered);
            return answered;
        }
        rf_park_wait(&f->answered, ticket, remaining);
    }
}

static bool rf_is_stopped(rf_fetcher *f, int64_t unused) { (void)unused; return f->stopped; }
static bool rf_is_told(rf_fetcher *f, int64_t number) { return f->told_list >= number || f->state == RF_FINISHED; }

/* Steps 1 and 2 of the stop; *given and *unresolved are its answer. A nearer deadline of a second call counts. */
static void rf_fetcher_stop(rf_fetcher *f, int64_t timeout, int64_t *given, int *unresolved) {
    int64_t stop_at = rf_now() + timeout;
    pthread_mutex_lock(&f->lock);
    bool fresh = atomic_load(&f->state) == RF_NEW && !f->stopped;
    if (!f->stopped) {
        if (stop_at < atomic_load(&f->stop_at)) atomic_store(&f->stop_at, stop_at);
        if (stop_at < atomic_load(&f->limit)) atomic_store(&f->limit, stop_at);
        atomic_store(&f->stopping, 1);
    }
    if (fresh) { /* no thread, nothing fetched */
        f->stopped = true;
        rf_fetcher_end_all(f);
    }
    pthread_mutex_unlock(&f->lock);
    rf_wake_signal(&f->wake);
    bool answered = rf_fetcher_await(f, rf_is_stopped, 0, stop_at + 2 * RF_STOP_GRACE);
    pthread_mutex_lock(&f->lock);
    *given = f->stop_given_back;
    *unresolved = f->unresolved || !answered;
    pthread_mutex_unlock(&f->lock);
    if (answered) return;
    /* the thread hangs in a call that has no deadline (a name look-up): the workers shall not wait for it */
    for (int32_t i = 0; i < atomic_load(&f->queues); i++) {
        rf_queue *queue = rf_fetcher_queue(f, i);
        atomic_store(&queue->refuse, 1);
        rf_unpark(&queue->park, INT_MAX);
    }
}

/* `run` shall end: at once where nothing is unstarted, else after a last giving back. */
static void rf_fetcher_close(rf_fetcher *f) {
    pthread_mutex_lock(&f->lock);
    if (!atomic_load(&f->closing)) {
        atomic_store(&f->close_at, rf_now() + RF_CLOSE_DEADLINE);
        if (atomic_load(&f->stop_at) == INT64_MAX) atomic_store(&f->stop_at, atomic_load(&f->close_at));
        atomic_store(&f->closing, 1);
        if (atomic_load(&f->limit) > atomic_load(&f->close_at)) atomic_store(&f->limit, atomic_load(&f->close_at));
        atomic_store(&f->stopping, 1);
        if (atomic_load(&f->state) == RF_NEW && !f->stopped) {
            f->stopped = true;
            rf_fetcher_end_all(f);
        }
    }
    pthread_mutex_unlock(&f->lock);
    rf_wake_signal(&f->wake);
    rf_unpark(&f->notices.park, INT_MAX);
}

/* Asks the fetcher thread what the rings hold. True: *list has *count pairs, the caller's to free. */
static bool rf_fetcher_unstarted(rf_fetcher *f, int64_t timeout, int64_t **list, int64_t *count) {
    int64_t until = rf_now() + timeout;
    pthread_mutex_lock(&f->lock);
    int64_t number = ++f->asked_list;
    if (atomic_load(&f->state) != RF_RUNNING) rf_fetcher_list_all(f);
    pthread_mutex_unlock(&f->lock);
    rf_wake_signal(&f->wake);
    rf_fetcher_await(f, rf_is_told, number, until);
    pthread_mutex_lock(&f->lock);
    if (f->told_list < number && atomic_load(&f->state) == RF_FINISHED) rf_fetcher_list_all(f);
    bool told = f->told_list >= number;
    *count = told ? f->list_count : 0;
    *list = (int64_t *)malloc((size_t)(*count + 1) * 2 * sizeof **list);
    if (*list == NULL) told = false;
    else memcpy(*list, f->list, (size_t)*count * 2 * sizeof **list);
    pthread_mutex_unlock(&f->lock);
    return told;
}

#endif
