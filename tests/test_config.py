"""River's configuration rules (river.md 5.1): defaults, inheritance, and a typed error for each wrong value."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest

import river_fast as river
from river_fast.config import GENERATED_ID, check_queue_name, generate_client_id
from river_fast.maintenance.intervals import MaintenanceIntervals


def test_defaults_are_rivers_but_for_the_cooldown() -> None:
    config = river.Config().checked()
    assert config.fetch_cooldown == 0.002
    assert config.fetch_poll_interval == 1.0
    assert config.job_timeout == 60.0
    assert config.max_attempts == 25
    assert config.rescue_stuck_jobs_after == 3600.0
    assert river.Config(job_timeout=120).checked().rescue_stuck_jobs_after == 3720.0


def test_maintenance_defaults_are_rivers() -> None:
    config = river.Config().checked()
    assert config.cancelled_job_retention_period == config.completed_job_retention_period == 24 * 3600.0
    assert config.discarded_job_retention_period == 7 * 24 * 3600.0
    assert (config.job_cleaner_timeout, config.reindexer_timeout) == (30.0, 60.0)
    assert (config.rescue_unknown_kinds, config.reindexer_schedule, config.test_only) == ("retry", None, False)
    assert len(config.reindexer_index_names or ()) == 7


def test_maintenance_settings_are_kept() -> None:
    names = ["b", "a", "b"]
    config = river.Config(
        cancelled_job_retention_period=river.NEVER,
        completed_job_retention_period=0,
        discarded_job_retention_period=timedelta(days=30),
        job_cleaner_timeout=river.NEVER,
        reindexer_timeout=timedelta(minutes=5),
        reindexer_index_names=names,
        reindexer_schedule=river.NEVER,
    ).checked()
    names.clear()
    assert config.cancelled_job_retention_period == config.job_cleaner_timeout == river.NEVER
    assert (config.completed_job_retention_period, config.discarded_job_retention_period) == (0.0, 30 * 86400.0)
    assert (config.reindexer_timeout, config.reindexer_index_names) == (300.0, ("b", "a"))
    assert river.Config(reindexer_index_names=[]).checked().reindexer_index_names == ()


@pytest.mark.parametrize("options", [{"elector": 0}, {"job_rescuer": -1}, {"job_cleaner": None}, {"reindexer": "1"}])
def test_intervals_of_maintenance_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(river.ConfigError, match=next(iter(options))):
        MaintenanceIntervals(**options)


def test_queue_inherits_what_it_does_not_say() -> None:
    config = river.Config(
        queues={
            "a": river.QueueConfig(max_workers=1),
            "b": river.QueueConfig(max_workers=2, fetch_cooldown=timedelta(milliseconds=5)),
        },
        workers=river.Workers(),
        fetch_cooldown=0.01,
        fetch_poll_interval=timedelta(seconds=2),
    ).checked()
    assert (config.queues["a"].fetch_cooldown, config.queues["a"].fetch_poll_interval) == (0.01, 2.0)
    assert (config.queues["b"].fetch_cooldown, config.queues["b"].fetch_poll_interval) == (0.005, 2.0)


QUEUE = {"workers": river.Workers()}


def with_queue(**options: Any) -> dict[str, Any]:
    return {"queues": {"default": river.QueueConfig(**options)}, "workers": river.Workers()}


@pytest.mark.parametrize(
    "options",
    [
        {"fetch_cooldown": 0},
        {"fetch_cooldown": -1},
        {"fetch_cooldown": float("nan")},
        {"fetch_cooldown": float("inf")},
        {"fetch_cooldown": True},
        {"fetch_cooldown": "1"},
        {"fetch_cooldown": 2, "fetch_poll_interval": 1},
        {"fetch_poll_interval": timedelta.max},
        {"job_timeout": -2},
        {"job_timeout": 1e18},
        {"job_timeout": 7200, "rescue_stuck_jobs_after": 3600},
        {"rescue_stuck_jobs_after": -1},
        {"job_stuck_threshold": -1},
        {"cancelled_job_retention_period": -2},
        {"completed_job_retention_period": timedelta(seconds=-1.5)},
        {"discarded_job_retention_period": "7 d"},
        {"job_cleaner_timeout": 0},
        {"job_cleaner_timeout": -2},
        {"reindexer_timeout": 0},
        {"reindexer_timeout": float("inf")},
        {"reindexer_index_names": "river_job_kind"},
        {"reindexer_index_names": 7},
        {"reindexer_index_names": [""]},
        {"reindexer_index_names": ["a", 3]},
        {"reindexer_index_names": ["nul\0"]},
        {"reindexer_index_names": ["ä" * 32]},
        {"reindexer_schedule": "0 0 * * *"},
        {"reindexer_schedule": 3600.0},
        {"rescue_unknown_kinds": "keep"},
        {"rescue_unknown_kinds": None},
        {"rescue_unknown_kinds": ["retry"]},
        {"test_only": 1},
        {"max_attempts": -1},
        {"max_attempts": 32768},
        {"max_attempts": True},
        {"completer": "sometimes"},
        {"pool_size": 0},
        {"asynchronous_fetch": 1},
        {"asynchronous_fetch": "off"},
        {"asynchronous_fetch": None},
        {"stop_timeout": -1},
        {"soft_stop_timeout": float("nan")},
        {"id": ""},
        {"id": "x" * 101},
        {"id": "nul\0"},
        {"schema": 'a"b'},
        {"schema": "a;drop"},
        {"schema": "ünï"},
        {"schema": "x" * 47},
        {"schema": "1a"},
        {"schema": "a\n"},
        {"queues": {"default": river.QueueConfig(max_workers=1)}},
        with_queue(max_workers=0),
        with_queue(max_workers=-1),
        with_queue(max_workers=10_001),
        with_queue(max_workers=True),
        with_queue(max_workers=1.0),
        with_queue(max_workers=1, prefetch=-1),
        with_queue(max_workers=1, prefetch="yes"),
        with_queue(max_workers=1, fetch_cooldown=0),
        with_queue(max_workers=1, fetch_cooldown=1, fetch_poll_interval=0.5),
        {"queues": {"Not Valid": river.QueueConfig(max_workers=1)}, "workers": river.Workers()},
    ],
    ids=lambda options: re.sub(" at 0x\\w+", "", repr(options)),
)
def test_wrong_value_is_a_config_error_when_the_client_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(river.ConfigError):
        river.Client("host=127.0.0.1", river.Config(**options))


@pytest.mark.parametrize("name", ["a", "default", "a_b", "a-b", "a|b", "0", "a" * 64])
def test_queue_names_river_takes(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a" * 65, "default\n", "Default", "a--b", "-a", "a_", "a b", "a'; NOTIFY x", "*", "ä", 3, None]
)
def test_queue_names_river_refuses(name: Any) -> None:
    with pytest.raises(river.ConfigError):
        check_queue_name(name)


def test_hostile_queue_name_is_refused_in_linear_time() -> None:
    """River's own pattern takes 5 s for 26 characters in Python's re, twice that for each further one."""
    began = time.thread_time()
    for _ in range(100):
        with pytest.raises(river.ConfigError):
            check_queue_name("a" * 63 + "!")
    assert time.thread_time() - began < 5, "of processor time"


def test_generated_ids_differ_and_carry_a_key() -> None:
    one, other = generate_client_id(), generate_client_id()
    assert one != other
    assert len(one) <= 127
    for client_id in (one, other):
        match = GENERATED_ID.match(client_id)
        assert match is not None
        assert 0 <= int(match["key"], 16) < 2**63


def test_password_never_shows_in_a_refused_url() -> None:
    for url in ("postgres://u:s3cret@host:port/db", "host=x password='s3cret' nonsense=1", "postgres://u:s3cret@h/db?nonsense=1"):
        with pytest.raises(river.ConfigError) as caught:
            river.Client(url)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None
