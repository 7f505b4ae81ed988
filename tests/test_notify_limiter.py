"""When a single-row insert notifies, by a clock of the test's own."""

from __future__ import annotations

from river_fast.notify_limiter import MAX_WINDOW_S, NotifyLimiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _insert(limiter: NotifyLimiter, queue: str = "q") -> bool:
    wanted = limiter.wants(queue)
    if wanted:
        limiter.acknowledged(queue)
    return wanted


def test_window_silences_the_next_and_no_other_queue() -> None:
    clock = Clock()
    limiter = NotifyLimiter(0.002, widens=False, clock=clock)
    assert _insert(limiter)
    clock.now += 0.0019
    assert not _insert(limiter)
    assert _insert(limiter, "other")
    clock.now += 0.0002
    assert _insert(limiter)


def test_every_insert_notifies_until_inserts_are_fast() -> None:
    clock = Clock()
    limiter = NotifyLimiter(0.002, widens=True, clock=clock)
    for _ in range(10):
        assert _insert(limiter)
        assert _insert(limiter)  # at once: whoever was told may have looked before this one's commit
        clock.now += 0.01


def test_notification_that_was_never_committed_silences_nothing() -> None:
    limiter = NotifyLimiter(0.1, widens=False, clock=Clock())
    assert limiter.wants("q")
    assert limiter.wants("q")
    limiter.acknowledged("q")
    assert not limiter.wants("q")


def test_window_widens_in_steps_while_inserts_are_fast_and_narrows_again() -> None:
    clock = Clock()
    limiter = NotifyLimiter(0.002, widens=True, clock=clock)
    windows = []
    for _ in range(1000):  # 1,000 a second
        _insert(limiter)
        clock.now += 0.001
        windows.append(limiter.window("q"))
    assert sorted(set(windows)) == [0.0, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, MAX_WINDOW_S]
    assert windows == sorted(windows)
    for _ in range(100):  # 20 a second
        _insert(limiter)
        clock.now += 0.05
    assert limiter.window("q") == 0.0


def test_fixed_window_never_widens() -> None:
    clock = Clock()
    limiter = NotifyLimiter(0.02, widens=False, clock=clock)
    notified = 0
    for _ in range(1000):
        notified += _insert(limiter)
        clock.now += 0.001
    assert limiter.window("q") == 0.02
    assert 45 <= notified <= 50


def test_slow_inserts_always_notify() -> None:
    clock = Clock()
    limiter = NotifyLimiter(0.002, widens=True, clock=clock)
    for _ in range(500):
        assert _insert(limiter)
        clock.now += 0.005  # 200 a second


def test_queues_long_silent_are_forgotten() -> None:
    clock = Clock()
    limiter = NotifyLimiter(0.002, widens=True, clock=clock)
    for number in range(100):
        _insert(limiter, f"q{number}")
    clock.now += 61
    _insert(limiter, "new")
    assert len(limiter._queues) == 1
