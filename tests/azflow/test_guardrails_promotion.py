"""The promotion half of azflow.guardrails: what the gate decides, and the words it gives for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from azflow.guardrails import PromotionRules, judge_challenger

RULES = PromotionRules(max_loss=0.01, floor=0.60, min_rows=500, promote_if="not_worse")


def evidence(challenger: float | None, champion: float | None = None, rows: int = 6000) -> dict[str, Any]:
    def measured(value: float | None) -> dict[str, Any]:
        return {
            "value": value,
            "low": None if value is None else value - 0.02,
            "high": None if value is None else value + 0.02,
        }

    difference = None if champion is None or challenger is None else measured(challenger - champion)
    return {
        "metric": "roc_auc",
        "rows": rows,
        "challenger": measured(challenger),
        "champion": None if champion is None else measured(champion),
        "difference": difference,
        "champion_version": None if champion is None else "3",
    }


@pytest.mark.parametrize(
    ("challenger", "champion", "rows", "promote", "words"),
    [
        (0.71, None, 6000, True, "no champion to beat"),
        (0.59, None, 6000, False, "below the floor 0.6000"),
        (0.71, 0.70, 6000, True, "within the 0.0100 it may lose"),
        (0.695, 0.70, 6000, True, "champion version 3's 0.7000 [0.6800, 0.7200]"),
        (0.685, 0.70, 6000, False, "0.0150 below champion version 3"),
        (0.50, 0.70, 6000, False, "below the floor"),
        (0.71, 0.70, 499, False, "499 rows, fewer than the 500"),
        (None, None, 6000, False, "one class only"),
    ],
)
def test_verdict(challenger: float | None, champion: float | None, rows: int, promote: bool, words: str) -> None:
    verdict = judge_challenger(evidence(challenger, champion, rows), RULES)
    assert verdict.promote is promote
    assert not verdict.forced
    assert words in " ".join(verdict.reasons)


def judged(rules: dict[str, Any], **more: Any) -> Any:
    found = evidence(0.71, 0.70) | more
    return judge_challenger(found, replace(RULES, **rules))


@pytest.mark.parametrize(
    ("low", "high", "not_worse", "better"),
    [
        (-0.004, 0.002, True, False),  # as good as equal: chance promotes nobody
        (0.001, 0.009, True, True),
        (-0.008, -0.001, False, False),  # little, but for certain
        (None, None, True, False),  # no interval, no certainty
    ],
)
def test_the_interval_decides(low: float | None, high: float | None, not_worse: bool, better: bool) -> None:
    value = 0.0 if low is None or high is None else (low + high) / 2
    difference = {"value": value, "low": low, "high": high}
    assert judged({}, difference=difference).promote is not_worse
    assert judged({"promote_if": "better"}, difference=difference).promote is better


def test_by_default_chance_promotes_nobody() -> None:
    assert PromotionRules(max_loss=0.01, min_rows=500).promote_if == "better"


def test_where_lower_is_better_the_interval_turns_round() -> None:
    rules = PromotionRules(max_loss=1.0, ceiling=30.0, min_rows=500, promote_if="better")
    measured = {"value": 20.0, "low": 19.0, "high": 21.0}
    found = evidence(0.7, 0.7) | {"metric": "mean_absolute_error", "challenger": measured, "champion": measured}
    assert judge_challenger(found | {"difference": {"value": -0.5, "low": -0.9, "high": -0.1}}, rules).promote
    assert not judge_challenger(found | {"difference": {"value": 0.5, "low": 0.1, "high": 0.9}}, rules).promote


def test_slices_calibration_and_speed_are_judged_where_asked() -> None:
    slices = [
        {"column": "carrier", "value": "UA", "rows": 900, "challenger": 0.66, "champion": 0.70},
        {"column": "carrier", "value": "YV", "rows": 40, "challenger": 0.40, "champion": 0.70},
        {"column": "carrier", "value": "AA", "rows": 900, "challenger": 0.70, "champion": 0.70},
    ]
    (reason,) = judged({"max_slice_loss": 0.03}, slices=slices).reasons
    assert reason.startswith("where carrier is UA (900 rows) its roc_auc 0.6600 is 0.0400 worse")
    assert judged({}, slices=slices).promote
    bins = [{"predicted": 0.2, "observed": 0.3, "rows": 100}, {"predicted": 0.5, "observed": 0.5, "rows": 300}]
    calibrated = evidence(0.71)["challenger"] | {"calibration": bins}
    assert judged({"max_calibration_error": 0.03}, challenger=calibrated).promote
    (reason,) = judged({"max_calibration_error": 0.02}, challenger=calibrated).reasons
    assert "lie 0.0250 apart" in reason
    assert not judged({"max_calibration_error": 0.02}).promote  # asked for, and not in the evidence
    assert judged({"max_microseconds_per_row": 100.0}, microseconds_per_row=99.0).promote
    assert not judged({"max_microseconds_per_row": 100.0}, microseconds_per_row=101.0).promote
    assert not judged({"max_microseconds_per_row": 100.0}).promote


ERROR_RULES = PromotionRules(max_loss=0.5, ceiling=40.0, min_skill=0.05, min_rows=500, promote_if="not_worse")
BASELINES = [{"name": "mean", "value": 33.7}, {"name": "median", "value": 32.0, "low": 31.0, "high": 33.0}]


def errors(challenger: float, champion: float | None = None, **more: Any) -> dict[str, Any]:
    found = evidence(challenger, champion) | {"metric": "mean_absolute_error", "baselines": BASELINES}
    if champion is not None:
        found["difference"] = {"value": challenger - champion, "low": challenger - champion - 0.2, "high": 0.1}
    return found | more


@pytest.mark.parametrize(
    ("found", "promote", "words"),
    [
        (errors(30.0), True, "30.00 [29.98, 30.02] is at or below the ceiling 40.00, and there is no champion to beat"),
        (errors(30.0), True, "6.2% less than the best baseline's 32.00 (median)"),
        (errors(41.0), False, "mean_absolute_error 41.00 is above the ceiling 40.00"),
        (errors(41.0), False, "28.1% more than the best baseline's 32.00 (median); min_skill asks for 5.0% less"),
        (errors(31.0), False, "3.1% less than the best baseline's 32.00"),
        (errors(30.0, baselines=[]), False, "the evidence has none"),
        (errors(30.0, 30.5), True, "against champion version 3's 30.50"),
        (errors(30.0, 29.9), True, "within the 0.5000 it may lose"),
        (errors(30.0, 29.0), False, "is 1.0000 above champion version 3's"),
    ],
)
def test_where_lower_is_better(found: dict[str, Any], promote: bool, words: str) -> None:
    verdict = judge_challenger(found, ERROR_RULES)
    assert verdict.promote is promote, verdict.reasons
    assert words in " | ".join(verdict.reasons)
    assert verdict.lower_is_better


def test_the_best_baseline_and_what_is_taken_away_of_it_are_told() -> None:
    verdict = judge_challenger(errors(28.8), ERROR_RULES)
    assert verdict.baseline is not None and (verdict.baseline.name, verdict.baseline.low) == ("median", 31.0)
    assert verdict.skill == pytest.approx(0.1)
    assert judge_challenger(evidence(0.71), RULES).skill is None


def test_a_metric_that_nobody_knows_is_not_judged() -> None:
    with pytest.raises(ValueError, match="no metric is called 'auc'"):
        judge_challenger(evidence(0.71) | {"metric": "auc"}, RULES)


def test_a_random_model_is_rejected_for_every_reason_that_holds() -> None:
    verdict = judge_challenger(evidence(0.5, 0.7, rows=100), RULES)
    assert [reason.split()[0] for reason in verdict.reasons] == ["the", "the", "on"]
    assert len(verdict.reasons) == 3


def test_force_promotes_and_keeps_the_reasons_against() -> None:
    verdict = judge_challenger(evidence(0.65, 0.70), RULES, force=True)
    assert verdict.promote
    assert verdict.forced
    assert verdict.reasons[0].startswith("promoted by force")
    assert "below champion version 3" in verdict.reasons[1]


def test_force_cannot_promote_what_nobody_could_measure() -> None:
    assert not judge_challenger(evidence(None), RULES, force=True).promote


def test_force_says_nothing_when_the_rules_promote_anyway() -> None:
    assert not judge_challenger(evidence(0.71, 0.70), RULES, force=True).forced
