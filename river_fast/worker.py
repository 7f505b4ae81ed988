"""What works a kind of job, and the bundle a client is given. River: Worker, WorkFunc, Workers.

Values made before `start`; any thread reads. A worker is a function (`@workers.work(EmailArgs)`) or an object with a
`work` method, `def` or `async def` alike. Registration is all or nothing: a refused worker leaves the bundle as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar, get_args, get_origin

from river_fast.config import Duration, check_kind, seconds
from river_fast.errors import ConfigError
from river_fast.job import Job
from river_fast.job_args import args_info
from river_fast.job_row import loads_exact
from river_fast.plugin import Extensions, Role, WorkMiddleware, middleware_roles

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Worker(Generic[T]):
    """Base of class workers: `class Resize(Worker[ResizeArgs])` with `work`, `def` or `async def`."""

    def work(self, job: Job[T]) -> Any:
        """Return: completed. Raise: failed and retried; `JobCancelError`, `JobSnoozeError` steer."""
        raise NotImplementedError

    def timeout(self, job: Job[T]) -> Duration | None:
        """How long this job may run: seconds, timedelta, `NEVER`, or None for the client's `job_timeout`."""
        return None

    def next_retry(self, job: Job[T]) -> datetime | None:
        """When this failed job runs again; None for the client's retry policy."""
        return None

    def middleware(self, job: Job[T]) -> Sequence[WorkMiddleware]:
        """Work middleware for this job, around the client's; the first is the outermost."""
        return ()


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One registered kind. `timeout` None inherits; `timeout_of`, `next_retry` and `middleware_of` only where a class
    overrides them. `extensions`: the args type's own."""

    kind: str
    aliases: tuple[str, ...]
    work: Callable[[Job[Any]], Any]
    is_async: bool
    decode_args: Callable[[bytes], Any]
    timeout: float | None = None
    timeout_of: Callable[[Job[Any]], Duration | None] | None = None
    next_retry: Callable[[Job[Any]], datetime | None] | None = None
    middleware: tuple[Role, ...] = ()
    middleware_of: Callable[[Job[Any]], Sequence[WorkMiddleware]] | None = None
    extensions: Extensions | None = None


class Workers:
    """The bundle of workers a client works with. River: Workers."""

    def __init__(self) -> None:
        self._units: dict[str, WorkUnit] = {}  # by kind and by alias

    def work(
        self, args: type[Any] | str, *, timeout: Duration | None = None, middleware: Sequence[WorkMiddleware] = ()
    ) -> Callable[[F], F]:
        """Decorator: the function works jobs of `args` (an args type, or a bare kind whose args stay plain JSON).

        `timeout`: seconds, timedelta or `NEVER`; None inherits `Config.job_timeout`. `middleware`: for this worker
        alone, around the client's. Raises `ConfigError` for a function that cannot take exactly one job, and for a kind
        or alias that is registered already.
        """

        def register(function: F) -> F:
            unit = self._unit(args, function, timeout)
            self._register(replace(unit, middleware=middleware_roles(f"worker of {unit.kind!r}", middleware)))
            return function

        return register

    def add(self, worker: Worker[Any]) -> None:
        """Register a class worker's instance. River: AddWorker (raises `ConfigError` where River panics)."""
        if isinstance(worker, type):
            raise ConfigError(f"add takes an instance: workers.add({worker.__name__}())")
        work = getattr(worker, "work", None)
        if not callable(work) or getattr(type(worker), "work", None) is Worker.work:
            raise ConfigError(f"worker {type(worker).__name__} has no work method")
        unit = self._unit(_args_type_of(worker), work, None)
        overrides = {"timeout": "timeout_of", "next_retry": "next_retry", "middleware": "middleware_of"}
        own = {field: getattr(worker, name) for name, field in overrides.items() if _overrides(worker, name)}
        self._register(replace(unit, **own))

    def get(self, kind: str) -> WorkUnit | None:
        """The worker of a kind or alias."""
        return self._units.get(kind)

    def kinds(self) -> list[str]:
        """Every kind and alias registered, sorted."""
        return sorted(self._units)

    def __contains__(self, kind: object) -> bool:
        return kind in self._units

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[WorkUnit]:
        return iter({unit.kind: unit for unit in self._units.values()}.values())

    def _unit(self, args: type[Any] | str, function: Callable[..., Any], timeout: Duration | None) -> WorkUnit:
        is_async = _check_function(function)
        limit = None if timeout is None else seconds("timeout", timeout, never=True)
        if isinstance(args, str):
            return WorkUnit(check_kind(args), (), function, is_async, loads_exact, limit)
        info = args_info(args)
        aliases = tuple(check_kind(alias) for alias in info.aliases)
        return WorkUnit(
            check_kind(info.kind), aliases, function, is_async, info.decode, limit, extensions=info.extensions
        )

    def _register(self, unit: WorkUnit) -> None:
        names = (unit.kind, *unit.aliases)
        for name in names:
            if name in self._units:
                raise ConfigError(f"a worker for kind {name!r} is already registered")
        for name in names:
            self._units[name] = unit


def _overrides(worker: Worker[Any], name: str) -> bool:
    method = getattr(type(worker), name, None)
    return method is not None and method is not getattr(Worker, name)


def _check_function(function: Callable[..., Any]) -> bool:
    """Whether it is async; `ConfigError` for what cannot work one job."""
    name = getattr(function, "__qualname__", repr(function))
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if not callable(function):
        raise ConfigError(f"{name} cannot be called; a worker is a function or an object with a work method")
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigError(f"{name} is a generator; a work function runs and returns")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise ConfigError(f"{name} must take exactly one argument, the job") from None
    except ValueError:
        pass  # a builtin without a signature: only calling it will tell
    return inspect.iscoroutinefunction(call)


def _args_type_of(worker: Worker[Any]) -> type[Any] | str:
    for cls in type(worker).__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, Worker):
                (argument,) = get_args(base)
                if isinstance(argument, type):
                    return argument
    kind = getattr(worker, "kind", None)
    if isinstance(kind, str):
        return kind
    raise ConfigError(f"the args type of {type(worker).__name__} is not known: derive it from Worker[YourArgs]")
