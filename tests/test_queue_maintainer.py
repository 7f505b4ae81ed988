"""The queue maintainer: services run in a term that is trusted, and in no other moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from river_fast.driver.psycopg import PsycopgDriver
from river_fast.elector import Elector, Term
from river_fast.errors import RiverError
from river_fast.maintenance import queue_maintainer as queue_maintainer_module
from river_fast.maintenance.job_scheduler import JobScheduler
from river_fast.maintenance.queue_maintainer import QueueMaintainer
from river_fast.startstop import Phase, Service
from river_fast.testsignal import TestSignal
from tests.stress import hammer


class FakeElector:
    """Leads when a test says so."""

    def __init__(self) -> None:
        self.term: Term | None = None
        self.trust = 1000.0
        self.resigned = TestSignal[Term | None]().activate()
        self._listeners: list[Callable[[bool, Term], None]] = []
        self._count = 0

    def leads(self, term: Term) -> bool:
        return self.term == term

    def trusted_for(self) -> float:
        return self.trust if self.term is not None else 0.0

    def add_listener(self, callback: Callable[[bool, Term], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def request_resign(self, term: Term | None = None) -> None:
        self.resigned.signal(term)
        self.lose()

    def gain(self) -> Term:
        self._count += 1
        term = self.term = Term("me", datetime(2026, 1, 1, 0, 0, self._count, tzinfo=UTC))
        self._tell(True, term)
        return term

    def lose(self, *, silently: bool = False) -> None:
        term, self.term = self.term, None
        if term is not None and not silently:
            self._tell(False, term)

    def _tell(self, is_leader: bool, term: Term) -> None:
        for listener in list(self._listeners):
            listener(is_leader, term)


class Janitor(Service):
    """A maintenance service that only runs; `refusals` times its start fails, with `error`."""

    name = "janitor"

    def __init__(self, refusals: int = 0, error: BaseException | None = None) -> None:
        super().__init__()
        self.refusals = refusals
        self.error = error or RiverError("this service does not start")
        self.starts = 0
        self.stubborn = threading.Event()
        self.stubborn.set()
        self.leads: Callable[[], bool] = lambda: False

    def lead(self, leads: Callable[[], bool], *, stagger: bool = True) -> None:
        self.leads = leads

    def interrupt(self) -> None:
        self.stubborn.set()

    def _start(self) -> None:
        self.starts += 1
        if self.refusals > 0:
            self.refusals -= 1
            raise self.error

    def _run(self) -> None:
        self._stopping.wait()
        self.stubborn.wait()


@pytest.fixture
def elector() -> FakeElector:
    return FakeElector()


@pytest.fixture
def janitors() -> list[Janitor]:
    return [Janitor(), Janitor()]


@pytest.fixture
def maintainer(elector: FakeElector, janitors: list[Janitor]) -> Iterator[QueueMaintainer]:
    maintainer = make(elector, janitors)
    yield maintainer
    assert maintainer.stop(20)
    assert {janitor.phase for janitor in janitors} <= {Phase.NEW, Phase.STOPPED}


def make(elector: Any, services: Any) -> QueueMaintainer:
    maintainer = QueueMaintainer(elector, services, stagger=False)
    maintainer.started.activate()
    maintainer.ended.activate()
    return maintainer


def phases(janitors: list[Janitor]) -> list[Phase]:
    return [janitor.phase for janitor in janitors]


def test_services_run_from_gain_to_loss(
    maintainer: QueueMaintainer, elector: FakeElector, janitors: list[Janitor]
) -> None:
    maintainer.start()
    assert phases(janitors) == [Phase.NEW] * 2
    for _ in range(2):
        term = elector.gain()
        assert maintainer.started.wait() == term
        assert phases(janitors) == [Phase.STARTED] * 2
        assert all(janitor.leads() for janitor in janitors)
        elector.lose()
        assert not any(janitor.leads() for janitor in janitors)
        assert maintainer.ended.wait() == term
        assert phases(janitors) == [Phase.STOPPED] * 2


def test_a_maintainer_started_while_this_client_leads_runs_the_services(
    maintainer: QueueMaintainer, elector: FakeElector, janitors: list[Janitor]
) -> None:
    term = elector.gain()
    maintainer.start()
    assert maintainer.started.wait() == term


def test_a_new_term_begins_with_services_started_anew(
    maintainer: QueueMaintainer, elector: FakeElector, janitors: list[Janitor]
) -> None:
    maintainer.start()
    first = elector.gain()
    maintainer.started.wait()
    second = elector.gain()
    assert maintainer.ended.wait() == first
    assert maintainer.started.wait() == second
    assert [janitor.starts for janitor in janitors] == [2, 2]


def test_trust_that_runs_out_ends_the_services_though_the_elector_says_nothing(
    maintainer: QueueMaintainer, elector: FakeElector, janitors: list[Janitor]
) -> None:
    elector.trust = 0.05
    maintainer.start()
    term = elector.gain()
    maintainer.started.wait()
    elector.lose(silently=True)
    assert maintainer.ended.wait() == term
    assert phases(janitors) == [Phase.STOPPED] * 2


@pytest.mark.parametrize("error", [RiverError("no"), ValueError("a hook's"), SystemExit("a hook that exits")], ids=repr)
def test_a_start_that_fails_is_tried_three_times_then_this_very_term_is_resigned(
    elector: FakeElector, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(queue_maintainer_module, "START_BACKOFF", (0.0, 0.01, 0.01))
    fine, failing = Janitor(), Janitor(refusals=3, error=error)
    maintainer = make(elector, [fine, failing])
    maintainer.start()
    term = elector.gain()
    assert elector.resigned.wait() == term
    assert (fine.starts, failing.starts) == (3, 3)
    assert maintainer.ended.wait() == term
    assert fine.phase is Phase.STOPPED
    elector.gain()
    maintainer.started.wait()
    assert maintainer.stop(20)


def test_a_start_that_fails_twice_is_made_good(elector: FakeElector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_maintainer_module, "START_BACKOFF", (0.0, 0.01, 0.01))
    failing = Janitor(refusals=2)
    maintainer = make(elector, [failing])
    maintainer.start()
    term = elector.gain()
    assert maintainer.started.wait() == term
    assert maintainer.stop(20)
    assert elector.resigned._values is not None
    assert elector.resigned._values.empty()


def test_a_service_that_has_not_ended_is_interrupted_again(
    maintainer: QueueMaintainer, elector: FakeElector, janitors: list[Janitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_maintainer_module, "INTERRUPT_AGAIN", 0.02)
    janitors[0].stubborn.clear()
    maintainer.start()
    elector.gain()
    maintainer.started.wait()
    elector.lose()
    maintainer.ended.wait()
    assert phases(janitors) == [Phase.STOPPED] * 2


def test_stop_ends_the_services(maintainer: QueueMaintainer, elector: FakeElector, janitors: list[Janitor]) -> None:
    maintainer.start()
    elector.gain()
    maintainer.started.wait()
    assert maintainer.stop(20)
    assert phases(janitors) == [Phase.STOPPED] * 2
    elector.lose()
    assert elector._listeners == []


def test_scheduler_runs_on_the_leader_and_moves_to_the_next(
    dsn: str, schema: str, conn: psycopg.Connection[Any]
) -> None:
    drivers = [PsycopgDriver(dsn, schema) for _ in range(2)]
    schedulers = [JobScheduler(driver) for driver in drivers]
    electors = [Elector(driver, f"client {number}") for number, driver in enumerate(drivers)]
    maintainers = [make(elector, [scheduler]) for elector, scheduler in zip(electors, schedulers, strict=True)]
    for elector, scheduler, maintainer in zip(electors, schedulers, maintainers, strict=True):
        elector._interval = 0.05
        elector.denied.activate()
        scheduler.interval = 0.05
        scheduler.scheduled.activate()
        maintainer.start()
        elector.start()
        if elector is electors[0]:
            maintainer.started.wait()
    try:
        electors[1].denied.wait()
        assert [scheduler.phase for scheduler in schedulers] == [Phase.STARTED, Phase.NEW]
        for turn in range(2):
            row = conn.execute(
                "INSERT INTO river_job (kind, args, state) VALUES ('k', '{}', 'scheduled') RETURNING id"
            ).fetchone()
            while conn.execute("SELECT state::text FROM river_job WHERE id = %s", row).fetchone() != ("available",):
                schedulers[turn].scheduled.wait()
            assert maintainers[turn].stop(20)
            assert electors[turn].stop(20)
    finally:
        for service in (*maintainers, *electors):
            assert service.stop(20)
        for driver in drivers:
            driver.close()


def test_start_and_stop_from_many_threads(elector: FakeElector, janitors: list[Janitor]) -> None:
    maintainer = QueueMaintainer(elector, janitors, stagger=False)  # type: ignore[arg-type]
    elector.gain()
    hammer(lambda: maintainer)
    assert {janitor.phase for janitor in janitors} <= {Phase.NEW, Phase.STOPPED}
