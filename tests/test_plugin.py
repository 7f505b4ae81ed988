"""Who may be a hook, a middleware, a plugin: roles by method, River's order, refusals before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import river_fast as river
from river_fast.plugin import NONE, Extensions, extensions


class Everything:
    """Has every role, one of each form."""

    def insert_begin(self, params: Any) -> None: ...
    async def work_begin(self, job: Any) -> None: ...
    def work_end(self, job: Any, error: Any) -> None: ...
    def periodic_jobs_start(self, params: Any) -> None: ...
    def metric_emit(self, metric: Any) -> None: ...
    def insert_many(self, params: Any, inner: Any) -> Any:
        return inner(params)

    def work(self, job: Any) -> Iterator[None]:
        yield


def names(found: Extensions, role: str) -> list[str]:
    return [each.name for each in getattr(found, role)]


def test_a_plugin_serves_in_every_role_it_has() -> None:
    found = extensions("Config", plugins=[Everything()])
    assert {role: [each.form for each in getattr(found, role)] for role in Extensions.__slots__} == {
        "insert_begin": ["def"],
        "work_begin": ["async def"],
        "work_end": ["def"],
        "periodic_jobs_start": ["def"],
        "metric_emit": ["def"],
        "insert_many": ["def"],
        "work": ["generator"],
    }
    assert found.around_inserts


def test_hooks_and_middleware_serve_in_their_own_roles_alone() -> None:
    both = Everything()
    assert names(extensions("Config", hooks=[both]), "insert_many") == []
    assert names(extensions("Config", middleware=[both]), "insert_begin") == []
    found = extensions("Config", hooks=[both], plugins=[both])
    assert names(found, "work_end") == ["Everything.work_end"] * 2, "as River: listed twice, called twice"
    assert names(found, "work") == ["Everything.work"]


def test_plugins_come_before_hooks_and_middleware_and_each_list_in_its_order() -> None:
    def plugin(tag: str) -> river.Plugin:
        def work_begin(job: Any) -> None: ...
        def work(job: Any, inner: Any) -> None: ...
        work_begin.__qualname__ = work.__qualname__ = tag
        return river.Plugin(work_begin=work_begin, work=work)

    found = extensions(
        "Config",
        hooks=[plugin("h1"), plugin("h2")],
        middleware=[plugin("m1"), plugin("m2")],
        plugins=[plugin("p1"), plugin("p2")],
    )
    assert names(found, "work_begin") == ["p1", "p2", "h1", "h2"]
    assert names(found, "work") == ["p1", "p2", "m1", "m2"]
    more = extensions("Config", hooks=[plugin("h3")])
    assert names(found + more, "work_begin") == ["p1", "p2", "h1", "h2", "h3"]
    assert found + NONE == found


def test_nothing_installed_is_nothing() -> None:
    assert extensions("Config") is NONE
    assert not NONE.around_inserts


class Method:
    """Stands for an object with one method of any name."""

    def __init__(self, **methods: Any) -> None:
        self.__dict__.update(methods)


async def async_generator(job: Any) -> Any:
    yield


async def awaited(value: Any) -> None: ...


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hooks": [object()]}, "has no role there; one of insert_begin"),
        ({"hooks": [Method(work_bgin=print)]}, "has no role there"),
        ({"hooks": [Method(work=print)]}, "it has work: give it in plugins"),
        ({"middleware": [Method(work_end=print)]}, "it has work_end: give it in plugins"),
        ({"plugins": [Everything]}, r"Everything\(\) rather than the class"),
        ({"plugins": "everything"}, "must be a list of objects"),
        ({"plugins": 7}, "must be a list of objects"),
        ({"hooks": [Method(work_begin=3)]}, "cannot be called"),
        ({"hooks": [Method(work_begin=lambda: None)]}, "must take 1 argument: the job"),
        ({"hooks": [Method(work_end=lambda job: None)]}, "must take 2 arguments: the job, its error"),
        ({"middleware": [Method(work=lambda job: None)]}, "must take 2 arguments: the job, and inner"),
        ({"middleware": [Method(work=async_generator)]}, "is an async generator"),
        ({"hooks": [Method(work_begin=Everything().work)]}, "is a generator; write it as a function"),
        ({"hooks": [Method(metric_emit=awaited)]}, "on a thread without an event loop"),
        ({"hooks": [Method(periodic_jobs_start=awaited)]}, "on a thread without an event loop"),
        (
            {"hooks": [Method(insert_begin=awaited)], "middleware": [Method(insert_many=Everything().insert_many)]},
            "no insert can run both",
        ),
        ({"error_handler": 3}, "error_handler must be a function"),
        ({"error_handler": lambda job: None}, "error_handler must take 2 arguments"),
        ({"error_handler": awaited}, "error_handler must be written with `def`"),
        ({"job_stuck_handler": awaited}, "job_stuck_handler must be written with `def`"),
        ({"job_stuck_handler": lambda: None}, "job_stuck_handler must take 1 argument: params"),
    ],
)
def test_what_cannot_serve_is_refused_when_the_client_is_made(config: dict[str, Any], message: str) -> None:
    with pytest.raises(river.ConfigError, match=message):
        river.Client("postgresql://nobody@localhost:1/none", river.Config(**config))


def test_args_types_have_their_own() -> None:
    with pytest.raises(river.ConfigError, match=r"Wrong: hooks.*has no role there"):

        class Wrong(river.JobArgs, kind="wrong", hooks=[object()]):
            pass

    with pytest.raises(river.ConfigError, match="needs a kind"):

        class NoKind(river.JobArgs, hooks=[Everything()]):
            pass


def test_a_plugin_is_made_of_functions() -> None:
    seen: list[Any] = []
    found = extensions("Config", hooks=[river.Plugin(periodic_jobs_start=seen.append)])
    found.start_periodic_jobs(river.PeriodicJobsStartParams(durable_jobs=(1,)))
    assert seen == [river.PeriodicJobsStartParams((1,))]
