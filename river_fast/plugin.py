"""What an application hangs into a client: hooks, middleware, plugins; who they are, and in which order. River: Plugin.

Values and types; any thread. An object has a role if it has the role's method; `Extensions` are the roles of a list of
objects, each checked once. Who calls them: `insert_chain.py` around inserts, `work_chain.py` around work.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from river_fast.errors import ConfigError

if TYPE_CHECKING:
    from river_fast.insert_opts import JobInsertResult
    from river_fast.job import Job
    from river_fast.job_insert_params import JobInsertParams

Form = Literal["def", "async def", "generator"]

# role -> how many arguments it is called with
HOOKS: Final = {"insert_begin": 1, "work_begin": 1, "work_end": 2, "periodic_jobs_start": 1, "metric_emit": 1}
MIDDLEWARE: Final = {"insert_many": 2, "work": 2}
_ANYWHERE: Final = frozenset({"insert_begin", "work_begin", "work_end", *MIDDLEWARE})  # may be `async def`


@dataclass(frozen=True, slots=True)
class Metric:
    """What the `metric_emit` hook is told of one fetch. River: MetricJobGetAvailableDuration, ...Count.

    `name` `"job_get_available_duration"` (`value` in seconds) or `"job_get_available_count"` (`value` jobs), each once
    per successful fetch of a queue that is not paused; told together, at most a second later.
    """

    name: str
    queue: str
    value: float


@dataclass(frozen=True, slots=True)
class PeriodicJobsStartParams:
    """What the `periodic_jobs_start` hook is told. `durable_jobs`: those that the database knows, as loaded. River:
    HookPeriodicJobsStartParams."""

    durable_jobs: Sequence[Any] = ()


class InsertBeginHook(Protocol):
    """River: HookInsertBegin."""

    def insert_begin(self, params: JobInsertParams) -> Awaitable[None] | None:
        """Before each job is inserted; may change `params`. Raising aborts the whole insert, nothing is written."""


class WorkBeginHook(Protocol):
    """River: HookWorkBegin."""

    def work_begin(self, job: Job[Any]) -> Awaitable[None] | None:
        """Before a job is worked. What it raises is the job's error; the job is not worked then."""


class WorkEndHook(Protocol):
    """River: HookWorkEnd."""

    def work_end(
        self, job: Job[Any], error: BaseException | None
    ) -> Awaitable[bool | BaseException | None] | bool | BaseException | None:
        """After a job was worked, with what it raised. As an `__exit__`: nothing (None, False) leaves the error, true
        drops it, so that the job completes; an exception, returned or raised, takes its place."""


class PeriodicJobsStartHook(Protocol):
    """River: HookPeriodicJobsStart."""

    def periodic_jobs_start(self, params: PeriodicJobsStartParams) -> None:
        """When this client becomes the leader and begins to insert periodic jobs. Raising keeps it from leading."""


class MetricEmitHook(Protocol):
    """River: HookMetricEmit."""

    def metric_emit(self, metric: Metric) -> None:
        """For each measurement, on the producer's thread: to be quick about it. What it raises is logged."""


class InsertMiddleware(Protocol):
    """River: JobInsertMiddleware."""

    def insert_many(
        self, params: list[JobInsertParams], inner: Callable[[list[JobInsertParams]], Any]
    ) -> list[JobInsertResult] | Awaitable[list[JobInsertResult]]:
        """Around each insert call, of one job or many: `return inner(params)` (`await` it in an `async def`)."""


class WorkMiddleware(Protocol):
    """River: WorkerMiddleware."""

    def work(self, job: Job[Any], inner: Callable[[], Any]) -> Any:
        """Around each job: `inner()` (`await` it in an `async def`) works it and raises what it raises."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """Functions as a plugin, hook or middleware: `Plugin(work_begin=log_begin)`. River: HookWorkBeginFunc and its kin.

    Each has the parameters of the method of its name.
    """

    insert_begin: Callable[[JobInsertParams], Any] | None = None
    work_begin: Callable[[Job[Any]], Any] | None = None
    work_end: Callable[[Job[Any], BaseException | None], Any] | None = None
    periodic_jobs_start: Callable[[PeriodicJobsStartParams], None] | None = None
    metric_emit: Callable[[Metric], None] | None = None
    insert_many: Callable[..., Any] | None = None
    work: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """One method of one installed object: `role` the method's name, `name` for messages."""

    role: str
    function: Callable[..., Any]
    form: Form
    name: str


@dataclass(frozen=True, slots=True)
class Extensions:
    """What is installed, by role, in the order in which it is called (middleware: the first is the outermost).

    River's order: plugins before hooks, plugins before middleware; an object listed twice is called twice.
    """

    insert_begin: tuple[Role, ...] = ()
    work_begin: tuple[Role, ...] = ()
    work_end: tuple[Role, ...] = ()
    periodic_jobs_start: tuple[Role, ...] = ()
    metric_emit: tuple[Role, ...] = ()
    insert_many: tuple[Role, ...] = ()
    work: tuple[Role, ...] = ()

    @property
    def around_inserts(self) -> bool:
        """Whether an insert has anything to do with them."""
        return bool(self.insert_begin or self.insert_many)

    def start_periodic_jobs(self, params: PeriodicJobsStartParams) -> None:
        """Calls the `periodic_jobs_start` hooks; raises what the first that fails raised."""
        for role in self.periodic_jobs_start:
            role.function(params)

    def __add__(self, other: Extensions) -> Extensions:
        """Those of `self` first, role by role."""
        return Extensions(*(getattr(self, role.name) + getattr(other, role.name) for role in fields(Extensions)))


NONE: Final = Extensions()


def extensions(
    where: str, *, hooks: Sequence[Any] = (), middleware: Sequence[Any] = (), plugins: Sequence[Any] = ()
) -> Extensions:
    """Of the objects in these lists of `where` (for messages). `ConfigError` for one that has none of the roles that
    its list serves, or has one that cannot be called as it must."""
    found: dict[str, list[Role]] = {name: [] for name in (*HOOKS, *MIDDLEWARE)}
    for given, listed, names in (
        (plugins, "plugins", {**HOOKS, **MIDDLEWARE}),
        (hooks, "hooks", HOOKS),
        (middleware, "middleware", MIDDLEWARE),
    ):
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise ConfigError(f"{where}: {listed} must be a list of objects, got {given!r:.80}")
        for extension in given:
            for name, role in _roles(f"{where}: {listed}", extension, names).items():
                found[name].append(role)
    if not any(found.values()):
        return NONE
    return Extensions(**{name: tuple(roles) for name, roles in found.items()})


def middleware_roles(where: str, given: Any) -> tuple[Role, ...]:
    """Of a list of work middleware alone: a worker's own."""
    return extensions(where, middleware=given).work if given else ()


def form_of(function: Callable[..., Any]) -> Form | None:
    """How a function is to be called; None for an async generator, which nobody calls."""
    calls = (function, getattr(function, "__call__", function))  # noqa: B004
    if any(map(inspect.isasyncgenfunction, calls)):
        return None
    if any(map(inspect.iscoroutinefunction, calls)):
        return "async def"
    return "generator" if any(map(inspect.isgeneratorfunction, calls)) else "def"


def check_takes(function: Callable[..., Any], count: int, name: str, what: str) -> None:
    """`ConfigError` for what cannot be called with `count` arguments; `what` they are."""
    try:
        inspect.signature(function).bind(*([None] * count))
    except TypeError:
        raise ConfigError(f"{name} must take {count} argument{'s'[: count > 1]}: {what}") from None
    except ValueError:
        pass  # a builtin without a signature: only calling it will tell


def _roles(where: str, extension: Any, names: dict[str, int]) -> dict[str, Role]:
    if isinstance(extension, type):
        raise ConfigError(f"{where}: takes an object: {extension.__name__}() rather than the class")
    methods = {name: method for name in names if (method := getattr(extension, name, None)) is not None}
    if not methods:
        others = [name for name in (*HOOKS, *MIDDLEWARE) if getattr(extension, name, None) is not None]
        remedy = f"it has {', '.join(others)}: give it in plugins" if others else f"one of {', '.join(names)} is needed"
        raise ConfigError(f"{where}: {extension!r:.80} has no role there; {remedy}")
    return {name: _role(where, extension, name, method, names[name]) for name, method in methods.items()}


def _role(where: str, extension: Any, name: str, method: Any, arguments: int) -> Role:
    if not callable(method):
        raise ConfigError(f"{where}: {name} of {extension!r:.80} cannot be called")
    if type(extension) is Plugin:
        called = getattr(method, "__qualname__", None) or type(method).__qualname__
    else:
        called = f"{type(extension).__qualname__}.{name}"
    form = form_of(method)
    if form is None or (form == "generator" and name in HOOKS):
        raise ConfigError(f"{where}: {called} is {'an async ' if form is None else 'a '}generator; write it as a "
                          + ("function" if name in HOOKS else "generator with `def`, or as an `async def`"))
    if form == "async def" and name not in _ANYWHERE:
        raise ConfigError(f"{where}: {called} is called on a thread without an event loop: write it with `def`")
    count = 1 if form == "generator" else arguments
    check_takes(method, count, f"{where}: {called}", _WHAT[name] if form != "generator" else _WHAT[name].split(",")[0])
    return Role(name, method, form, called)


_WHAT: Final = {
    "insert_begin": "the job's params",
    "work_begin": "the job",
    "work_end": "the job, its error",
    "periodic_jobs_start": "the params",
    "metric_emit": "the metric",
    "insert_many": "the list of params, and inner unless it is a generator",
    "work": "the job, and inner unless it is a generator",
}
