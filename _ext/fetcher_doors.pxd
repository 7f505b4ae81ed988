"""Declarations of fetcher_doors.h and what lies under it, as far as fetcher.pyx goes through them.

Fields declared as plain integers are C11 atomics: reading or writing one is a sequentially consistent access.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from job cimport rf_job, rf_slots
from wakeup cimport rf_wake


cdef extern from "rows.h" nogil:
    enum:
        RF_STATE
        RF_FINALIZED_AT
        RF_QUEUE_NAME
        RF_MAX_ATTEMPTS
        RF_PRIORITY
        RF_ARGS
        RF_ATTEMPTED_AT
        RF_ATTEMPTED_BY
        RF_KIND

    int64_t rf_read_int(const char *bytes, int32_t length)
    void rf_write_int(char *to, int64_t value, int width)


cdef extern from "queue.h" nogil:
    enum:
        RF_THREADS
        RF_LOOP
        RF_TAKEN
        RF_NOTHING
        RF_ENDED
        RF_NO_SLOT

    ctypedef struct rf_job_cell:
        rf_job *job
        int64_t id

    ctypedef struct rf_queue:
        rf_slots slots
        int32_t threads
        int32_t unborn
        int32_t waiting
        int64_t growing
        int32_t paused
        int32_t removed
        int32_t poked
        int64_t prefetch_now
        int64_t mean_now
        uint64_t birth
        int32_t index
        int32_t max_workers
        int32_t max_threads
        int32_t prefetch
        int64_t cooldown
        int64_t poll_interval
        int64_t ring_wait
        int32_t name_length
        char *name

    uint64_t rf_queue_held(rf_queue *queue, int kind)
    int rf_queue_take(rf_queue *queue, int kind, rf_job_cell *cell)
    bint rf_queue_await_slot(rf_queue *queue)
    bint rf_queue_wait(rf_queue *queue)
    bint rf_queue_dismiss(rf_queue *queue)


cdef extern from "cancels.h" nogil:
    ctypedef struct rf_cancels:
        pass

    void rf_cancels_add(rf_cancels *cancels, int64_t id, int64_t now)
    bint rf_cancels_has(rf_cancels *cancels, int64_t id, int64_t asked_ns, int64_t now, bint use_up)


cdef extern from "notices.h" nogil:
    enum:
        RF_GROW
        RF_NOTICE
        RF_CONNECTED
        RF_CONNECTION_LOST
        RF_NOTICES

    ctypedef struct rf_notice:
        int32_t what
        int32_t queue
        int64_t number
        char *text

    ctypedef struct rf_notices:
        int64_t dropped
        rf_queue *growing

    bint rf_notices_take(rf_notices *notices, rf_notice *out)
    rf_queue *rf_notices_next_grow(rf_queue **list, int32_t *count)
    void rf_notices_wait(rf_notices *notices, int64_t timeout)


cdef extern from "metrics.h" nogil:
    ctypedef struct rf_metric:
        int32_t queue
        int64_t rows
        int64_t took_ns

    ctypedef struct rf_metrics:
        pass

    rf_metrics *rf_metrics_new()
    bint rf_metrics_take(rf_metrics *metrics, rf_metric *out)


cdef extern from "fetch.h" nogil:
    enum:
        RF_NEW
        RF_STATEMENTS

    const char *const rf_statements[]

    ctypedef struct rf_counters:
        int64_t fetches
        int64_t fetched
        int64_t empty_fetches
        int64_t fetch_errors
        int64_t lost_fetches
        int64_t given_back
        int64_t polls
        int64_t wakeups
        int64_t grows
        int64_t joins
        int64_t reconnects
        int64_t notifications
        int64_t garbage
        int64_t undecodable
        int64_t heartbeats

    ctypedef struct rf_fetcher:
        int32_t pid
        int32_t generation
        bint notify
        int64_t lock_key
        int64_t heartbeat_key
        char *conninfo
        char *setup
        char *begin
        char **sql
        char *client_id
        int32_t client_id_length
        int32_t kinds_count
        const char **kinds
        uint8_t *kind_lanes
        rf_wake wake
        rf_wake loop_wake
        rf_cancels cancels
        rf_notices notices
        rf_metrics *metrics
        rf_counters counters
        int32_t state
        int32_t hold

    rf_queue *rf_fetcher_queue(rf_fetcher *f, int64_t index)
    void rf_fetcher_list_loop(rf_fetcher *f, rf_queue *queue)
    rf_queue *rf_fetcher_next_loop(rf_queue **list)
    rf_queue *rf_fetcher_take_loop_list(rf_fetcher *f)
    rf_queue *rf_notices_take_growing(rf_notices *notices)


cdef extern from "fetch_loop.h" nogil:
    void rf_fetcher_run(rf_fetcher *f)


cdef extern from "fetcher_doors.h" nogil:
    int rf_forks
    int rf_doors_open()
    rf_fetcher *rf_fetcher_new()
    bint rf_fetcher_index_kinds(rf_fetcher *f, bint only_known)
    void rf_fetcher_free(rf_fetcher *f)
    int32_t rf_fetcher_add(rf_fetcher *f, const char *name, int32_t length, rf_queue *settings)
    void rf_fetcher_stop(rf_fetcher *f, int64_t timeout, int64_t *given, bint *unresolved)
    void rf_fetcher_close(rf_fetcher *f)
    bint rf_fetcher_unstarted(rf_fetcher *f, int64_t timeout, int64_t **list, int64_t *count)
    void rf_queue_poke(rf_fetcher *f, rf_queue *queue)
    void rf_queue_set_paused(rf_fetcher *f, rf_queue *queue, bint paused)
    void rf_queue_remove(rf_fetcher *f, rf_queue *queue)
    void rf_fetcher_hold(rf_fetcher *f, bint on)
    void rf_queue_announce(rf_queue *queue, int32_t count)
    void rf_queue_arrive(rf_queue *queue)
    void rf_queue_waiting(rf_queue *queue, int32_t change)
    void rf_queue_leave(rf_queue *queue)
    bint rf_fetcher_begin(rf_fetcher *f)
