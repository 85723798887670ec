"""Decisions that keep a model honest, as pure functions: evidence in, verdict out.

Nothing here talks to a service, reads a clock or logs; the operators gather the evidence and act on the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from azflow.metrics import lower_is_better, shown

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
        if self.low is None or self.high is None:
            return shown(self.value)
        return f"{shown(self.value)} [{shown(self.low)}, {shown(self.high)}]"


@dataclass(frozen=True)
class PromotionRules:
    """What a challenger must show (model.yml, evaluate.gate), in the metric's own units.

    `max_loss`: how much worse than the champion it may be on the same rows. Where higher is better, `floor` is the
    least value that is worth serving at all; where lower is better, `ceiling` is the most. `min_skill`: the least share
    of the best baseline's error that it must take away. `min_rows`: the fewest hold-out rows on which a decision is
    made.

    `promote_if`: ``better`` asks that the whole interval of the difference says it is better: chance alone promotes
    nobody. ``not_worse`` keeps the model fresh: it may lose up to `max_loss`, unless the whole interval says that it is
    worse.

    `max_slice_loss`: how much worse it may be on any slice of at least `min_slice_rows` rows.
    `max_calibration_error`: how far predictions and outcomes may lie apart, on average over the bins.
    `max_microseconds_per_row`: what scoring one row may take. None: not judged.
    """

    max_loss: float
    min_rows: int
    floor: float | None = None
    ceiling: float | None = None
    min_skill: float | None = None
    promote_if: Literal["better", "not_worse"] = "better"
    max_slice_loss: float | None = None
    min_slice_rows: int = 500
    max_calibration_error: float | None = None
    max_microseconds_per_row: float | None = None


@dataclass(frozen=True)
class Baseline:
    """What could be had without a model, on the same rows."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is promoted, and why, in words for a person.

    `difference` is challenger minus champion whichever way is better; `baseline` is the best of the evidence's, `skill`
    the share of its error that the challenger takes away (only where lower is better).
    """

    promote: bool
    forced: bool
    reasons: tuple[str, ...]
    metric: str
    rows: int
    challenger: Measured
    champion: Measured | None
    difference: Measured | None
    champion_version: str | None
    lower_is_better: bool = False
    baseline: Baseline | None = None
    skill: float | None = None


def judge_challenger(evidence: Mapping[str, Any], rules: PromotionRules, *, force: bool = False) -> Verdict:
    """Decides on the evidence an evaluation job wrote (`metric`, `rows`, `challenger`, `champion`, `difference`,
    `baselines`).

    A first model has no champion to beat: the other rules alone decide. `force` promotes against the rules and says so;
    it can't promote a model whose metric is undefined, since nobody knows what it would do.

    :raises ValueError: there is no challenger, or nobody knows which way the metric is better.
    """
    challenger = Measured.from_evidence(evidence["challenger"])
    champion = Measured.from_evidence(evidence.get("champion"))
    difference = Measured.from_evidence(evidence.get("difference"))
    metric, rows, version = str(evidence["metric"]), int(evidence["rows"]), evidence.get("champion_version")
    if challenger is None:
        raise ValueError("the evidence has no challenger")
    lower = lower_is_better(metric)
    baseline = _best_baseline(evidence.get("baselines") or (), lower=lower)
    skill = None
    if lower and baseline is not None and baseline.value > 0 and challenger.value is not None:
        skill = 1 - challenger.value / baseline.value
    against = _against(metric, evidence, challenger, rules, lower=lower)
    if rules.min_skill is not None:
        against += _against_skill(metric, challenger, baseline, skill, rules.min_skill)
    if difference is not None and difference.value is not None:
        against += _against_champion(metric, rows, difference, str(version), rules, lower=lower)
    elif champion is not None and challenger.value is not None:
        against.append(_nobody_to_compare_with(evidence, str(version)))
    against += _against_parts(metric, evidence, rules, lower=lower)
    promote = not against
    reasons: tuple[str, ...]
    if promote and difference is None:
        bound = rules.ceiling if lower else rules.floor
        word = "at or below the ceiling" if lower else "at or above the floor"
        kept = f" is {word} {shown(bound)}, and" if bound is not None else ":"
        reasons = (f"{metric} {challenger}{kept} there is no champion to beat",)
    elif promote:
        kept = (
            "better for certain" if rules.promote_if == "better" else f"within the {shown(rules.max_loss)} it may lose"
        )
        reasons = (
            f"{metric} {challenger} against champion version {version}'s {champion}: difference {difference}, {kept}",
        )
    else:
        reasons = tuple(against)
    if promote and skill is not None and baseline is not None:
        reasons += (f"{skill:.1%} less than the best baseline's {shown(baseline.value)} ({baseline.name})",)
    forced = force and not promote and challenger.value is not None
    if forced:
        reasons = ("promoted by force, against the rules", *reasons)
    return Verdict(
        promote or forced,
        forced,
        reasons,
        metric,
        rows,
        challenger,
        champion,
        difference,
        version,
        lower,
        baseline,
        skill,
    )


def _against(
    metric: str, evidence: Mapping[str, Any], challenger: Measured, rules: PromotionRules, *, lower: bool
) -> list[str]:
    """What speaks against a challenger by itself."""
    against: list[str] = []
    rows = int(evidence["rows"])
    if rows < rules.min_rows:
        against.append(
            f"the hold-out has {rows} rows, fewer than the {rules.min_rows} a decision needs (min_rows): "
            "were all of its days exported?"
        )
    if challenger.value is None:
        against.append(f"the challenger's {metric} is undefined: {_why_undefined(evidence, rows, lower=lower)}")
    elif lower and rules.ceiling is not None and challenger.value > rules.ceiling:
        against.append(
            f"the challenger's {metric} {shown(challenger.value)} is above the ceiling {shown(rules.ceiling)}"
        )
    elif not lower and rules.floor is not None and challenger.value < rules.floor:
        against.append(f"the challenger's {metric} {shown(challenger.value)} is below the floor {shown(rules.floor)}")
    return against


def _why_undefined(evidence: Mapping[str, Any], rows: int, *, lower: bool) -> str:
    """Why the challenger has no figure, and what to do about it."""
    problem = (evidence.get("challenger") or {}).get("problem")
    if problem:
        return str(problem)
    if lower or not rows:
        return "no figure came out; the evaluation job's log says more"
    positives = evidence.get("positives")
    counted = f": {positives} of {rows} rows are positive" if positives is not None else ""
    return f"the hold-out has one class only{counted}. Judge on more days (the export's window)"


def _nobody_to_compare_with(evidence: Mapping[str, Any], version: str) -> str:
    """The champion has no figure and the challenger has: whether it is better can't be known."""
    problem = (evidence.get("champion") or {}).get("problem") or "the evidence has no difference"
    return (
        f"champion version {version} can't be scored on this hold-out ({problem}), so that nobody knows whether the "
        "challenger is better. If the champion can't serve either, force_promotion in the form promotes the challenger"
    )


def _against_champion(
    metric: str, rows: int, difference: Measured, version: str, rules: PromotionRules, *, lower: bool
) -> list[str]:
    """What the paired difference speaks against it."""
    assert difference.value is not None
    loss = difference.value if lower else -difference.value
    side = "above" if lower else "below"
    said = f"on the same {rows} rows the challenger's {metric} is {shown(abs(loss))}"
    if loss > rules.max_loss:
        return [
            f"{said} {side} champion version {version}'s (difference {difference}), more than the "
            f"{shown(rules.max_loss)} it may lose (max_loss)"
        ]
    # The interval's ends as losses: the least and the most that the challenger may really have lost.
    ends = (difference.low, difference.high)
    known = [end if lower else -end for end in ends if end is not None]
    if known and min(known) > 0:
        return [f"{said} {side} champion version {version}'s, and the whole interval says so (difference {difference})"]
    if rules.promote_if == "better" and (not known or max(known) >= 0):
        return [
            f"it isn't better than champion version {version} for certain: the difference {difference} may be chance "
            "(promote_if: better)"
        ]
    return []


def _against_parts(metric: str, evidence: Mapping[str, Any], rules: PromotionRules, *, lower: bool) -> list[str]:
    """What its slices, its calibration and its speed speak against it, where they are judged."""
    against: list[str] = []
    if rules.max_slice_loss is not None:
        for part in evidence.get("slices") or ():
            ours, theirs = part.get("challenger"), part.get("champion")
            if ours is None or theirs is None or part["rows"] < rules.min_slice_rows:
                continue
            loss = ours - theirs if lower else theirs - ours
            if loss > rules.max_slice_loss:
                against.append(
                    f"where {part['column']} is {part['value']} ({part['rows']} rows) its {metric} {shown(ours)} is "
                    f"{shown(loss)} worse than the champion's, more than {shown(rules.max_slice_loss)} (max_slice_loss)"
                )
    if rules.max_calibration_error is not None:
        error = calibration_error((evidence.get("challenger") or {}).get("calibration") or ())
        if error is None:
            against.append("max_calibration_error asks for calibration, and the evidence has none")
        elif error > rules.max_calibration_error:
            against.append(
                f"its predictions and the outcomes lie {shown(error)} apart on average, more than "
                f"{shown(rules.max_calibration_error)} (max_calibration_error)"
            )
    if rules.max_microseconds_per_row is not None:
        took = evidence.get("microseconds_per_row")
        if took is None:
            against.append("max_microseconds_per_row asks how long scoring took, and the evidence doesn't say")
        elif took > rules.max_microseconds_per_row:
            against.append(
                f"scoring a row took {took:.0f} microseconds, more than {rules.max_microseconds_per_row:.0f} "
                "(max_microseconds_per_row)"
            )
    return against


def calibration_error(bins: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean distance of what was predicted and what was observed, weighted by rows (the expected calibration error);
    None without bins."""
    rows = sum(each["rows"] for each in bins)
    if not rows:
        return None
    return float(sum(abs(each["predicted"] - each["observed"]) * each["rows"] for each in bins) / rows)


def _against_skill(
    metric: str, challenger: Measured, baseline: Baseline | None, skill: float | None, least: float
) -> list[str]:
    if baseline is None:
        return ["min_skill asks for a baseline to beat, and the evidence has none"]
    if skill is None or challenger.value is None or skill >= least:
        return []
    compared = f"{abs(skill):.1%} {'less' if skill >= 0 else 'more'} than"
    return [
        f"the challenger's {metric} {shown(challenger.value)} is {compared} the best baseline's "
        f"{shown(baseline.value)} ({baseline.name}); min_skill asks for {least:.1%} less"
    ]


def _best_baseline(found: Sequence[Mapping[str, Any]], *, lower: bool) -> Baseline | None:
    known = [
        Baseline(str(one["name"]), float(one["value"]), one.get("low"), one.get("high"))
        for one in found
        if one.get("value") is not None
    ]
    return min(known, key=lambda one: one.value if lower else -one.value, default=None)


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
class Observed:
    """What the endpoint itself counted of a deployment, all callers together; `p95_ms` is the slowest minute's, None
    where it tells none."""

    requests: int
    failed: int
    p95_ms: float | None

    def __str__(self) -> str:
        slow = f", p95 {self.p95_ms:.0f} ms" if self.p95_ms is not None else ""
        return f"{self.requests} requests, {self.failed} failed{slow}"


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
    observed: Observed | None = None

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


def with_observed(
    judgement: StageJudgement, observed: Observed, challenger: str, rules: RolloutRules
) -> StageJudgement:
    """The judgement, after the endpoint's own count was heard too: it can speak against a stage that would be passed.

    Fewer requests than `min_requests` tell nothing.
    """
    judgement = replace(judgement, observed=observed)
    if judgement.decision != "advance" or observed.requests < rules.min_requests:
        return judgement
    against: list[str] = []
    rate = observed.failed / observed.requests
    if rate > rules.max_error_rate:
        against.append(
            f"by the endpoint's own metrics {observed.failed} of {observed.requests} requests to {challenger} failed "
            f"({rate:.1%}; max_error_rate is {rules.max_error_rate:.1%})"
        )
    if observed.p95_ms is not None and observed.p95_ms > rules.max_p95_ms:
        against.append(
            f"by the endpoint's own metrics 95 % of {challenger}'s answers took up to {observed.p95_ms:.0f} ms "
            f"(max_p95_ms is {rules.max_p95_ms:.0f})"
        )
    if against:
        return replace(judgement, decision="roll_back", reasons=tuple(against))
    return replace(judgement, reasons=(*judgement.reasons, f"by the endpoint's own metrics {observed}"))


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
