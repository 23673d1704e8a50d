"""A cached property for objects that never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

ValueT = TypeVar("ValueT")


class lazy_property(Generic[ValueT]):  # noqa: N801 - used as a decorator
    """Compute a property when it is first read, and keep its value in the instance.

    This is ``functools.cached_property`` without its lock, which costs a twentieth of a P-256
    verdict (Python 3.11). A worker judges in one thread, so no lock is needed.
    """

    def __init__(self, compute: Callable[[Any], ValueT]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazy_property[ValueT]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> ValueT: ...

    def __get__(self, instance: object | None, owner: type) -> ValueT | lazy_property[ValueT]:
        if instance is None:
            return self
        value = self._compute(instance)
        # This class defines no __set__, so from now on Python finds the value in the instance's
        # __dict__ before it comes here.
        instance.__dict__[self._name] = value
        return value
