"""Fixtures of tests that run a whole client."""

from tests.fix_client import make_client, until

__all__ = ["make_client", "until"]
