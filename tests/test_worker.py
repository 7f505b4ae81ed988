"""Registration refuses what could not work, names it, and leaves the bundle as it was (bad-input rows 27, 81)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import river_fast as river


@dataclass
class EmailArgs(river.JobArgs, kind="email", aliases=("mail", "e-mail")):
    to: str = ""


@dataclass
class MailArgs(river.JobArgs, kind="mail"):
    to: str = ""


def test_function_serves_its_kind_and_every_alias() -> None:
    workers = river.Workers()

    @workers.work(EmailArgs, timeout=30)
    def send(job: river.Job[EmailArgs]) -> None: ...

    assert workers.kinds() == ["e-mail", "email", "mail"]
    unit = workers.get("mail")
    assert unit is not None
    assert unit.work is send
    assert unit.timeout == 30
    assert not unit.is_async
    assert unit.decode_args(b'{"to": "a"}') == EmailArgs("a")


def test_class_worker_is_known_by_its_type_argument_even_through_a_base() -> None:
    class Base(river.Worker[EmailArgs]):
        async def work(self, job: river.Job[EmailArgs]) -> None: ...

    class Derived(Base):
        def timeout(self, job: river.Job[EmailArgs]) -> float:
            return 5

    workers = river.Workers()
    workers.add(Derived())
    unit = workers.get("email")
    assert unit is not None
    assert unit.is_async
    assert unit.timeout_of is not None
    assert unit.next_retry is None


def test_bare_kind_gives_plain_json() -> None:
    workers = river.Workers()
    workers.work("raw_kind")(lambda job: None)
    unit = workers.get("raw_kind")
    assert unit is not None
    assert unit.decode_args(b'{"a": 1}') == {"a": 1}


def test_colliding_kind_or_alias_is_refused_and_nothing_of_it_registered() -> None:
    workers = river.Workers()
    workers.work(MailArgs)(lambda job: None)
    with pytest.raises(river.ConfigError, match="'mail' is already registered"):
        workers.work(EmailArgs)(lambda job: None)
    assert workers.kinds() == ["mail"]


def generator(job: Any) -> Any:
    yield 1


async def async_generator(job: Any) -> Any:
    yield 1


class NoWork(river.Worker[EmailArgs]):
    pass


class NoArgs(river.Worker):  # type: ignore[type-arg]
    def work(self, job: Any) -> None: ...


@pytest.mark.parametrize(
    ("register", "match"),
    [
        (lambda workers: workers.work(EmailArgs)(generator), "generator"),
        (lambda workers: workers.work(EmailArgs)(async_generator), "generator"),
        (lambda workers: workers.work(EmailArgs)(lambda: None), "exactly one argument"),
        (lambda workers: workers.work(EmailArgs)(lambda a, b: None), "exactly one argument"),
        (lambda workers: workers.work(EmailArgs)(3), "cannot be called"),
        (lambda workers: workers.work(EmailArgs, timeout=-3)(lambda job: None), "timeout"),
        (lambda workers: workers.work(EmailArgs, timeout=float("nan"))(lambda job: None), "timeout"),
        (lambda workers: workers.work(EmailArgs, timeout=True)(lambda job: None), "timeout"),
        (lambda workers: workers.work("x")(lambda job: None), "kind"),
        (lambda workers: workers.work(int)(lambda job: None), "kind"),
        (lambda workers: workers.add(NoWork()), "no work method"),
        (lambda workers: workers.add(NoWork), "instance"),
        (lambda workers: workers.add(NoArgs()), "args type"),
    ],
)
def test_what_cannot_work_is_refused_at_registration(register: Any, match: str) -> None:
    workers = river.Workers()
    with pytest.raises(river.ConfigError, match=match):
        register(workers)
    assert len(workers) == 0
