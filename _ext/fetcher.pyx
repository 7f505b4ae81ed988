"""The compiled fetcher: one thread, one connection, all queues of a client (hotpath.md 1 to 3).

The fetcher thread runs `run`, without the GIL; every other method is for any thread. What runs without the GIL is C:
queue.h (slots, rings), pace.h (how much, when), fetch.h, give_back.h, fetch_loop.h, and the doors into them.
Python objects are made in `pop` and `try_pop`, nowhere else.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_SetItem
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strdup

cimport cython

from fetcher_doors cimport *
from job cimport (RF_COLUMNS, rf_claim_renew, rf_claim_take_slots, rf_job, rf_slots, rf_slots_done, rf_slots_release,
                  rf_slots_started)
from pq cimport rf_pq_load
from wakeup cimport rf_now, rf_wake_clear

from river_fast.errors import ForkedClientError
from river_fast.job_row import COLUMNS as _COLUMNS

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        # a new reference: declared PyObject *, each job would leak
        object (*tp_new)(PyTypeObject *, PyObject *, PyObject *)
    int PyObject_SetAttr(object, object, object) except -1

GROW = RF_GROW
NOTICE = RF_NOTICE
CONNECTED = RF_CONNECTED
LOST = RF_CONNECTION_LOST

cdef tuple _NOTHING = ()
cdef str _ROW = "_row"

if rf_doors_open() != 0:
    raise MemoryError


def load_libpq(path: str) -> None:
    """Fills this module's function table from the libpq behind `path` (driver.libpq_path()); once, before all else."""
    cdef bytes name = path.encode()
    cdef const char *missing = rf_pq_load(name)
    if missing != NULL:
        raise ImportError(f"{path}: not a usable libpq ({missing.decode()})")


cdef int64_t _nanoseconds(double seconds) noexcept:
    """Of a duration; at most 30 years, at least 0."""
    return <int64_t>(min(seconds, 1e9) * 1e9) if seconds > 0 else 0


include "fetched_row.pxi"
include "work_loop.pxi"
include "fetch_metrics.pxi"


@cython.final
cdef class StopFetch:
    """What `stop_fetching` did."""
    cdef readonly int64_t given_back
    cdef readonly bint unresolved  # a fetch in flight, or the giving back, has an unknown outcome


@cython.final
cdef class Fetcher:
    """Owns the fetch connection, the job rings and the slots. Methods are for any thread unless they say otherwise."""

    cdef rf_fetcher *_f
    cdef tuple _kinds
    cdef list _names    # by queue index
    cdef list _active   # by queue index: the dicts that pop fills
    cdef object _job_type

    def __cinit__(
        self,
        *,
        conninfo: bytes,
        setup: bytes,
        statements,
        client_id: str,
        lock_key: int,
        kinds,
        async_kinds,
        job_type: type,
        notify: bool = True,
        begin: bytes = b"",
        heartbeat_key: int = 0,
        only_known: bool = False,
    ):
        cdef rf_fetcher *f
        cdef bytes text = client_id.encode()
        cdef Py_ssize_t index, count = len(kinds)
        if len(async_kinds) != count:
            raise ValueError("kinds and async_kinds differ in length")
        self._kinds = tuple(kinds)
        self._names = []
        self._active = []
        self._job_type = job_type
        self._f = f = rf_fetcher_new()
        if f == NULL:
            raise MemoryError
        f.notify = notify
        f.lock_key, f.heartbeat_key = lock_key, heartbeat_key
        f.conninfo, f.setup, f.begin = strdup(conninfo), strdup(setup), strdup(begin)
        for index in range(RF_STATEMENTS):
            f.sql[index] = strdup(<bytes>statements[(<bytes>rf_statements[index]).decode()])
            if f.sql[index] == NULL:
                raise MemoryError
        f.client_id = strdup(text)
        f.client_id_length = <int32_t>len(text)
        f.kinds = <const char **>calloc(count + 1, sizeof(char *))
        f.kind_lanes = <uint8_t *>calloc(count + 1, 1)
        if not (f.conninfo and f.setup and f.begin and f.client_id and f.kinds and f.kind_lanes):
            raise MemoryError
        for index in range(count):
            text = (<str>self._kinds[index]).encode()
            f.kinds[index] = strdup(text)
            if f.kinds[index] == NULL:
                raise MemoryError
            f.kind_lanes[index] = RF_LOOP if async_kinds[index] else RF_THREADS
            f.kinds_count = <int32_t>index + 1
        if not rf_fetcher_index_kinds(f, only_known):
            raise MemoryError

    def __dealloc__(self):
        rf_fetcher_free(self._f)

    cdef int _check(self) except -1:
        if self._f.generation != rf_forks:
            raise ForkedClientError("this client was started before a fork(); the child process must make its own")
        return 0

    cdef rf_queue *_queue(self, int64_t index) except NULL:
        if self._f.generation != rf_forks:
            self._check()
        cdef rf_queue *queue = rf_fetcher_queue(self._f, index)
        if queue == NULL:
            raise IndexError(f"no queue {index}")
        return queue

    cdef object _wrap(self, rf_queue *queue, rf_job_cell *cell):
        """The job for Python, in `active` before the GIL is let go: no moment in which nobody holds it."""
        cdef rf_job *job = cell.job
        cdef FetchedRow row = FetchedRow.__new__(FetchedRow)
        job.claim.slots = &queue.slots
        job.claim.started_ns = rf_now()
        row._job = job
        row._fetcher = self
        row._cancelled = rf_cancels_has(&self._f.cancels, job.claim.id, job.asked_ns, job.claim.started_ns, True)
        cdef object made = (<PyTypeObject *>self._job_type).tp_new(
            <PyTypeObject *>self._job_type, <PyObject *>_NOTHING, NULL)
        PyObject_SetAttr(made, _ROW, row)
        PyDict_SetItem(<object>self._active[queue.index], job.claim.id, made)
        return made

    # -- the fetcher thread

    def run(self) -> None:
        """The fetcher thread's body, without the GIL: connect, lock, fetch, until `close`. Call once, in its thread."""
        self._check()
        if not rf_fetcher_begin(self._f):
            raise RuntimeError("Fetcher.run is called once")
        with nogil:
            rf_fetcher_run(self._f)

    # -- queues

    def add_queue(
        self,
        name: str,
        max_workers: int,
        fetch_cooldown: float,
        fetch_poll_interval: float,
        prefetch: int,
        active: dict,
        paused: bool = False,
        max_threads: int = 0,
        ring_wait: float = 0.0,
    ) -> int:
        """A queue's index, for all calls below. Indexes are never used again.

        Seconds. `prefetch`: -1 automatic, 0 never, n at most n. 0: `max_threads` max_workers, `ring_wait` RF_RING_WAIT.
        """
        cdef rf_queue settings
        cdef bytes text = name.encode()
        cdef int32_t index
        self._check()
        if max_workers < 1:
            raise ValueError("max_workers is at least 1")
        memset(&settings, 0, sizeof(settings))
        settings.max_workers, settings.max_threads = max_workers, max_threads or max_workers
        settings.prefetch = prefetch
        settings.cooldown = max(_nanoseconds(fetch_cooldown), 1000)
        settings.poll_interval = max(_nanoseconds(fetch_poll_interval), 1_000_000)
        settings.ring_wait = _nanoseconds(ring_wait)
        settings.paused = paused
        # known to pop before the queue is: the fetcher thread may fill its ring at once
        self._names.append(name)
        self._active.append(active)
        index = rf_fetcher_add(self._f, text, <int32_t>len(text), &settings)
        if index < 0:
            self._names.pop()
            self._active.pop()
            raise MemoryError
        return index

    def remove_queue(self, queue: int) -> None:
        """No more fetches; unstarted jobs are given back; `pop` returns None to each of its threads."""
        cdef rf_queue *q = self._queue(queue)
        with nogil:
            rf_queue_remove(self._f, q)

    def pause(self, queue: int) -> None:
        """No more fetches, unstarted jobs are given back; running ones go on."""
        rf_queue_set_paused(self._f, self._queue(queue), True)

    def resume(self, queue: int) -> None:
        """Fetches again, at once."""
        rf_queue_set_paused(self._f, self._queue(queue), False)

    def notify(self, queue: int) -> None:
        """As an insert notification for the queue: fetch now."""
        rf_queue_poke(self._f, self._queue(queue))

    def cancel(self, job_id: int) -> None:
        """Remember a remote cancel: a job in a ring, or in the fetch in flight, will start `cancelled`."""
        self._check()
        rf_cancels_add(&self._f.cancels, job_id, rf_now())

    # -- jobs

    def pop(self, queue: int) -> object:
        """A worker thread's next job, its slot taken; waits without the GIL. None: the thread shall end."""
        cdef rf_queue *q = self._queue(queue)
        cdef rf_job_cell cell
        cdef int taken
        cdef bint more
        rf_queue_arrive(q)
        while True:
            taken = rf_queue_take(q, RF_THREADS, &cell)
            if taken == RF_TAKEN:
                return self._wrap(q, &cell)
            if taken == RF_ENDED:
                rf_queue_leave(q)
                return None
            rf_queue_waiting(q, 1)
            with nogil:
                more = rf_queue_wait(q)
            rf_queue_waiting(q, -1)
            if not more and rf_queue_dismiss(q):
                return None

    def try_pop(self, queue: int, running: int = 0) -> object:
        """The event loop's next job of the queue, if there is one and a slot for it. Else the loop is woken for the
        next free slot, unless `running` jobs of its own hold them all: it knows when one ends."""
        cdef rf_queue *q = self._queue(queue)
        cdef rf_job_cell cell
        cdef int taken
        while True:
            taken = rf_queue_take(q, RF_LOOP, &cell)
            if taken == RF_TAKEN:
                return self._wrap(q, &cell)
            if taken != RF_NO_SLOT or running >= q.max_workers:
                return None
            if not rf_queue_await_slot(q):
                rf_fetcher_list_loop(self._f, q)  # the freed slot wakes the loop: then it finds the queue listed
                return None

    def worker_started(self, queue: int, count: int) -> None:
        """Before starting `count` worker threads: each will call `pop` until it returns None. A negative count takes it
        back: threads that could not be started, or whose job is stuck.
        """
        rf_queue_announce(self._queue(queue), count)

    def finish(self, row: FetchedRow) -> None:
        """The run ended without an outcome for the completer (`complete_tx`): give the slot back."""
        cdef int64_t run_time = rf_now() - row._job.claim.started_ns
        self._check()
        rf_slots_release(rf_claim_take_slots(&row._job.claim), run_time)

    def release_slot(self, row: FetchedRow) -> None:
        """A stuck job: its slot serves others; its outcome will not release it again. Idempotent."""
        self._check()
        cdef rf_slots *slots = rf_claim_take_slots(&row._job.claim)
        if slots != NULL:
            rf_slots_release(slots, -1)

    # -- what Python must do

    def loop_fileno(self) -> int:
        """Readable when `take_loop_ready` has something; for `loop.add_reader`."""
        self._check()
        return self._f.loop_wake.read_fd

    def take_loop_ready(self) -> list:
        """The queues whose loop ring may have something, each once."""
        cdef list found = []
        cdef rf_queue *head
        cdef rf_queue *queue
        self._check()
        rf_wake_clear(&self._f.loop_wake)
        head = rf_fetcher_take_loop_list(self._f)
        while True:
            queue = rf_fetcher_next_loop(&head)
            if queue == NULL:
                return found
            found.append(queue.index)

    def take_attention(self, timeout: float) -> list:
        """What Python must do: (GROW | NOTICE | ..., queue, number, text); waits without the GIL. One thread."""
        cdef int64_t ns = _nanoseconds(timeout)
        cdef list found = []
        cdef rf_queue *head
        cdef rf_queue *queue
        cdef rf_notice notice
        cdef int32_t count
        self._check()
        with nogil:
            rf_notices_wait(&self._f.notices, ns)
        while rf_notices_take(&self._f.notices, &notice):
            found.append((notice.what, notice.queue, notice.number, notice.text.decode("utf-8", "replace")))
        head = rf_notices_take_growing(&self._f.notices)
        while True:
            queue = rf_notices_next_grow(&head, &count)
            if queue == NULL:
                return found
            if count > 0:
                found.append((RF_GROW, queue.index, count, ""))

    def hold(self, on: bool) -> None:
        """Back-pressure from the completer: while on, nothing is fetched."""
        self._check()
        rf_fetcher_hold(self._f, on)

    def unstarted(self, timeout: float) -> list | None:
        """(id, attempted_at_us) of all jobs in the rings, told by the fetcher thread between two operations;
        None when it did not answer in time (it is inside an operation, or the connection is down)."""
        cdef int64_t ns = _nanoseconds(timeout)
        cdef int64_t *pairs = NULL
        cdef int64_t count = 0, index
        cdef bint told
        self._check()
        with nogil:
            told = rf_fetcher_unstarted(self._f, ns, &pairs, &count)
        try:
            if not told:
                return None
            return [(pairs[2 * index], pairs[2 * index + 1]) for index in range(count)]
        finally:
            free(pairs)

    # -- the end

    def stop_fetching(self, timeout: float) -> StopFetch:
        """Steps 1 and 2 of the stop: the fetch in flight is received (until `timeout`, then cancelled), unstarted jobs
        are given back except those with a remote cancel, the rings are closed. The connection and its lock stay.

        Idempotent; waits without the GIL, `timeout` and half a second at most; works before `run` and after `close`.
        """
        cdef int64_t ns = _nanoseconds(timeout), given = 0
        cdef bint unresolved = False
        cdef StopFetch answer = StopFetch.__new__(StopFetch)
        self._check()
        with nogil:
            rf_fetcher_stop(self._f, ns, &given, &unresolved)
        answer.given_back = given
        answer.unresolved = unresolved
        return answer

    def close(self) -> None:
        """`run` ends: connection closed. Idempotent. Returns at once; join the thread."""
        self._check()
        with nogil:
            rf_fetcher_close(self._f)

    def stats(self) -> dict:
        """Counters since start: fetches, fetched, empty_fetches, given_back, wakeups, reconnects, notifications ..."""
        cdef rf_counters *c = &self._f.counters
        return {
            "fetches": c.fetches, "fetched": c.fetched, "empty_fetches": c.empty_fetches,
            "fetch_errors": c.fetch_errors, "lost_fetches": c.lost_fetches, "given_back": c.given_back,
            "polls": c.polls, "wakeups": c.wakeups, "grows": c.grows, "joins": c.joins, "reconnects": c.reconnects,
            "notifications": c.notifications, "garbage": c.garbage, "undecodable": c.undecodable,
            "heartbeats": c.heartbeats, "dropped_notices": self._f.notices.dropped,
        }

    def queue_stats(self, queue: int) -> dict:
        """started, limit, done, ring, loop_ring, threads, prefetch, mean_run_ns (-1: none ended yet)."""
        cdef rf_queue *q = self._queue(queue)
        return {
            "started": rf_slots_started(&q.slots), "limit": q.max_workers, "done": rf_slots_done(&q.slots),
            "ring": rf_queue_held(q, RF_THREADS), "loop_ring": rf_queue_held(q, RF_LOOP), "threads": q.threads,
            "prefetch": q.prefetch_now, "mean_run_ns": q.mean_now,
        }
