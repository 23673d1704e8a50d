"""Which faults pass by themselves, and how a fault is described without its content.

Every consumer, loop and client decides by ``is_transient`` alone (docs/errors.md).
"""

from __future__ import annotations

import asyncpg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from shared.errors import Transient

_TRANSIENT = (
    Transient,
    OSError,
    TimeoutError,
    NatsError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A login, database or right that was withdrawn while the service runs. The message that met
    # it first is not at fault.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


def is_transient(error: BaseException) -> bool:
    """Return whether trying again later can help: database or broker away, deadlock, time-out."""
    if isinstance(error, MaxPayloadError) or _quotes_a_value(error):
        return False
    return isinstance(error, _TRANSIENT)


def describe(error: BaseException) -> str:
    """Return one line without content: some drivers put rows into their messages."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} ({getattr(error, 'sqlstate', '?')})"
    if _quotes_a_value(error):
        return type(error).__name__
    return f"{type(error).__name__}: {error}"[:200]


def describe_unexpected(error: BaseException) -> str:
    """Return the type and the place of an unexpected fault.

    Its text is left out: the text of a foreign library may quote a row or a message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"unexpected {type(error).__name__} at {raised_at(error)}"


def raised_at(error: BaseException) -> str:
    """Return ``function:line`` of the innermost frame that raised ``error``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


def _quotes_a_value(error: BaseException) -> bool:
    """asyncpg's own errors about a value that does not fit its column quote the value."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
