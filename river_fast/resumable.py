"""A job in named steps: what an earlier attempt finished is not done again. River: ResumableStep, ResumableStepCursor.

The worker that runs the job calls; any thread may ask for `progress` (a stop that gives the job up). Owns what this
attempt adds to the row's `river:resumable_step` and `river:resumable_cursor`, which clients in other languages read.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from river_fast.encoding import encode_object, raw_members
from river_fast.errors import DecodeError, ResumableError, ValidationError
from river_fast.job_row import loads_exact

STEP_KEY = "river:resumable_step"      # the name of the last step that was finished
CURSOR_KEY = "river:resumable_cursor"  # an object: where each unfinished cursor step stands
STORED_MARK = b'"river:resumable_'     # rows without it have no progress to look for (rows.h looks for the same)

_CURSOR = len('{"cursor":')


class Resumable:
    """One attempt's way through the steps of its job."""

    def __init__(self, encoded_metadata: bytes) -> None:
        """`DecodeError` for stored progress that cannot be read: the attempt then fails before its worker is called."""
        self._resume_after, self._cursors = _stored(encoded_metadata)
        self._found = self._resume_after == ""  # whether steps run, and are not passed over any more
        # Cursors without a step say nothing of what may be passed over: each must be met, or its work would be lost.
        self._pending = [] if self._resume_after else sorted(self._cursors)
        self._names: set[str] = set()
        self._active: str | None = None
        self._active_has_cursor = False
        self._completed = ""
        self._cursors_changed = False
        self._error: BaseException | None = None  # the first step's that failed; the others are passed over

    # Steps: the worker that runs the job.

    def step(self, name: str, fn: Callable[[], Any]) -> Any:
        """`fn()`, or None where the step is passed over; an awaitable of that for an `async def`."""
        return self._step(name, fn, False)

    def step_cursor(self, name: str, fn: Callable[[Any], Any]) -> Any:
        """The same with `fn(cursor)`: what `set_cursor` left in an earlier attempt, else None."""
        return self._step(name, fn, True)

    def set_cursor(self, value: Any) -> None:
        """Where the cursor step that runs now stands; stored if the attempt fails."""
        name = self._cursor_step()
        self._cursors[name] = encode_cursor(value)
        self._cursors_changed = True

    def _step(self, name: str, fn: Callable[..., Any], has_cursor: bool) -> Any:
        if not callable(fn):
            raise ValidationError("step", f"{name!r} needs a function to call, got {type(fn).__name__}")
        if is_async(fn):
            return self._run_async(name, fn, has_cursor)
        if not self._begin(name, has_cursor):
            return None
        try:
            result = self._call(fn)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise ValidationError(
                    "step", f"the function of step {name!r} returned an awaitable: give an `async def`, await the step"
                )
        except BaseException as error:
            self._failed(error)
            raise
        self._finished()
        return result

    async def _run_async(self, name: str, fn: Callable[..., Awaitable[Any]], has_cursor: bool) -> Any:
        if not self._begin(name, has_cursor):
            return None
        try:
            result = await self._call(fn)
        except BaseException as error:
            self._failed(error)
            raise
        self._finished()
        return result

    def _begin(self, name: str, has_cursor: bool) -> bool:
        """Whether the step's function is to be called now."""
        if not isinstance(name, str) or not name:
            raise ValidationError("step", f"name must be a non-empty string, got {name!r}")
        if self._error is not None:
            return False
        if self._active is not None:
            self._refuse("river: resumable steps cannot be nested")
        if name in self._names:
            self._refuse(f'river: duplicate resumable step name "{name}"')
        self._names.add(name)
        if name in self._pending and not has_cursor:
            self._refuse(f'river: resumable cursor step "{name}" requires a cursor step')
        if not self._found:
            if name != self._resume_after:
                return False
            self._found = True
            self._completed = name
            if not (has_cursor and name in self._cursors):
                return False
        self._active, self._active_has_cursor = name, has_cursor
        if name in self._pending:
            self._pending.remove(name)
        return True

    def _call(self, fn: Callable[..., Any]) -> Any:
        if not self._active_has_cursor:
            return fn()
        assert self._active is not None
        raw = self._cursors.get(self._active)
        return fn(None if raw is None else loads_exact(raw))

    def _failed(self, error: BaseException) -> None:
        self._active = None
        self._error = error

    def _finished(self) -> None:
        name, self._active = self._active, None
        if self._error is not None:  # a step inside it was refused, and the function made nothing of that
            raise self._error
        assert name is not None
        self._completed = name
        if self._active_has_cursor and self._cursors.pop(name, None) is not None:
            self._cursors_changed = True

    def _refuse(self, reason: str) -> None:
        self._error = ResumableError(reason)
        raise self._error

    def _cursor_step(self) -> str:
        if self._active is None or not self._active_has_cursor:
            raise ResumableError("river: resumable cursor can only be used within a cursor step (job.step_cursor)")
        return self._active

    # The end of the attempt.

    def take_error(self) -> BaseException | None:
        """Why the attempt failed although its worker returned: a step's error that was swallowed, or saved progress
        that no step took up. Told once: an error that is kept keeps its frames, and so the job itself, alive."""
        error, self._error = self._error, None
        if error is None and not self._found:
            error = ResumableError(f'river: resumable step "{self._resume_after}" not found in Worker')
        if error is None and self._pending:
            error = ResumableError(f'river: resumable cursor step "{self._pending[0]}" not found in Worker')
        return error

    def progress(self) -> dict[str, bytes]:
        """What a failed attempt adds to the metadata: by key, each the member's whole JSON text."""
        if self._pending:  # what was saved must stay until each of its steps was met again
            return {}
        members = {}
        if self._cursors_changed:
            members[CURSOR_KEY] = _member(CURSOR_KEY, _object(self._cursors))
        if self._completed:
            members[STEP_KEY] = encode_object({STEP_KEY: self._completed}, field="step")[1:-1]
        return members

    # In the caller's transaction.

    def checkpoint(self, cursor: bytes | None = None) -> tuple[str, Callable[[], None]]:
        """The metadata that stores the step that runs now, and every cursor, as done; and what to call once it was
        written: from then on only later progress goes with the outcome, so that what is rolled back stays so."""
        name = self._active if cursor is None else self._cursor_step()
        if name is None:
            raise ResumableError("river: not inside a resumable step: call it in the function of job.step")
        if self._pending:
            raise ResumableError(f'river: resumable checkpoint cannot precede saved cursor step "{self._pending[0]}"')
        cursors = dict(self._cursors)
        if cursor is not None:
            cursors[name] = cursor
        step = encode_object({STEP_KEY: name}, field="step")[1:-1]
        text = b"{" + step + b"," + _member(CURSOR_KEY, _object(cursors)) + b"}"

        def written() -> None:
            self._completed = ""
            self._cursors = cursors
            self._cursors_changed = False

        return text.decode(), written


def encode_cursor(value: Any) -> bytes:
    """Any JSON; `EncodeError` for what is none."""
    return encode_object({"cursor": value}, field="cursor")[_CURSOR:-1]


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine: an `async def`, one in a `partial`, or an object with an async call."""
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _stored(encoded_metadata: bytes) -> tuple[str, dict[str, bytes]]:
    """The last step and the cursors that earlier attempts left."""
    if STORED_MARK not in encoded_metadata:
        return "", {}
    try:
        members = raw_members(encoded_metadata)
        step = loads_exact(members.get(STEP_KEY, b"null"))
        cursors = members.get(CURSOR_KEY, b"null")
        if cursors[:1] not in (b"{", b"n"):
            raise DecodeError(f"river: stored {CURSOR_KEY} must be an object of cursors by step, or null")
        # a step that is no text counts as none, as River has it
        return step if isinstance(step, str) else "", raw_members(cursors) if cursors[:1] == b"{" else {}
    except (ValueError, RecursionError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"river: stored resumable progress cannot be read: {error}") from error


def _object(cursors: dict[str, bytes]) -> bytes:
    """Null once all were used up: the merge of metadata takes nothing away."""
    members = [_member(name, raw) for name, raw in list(cursors.items())]  # one step: another thread may set one
    return b"{" + b",".join(members) + b"}" if members else b"null"


def _member(name: str, raw: bytes) -> bytes:
    return encode_object({name: 0}, field="cursor")[1:-2] + raw
