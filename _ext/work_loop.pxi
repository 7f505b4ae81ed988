"""A worker thread's loop over plain jobs, as part of fetcher.pyx: pop, run, push, in one compiled path.

A job is plain if nothing need be done for it but to run it; it stays so if it returns and staged nothing. Every other
goes to the executor (river_fast/job_executor.py), which decides all there is to decide.
"""

cdef extern from "Python.h":
    object PyContext_Copy(object)
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1

cdef str _UNIT = "_unit"
cdef str _RUN = "_run"


cdef int _run_in(object context, object function, object job) except -1:
    """As `context.copy().run(function, job)`."""
    cdef object copy = PyContext_Copy(context)
    PyContext_Enter(copy)
    try:
        function(job)
    finally:
        PyContext_Exit(copy)
    return 0


@cython.final
cdef class WorkLoop:
    """What the worker threads of a client share: how each kind is worked, and where outcomes go.

    `units`: by kind index, the last for unknown kinds; each with `work`, and `plain` if its jobs need no preparation.
    `push_completed(claim)`; `execute(job, active)` for jobs that are not plain; `settle(job, active, error)` for those
    that raised or staged something.
    """

    cdef list _units
    cdef list _works  # the function, None where each job must be prepared
    cdef object _context
    cdef object _push_completed
    cdef object _execute
    cdef object _settle

    def __init__(self, units, context, push_completed, execute, settle):
        self._units = list(units)
        self._works = [unit.work if unit.plain else None for unit in self._units]
        self._context = context
        self._push_completed = push_completed
        self._execute = execute
        self._settle = settle

    def run(self, fetcher: Fetcher, queue: int) -> None:
        """A worker thread's body: pops jobs and works them until the thread shall end."""
        cdef dict active = fetcher._active[queue]
        cdef object job
        while True:
            job = fetcher.pop(queue)
            if job is None:
                return
            self._work(job, <FetchedRow>getattr(job, _ROW), active)
            job = None  # it is nobody's any more: not to be kept alive while the thread waits

    cdef int _work(self, object job, FetchedRow row, dict active) except -1:
        cdef Py_ssize_t kind = row._job.kind
        cdef object work, error = None
        if kind < 0:
            kind = len(self._works) - 1
        work = self._works[kind]
        if work is None or row._cancelled or row._job.undecodable >= 0 or row._job.resumed \
                or getattr(job, _RUN) is not None:
            self._execute(job, active)
            return 0
        PyObject_SetAttr(job, _UNIT, self._units[kind])
        try:
            _run_in(self._context, work, job)
        except BaseException as raised:  # whatever the job raises, SystemExit included, is the job's outcome
            error = raised
        if error is not None or getattr(job, _RUN) is not None:
            self._settle(job, active, error)
            return 0
        self._push_completed(<size_t>&row._job.claim)
        # after the push: at every moment the job is in the ring, in `active`, or in the completer (liveness)
        left = active.pop(row._job.claim.id, None)
        if left is not job and left is not None:
            active[row._job.claim.id] = left  # a later attempt of the same job, fetched while this one would not end
        return 0
