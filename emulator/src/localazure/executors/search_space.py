"""The hyperparameters of a sweep: distributions as they are on the wire, and values drawn from them.

    ["choice", [[16, 32, {"kind": "cnn"}]]]   ["randint", [upper]]
    ["uniform" | "loguniform", [min, max]]    ["quniform" | "qloguniform", [min, max, q]]
    ["normal" | "lognormal", [mu, sigma]]     ["qnormal" | "qlognormal", [mu, sigma, q]]

Every value is the distribution's quantile at a number of [0, 1): whatever a sampler is, it only has to supply points of
the unit cube. https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-sweep#parameter-expressions
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from localazure.core.errors import BadRequest

NUMBERS = {
    "randint": ("upper",),
    "uniform": ("min_value", "max_value"),
    "loguniform": ("min_value", "max_value"),
    "quniform": ("min_value", "max_value", "q"),
    "qloguniform": ("min_value", "max_value", "q"),
    "normal": ("mu", "sigma"),
    "lognormal": ("mu", "sigma"),
    "qnormal": ("mu", "sigma", "q"),
    "qlognormal": ("mu", "sigma", "q"),
}
KINDS = ("choice", *NUMBERS)
# NormalDist has no quantile at 0.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Distribution:
    """One hyperparameter. `values` are a choice's, `numbers` every other kind's parameters, in the wire's order."""

    kind: str
    values: tuple[Any, ...] = ()
    numbers: tuple[float, ...] = ()

    @property
    def dimensions(self) -> int:
        """How many numbers of [0, 1) a value takes: one, and those of distributions inside a choice's objects."""
        return 1 + sum(inner.dimensions for inner in self.nested())

    def nested(self) -> Iterator[Distribution]:
        """The distributions inside the objects of a choice."""
        for value in self.values:
            if isinstance(value, dict):
                yield from (inner for inner in value.values() if isinstance(inner, Distribution))

    def size(self) -> int | None:
        """How many different values there are; None where that isn't countable in practice."""
        if self.kind == "randint":
            return int(self.numbers[0])
        if self.kind != "choice" or any(True for _ in self.nested()):
            return None
        return len(self.values)

    def at(self, point: Sequence[float], base: float = math.e) -> Any:
        """The value at `point` (as many numbers of [0, 1) as `dimensions`). `base` is that of the log-kinds."""
        first = point[0]
        if self.kind == "choice":
            return self._chosen(min(int(first * len(self.values)), len(self.values) - 1), point[1:], base)
        if self.kind == "randint":
            return min(int(first * self.numbers[0]), int(self.numbers[0]) - 1)
        low, high = self.numbers[:2]
        if "normal" in self.kind:
            value = NormalDist(low, high).inv_cdf(max(first, _SMALLEST)) if high > 0 else low
        else:
            value = low + first * (high - low)
        if "log" in self.kind:
            value = base**value
        if not self.kind.startswith("q"):
            return value
        q = self.numbers[2]
        rounded = round(value / q) * q
        return int(rounded) if float(q).is_integer() else rounded

    def _chosen(self, index: int, rest: Sequence[float], base: float) -> Any:
        used = 0
        for number, value in enumerate(self.values):
            if not isinstance(value, dict):
                continue
            drawn = {}
            for key, inner in value.items():
                if isinstance(inner, Distribution):
                    drawn[key] = inner.at(rest[used : used + inner.dimensions], base)
                    used += inner.dimensions
                else:
                    drawn[key] = inner
            if number == index:
                return drawn
        return self.values[index]


@dataclass(frozen=True)
class SearchSpace:
    """All hyperparameters of a sweep, in their order."""

    parameters: Mapping[str, Distribution]
    base: float = math.e

    @property
    def dimensions(self) -> int:
        return sum(each.dimensions for each in self.parameters.values())

    def size(self) -> int | None:
        """How many configurations there are; None without end."""
        total = 1
        for each in self.parameters.values():
            size = each.size()
            if size is None:
                return None
            total *= size
        return total

    def at(self, point: Sequence[float]) -> dict[str, Any]:
        """The configuration at a point of the unit cube."""
        values, used = {}, 0
        for name, each in self.parameters.items():
            values[name] = each.at(point[used : used + each.dimensions], self.base)
            used += each.dimensions
        return values

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every configuration; all parameters are choices (`require_grid`)."""
        names = list(self.parameters)
        for values in itertools.product(*(each.values for each in self.parameters.values())):
            yield dict(zip(names, values, strict=True))

    def require_grid(self) -> None:
        """BadRequest unless grid sampling can be used, in the vendor's words."""
        for name, each in self.parameters.items():
            if each.kind != "choice" or each.size() is None:
                raise _bad(name, "Grid sampling can only be used with choice hyperparameters", each)

    def require_bayesian(self) -> None:
        """BadRequest unless Bayesian sampling can be used, in the vendor's words."""
        for name, each in self.parameters.items():
            if each.kind not in ("choice", "uniform", "quniform") or each.dimensions > 1:
                raise _bad(name, "Bayesian sampling supports choice, uniform, and quniform distributions", each)


def parse(space: Any, base: float = math.e) -> SearchSpace:
    """The search space of a sweep job. BadRequest names the hyperparameter and what is wrong with it."""
    if not isinstance(space, dict) or not space:
        raise BadRequest("A sweep job needs a search_space with at least one hyperparameter.", "searchSpace")
    return SearchSpace({str(name): _distribution(str(name), entry) for name, entry in space.items()}, base)


def text(value: Any) -> str:
    """A hyperparameter's value as it is written into a command or an environment variable."""
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _distribution(name: str, entry: Any) -> Distribution:
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[1], list):  # noqa: PLR2004
        raise _wrong(name, f"an expression is a list of a type and its parameters, not {json.dumps(entry)}")
    kind, parameters = str(entry[0]).lower(), entry[1]
    if kind == "choice":
        values = parameters[0] if parameters else None
        if not isinstance(values, list) or not values:
            raise _wrong(name, "choice needs values, a list with at least one entry")
        return Distribution("choice", tuple(_value(name, value) for value in values))
    wanted = NUMBERS.get(kind)
    if wanted is None:
        raise _wrong(name, f"the type '{entry[0]}' is unknown; there are {', '.join(KINDS)}")
    if len(parameters) != len(wanted) or not all(_is_number(each) for each in parameters):
        raise _wrong(name, f"{kind} needs the numbers {', '.join(wanted)}, not {json.dumps(parameters)}")
    numbers = tuple(float(each) for each in parameters)
    if kind == "randint" and (numbers[0] < 1 or not numbers[0].is_integer()):
        raise _wrong(name, f"upper must be a whole number above 0, not {parameters[0]}")
    if "uniform" in kind and numbers[0] > numbers[1]:
        raise _wrong(name, f"min_value ({parameters[0]}) is above max_value ({parameters[1]})")
    if "normal" in kind and numbers[1] < 0:
        raise _wrong(name, f"sigma must not be negative, but is {parameters[1]}")
    if kind.startswith("q") and numbers[2] <= 0:
        raise _wrong(name, f"q must be above 0, not {parameters[2]}")
    return Distribution(kind, numbers=numbers)


def _value(name: str, value: Any) -> Any:
    """A value of a choice. In an object, what looks like an expression is one."""
    if not isinstance(value, dict):
        return value

    def inner(key: str, each: Any) -> Any:
        is_expression = isinstance(each, list) and len(each) == 2 and each[0] in KINDS  # noqa: PLR2004
        return _distribution(f"{name}.{key}", each) if is_expression else each

    return {key: inner(key, each) for key, each in value.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, what: str) -> BadRequest:
    return BadRequest(f"The hyperparameter '{name}' of the search_space: {what}.", f"searchSpace.{name}", "UserError")


def _bad(name: str, rule: str, found: Distribution) -> BadRequest:
    what = "a choice with distributions in its values" if found.kind == "choice" else found.kind
    return BadRequest(f"{rule}; the hyperparameter '{name}' is {what}.", f"searchSpace.{name}", "UserError")
