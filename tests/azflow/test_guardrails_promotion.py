"""The promotion half of azflow.guardrails: what the gate decides, and the words it gives for it."""

from __future__ import annotations

from typing import Any

import pytest

from azflow.guardrails import PromotionRules, judge_challenger

RULES = PromotionRules(max_loss=0.01, floor=0.60, min_rows=500)


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
