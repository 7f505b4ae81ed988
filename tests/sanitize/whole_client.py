"""The compiled part under ASan with UBSan, and under TSan: its own tests, and the life of whole clients.

Run by `make sanitize`, not by `make test`: it builds four copies of the project and takes minutes. A report counts when
it names our libraries; a test of tests/ext that misses its time under a sanitizer does not, the load must end in full.
"""

from __future__ import annotations

import re

import pytest

from tests.fix_c import Fault
from tests.planted_faults import PLANTS
from tests.sanitize.build import LIBRARIES, Copy, Run, copy_built

JOBS = 600  # in each of the load's three clients
PLANTED = {"address,undefined": PLANTS["a slot too few"].fault, "thread": PLANTS["push publishes relaxed"].fault}

_copies: dict[tuple[str, Fault | None], Copy] = {}


def copy_of(sanitizer: str, fault: Fault | None = None) -> Copy:
    if (sanitizer, fault) not in _copies:
        _copies[sanitizer, fault] = copy_built(sanitizer, fault)
    return _copies[sanitizer, fault]


def load(copy: Copy, dsn: str, jobs: int) -> Run:
    return copy.run(["-m", "tests.sanitize.load", dsn, str(jobs)], timeout=600)


@pytest.mark.parametrize("sanitizer", LIBRARIES)
def test_life_of_whole_clients_gives_no_report(sanitizer: str, dsn: str) -> None:
    run = load(copy_of(sanitizer), dsn, JOBS)
    assert run.ours == []
    found = re.search(r"^ok jobs=(\d+)$", run.output, re.MULTILINE)
    assert found, run.output[-5000:]
    print(f"{sanitizer}: n={found[1]} jobs, 0 reports")


@pytest.mark.parametrize("sanitizer", LIBRARIES)
def test_tests_of_the_compiled_part_give_no_report(sanitizer: str, dsn: str) -> None:
    copy = copy_of(sanitizer)
    run = copy.run(["-m", "pytest", "tests/ext", "--timeout=120", "-p", "no:cacheprovider"], 1500, DATABASE_URL=dsn)
    assert run.ours == []
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", run.output)}
    assert counts.get("passed", 0) > 10 * (counts.get("failed", 0) + counts.get("error", 0)), run.output[-5000:]
    print(f"{sanitizer}: n={counts} tests, 0 reports\n{run.output[-2000:] if 'failed' in counts else ''}")


@pytest.mark.parametrize("sanitizer", LIBRARIES)
def test_planted_bug_is_reported(sanitizer: str, dsn: str) -> None:
    run = load(copy_of(sanitizer, PLANTED[sanitizer]), dsn, 60)
    assert run.ours, run.output[-5000:]
    assert run.status != 0
    print(f"{sanitizer}: {len(run.ours)} reports")
