"""A verdict in words: what a log and a person who has to approve it are shown."""

from __future__ import annotations

from typing import Any

from azflow.verdicts import verdict_lines, verdict_markdown, worst_slices

VERDICT: dict[str, Any] = {
    "promote": True,
    "forced": False,
    "reasons": ["within the 0.0100 it may lose"],
    "metric": "roc_auc",
    "rows": 5200,
    "confidence": 0.95,
    "champion_version": "3",
    "challenger": {"value": 0.71, "low": 0.69, "high": 0.73},
    "champion": {"value": 0.70, "low": 0.68, "high": 0.72},
    "difference": {"value": 0.01, "low": -0.001, "high": 0.02},
    "slices": [
        {"column": "carrier", "value": "UA", "rows": 1102, "challenger": 0.70, "champion": 0.69},
        {"column": "carrier", "value": "a|b", "rows": 150, "challenger": 0.60, "champion": 0.66},
        {"column": "origin", "value": "EWR", "rows": 900, "challenger": 0.70, "champion": None},
    ],
}


def test_the_log_has_a_table() -> None:
    assert verdict_lines(VERDICT) == [
        "PROMOTE, judged on 5,200 hold-out rows",
        "              version  roc_auc  95% interval",
        "  challenger  new      0.7100   0.6900 to 0.7300",
        "  champion    3        0.7000   0.6800 to 0.7200",
        "  difference           +0.0100  -0.0010 to +0.0200",
        "where it lost most, or gained least",
        "  carrier = a|b  150    0.6000  0.6600  -0.0600",
        "  carrier = UA   1,102  0.7000  0.6900  +0.0100",
        "because within the 0.0100 it may lose",
    ]


def test_a_person_sees_the_same_as_markdown() -> None:
    text = verdict_markdown(VERDICT)
    assert "**roc_auc** (higher is better), on 5,200 hold-out rows" in text
    assert "| champion | 3 | 0.7000 | 0.6800 to 0.7200 |" in text
    assert "| carrier = a\\|b | 150 | 0.6000 | 0.6600 | -0.0600 |" in text
    forced = verdict_markdown(VERDICT | {"forced": True})
    assert "it was told to promote it all the same (force_promotion)" in forced
    lower = VERDICT | {"lower_is_better": True, "unit": "minutes", "metric": "mean_absolute_error"}
    assert "**mean_absolute_error**, in minutes (lower is better)" in verdict_markdown(lower)
    assert worst_slices(lower)[0]["value"] == "UA"


def test_a_first_models_weakest_slices_and_asides_are_told() -> None:
    first = VERDICT | {"champion": None, "difference": None, "calibration_error": 0.0123, "microseconds_per_row": 41.6}
    text = verdict_markdown(first)
    assert "**Where it is weakest**" in text and "| slice | rows | challenger |\n" in text
    assert worst_slices(first)[0]["value"] == "a|b" and len(worst_slices(first)) == 3
    assert text.endswith("Predictions and outcomes lie 0.0123 apart on average; scoring a row took 42 microseconds.")


def test_what_has_no_figure_is_said() -> None:
    first = VERDICT | {"champion": None, "difference": None, "champion_version": None, "slices": []}
    first |= {"baselines": [{"name": "the mean", "value": 12.5, "low": 12.0, "high": 13.0}]}
    assert any(line.split() == ["champion", "none", "yet"] for line in verdict_lines(first))
    assert "| baseline: the mean |  | 12.50 | 12.00 to 13.00 |" in verdict_markdown(first)
    unmeasured = {"value": None, "low": None, "high": None}
    lost = verdict_lines(VERDICT | {"promote": False, "challenger": unmeasured, "difference": unmeasured, "slices": []})
    assert lost[0].startswith("REJECT") and "  challenger  new      undefined" in lost
