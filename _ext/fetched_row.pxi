"""FetchedRow, as part of fetcher.pyx: a fetched job's row in Python. Made by the popping thread, read by any.

Owns its rf_job. What was not asked of the server (state, queue, finalized_at) is known and made up here.
"""

import struct

cdef rf_job _no_job
memset(&_no_job, 0, sizeof(_no_job))
_no_job.kind = _no_job.undecodable = -1


cdef str _text(const char *bytes, Py_ssize_t length):
    return PyUnicode_DecodeUTF8(bytes, length, "replace")


cdef bytes _names(rf_fetcher *f):
    """The array of text that holds this client's id alone, as PostgreSQL sends it."""
    cdef int length = f.client_id_length
    head = struct.pack("!iiIiii", 1, 0, 25, 1, 1, length)  # dimensions, no NULLs, text's oid, one element from 1
    return head + PyBytes_FromStringAndSize(f.client_id, length)


@cython.final
@cython.freelist(256)
@cython.no_gc
@cython.nonecheck(True)
cdef class FetchedRow:
    """The row of a fetched job (river_fast.job_row.Row), and the one run of it that this process holds.

    Owns the rf_job, and keeps the fetcher: claims point to its slots.
    """

    cdef rf_job *_job
    cdef Fetcher _fetcher
    cdef bint _cancelled

    def __cinit__(self):
        self._job = &_no_job  # until pop gives it one

    def __init__(self):
        raise TypeError("a FetchedRow is made by Fetcher.pop")

    def __dealloc__(self):
        if self._job != &_no_job:
            free(self._job)

    cdef int64_t _int(self, int column) noexcept:
        return rf_read_int(self._job.data + self._job.offset[column], self._job.length[column])

    cdef rf_queue *_queue(self) except NULL:
        return rf_fetcher_queue(self._fetcher._f, self._job.claim.queue)

    def field(self, column: int) -> bytes | None:
        """The column's value in PostgreSQL's binary format, None for NULL; `column` a position in job.COLUMNS."""
        cdef int at = column
        cdef rf_queue *queue
        if at < 0 or at >= RF_COLUMNS:
            raise IndexError(f"no column {column}")
        if at == RF_STATE:
            return b"running"
        if at == RF_QUEUE_NAME:
            queue = self._queue()
            return PyBytes_FromStringAndSize(queue.name, queue.name_length)
        if self._job.length[at] < 0:
            return _names(self._fetcher._f) if at == RF_ATTEMPTED_BY else None
        return PyBytes_FromStringAndSize(self._job.data + self._job.offset[at], self._job.length[at])

    @property
    def id(self) -> int:
        return self._job.claim.id

    @property
    def kind(self) -> str:
        if self._job.kind >= 0:
            return self._fetcher._kinds[self._job.kind]
        if self._job.length[RF_KIND] < 0:
            return ""
        return _text(self._job.data + self._job.offset[RF_KIND], self._job.length[RF_KIND])

    @property
    def queue(self) -> str:
        return self._fetcher._names[self._job.claim.queue]

    @property
    def state(self) -> str:
        return "running"

    @property
    def attempt(self) -> int:
        return self._job.claim.attempt

    @property
    def max_attempts(self) -> int:
        return self._int(RF_MAX_ATTEMPTS)

    @property
    def priority(self) -> int:
        return self._int(RF_PRIORITY)

    @property
    def encoded_args(self) -> bytes:
        """The args' JSON text, exactly as stored (jsonb's binary form is a version byte and the text)."""
        if self._job.length[RF_ARGS] < 1:
            return b""
        return PyBytes_FromStringAndSize(self._job.data + self._job.offset[RF_ARGS] + 1, self._job.length[RF_ARGS] - 1)

    @property
    def kind_index(self) -> int:
        """Position in the fetcher's `kinds`, -1 for a kind that is not there."""
        return self._job.kind

    @property
    def queue_index(self) -> int:
        return self._job.claim.queue

    @property
    def attempted_at_us(self) -> int:
        """Microseconds since 2000-01-01 UTC: with id and attempt, the fence."""
        return self._job.claim.attempted_at

    @property
    def renewing_us(self) -> int:
        """What a renewal that is under way, or whose outcome is not known, would make of attempted_at_us; 0: none."""
        return self._job.renewing

    def renew(self, attempted_at_us: int) -> None:
        """A renewal is about to be sent: until `renewed`, the row may have either time."""
        self._job.renewing = attempted_at_us

    def renewed(self, committed: bool) -> None:
        """What became of it: the fence follows, or stays."""
        cdef int64_t at = self._job.renewing
        if committed and self._job.length[RF_ATTEMPTED_AT] == 8:
            rf_write_int(self._job.data + self._job.offset[RF_ATTEMPTED_AT], at, 8)
            rf_claim_renew(&self._job.claim, at)
        self._job.renewing = 0

    @property
    def claim(self) -> int:
        """Address of the rf_claim, for the completer; good while the row lives."""
        return <size_t>&self._job.claim

    @property
    def asked_ns(self) -> int:
        """Monotonic clock (`time.monotonic_ns`) when the fetch that brought the job was sent."""
        return self._job.asked_ns

    @property
    def fetched_ns(self) -> int:
        """Monotonic clock (`time.monotonic_ns`) when its reply was there."""
        return self._job.fetched_ns

    @property
    def started_ns(self) -> int:
        """Monotonic clock (`time.monotonic_ns`) when the job was popped."""
        return self._job.claim.started_ns

    @property
    def cancelled(self) -> bool:
        """A remote cancel came while the job waited in the ring."""
        return self._cancelled

    @property
    def plain(self) -> bool:
        """Neither cancelled, undecodable nor resumed: the job may simply run."""
        return not self._cancelled and self._job.undecodable < 0 and not self._job.resumed

    @property
    def resumed(self) -> bool:
        """An earlier attempt left progress in the metadata (river_fast/resumable.py)."""
        return self._job.resumed != 0

    def begin(self) -> None:
        """Its run begins now, not when it was popped: an async job's, whose Task had to wait for its first step."""
        self._job.claim.started_ns = rf_now()

    @property
    def undecodable(self) -> str | None:
        """Name of the column whose stored value cannot be used, None for a good row."""
        return None if self._job.undecodable < 0 else _COLUMNS[self._job.undecodable]
