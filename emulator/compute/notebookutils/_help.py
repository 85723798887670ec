"""`help()` of the utilities: signatures and the first line of what they say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any


def functions(namespace: Mapping[str, Any]) -> dict[str, FunctionType]:
    """The functions a module offers, by the name notebooks use."""
    return {
        name: each
        for name, each in namespace.items()
        if isinstance(each, FunctionType) and not name.startswith("_") and each.__module__ == namespace["__name__"]
    }


def show(module: str, namespace: Mapping[str, Any], method: str = "") -> None:
    """Print the module's functions, or all about one. Raises ValueError for a function that isn't there."""
    known = functions(namespace)
    if method:
        if method not in known:
            raise ValueError(f"{module} has no function {method!r}; it has {', '.join(sorted(known))}")
        print(f"{method}{inspect.signature(known[method])}\n\n{inspect.getdoc(known[method]) or ''}")
        return
    print(f"{module}:\n")
    for name, each in sorted(known.items()):
        print(f"{name}{inspect.signature(each)} -> {(inspect.getdoc(each) or '').splitlines()[0]}")
    print(f'\nUse {module}.help("methodName") for more info about a method.')
