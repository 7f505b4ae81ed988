"""Declarations of wakeup.h: how threads wait."""

from libc.stdint cimport int32_t, int64_t, uint32_t


cdef extern from "wakeup.h" nogil:
    ctypedef struct rf_wake:
        int read_fd
        int write_fd

    ctypedef struct rf_park:
        pass

    int64_t rf_now()
    int rf_wake_open(rf_wake *wake)
    void rf_wake_close(rf_wake *wake)
    void rf_wake_signal(rf_wake *wake)
    void rf_wake_clear(rf_wake *wake)
    void rf_park_init(rf_park *park)
    void rf_park_destroy(rf_park *park)
    uint32_t rf_park_prepare(rf_park *park)
    void rf_park_cancel(rf_park *park)
    void rf_park_wait(rf_park *park, uint32_t ticket, int64_t timeout)
    int32_t rf_park_count(rf_park *park)
    void rf_unpark(rf_park *park, int count)
