"""The compiled completer: outcomes in, COMMITs out. River: BatchCompleter, InlineCompleter, AsyncCompleter.

`run` is the completer thread's body and never takes the GIL; everything it does stands in completer_run.h and the C
headers under it. This class is the door: any thread pushes, asks and closes through it. It owns the C state.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strcmp, strdup

from completer_run cimport *
from job cimport RF_COLUMNS, rf_claim
from pq cimport rf_pq_load
from ring cimport RF_CLOSED, RF_FULL, RF_PUSHED

PUSHED = RF_PUSHED
FULL = RF_FULL
CLOSED = RF_CLOSED
NOTICE = RF_NOTICE
HOLD = RF_HOLD
CONNECTED = RF_CONNECTED
LOST = RF_CONNECTION_LOST

cdef enum:
    TAKE = 500  # rows of one take_recorded; what is left comes with the next

_MODES = {"batch": RF_MODE_BATCH, "inline": RF_MODE_INLINE, "async": RF_MODE_ASYNC}


def load_libpq(str path not None) -> None:
    """Fill the function table from the libpq that is loaded at (or linked into) `path`; once per process."""
    cdef bytes encoded = path.encode()
    cdef const char *missing = rf_pq_load(encoded)
    if missing != NULL:
        raise ImportError(f"libpq at {path} lacks {missing.decode()}; install a newer psycopg")


cdef int64_t nanoseconds(double seconds) noexcept nogil:
    # ends apart from what an int64 holds: a wait of a century is as good as one without end
    if not seconds > 0:
        return 0
    return <int64_t>(seconds * 1e9) if seconds < 3e9 else <int64_t>3_000_000_000_000_000_000


cdef char *copied(bytes text) except NULL:
    cdef char *copy = strdup(text)
    if copy == NULL:
        raise MemoryError
    return copy


cdef tuple row_of(const rf_recorded *recorded):
    cdef list fields = []
    cdef int column
    for column in range(RF_COLUMNS):
        if recorded.length[column] < 0:
            fields.append(None)
        else:
            fields.append(PyBytes_FromStringAndSize(recorded.data + recorded.offset[column], recorded.length[column]))
    return tuple(fields), recorded.reason, recorded.run_ns, recorded.complete_ns, recorded.waited


@cython.final
cdef class Completer:
    """See river_fast/_ext/completer.pyi, which is the contract."""

    cdef rf_completer *c
    cdef object keepalive
    cdef object __weakref__

    def __cinit__(
        self,
        *,
        bytes conninfo not None,
        bytes setup not None,
        statements not None,
        str mode not None = "batch",
        bint copy=True,
        object keepalive=None,
        double freeze_after=3600.0,
        int copy_min=0,
        bytes begin not None=b"",
    ):
        cdef int text
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {sorted(_MODES)}, got {mode!r}")
        self.keepalive = keepalive
        self.c = rf_completer_new(_MODES[mode], copy and not begin)
        if self.c == NULL:
            raise MemoryError
        self.c.conninfo = copied(conninfo)
        self.c.setup = copied(setup)
        self.c.begin = copied(begin)
        self.c.freeze_after = nanoseconds(freeze_after)
        self.c.copy_min = copy_min if copy_min > 0 else RF_COPY_MIN
        for text in range(RF_TEXTS):
            self.c.texts[text] = copied(statements[rf_text_names[text].decode()])

    def __dealloc__(self):
        rf_completer_free(self.c)

    def run(self) -> None:
        with nogil:
            rf_completer_run(self.c)

    def relieve(self) -> None:
        with nogil:
            rf_relief_run(self.c)

    def push_completed(self, long long claim) -> int:
        cdef rf_completer *c = self.c
        cdef int pushed = rf_completer_try_bare(c, <rf_claim *>claim)
        if pushed == RF_FULL:
            with nogil:
                pushed = rf_completer_bare_wait(c, <rf_claim *>claim)
        return pushed

    def try_push_completed(self, long long claim) -> int:
        return rf_completer_try_bare(self.c, <rf_claim *>claim)

    def push(
        self,
        long long claim,
        object state not None,
        int reason,
        long long delay_us=-1,
        bint restore_attempt=False,
        bytes error=None,
        bytes metadata=None,
    ) -> int:
        return self._push(claim, state, reason, delay_us, restore_attempt, error, metadata, True)

    def try_push(
        self,
        long long claim,
        object state not None,
        int reason,
        long long delay_us=-1,
        bint restore_attempt=False,
        bytes error=None,
        bytes metadata=None,
    ) -> int:
        return self._push(claim, state, reason, delay_us, restore_attempt, error, metadata, False)

    cdef int _push(
        self,
        long long claim,
        object state,
        int reason,
        long long delay_us,
        bint restore_attempt,
        bytes error,
        bytes metadata,
        bint wait,
    ) except -1:
        cdef bytes name = state.encode()
        cdef int index = 0
        cdef int pushed
        cdef const char *error_text = NULL
        cdef const char *metadata_text = NULL
        cdef size_t error_length = 0
        cdef size_t metadata_length = 0
        while index < RF_STATES and strcmp(rf_state_names[index], name) != 0:
            index += 1
        if index == RF_STATES:
            raise ValueError(f"no attempt ends in state {state!r}")
        if not 0 <= reason < RF_REASONS:
            raise ValueError(f"reason must be a job_set_state.Reason, got {reason}")
        if error is not None:
            error_text = PyBytes_AS_STRING(error)
            error_length = PyBytes_GET_SIZE(error)
        if metadata is not None:
            metadata_text = PyBytes_AS_STRING(metadata)
            metadata_length = PyBytes_GET_SIZE(metadata)
        cdef rf_rich *rich = rf_rich_new(
            max((<rf_claim *>claim).attempted_at - (<rf_claim *>claim).scheduled_at, 0),
            delay_us, restore_attempt, error_text, error_length, metadata_text, metadata_length
        )
        if rich == NULL:
            raise MemoryError
        if not wait:
            return rf_completer_rich(self.c, <rf_claim *>claim, index, reason, rich, False)
        with nogil:
            pushed = rf_completer_rich(self.c, <rf_claim *>claim, index, reason, rich, True)
        return pushed

    def want_rows(self, bint on) -> None:
        rf_completer_want_rows(self.c, on)

    def take_recorded(self, double timeout):
        cdef rf_recorded *rows[TAKE]
        cdef int count
        cdef int i
        cdef int64_t wait = nanoseconds(timeout)
        with nogil:
            count = rf_recorded_take(self.c, rows, TAKE, wait)
        if count < 0:
            return None
        cdef list taken = []
        try:
            for i in range(count):
                taken.append(row_of(rows[i]))
        finally:
            for i in range(count):
                free(rows[i])
        return taken

    def take_attention(self, double timeout):
        cdef rf_attention entry
        cdef bint found
        cdef int64_t wait = nanoseconds(timeout)
        cdef list taken = []
        while True:
            with nogil:
                found = rf_attention_take(self.c, &entry, wait)
            if not found:
                return taken
            taken.append((entry.what, entry.number, entry.text.decode("utf-8", "replace")))
            wait = 0

    def pending(self, double timeout):
        cdef rf_pending *pending
        cdef int64_t count
        cdef int64_t i
        with nogil:
            count = rf_completer_pending(self.c, &pending)
        if count < 0:
            raise MemoryError
        try:
            return [(pending[i].id, pending[i].attempted_at) for i in range(count)]
        finally:
            free(pending)

    def moved(self, object moves not None) -> None:
        cdef list listed = list(moves)
        cdef Py_ssize_t i, count = len(listed)
        cdef rf_move *copies = <rf_move *>calloc(count + 1, sizeof(rf_move))
        if copies == NULL:
            raise MemoryError
        for i in range(count):
            copies[i].id, copies[i].from_, copies[i].to = listed[i]
        if not rf_completer_moved(self.c, copies, count):
            free(copies)

    def close(self, double timeout) -> None:
        rf_completer_close(self.c, nanoseconds(timeout))

    def unrecorded(self):
        cdef size_t i
        rf_completer_end_unstarted(self.c)
        if not rf_completer_has_ended(self.c):
            return []
        return [
            (
                self.c.unrecorded[i].id,
                self.c.unrecorded[i].attempt,
                self.c.unrecorded[i].reason,
                self.c.unrecorded[i].why.decode("utf-8", "replace"),
            )
            for i in range(self.c.unrecorded_count)
        ]

    def stats(self):
        cdef int i = 0
        cdef dict counters = {}
        while rf_counter_names[i] != NULL:
            counters[rf_counter_names[i].decode()] = rf_counter(self.c, i)
            i += 1
        counters["backlog"] = rf_completer_backlog(self.c)
        return counters
