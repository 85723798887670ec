"""A monitor's readings as one page: what moved first, then everything that was looked at.

Pure. The input is the content of ``monitoring.json`` as include/ml/code/monitoring writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from azflow import charts, pages
from azflow.pages import Html, Tone

_TONES: Mapping[str, Tone] = {"alarm": "bad", "warn": "warn", "ok": "good", "undefined": "plain"}
_ORDER = ("alarm", "warn", "undefined", "ok")
_SIGNALS = {
    "data_drift": ("Data drift", "How far each feature has moved from the training data."),
    "prediction_drift": (
        "Prediction drift",
        "How far predictions have moved from those of the hold-out.",
    ),
    "data_quality": ("Data quality", "Shares of rows with missing, mistyped or never seen values, beside training."),
    "model_performance": ("Performance", "Predictions beside outcomes, where those are known by now."),
}
_PLOTS = 8


def render(result: Mapping[str, Any], *, model: str, retraining: str = "", run_url: str = "") -> str:
    """The page.

    :param retraining: what came of an alarm, in words; empty if there was none.
    """
    readings = sorted(result["readings"], key=_rank)
    level = str(result["level"])
    counts = {name: sum(reading["level"] == name for reading in readings) for name in _ORDER}
    window = " to ".join(dict.fromkeys((str(result["window_start"]), str(result["window_end"]))))
    lead = pages.join([pages.badge(level, _TONES[level]), f" &nbsp;{pages.text(window)}"])
    found = [reading for reading in readings if reading["level"] in ("alarm", "warn")]
    return pages.page(
        f"{model}: monitoring",
        lead,
        pages.facts(
            [
                (result["rows"], "rows in the window"),
                (result["baseline_rows"], "rows in the training data"),
                (f"version {result['model_version']}", "the champion"),
                (counts["alarm"], "alarms"),
                (counts["warn"], "warnings"),
            ]
        ),
        _findings(found, retraining),
        _plots(result["distributions"], found),
        *(_signal(name, readings) for name in _SIGNALS),
        footer=pages.link("The run in Airflow", run_url) if run_url else "",
    )


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What other tasks and the log need of it."""
    readings = sorted(result["readings"], key=_rank)
    return {
        "level": result["level"],
        "rows": result["rows"],
        "model_version": result["model_version"],
        "window": [result["window_start"], result["window_end"]],
        "counts": {name: sum(reading["level"] == name for reading in readings) for name in _ORDER},
        "findings": [
            {key: reading[key] for key in ("level", "signal", "feature", "metric", "value", "threshold", "says")}
            for reading in readings
            if reading["level"] in ("alarm", "warn")
        ],
    }


def _rank(reading: Mapping[str, Any]) -> tuple[int, float, str]:
    value, threshold = reading["value"], reading["threshold"]
    known = isinstance(value, int | float) and isinstance(threshold, int | float) and threshold
    excess = value / threshold if known else 0.0
    return _ORDER.index(reading["level"]), -excess, str(reading["feature"])


def _findings(found: Sequence[Mapping[str, Any]], retraining: str) -> Html:
    if not found:
        return pages.section("Findings", "Nothing moved beyond its limits.")
    rows = [
        (pages.badge(reading["level"], _TONES[reading["level"]]), _SIGNALS[reading["signal"]][0], reading["says"])
        for reading in found
    ]
    return pages.section("Findings", retraining, pages.table(("", "Signal", "What"), rows))


def _plots(distributions: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Html:
    moved = list(dict.fromkeys(str(reading["feature"] or "prediction") for reading in found))
    by_column = {str(each["column"]): each for each in distributions}
    shown = [by_column[column] for column in moved if column in by_column][:_PLOTS]
    if not shown:
        return Html("")
    parts = [
        f"<h3 class=small>{pages.text(each['column'])}</h3>"
        + charts.distributions(each["bins"], each["baseline"], each["target"], label=str(each["column"]))
        for each in shown
    ]
    legend = pages.join(
        [
            pages.badge("training", "plain"),
            " ",
            pages.badge("window", "accent"),
            " shares of rows in the same bins",
        ]
    )
    return pages.section("What moved", legend, *parts)


def _signal(name: str, readings: Sequence[Mapping[str, Any]]) -> Html:
    own = [reading for reading in readings if reading["signal"] == name]
    if not own:
        return Html("")
    title, intro = _SIGNALS[name]
    rows = [
        (
            pages.badge(reading["level"], _TONES[reading["level"]]),
            reading["feature"],
            reading["metric"].replace("_", " "),
            reading["value"],
            reading["reference"],
            None if reading["threshold"] is None or math.isnan(reading["threshold"]) else float(reading["threshold"]),
            reading["rows"],
            reading["says"] if reading["level"] == "undefined" else "",
        )
        for reading in own
    ]
    reference = "Noise" if name.endswith("drift") else "At training"
    headers = ("", "Feature", "Metric", "Value", reference, "Limit", "Rows", "")
    return pages.section(title, intro, pages.table(headers, rows, numbers=(3, 4, 5, 6)))
