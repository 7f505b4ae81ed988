"""Declarations of completer_run.h and the headers under it: the completer as its Python class needs it."""

from libc.stdint cimport int32_t, int64_t, uint32_t

from job cimport rf_claim
from pq cimport rf_conn


cdef extern from "completer_run.h" nogil:
    """
    /* Counters are atomic fields, which Cython does not know: they are read here, by position. */
    #define X(name) #name,
    static const char *const rf_counter_names[] = {RF_COMPLETER_COUNTERS(X) NULL};
    #undef X
    static int64_t rf_counter(rf_completer *c, int index) {
    #define X(name) if (index-- == 0) return atomic_load_explicit(&c->count_##name, memory_order_relaxed);
        RF_COMPLETER_COUNTERS(X)
    #undef X
        return 0;
    }
    static int64_t rf_completer_backlog(rf_completer *c) {
        return atomic_load(&c->held) + (int64_t)rf_outcome_ring_size(&c->ring);
    }
    static void rf_completer_want_rows(rf_completer *c, int on) {
        if (rf_completer_forked(c)) return; /* its descriptors are the parent's */
        atomic_store(&c->want_rows, on);
        rf_wake_signal(&c->relief.wake); /* it looks whether it may help now */
    }
    static int rf_completer_has_ended(rf_completer *c) { return atomic_load(&c->ended); }
    static void rf_completer_end_unstarted(rf_completer *c) {
        if (rf_outcome_ring_is_closed(&c->ring) && !rf_completer_forked(c) && !atomic_exchange(&c->started, 1))
            rf_completer_end(c, "the completer never ran");
    }
    """
    enum:
        RF_MODE_BATCH
        RF_MODE_INLINE
        RF_MODE_ASYNC
        RF_NOTICE
        RF_HOLD
        RF_CONNECTED
        RF_CONNECTION_LOST
        RF_TEXTS
        RF_COPY_MIN
        RF_STATES
        RF_REASONS

    const char *rf_text_names[]
    const char *rf_state_names[]
    const char *rf_counter_names[]

    ctypedef struct rf_rich:
        pass

    ctypedef struct rf_attention:
        int what
        int64_t number
        char *text

    ctypedef struct rf_recorded:
        int reason
        int64_t run_ns
        int64_t complete_ns
        int64_t waited
        uint32_t *offset
        int32_t *length
        char *data

    ctypedef struct rf_pending:
        int64_t id
        int64_t attempted_at

    ctypedef struct rf_move:
        int64_t id
        int64_t from_ "from"
        int64_t to

    ctypedef struct rf_unrecorded:
        int64_t id
        int32_t attempt
        int32_t reason
        char *why

    ctypedef struct rf_completer:
        char *conninfo
        char *setup
        char *begin
        char **texts
        int64_t freeze_after
        size_t copy_min
        rf_unrecorded *unrecorded
        size_t unrecorded_count

    rf_completer *rf_completer_new(int mode, bint copy)
    void rf_completer_free(rf_completer *c)
    void rf_completer_run(rf_completer *c)
    void rf_relief_run(rf_completer *c)
    void rf_completer_close(rf_completer *c, int64_t timeout)
    void rf_completer_want_rows(rf_completer *c, int on)
    int rf_completer_has_ended(rf_completer *c)
    void rf_completer_end_unstarted(rf_completer *c)
    bint rf_completer_forked(const rf_completer *c)
    int rf_completer_try_bare(rf_completer *c, rf_claim *claim)
    int rf_completer_bare_wait(rf_completer *c, rf_claim *claim)
    int rf_completer_rich(rf_completer *c, rf_claim *claim, int state, int reason, rf_rich *rich, bint wait)
    rf_rich *rf_rich_new(int64_t waited, int64_t delay, bint restore_attempt, const char *error, size_t error_length,
                         const char *metadata, size_t metadata_length)
    bint rf_attention_take(rf_completer *c, rf_attention *entry, int64_t timeout)
    bint rf_completer_moved(rf_completer *c, rf_move *moves, size_t count)
    int64_t rf_completer_pending(rf_completer *c, rf_pending **list)
    int rf_recorded_take(rf_completer *c, rf_recorded **rows, int max, int64_t timeout)
    int64_t rf_counter(rf_completer *c, int index)
    int64_t rf_completer_backlog(rf_completer *c)
