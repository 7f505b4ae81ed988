"""What a request that cannot be answered is answered with: the contract's codes, and which of our errors is which.

Pure; any thread. Messages are free text that nobody compares.
"""

from __future__ import annotations

import logging

import psycopg

import river_fast as river

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL = -32000
NOT_FOUND = -32001
REJECTED = -32002
DATABASE_ERROR = -32003
UNSUPPORTED = -32004

# Generation B has JSON-RPC's own code for what broke, and one for all that River or the server refuses.
CODES_B = {INTERNAL: -32603, DATABASE_ERROR: REJECTED, UNSUPPORTED: REJECTED}

_LOGGER = logging.getLogger("conformance")


class RpcError(Exception):
    """Raised by a method: the answer is this error."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


def invalid_params(message: str) -> RpcError:
    return RpcError(INVALID_PARAMS, message)


def not_found(message: str) -> RpcError:
    return RpcError(NOT_FOUND, message)


def rejected(message: str) -> RpcError:
    return RpcError(REJECTED, message)


def unsupported(message: str) -> RpcError:
    return RpcError(UNSUPPORTED, message)


def named(error: Exception) -> RpcError:
    """The contract's error for whatever a method raised; logs what nobody expected."""
    if isinstance(error, RpcError):
        return error
    return RpcError(_code(error), f"{type(error).__name__}: {error}")


def _code(error: BaseException) -> int:
    if isinstance(error, river.NotFoundError | river.QueueNotFoundError):
        return NOT_FOUND
    # River leaves a unique conflict of a retry as the server's error
    if isinstance(error, river.DatabaseError | river.UniqueConflictError | psycopg.Error):
        return DATABASE_ERROR
    if isinstance(error, river.MigrationError) and isinstance(error.__cause__, river.DatabaseError):
        return DATABASE_ERROR
    if isinstance(error, river.RiverError | TimeoutError | OverflowError):
        return REJECTED
    _LOGGER.error("the adapter itself failed", exc_info=error)
    return INTERNAL
