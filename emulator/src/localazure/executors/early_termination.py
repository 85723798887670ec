"""Early termination policies of sweeps: pure decisions over the primary metric's reported values.

Each report of the primary metric is one interval. A policy is applied to a trial at every multiple of
`evaluation_interval` that isn't below `delay_evaluation`; trials are compared by what they had reported by then.
https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters#early-termination
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from localazure.core.errors import BadRequest


@dataclass(frozen=True)
class Reports:
    """What one trial has reported of the primary metric, in order; `finished`: it will report no more."""

    values: tuple[float, ...]
    finished: bool = False


@dataclass(frozen=True)
class Policy:
    """A policy as it is on the wire. `maximize`: higher values are better."""

    kind: str
    maximize: bool
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float | None = None
    slack_amount: float | None = None
    truncation_percentage: int = 0
    exclude_finished_jobs: bool = False

    def applies(self, interval: int) -> bool:
        """Whether the policy is applied at a trial's `interval`-th report (1 is the first)."""
        return interval >= max(self.delay_evaluation, 1) and interval % self.evaluation_interval == 0

    def verdict(self, interval: int, own: Reports, others: Sequence[Reports]) -> str | None:
        """Why the trial with the reports `own` is ended at `interval`; None if it goes on.

        Of the `others`, those count that have reported as often.
        """
        cohort = [each for each in others if len(each.values) >= interval]
        mine = self._best(own, interval)
        if not cohort:
            return None
        return _RULES[self.kind](self, interval, mine, own, cohort)

    def _best(self, reports: Reports, interval: int) -> float:
        return (max if self.maximize else min)(reports.values[:interval])

    def _worse(self, one: float, other: float) -> bool:
        return one < other if self.maximize else one > other

    def _bandit(self, interval: int, mine: float, own: Reports, cohort: Sequence[Reports]) -> str | None:
        best = (max if self.maximize else min)(mine, *(self._best(each, interval) for each in cohort))
        if self.slack_factor:
            # Documented for a positive metric to maximize: 0.8 / (1 + 0.2). The limit lies on the worse side always.
            towards_zero = self.maximize == (best > 0)
            limit = best / (1 + self.slack_factor) if towards_zero else best * (1 + self.slack_factor)
        else:
            slack = self.slack_amount or 0.0
            limit = best - slack if self.maximize else best + slack
        if not self._worse(mine, limit):
            return None
        return f"its best value {mine:g} is outside the slack of the best trial's {best:g} (limit {limit:g})"

    def _median(self, interval: int, mine: float, own: Reports, cohort: Sequence[Reports]) -> str | None:
        middle = median(fmean(each.values[:interval]) for each in (own, *cohort))
        if not self._worse(mine, middle):
            return None
        return f"its best value {mine:g} is worse than the median of the running averages, {middle:g}"

    def _truncation(self, interval: int, mine: float, own: Reports, cohort: Sequence[Reports]) -> str | None:
        compared = [each for each in cohort if not (self.exclude_finished_jobs and each.finished)]
        # Equal values count as lower: of trials that are all alike none is ended.
        lower = sum(not self._worse(mine, self._best(each, interval)) for each in compared)
        if lower >= (len(compared) + 1) * self.truncation_percentage // 100:
            return None
        share = f"the lowest {self.truncation_percentage} % of {len(compared) + 1} trials"
        return f"its best value {mine:g} is among {share}"


_RULES = {"Bandit": Policy._bandit, "MedianStopping": Policy._median, "TruncationSelection": Policy._truncation}


def parse(policy: dict[str, Any] | None, maximize: bool) -> Policy | None:
    """The policy of a sweep job, None for none. BadRequest says what is wrong."""
    if not policy:
        return None
    asked = str(policy.get("policyType"))
    kind = next((each for each in _RULES if each.lower() == asked.lower()), None)
    if kind is None:
        raise _bad(f"policyType must be one of {', '.join(_RULES)}, not '{asked}'")
    interval, delay = int(policy.get("evaluationInterval") or 0), int(policy.get("delayEvaluation") or 0)
    if interval < 0 or delay < 0:
        raise _bad("evaluation_interval and delay_evaluation must not be negative")
    # 0 is what the SDK sends for "not given".
    shared: dict[str, Any] = {
        "kind": kind,
        "maximize": maximize,
        "evaluation_interval": interval or 1,
        "delay_evaluation": delay,
    }
    if kind == "Bandit":
        factor, amount = policy.get("slackFactor") or None, policy.get("slackAmount") or None
        if factor is not None and amount is not None:
            raise _bad("a bandit policy takes slack_factor or slack_amount, not both")
        if (factor or 0) < 0 or (amount or 0) < 0:
            raise _bad("the slack of a bandit policy must not be negative")
        return Policy(**shared, slack_factor=factor, slack_amount=amount)
    if kind == "TruncationSelection":
        percentage = int(policy.get("truncationPercentage") or 0)
        if not 1 <= percentage <= 99:  # noqa: PLR2004
            raise _bad(f"truncation_percentage must be an integer between 1 and 99, not {percentage}")
        excluded = bool(policy.get("excludeFinishedJobs"))
        return Policy(**shared, truncation_percentage=percentage, exclude_finished_jobs=excluded)
    return Policy(**shared)


def _bad(message: str) -> BadRequest:
    return BadRequest(f"early_termination: {message}.", "earlyTermination", "UserError")
