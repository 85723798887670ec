"""Decisions that keep a model honest, as pure functions: evidence in, verdict out.

Nothing here talks to a service, reads a clock or logs; the operators gather the evidence and act on the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# --- promotion ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A metric's value on the hold-out and its bootstrap interval; None where it isn't defined (one class only)."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def from_evidence(cls, found: Mapping[str, Any] | None) -> Measured | None:
        return None if found is None else cls(found.get("value"), found.get("low"), found.get("high"))

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        return f"{self.value:.4f}" if self.low is None else f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class PromotionRules:
    """What a challenger must show (model.yml, evaluate.gate).

    `max_loss`: how much of the metric it may lose against the champion on the same rows; `floor`: the least value that is
    worth serving at all; `min_rows`: the fewest hold-out rows on which a decision is made.
    """

    max_loss: float
    floor: float
    min_rows: int


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is promoted, and why, in words for a person."""

    promote: bool
    forced: bool
    reasons: tuple[str, ...]
    metric: str
    rows: int
    challenger: Measured
    champion: Measured | None
    difference: Measured | None
    champion_version: str | None


def judge_challenger(evidence: Mapping[str, Any], rules: PromotionRules, *, force: bool = False) -> Verdict:
    """Decides on the evidence an evaluation job wrote (`metric`, `rows`, `challenger`, `champion`, `difference`).

    A first model has no champion to beat: floor and rows alone decide. `force` promotes against the rules and says so; it can't
    promote a model whose metric is undefined, since nobody knows what it would do.
    """
    challenger = Measured.from_evidence(evidence["challenger"])
    champion = Measured.from_evidence(evidence.get("champion"))
    difference = Measured.from_evidence(evidence.get("difference"))
    metric, rows, version = str(evidence["metric"]), int(evidence["rows"]), evidence.get("champion_version")
    if challenger is None:
        raise ValueError("the evidence has no challenger")
    against: list[str] = []
    if rows < rules.min_rows:
        against.append(f"the hold-out has {rows} rows, fewer than the {rules.min_rows} a decision needs (min_rows)")
    if challenger.value is None:
        against.append(f"the challenger's {metric} is undefined: the hold-out has one class only")
    elif challenger.value < rules.floor:
        against.append(f"the challenger's {metric} {challenger.value:.4f} is below the floor {rules.floor:.4f}")
    if difference is not None and difference.value is not None and difference.value < -rules.max_loss:
        against.append(
            f"on the same {rows} rows the challenger's {metric} is {-difference.value:.4f} below champion version {version} "
            f"(difference {difference}), more than the {rules.max_loss:.4f} it may lose (max_loss)"
        )
    promote = not against
    if promote and difference is None:
        reasons = (f"{metric} {challenger} is at or above the floor {rules.floor:.4f}, and there is no champion to beat",)
    elif promote:
        reasons = (f"{metric} {challenger} against champion version {version}'s {champion}: difference {difference}, within the {rules.max_loss:.4f} it may lose",)
    else:
        reasons = tuple(against)
    forced = force and not promote and challenger.value is not None
    if forced:
        reasons = ("promoted by force, against the rules", *reasons)
    return Verdict(promote or forced, forced, reasons, metric, rows, challenger, champion, difference, version)
