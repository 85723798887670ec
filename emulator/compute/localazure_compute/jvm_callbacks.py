"""Errors of Python that the driver's JVM calls back, given to the Python that called the JVM as they were raised."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound=Exception)

#: What callbacks raised lately, until it came back through the JVM.
_raised: deque[Exception] = deque(maxlen=16)


def raised(error: _Error) -> _Error:
    """Note an error that is about to be raised to the JVM."""
    _raised.append(error)
    return error


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Note whatever is raised inside."""
    try:
        yield
    except Exception as error:
        _raised.append(error)
        raise


@functools.cache
def report_errors() -> None:
    """Have a noted error come back as it was raised, not as the JVM's account of a failed callback."""
    from pyspark.errors.exceptions import captured

    original = captured.convert_exception

    def convert(error: Any) -> Any:
        text = error.toString() if _raised else ""
        for each in list(_raised):
            if f"{type(each).__name__}: {each}" in text:
                _raised.remove(each)
                return each
        return original(error)

    captured.convert_exception = convert
