"""River's conformance adapter: `python -m tests.conformance.adapter`, driven over its pipe by suites from outside.

The main thread reads, answers and ends; clients run beside it. At the end of stdin everything is closed and the process
exits with 0, whatever threads are left behind.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from tests.conformance import (
    contract,
    control_methods,
    fault_methods,
    generation_b,
    insert_methods,
    job_methods,
    lifecycle_methods,
    queue_methods,
    raw_methods,
)
from tests.conformance.environment import Environment
from tests.conformance.errors import METHOD_NOT_FOUND, RpcError
from tests.conformance.session import Session, let_any_metadata_in
from tests.conformance.transport import Transport

RECURSION = 10_500  # Go reads JSON of 10,000 levels

METHODS = {
    **control_methods.METHODS,
    **fault_methods.METHODS,
    **insert_methods.METHODS,
    **job_methods.METHODS,
    **lifecycle_methods.METHODS,
    **queue_methods.METHODS,
    **raw_methods.METHODS,
}


class Adapter:
    """Answers requests of generation A."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names = frozenset(contract.method_names(session.environment.profile))

    def answer(self, method: str, params: dict[str, Any], line: str) -> dict[str, Any]:
        if method not in self._names:
            raise RpcError(METHOD_NOT_FOUND, f"method {method!r:.80} is not in this profile")
        contract.check_params(method, params)
        if method == "unique_key":
            params = control_methods.with_raw_args(params, line)
        return METHODS[method](self._session, params)


def main() -> int:
    """The exit status."""
    logging.basicConfig(stream=sys.stderr, level=os.environ.get("RIVER_FAST_LOG", "WARNING").upper())
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)
    try:
        environment = Environment.of(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    let_any_metadata_in()
    session = Session(environment)
    answering = generation_b.Adapter(session) if environment.generation == "B" else Adapter(session)
    try:
        Transport(answering.answer, environment.generation).serve()
    finally:
        session.close()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # not through threads that jobs left behind
