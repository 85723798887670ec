"""Decisions that keep a model honest, as pure functions: evidence in, verdict out.

Nothing here talks to a service, reads a clock or logs; the operators gather the evidence and act on the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

# -- promotion -------------------------------------------------------------------------------------------------------


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

    `max_loss`: how much of the metric it may lose against the champion on the same rows; `floor`: the least value that
    is worth serving at all; `min_rows`: the fewest hold-out rows on which a decision is made.
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

    A first model has no champion to beat: floor and rows alone decide. `force` promotes against the rules and says so;
    it can't promote a model whose metric is undefined, since nobody knows what it would do.
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
            f"on the same {rows} rows the challenger's {metric} is {-difference.value:.4f} below champion version "
            f"{version} (difference {difference}), more than the {rules.max_loss:.4f} it may lose (max_loss)"
        )
    promote = not against
    reasons: tuple[str, ...]
    if promote and difference is None:
        reasons = (
            f"{metric} {challenger} is at or above the floor {rules.floor:.4f}, and there is no champion to beat",
        )
    elif promote:
        reasons = (
            f"{metric} {challenger} against champion version {version}'s {champion}: difference {difference}, within "
            f"the {rules.max_loss:.4f} it may lose",
        )
    else:
        reasons = tuple(against)
    forced = force and not promote and challenger.value is not None
    if forced:
        reasons = ("promoted by force, against the rules", *reasons)
    return Verdict(promote or forced, forced, reasons, metric, rows, challenger, champion, difference, version)


# -- roll-out --------------------------------------------------------------------------------------------------------

#: So many errors above the limit end a stage before its window is over.
_EARLY_ERRORS = 3


@dataclass(frozen=True)
class Sample:
    """What one request to an endpoint told.

    `deployment` is the one that answered ("" if the answer named none), `by_name` whether it was asked for by name or
    chosen by the traffic split, `milliseconds` what the caller waited, `problem` what was wrong (empty: a valid
    answer). `rows` were asked, `compared` of them could be compared with the champion's answers and `agreed` of those
    said the same.
    """

    deployment: str
    by_name: bool
    milliseconds: float
    problem: str = ""
    rows: int = 0
    compared: int = 0
    agreed: int = 0


@dataclass(frozen=True)
class RolloutRules:
    """What a deployment must show at every stage (model.yml, deploy).

    `max_error_rate`: share of its requests that may fail; `max_p95_ms`: 95 % of its answers must come within;
    `min_agreement`: share of rows on which it must say what the champion says; `min_requests`: fewer tell nothing.
    """

    max_error_rate: float = 0.01
    max_p95_ms: float = 1000.0
    min_agreement: float = 0.0
    min_requests: int = 10


@dataclass(frozen=True)
class StageJudgement:
    """What to do after looking at a stage, and why, in words for a person. Times in milliseconds."""

    decision: Literal["advance", "hold", "roll_back"]
    reasons: tuple[str, ...]
    requests: int
    errors: int
    p95_ms: float | None
    agreement: float | None
    share: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for evidence."""
        return asdict(self) | {"reasons": list(self.reasons)}


def judge_stage(
    samples: Sequence[Sample], challenger: str, rules: RolloutRules, *, window_over: bool
) -> StageJudgement:
    """Advance, hold or roll back, from what was seen at this stage so far.

    Before the window is over, several errors above the limit roll back at once; latency and agreement are judged at its
    end. A window with too few requests is held, so that the caller can go on looking.
    """
    # A failed request that no deployment signed is the endpoint's, and at this moment that means ours.
    ours = [sample for sample in samples if sample.deployment in {challenger, ""}]
    errors = [sample for sample in ours if sample.problem]
    answered = [sample.milliseconds for sample in ours if not sample.problem]
    compared, agreed = sum(sample.compared for sample in ours), sum(sample.agreed for sample in ours)
    by_split = [sample for sample in samples if not sample.by_name and sample.deployment]
    p95 = percentile(answered, 0.95) if answered else None
    agreement = agreed / compared if compared else None
    share = sum(sample.deployment == challenger for sample in by_split) / len(by_split) if by_split else None
    against: list[str] = []
    rate = len(errors) / len(ours) if ours else 0.0
    too_many = rate > rules.max_error_rate and (window_over or len(errors) >= _EARLY_ERRORS)
    if too_many:
        against.append(
            f"{len(errors)} of {len(ours)} requests to {challenger} failed ({rate:.1%}; max_error_rate is "
            f"{rules.max_error_rate:.1%}), the last one: {errors[-1].problem}"
        )
    if window_over and p95 is not None and p95 > rules.max_p95_ms:
        against.append(f"95 % of {challenger}'s answers took up to {p95:.0f} ms (max_p95_ms is {rules.max_p95_ms:.0f})")
    if window_over and agreement is not None and agreement < rules.min_agreement:
        against.append(
            f"{challenger} agrees with the champion on {agreement:.1%} of {compared} rows (min_agreement is "
            f"{rules.min_agreement:.1%})"
        )
    decision: Literal["advance", "hold", "roll_back"] = "hold"
    reasons: tuple[str, ...]
    if against:
        decision, reasons = "roll_back", tuple(against)
    elif not window_over:
        reasons = ("the window isn't over",)
    elif len(ours) < rules.min_requests:
        reasons = (f"only {len(ours)} requests reached {challenger}; {rules.min_requests} are needed",)
    else:
        decision = "advance"
        reasons = (f"{len(ours)} requests, {len(errors)} failed, p95 {p95 or 0:.0f} ms",)
    return StageJudgement(decision, reasons, len(ours), len(errors), p95, agreement, share)


def next_traffic(current: Mapping[str, int], challenger: str, percent: int) -> dict[str, int]:
    """The traffic map with `challenger` at `percent`; the others share the rest as they did before. Sums to 100.

    Where nobody else has traffic, the challenger gets all of it: a map that sums to less is refused by Azure, and one
    that sums to 0 takes the endpoint down.
    """
    others = {name: share for name, share in current.items() if name != challenger and share > 0}
    idle = {name: 0 for name in current if name != challenger and name not in others}
    if not others:
        return idle | {challenger: 100}
    rest, before = 100 - percent, sum(others.values())
    exact = {name: rest * share / before for name, share in others.items()}
    shares = {name: int(value) for name, value in exact.items()}
    # What rounding lost goes to those who lost most.
    for name in sorted(exact, key=lambda name: exact[name] - shares[name], reverse=True)[: rest - sum(shares.values())]:
        shares[name] += 1
    return idle | shares | {challenger: percent}


def stages_left(stages: Sequence[int], share: int) -> tuple[int, ...]:
    """The stages that a deployment with `share` percent of the traffic hasn't reached yet."""
    return tuple(stage for stage in stages if stage > share)


def percentile(values: Sequence[float], portion: float) -> float:
    """The nearest-rank percentile: a value that occurred. `portion` is between 0 and 1; `values` has at least one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(portion * len(ordered)) - 1)]
