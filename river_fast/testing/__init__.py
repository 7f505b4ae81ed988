"""Helpers for tests of code that inserts and works jobs. River: rivertest.

Any thread; owns nothing. `require_*` look at what was inserted, `work_job` works one job at once, `Clock` and
`pass_time` steer times. Fixtures for pytest come with the package: `pytest_river_fast.py`, docs/testing.md.
"""

from river_fast.testing.clock import Clock, pass_time
from river_fast.testing.expected_job import ExpectedJob
from river_fast.testing.inline_work import WorkResult, work_job
from river_fast.testing.require import require_inserted, require_many_inserted, require_not_inserted

__all__ = [
    "Clock",
    "ExpectedJob",
    "WorkResult",
    "pass_time",
    "require_inserted",
    "require_many_inserted",
    "require_not_inserted",
    "work_job",
]
