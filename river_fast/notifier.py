"""Hears what is told on the control and leadership topics, over one connection that LISTENs. River: Notifier.

Its thread owns the connection, and calls the subscribers. Inserts are not its matter: the fetcher hears them itself.
A client that only polls, or whose server has no LISTEN, makes none.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable
from typing import Any

from river_fast.control import CONTROL_TOPIC, LEADERSHIP_TOPIC, channel, parse_control
from river_fast.driver import Driver, Listener
from river_fast.errors import DatabaseError
from river_fast.startstop import Service
from river_fast.testsignal import TestSignal

Callback = Callable[[dict[str, Any]], None]

TOPICS = (CONTROL_TOPIC, LEADERSHIP_TOPIC)
PING_AFTER = 5.0  # seconds of silence; River's
PING_TIMEOUT = 5.0
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # seconds before the n-th try in a row; a success starts anew
JITTER = 0.1  # of it either way, so that a fleet does not come back as one


class Notifier(Service):
    """`start` connects (`DatabaseError`), so whatever is told after it is heard; a lost connection is made again."""

    name = "notifier"

    def __init__(self, driver: Driver, *, logger: logging.Logger | None = None) -> None:
        super().__init__()
        self._driver = driver
        self._logger = logger or logging.getLogger("river_fast.notifier")
        self._lock = threading.Lock()  # guards the lists of callbacks
        self._callbacks: dict[str, list[list[Callback]]] = {topic: [] for topic in TOPICS}
        self._reconnect_callbacks: list[list[Callable[[], None]]] = []
        self._listener: Listener | None = None
        self._topics: dict[str, str] = {}  # channel to topic
        self._ping_after = PING_AFTER
        self._counts = {"notifications": 0, "garbage": 0, "reconnects": 0}  # written by the thread alone
        self.lost = TestSignal[str]()

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call `callback` with each object told on `topic`, from the notifier's thread; returns the unsubscribe.

        A callback must be quick. One that raises is logged, and the others are called all the same. For any thread.
        """
        if topic not in self._callbacks:
            raise ValueError(f"topic must be one of {', '.join(TOPICS)}, got {topic!r}")
        return self._added(self._callbacks[topic], callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever a lost connection was made again: what was told meanwhile was not heard."""
        return self._added(self._reconnect_callbacks, callback)

    def stats(self) -> dict[str, int]:
        """Counters since the notifier was made: notifications, garbage (heard and ignored), reconnects."""
        return dict(self._counts)

    # The service.

    def _start(self) -> None:
        self._driver.open()
        self._topics = {channel(self._driver.schema, topic): topic for topic in TOPICS}
        self._listener = self._driver.listener()
        try:
            self._listener.listen(self._topics)
        except BaseException:
            self._finish()
            raise

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                if self._listener is None:
                    self._reconnect()
                else:
                    self._hear()
                    failures = 0
            except (DatabaseError, OSError) as error:  # OSError: no descriptor to be had
                self._disconnect()
                if self._stopping.is_set():
                    return
                delay = BACKOFF[min(failures, len(BACKOFF) - 1)] * random.uniform(1 - JITTER, 1 + JITTER)
                failures += 1
                self._logger.warning("lost the notification connection, next try in %.1f s: %s", delay, error)
                self.lost.signal(str(error))
                self._stopping.wait(delay)

    def _hear(self) -> None:
        """Wait and pass on; returns when the connection has shown that it lives, by what it brought or by a ping."""
        listener = self._listener
        assert listener is not None
        heard = listener.wait(self._ping_after)
        for name, payload in heard:
            self._dispatch(name, payload)
        if not heard and not self._stopping.is_set():
            listener.ping(PING_TIMEOUT)

    def _reconnect(self) -> None:
        listener = self._listener = self._driver.listener()
        if self._stopping.is_set():  # read after the listener can be seen: a stop before that woke nobody
            return
        listener.listen(self._topics)
        self._counts["reconnects"] += 1
        self._logger.warning("the notification connection is back")
        for callback in self._copy(self._reconnect_callbacks):
            self._call(callback)

    def _dispatch(self, name: str, text: str) -> None:
        topic = self._topics.get(name)
        if topic is None:
            return
        self._counts["notifications"] += 1
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or (topic == CONTROL_TOPIC and parse_control(told) is None):
            self._counts["garbage"] += 1
            self._logger.debug("ignored what came on %s: %d characters that no River client sends", name, len(text))
            return
        for callback in self._copy(self._callbacks[topic]):
            self._call(callback, told)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            self._logger.exception("a subscriber to notifications failed")

    def _added(self, callbacks: list[Any], callback: Any) -> Callable[[], None]:
        entry = [callback]  # a list of its own: the same callback may be subscribed twice
        with self._lock:
            callbacks.append(entry)

        def remove() -> None:
            with self._lock:
                callbacks[:] = [other for other in callbacks if other is not entry]

        return remove

    def _copy(self, callbacks: list[Any]) -> list[Any]:
        with self._lock:
            return [callback for (callback,) in callbacks]

    def _disconnect(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _wake(self) -> None:
        listener = self._listener
        if listener is not None:
            listener.interrupt()

    def _finish(self) -> None:
        self._disconnect()
