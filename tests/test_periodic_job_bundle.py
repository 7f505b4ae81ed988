"""The bundle of periodic jobs, and the face a client gives it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import river_fast as river
from river_fast.client_periodic_jobs import ClientPeriodicJobs
from river_fast.periodic_job_bundle import PeriodicJobBundle
from tests.stress import together


def job(id: str | None = None) -> river.PeriodicJob:
    return river.PeriodicJob(river.PeriodicInterval(60), lambda: None, id=id)


@pytest.fixture
def bundle() -> PeriodicJobBundle:
    return PeriodicJobBundle()


@pytest.fixture
def jobs(bundle: PeriodicJobBundle) -> ClientPeriodicJobs:
    return ClientPeriodicJobs(bundle)


def test_handles_count_from_0_and_are_not_used_again(jobs: ClientPeriodicJobs, bundle: PeriodicJobBundle) -> None:
    assert jobs.add(job()) == 0
    assert jobs.add_many([job("aa"), job("bb")]) == [1, 2]
    assert jobs.remove(1)
    assert not jobs.remove(1)
    assert jobs.add(job("aa")) == 3, "the id is free again, the handle is not"
    assert list(bundle.jobs) == [0, 2, 3]
    jobs.clear()
    assert jobs.add(job()) == 4
    assert jobs.add_many([]) == []


def test_removal_by_handle_and_by_id(jobs: ClientPeriodicJobs, bundle: PeriodicJobBundle) -> None:
    jobs.add_many([job("aa"), job(), job("cc"), job("dd"), job()])
    assert jobs.remove_by_id("aa")
    assert not jobs.remove_by_id("aa")
    assert jobs.remove_many_by_id(["cc", "dd", "ee"]) == 2
    assert jobs.remove_many([1, 17]) == 1
    assert list(bundle.jobs) == [4]
    with pytest.raises(river.ConfigError, match="list"):
        jobs.remove_many_by_id("aa")


def test_an_id_used_twice_adds_nothing(jobs: ClientPeriodicJobs, bundle: PeriodicJobBundle) -> None:
    jobs.add(job("aa"))
    for some in ([job("bb"), job("aa")], [job("bb"), job("bb")], [job(), "no job"]):
        with pytest.raises(river.ConfigError):
            jobs.add_many(some)  # type: ignore[arg-type]
    assert [each.id for each in bundle.jobs.values()] == ["aa"]
    assert jobs.add(job()) == 1


def test_whoever_wants_to_know_is_told_of_changes(jobs: ClientPeriodicJobs, bundle: PeriodicJobBundle) -> None:
    told: list[int] = []
    forget = bundle.on_change(lambda: told.append(len(bundle.jobs)))
    jobs.add(job("aa"))
    jobs.remove(5)
    jobs.remove(0)
    assert told == [1, 0]
    forget()
    jobs.add(job())
    assert told == [1, 0]


def test_many_threads_at_once(jobs: ClientPeriodicJobs, bundle: PeriodicJobBundle) -> None:
    handles: list[int] = []
    lock = threading.Lock()

    def body(number: int) -> None:
        mine = [jobs.add(job(f"id-{number}-{turn}")) for turn in range(100)]
        assert jobs.remove_many(mine[::2]) == 50
        with lock:
            handles.extend(mine)

    together(body, name="the bundle")
    assert sorted(handles) == list(range(1000))
    assert len(bundle.jobs) == 500


def config(**options: Any) -> river.Config:
    workers = river.Workers()
    return river.Config(workers=workers, queues={"default": river.QueueConfig(1)}, **options).checked()


def test_config_checks_its_periodic_jobs() -> None:
    assert len(config(periodic_jobs=[job("aa"), job()]).periodic_jobs) == 2
    for bad in ([job("aa"), job("aa")], ["no job"], "text", 5, {job()}):
        with pytest.raises(river.ConfigError):
            config(periodic_jobs=bad)
    with pytest.raises(river.ConfigError, match="leader_election_disabled"):
        config(periodic_jobs=[job()], leader_election_disabled=True)
    with pytest.raises(river.ConfigError, match=r"without queues.*durable_periodic_jobs\.define"):
        river.Config(periodic_jobs=[job()]).checked()
