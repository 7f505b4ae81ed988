"""Declarations of job.h: a fetched job, its claim, its queue's slots. Atomic fields are left out: C touches them."""

from libc.stdint cimport int32_t, int64_t, uint32_t


cdef extern from "job.h" nogil:
    enum:
        RF_COLUMNS

    ctypedef struct rf_slots:
        pass

    ctypedef struct rf_claim:
        int64_t id
        int64_t attempted_at
        int64_t scheduled_at
        int32_t attempt
        int32_t queue
        int64_t started_ns
        rf_slots *slots

    ctypedef struct rf_job:
        rf_claim claim
        int64_t asked_ns
        int64_t fetched_ns
        int64_t renewing
        int32_t kind
        int32_t undecodable
        int32_t resumed
        uint32_t *offset
        int32_t *length
        char *data

    int64_t rf_slots_started(rf_slots *slots)
    int64_t rf_slots_done(rf_slots *slots)
    void rf_claim_renew(rf_claim *claim, int64_t attempted_at)
    rf_slots *rf_claim_take_slots(rf_claim *claim)
    void rf_slots_release(rf_slots *slots, int64_t run_time)
