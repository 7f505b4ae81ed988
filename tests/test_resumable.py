"""`Resumable` by itself: which steps run, what is kept of an attempt, and what is refused (river.md 7.9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from river_fast.errors import DecodeError, EncodeError, ResumableError, ValidationError
from river_fast.resumable import Resumable, is_async

STEP, CURSOR = "river:resumable_step", "river:resumable_cursor"


def resumed(**metadata: Any) -> Resumable:
    """By `step` and `cursor`, written as PostgreSQL writes jsonb."""
    names = {"step": STEP, "cursor": CURSOR}
    return Resumable(json.dumps({names[key]: value for key, value in metadata.items()}).encode())


def progress(run: Resumable) -> dict[str, Any]:
    """As the merge of metadata would see it."""
    return json.loads(b"{" + b",".join(run.progress().values()) + b"}")  # type: ignore[no-any-return]


def fail() -> None:
    raise ValueError("no")


class Steps:
    """Runs steps of these names in order; keeps which were called, with what cursors."""

    def __init__(self, run: Resumable) -> None:
        self.run = run
        self.called: list[Any] = []

    def step(self, *names: str) -> None:
        for name in names:
            self.run.step(name, partial(self.called.append, name))

    def cursor(self, name: str, leave: Any = None) -> None:
        def work(cursor: Any) -> None:
            self.called.append((name, cursor))
            if leave is not None:
                self.run.set_cursor(leave)
                fail()

        self.run.step_cursor(name, work)


def test_every_step_of_a_first_attempt_runs_and_gives_its_answer() -> None:
    run = resumed()
    assert [run.step(name, lambda name=name: name * 2) for name in ("a", "b")] == ["aa", "bb"]
    assert run.step_cursor("c", lambda cursor: cursor) is None
    assert run.take_error() is None


def test_a_step_that_fails_leaves_those_before_it_as_done() -> None:
    run = resumed()
    steps = Steps(run)
    steps.step("a", "b")
    with pytest.raises(ValueError, match="no"):
        run.step("c", fail)
    assert progress(run) == {STEP: "b"}


def test_steps_up_to_the_saved_one_are_passed_over() -> None:
    steps = Steps(resumed(step="b"))
    steps.step("a", "b", "c", "d")
    assert steps.called == ["c", "d"]
    assert steps.run.take_error() is None


def test_a_saved_step_that_is_met_no_more_fails_the_attempt() -> None:
    run = resumed(step="gone")
    Steps(run).step("a", "b")
    assert progress(run) == {}
    assert str(run.take_error()) == 'river: resumable step "gone" not found in Worker'


@pytest.mark.parametrize("step", ["", None, 7, True, ["a"], {"a": 1}])
def test_a_saved_step_that_is_no_text_or_empty_counts_as_none(step: Any) -> None:
    steps = Steps(resumed(step=step))
    steps.step("a")
    assert steps.called == ["a"]
    assert steps.run.take_error() is None


def test_a_swallowed_error_passes_over_the_rest_and_fails_the_attempt() -> None:
    run = resumed()
    steps = Steps(run)
    with pytest.raises(ValueError, match="no"):
        run.step("a", fail)
    steps.step("b")
    steps.cursor("c")
    assert steps.called == []
    error = run.take_error()
    assert isinstance(error, ValueError)
    assert run.take_error() is None, "told once"


@pytest.mark.parametrize("step", [None, "a"])
def test_a_name_twice_is_refused_even_where_the_step_would_be_passed_over(step: str | None) -> None:
    run = resumed(step=step)
    steps = Steps(run)
    steps.step("a")
    with pytest.raises(ResumableError, match='duplicate resumable step name "a"'):
        steps.step("a")
    assert isinstance(run.take_error(), ResumableError)


def test_a_step_inside_another_is_refused_and_the_outer_one_is_not_done() -> None:
    run = resumed()
    Steps(run).step("a")

    def outer() -> None:
        with pytest.raises(ResumableError, match="cannot be nested"):
            run.step("inner", fail)

    with pytest.raises(ResumableError, match="cannot be nested"):
        run.step("outer", outer)
    assert progress(run) == {STEP: "a"}


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_step_needs_a_name(name: Any) -> None:
    with pytest.raises(ValidationError, match="name must be a non-empty string"):
        resumed().step(name, fail)


def test_a_step_needs_a_function() -> None:
    with pytest.raises(ValidationError, match="needs a function"):
        resumed().step("a", "b")  # type: ignore[arg-type]


def test_a_function_that_makes_a_coroutine_unseen_is_refused_before_it_counts() -> None:
    async def work() -> None: ...

    run = resumed()
    with pytest.raises(ValidationError, match="give an `async def`"):
        run.step("a", lambda: work())
    assert progress(run) == {}


# ---- cursors ----


def test_a_cursor_is_kept_when_its_step_fails_and_given_to_it_the_next_time() -> None:
    run = resumed()
    steps = Steps(run)
    steps.step("a")
    with pytest.raises(ValueError, match="no"):
        steps.cursor("b", leave={"id": 7})
    assert progress(run) == {STEP: "a", CURSOR: {"b": {"id": 7}}}
    again = Steps(resumed(step="a", cursor={"b": {"id": 7}}))
    again.step("a")
    again.cursor("b")
    assert again.called == [("b", {"id": 7})]
    assert progress(again.run) == {STEP: "b", CURSOR: None}, "null: the merge takes nothing away"


def test_a_cursor_without_any_step_done_is_kept_too() -> None:
    run = resumed()
    with pytest.raises(ValueError, match="no"):
        Steps(run).cursor("a", leave=1)
    assert progress(run) == {CURSOR: {"a": 1}}


def test_a_saved_step_that_has_a_cursor_runs_again_with_it() -> None:
    steps = Steps(resumed(step="b", cursor={"b": 3}))
    steps.step("a")
    steps.cursor("b")
    steps.step("c")
    assert steps.called == [("b", 3), "c"]


def test_cursors_of_other_steps_stay_digit_for_digit() -> None:
    long = "12345678901234567890.12345678901234567890"
    text = f'{{"{STEP}": "a", "x": [1], "{CURSOR}": {{"later": {{"n": {long}}}, "b": 1}}}}'
    run = Resumable(text.encode())
    steps = Steps(run)
    steps.step("a")
    with pytest.raises(ValueError, match="no"):
        steps.cursor("b", leave=2)
    assert run.progress()[CURSOR] == f'"{CURSOR}":{{"later":{{"n": {long}}},"b":2}}'.encode()


@pytest.mark.parametrize("cursor", [None, {}])
def test_null_and_empty_cursors_are_none(cursor: Any) -> None:
    steps = Steps(resumed(cursor=cursor))
    steps.cursor("a")
    assert steps.called == [("a", None)]
    assert steps.run.take_error() is None


@pytest.mark.parametrize("cursor", [[], [1], "x", 1, True])
def test_saved_cursors_that_are_no_object_are_refused_at_once(cursor: Any) -> None:
    with pytest.raises(DecodeError, match="river:resumable_cursor must be an object"):
        resumed(cursor=cursor)


def test_cursors_alone_must_all_be_met_before_anything_new_is_kept() -> None:
    run = resumed(cursor={"b": 1, "c": 2})
    steps = Steps(run)
    steps.step("a")
    steps.cursor("b")
    assert progress(run) == {}, "the saved cursor of c would be behind the new boundary"
    assert str(run.take_error()) == 'river: resumable cursor step "c" not found in Worker'
    run = resumed(cursor={"b": 1, "c": 2})
    steps = Steps(run)
    steps.step("a")
    steps.cursor("b")
    with pytest.raises(ValueError, match="no"):
        steps.cursor("c", leave=3)
    assert progress(run) == {STEP: "b", CURSOR: {"c": 3}}


def test_a_step_that_left_a_cursor_must_be_a_cursor_step_again() -> None:
    with pytest.raises(ResumableError, match='cursor step "a" requires a cursor step'):
        Steps(resumed(cursor={"a": 1})).step("a")


def test_with_a_step_saved_cursors_of_steps_that_are_gone_do_no_harm() -> None:
    steps = Steps(resumed(step="a", cursor={"gone": 1}))
    steps.step("a", "b")
    assert steps.run.take_error() is None


@pytest.mark.parametrize("where", ["outside", "plain step"])
def test_a_cursor_is_set_in_a_cursor_step_alone(where: str) -> None:
    run = resumed()
    with pytest.raises(ResumableError, match="within a cursor step"):
        run.step("a", lambda: run.set_cursor(1)) if where == "plain step" else run.set_cursor(1)


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800", "a\0b", {1: 2}])
def test_a_cursor_that_is_not_json_is_refused(value: Any) -> None:
    run = resumed()
    with pytest.raises(EncodeError):
        run.step_cursor("a", lambda cursor: run.set_cursor(value))
    assert progress(run) == {}


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, 2**70, {"a": [1, {"b": "ü"}]}])
def test_any_json_is_a_cursor(value: Any) -> None:
    run = resumed()
    with pytest.raises(ValueError, match="no"):
        run.step_cursor("ä", lambda cursor: (run.set_cursor(value), fail()))
    stored = progress(run)[CURSOR]
    seen: list[Any] = []
    resumed(cursor=stored).step_cursor("ä", seen.append)
    assert seen == [value]


@pytest.mark.parametrize(
    "text", ["[1]", '"river:resumable_step"', '["river:resumable_cursor"]', '{"a": {"river:resumable_cursor": [1]}}']
)
def test_other_places_of_the_same_words_are_nothing_or_refused_as_unreadable(text: str) -> None:
    if text.startswith("{"):
        assert Resumable(text.encode()).take_error() is None
    elif b'"river:resumable_' in text.encode():
        with pytest.raises(DecodeError, match="cannot be read"):
            Resumable(text.encode())


# ---- async ----


def both(body: Callable[[Resumable], Any]) -> Resumable:
    run = resumed()
    asyncio.run(body(run))
    return run


def test_an_async_step_is_awaited_for_its_answer_and_its_error() -> None:
    async def answer(cursor: Any = None) -> int:
        await asyncio.sleep(0)
        return 42

    async def broken() -> None:
        await asyncio.sleep(0)
        fail()

    async def body(run: Resumable) -> None:
        assert await run.step("a", answer) == 42
        assert await run.step("b", partial(answer, 1)) == 42
        assert await run.step_cursor("c", answer) == 42
        with pytest.raises(ValueError, match="no"):
            await run.step("d", broken)
        assert await run.step("e", answer) is None, "passed over"

    assert progress(both(body)) == {STEP: "c"}


def test_an_async_step_that_is_cancelled_is_not_done() -> None:
    async def body(run: Resumable) -> None:
        await run.step("a", partial(asyncio.sleep, 0))
        entered = asyncio.Event()

        async def hang() -> None:
            entered.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(run.step("b", hang))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert progress(both(body)) == {STEP: "a"}


def test_two_async_steps_at_once_are_one_inside_the_other() -> None:
    async def body(run: Resumable) -> None:
        release = asyncio.Event()
        first = asyncio.ensure_future(run.step("a", release.wait))
        await asyncio.sleep(0)
        with pytest.raises(ResumableError, match="cannot be nested"):
            await run.step("b", release.wait)
        release.set()
        with pytest.raises(ResumableError, match="cannot be nested"):
            await first

    assert progress(both(body)) == {}


def test_what_counts_as_async() -> None:
    async def work() -> None: ...

    class Call:
        async def __call__(self) -> None: ...

    assert [is_async(fn) for fn in (work, partial(partial(work)), Call())] == [True] * 3
    assert not any(is_async(fn) for fn in (fail, partial(fail), print, Steps))


# ---- checkpoints ----


def test_a_checkpoint_is_the_step_that_runs_and_every_cursor() -> None:
    run = resumed(step="a", cursor={"c": 5})
    Steps(run).step("a")
    seen: list[Any] = []

    def work() -> None:
        text, written = run.checkpoint()
        written()
        seen.append(json.loads(text))

    run.step("b", work)
    assert seen == [{STEP: "b", CURSOR: {"c": 5}}]
    assert progress(run) == {STEP: "b"}, "done in the worker, after the checkpoint"


def test_only_later_progress_goes_with_the_outcome_after_a_checkpoint() -> None:
    run = resumed()
    Steps(run).step("a")

    def work(cursor: Any) -> None:
        run.set_cursor(1)
        text, written = run.checkpoint(b"2")
        assert json.loads(text) == {STEP: "b", CURSOR: {"b": 2}}
        written()
        assert progress(run) == {}
        fail()

    with pytest.raises(ValueError, match="no"):
        run.step_cursor("b", work)
    assert progress(run) == {}, "what was rolled back is not brought back"


def test_a_checkpoint_that_was_not_written_changes_nothing() -> None:
    run = resumed()
    Steps(run).step("a")

    def work(cursor: Any) -> None:
        run.checkpoint(b"2")
        fail()

    with pytest.raises(ValueError, match="no"):
        run.step_cursor("b", work)
    assert progress(run) == {STEP: "a"}


def test_checkpoints_are_refused_outside_steps_and_before_saved_cursors_are_met() -> None:
    run = resumed(cursor={"b": 1})
    with pytest.raises(ResumableError, match="not inside a resumable step"):
        run.checkpoint()
    with pytest.raises(ResumableError, match='cannot precede saved cursor step "b"'):
        run.step("a", run.checkpoint)
    with pytest.raises(ResumableError, match="within a cursor step"):
        resumed().step("a", lambda: resumed().checkpoint(b"1"))
