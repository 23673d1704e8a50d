"""``fact``: what an immutable object works out once, when first asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

ValueT = TypeVar("ValueT")


class fact(Generic[ValueT]):  # noqa: N801 - it is used as a decorator
    """``functools.cached_property`` without its lock, which costs a twentieth of a P-256 verdict
    (Python 3.11); a worker judges in one thread."""

    def __init__(self, work_out: Callable[[Any], ValueT]) -> None:
        self._work_out, self.__doc__ = work_out, work_out.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> fact[ValueT]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> ValueT: ...

    def __get__(self, instance: object | None, owner: type) -> ValueT | fact[ValueT]:
        if instance is None:
            return self
        value = self._work_out(instance)
        instance.__dict__[self._name] = value  # found before this descriptor from now on
        return value
