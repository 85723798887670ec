"""`runMultiple`: notebooks of a graph, side by side as far as their dependencies allow. Knows nothing of Spark.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#reference-run-multiple-notebooks-in-parallel
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

_KEYS = frozenset({
    "name", "path", "timeoutPerCellInSeconds", "timeoutInSeconds", "args", "retry", "retryIntervalInSeconds",
    "dependencies", "workspace",
})  # fmt: skip
_GRAPH_KEYS = frozenset({"activities", "timeoutInSeconds", "concurrency"})
_CELL_SECONDS = 90.0
_ALL_SECONDS = 12 * 3600.0
_CONCURRENCY = 50
_EXIT_VALUE = re.compile(r"@activity\('([^']+)'\)\.exitValue\(\)")

#: Runs a notebook in the calling thread: path, arguments, seconds a cell may take; its exit value.
Run = Callable[[str, Mapping[str, Any], float], str]


@dataclass(frozen=True)
class Activity:
    """One notebook of the graph. Times in seconds."""

    name: str
    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cell_seconds: float = _CELL_SECONDS
    retries: int = 0
    retry_seconds: float = 0.0
    dependencies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Activities in an order in which each comes after those it depends on."""

    activities: tuple[Activity, ...]
    seconds: float = _ALL_SECONDS
    concurrency: int = _CONCURRENCY


class RunMultipleFailedException(Exception):
    """At least one notebook failed. `result`: {name: {"exitVal", "exception"}} of all of them."""

    def __init__(self, result: dict[str, Any]) -> None:
        failed = [f"{name}: {each['exception']}" for name, each in result.items() if each["exception"] is not None]
        super().__init__(f"runMultiple: {len(failed)} of {len(result)} notebooks failed. " + "; ".join(failed))
        self.result = result


def parse(dag: Sequence[str] | Mapping[str, Any]) -> Graph:
    """The graph of a list of paths or a description. Raises ValueError saying what is wrong, and where."""
    if not isinstance(dag, Mapping):
        if isinstance(dag, str) or not all(isinstance(path, str) for path in dag):
            raise ValueError("a graph is a list of notebooks' paths, or an object with activities")
        return parse({"activities": [{"name": path, "path": path} for path in dag]})
    _only(dag, _GRAPH_KEYS, "the graph")
    found = [_activity(item, f"activities[{number}]") for number, item in enumerate(dag.get("activities") or [])]
    if not found:
        raise ValueError("the graph has no activities")
    by_name = {each.name: each for each in found}
    if len(by_name) != len(found):
        names = [each.name for each in found]
        raise ValueError(f"two activities have the name {next(n for n in names if names.count(n) > 1)!r}")
    for each in found:
        if unknown := [name for name in each.dependencies if name not in by_name]:
            raise ValueError(f"activity {each.name!r} depends on {unknown[0]!r}, which isn't in the graph")
    return Graph(
        _ordered(by_name),
        _number(dag, "timeoutInSeconds", _ALL_SECONDS, "the graph"),
        max(1, int(_number(dag, "concurrency", _CONCURRENCY, "the graph"))),
    )


def run(graph: Graph, call: Run) -> dict[str, Any]:
    """Run the graph. Raises RunMultipleFailedException with every result if one failed, was too late, or had to be left
    out because one that it depends on failed.
    """
    deadline = time.monotonic() + graph.seconds
    results: dict[str, dict[str, Any]] = {}
    running: dict[Future[str], Activity] = {}
    waiting = list(graph.activities)
    while waiting or running:
        for each in list(waiting):
            failed = [name for name in each.dependencies if results.get(name, {}).get("exception") is not None]
            if failed:
                results[each.name] = _result(error=RuntimeError(f"skipped, because {failed[0]!r} failed"))
                waiting.remove(each)
            elif len(running) < graph.concurrency and all(name in results for name in each.dependencies):
                running[_started(each, results, call)] = each
                waiting.remove(each)
        if not running:
            continue
        done, _ = wait(running, timeout=max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED)
        for future in done:
            each, error = running.pop(future), future.exception()
            results[each.name] = _result(error=error) if error else _result(future.result())
        if not done:
            late = TimeoutError(f"runMultiple did not end within {graph.seconds:g} s")
            for each in [*running.values(), *waiting]:
                results[each.name] = _result(error=late)
            break
    ordered = {each.name: results[each.name] for each in graph.activities}
    if any(each["exception"] is not None for each in ordered.values()):
        raise RunMultipleFailedException(ordered)
    return ordered


def _started(activity: Activity, results: Mapping[str, Any], call: Run) -> Future[str]:
    arguments = {name: _filled(value, results) for name, value in activity.arguments.items()}
    future: Future[str] = Future()

    def attempt() -> None:
        for number in range(activity.retries + 1):
            try:
                future.set_result(call(activity.path, arguments, activity.cell_seconds))
                return
            except BaseException as error:
                if number == activity.retries:
                    future.set_exception(error)
                else:
                    time.sleep(activity.retry_seconds)

    # A daemon: one that is late doesn't keep the session.
    threading.Thread(target=attempt, name=f"notebook {activity.name}", daemon=True).start()
    return future


def _result(value: str | None = None, error: BaseException | None = None) -> dict[str, Any]:
    return {"exitVal": value, "exception": error}


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    """An argument with the exit values it names, `@activity('name').exitValue()`."""
    if not isinstance(value, str):
        return value
    return _EXIT_VALUE.sub(lambda match: str(results[match[1]]["exitVal"]), value)


def _ordered(by_name: Mapping[str, Activity]) -> tuple[Activity, ...]:
    found: dict[str, Activity] = {}
    left = dict(by_name)
    while left:
        ready = [name for name, each in left.items() if all(other in found for other in each.dependencies)]
        if not ready:
            raise ValueError(f"the dependencies run in a circle: {', '.join(sorted(left))}")
        found |= {name: left.pop(name) for name in ready}
    return tuple(found.values())


def _activity(item: Any, where: str) -> Activity:
    if not isinstance(item, Mapping):
        raise ValueError(f"{where} must be an object")
    _only(item, _KEYS, where)
    for key in ("name", "path"):
        if not isinstance(item.get(key), str) or not item[key]:
            raise ValueError(f"{where} needs {key}, a text")
    arguments, dependencies = item.get("args") or {}, item.get("dependencies") or []
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}.args must be an object")
    if isinstance(dependencies, str) or not all(isinstance(name, str) for name in dependencies):
        raise ValueError(f"{where}.dependencies must be a list of names")
    for value in arguments.values():
        for name in _EXIT_VALUE.findall(value) if isinstance(value, str) else ():
            if name not in dependencies:
                raise ValueError(f"{where}.args asks for the exit value of {name!r}, which isn't a dependency")
    if item.get("workspace"):
        raise NotImplementedError("runMultiple with another workspace is not implemented by localazure")
    return Activity(
        name=item["name"],
        path=item["path"],
        arguments=arguments,
        cell_seconds=_number(item, "timeoutPerCellInSeconds", _CELL_SECONDS, where),
        retries=int(_number(item, "retry", 0, where)),
        retry_seconds=_number(item, "retryIntervalInSeconds", 0, where),
        dependencies=tuple(dependencies),
    )


def _only(item: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    if unknown := sorted(set(item) - known):
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")


def _number(item: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = item.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{key} of {where} must be a number, not {value!r}")
    return float(value)
