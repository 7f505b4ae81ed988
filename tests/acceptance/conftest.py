"""Fixtures of tests that run a whole client."""

from tests.fix_client import busy_machine, make_client, slow_disk, until
from tests.fix_yugabyte import yugabyte

__all__ = ["busy_machine", "make_client", "slow_disk", "until", "yugabyte"]
