"""Declarations of limits.h: every bound of the compiled part."""

from libc.stdint cimport int64_t


cdef extern from "limits.h" nogil:
    const int64_t RF_MS
    const int64_t RF_SECOND
    const int64_t RF_OPERATION_DEADLINE
    const int64_t RF_CONNECT_DEADLINE
    const int64_t RF_RECONNECT_PAUSE
    const int RF_FIRST_FETCH
    const int RF_FETCH_MAX
    const int RF_FETCH_BYTES
    const int64_t RF_RING_WAIT
    const int64_t RF_PREFETCH_HORIZON
    const int64_t RF_PREFETCH_RUN_TIME
    const int RF_FLUSH_ROWS
    const int64_t RF_FLUSH_AFTER
    const int64_t RF_FLUSH_AFTER_MAX
    const int RF_FLUSH_FEW
    const int RF_BATCH_MAX
    const int RF_RICH_MAX
    const int RF_COMPLETION_RING
    const int RF_BACKLOG_MAX
    const int RF_ERROR_TEXT_MAX
