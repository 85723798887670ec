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
#: Whose rows a reading is of; readings of before there was a choice don't say.
_DATA = {"scored": "", "captured": ", captured requests"}
_PLOTS = 8
_FEW = 8  # readings within their limits, or not known, that are shown without being asked for


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
                *_captured(result),
                (result["baseline_rows"], "rows in the training data"),
                (f"version {result['model_version']}", "the champion"),
                (counts["alarm"], "alarms"),
                (counts["warn"], "warnings"),
            ]
        ),
        _findings(found, retraining),
        _unknown(readings),
        _plots(result["distributions"], found),
        *(_signal(name, data, readings) for data in _DATA for name in _SIGNALS),
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
            | {"data": _data(reading)}
            for reading in readings
            if reading["level"] in ("alarm", "warn")
        ],
        "unknown": [f"{name}: {says} ({count})" for (name, says), count in _reasons(readings).items()],
    }


def _rank(reading: Mapping[str, Any]) -> tuple[int, float, str]:
    value, threshold = reading["value"], reading["threshold"]
    known = isinstance(value, int | float) and isinstance(threshold, int | float) and threshold
    excess = value / threshold if known else 0.0
    return _ORDER.index(reading["level"]), -excess, str(reading["feature"])


def _data(reading: Mapping[str, Any]) -> str:
    return str(reading.get("data") or "scored")


def _title(reading: Mapping[str, Any]) -> str:
    return _SIGNALS[reading["signal"]][0] + _DATA[_data(reading)]


def _captured(result: Mapping[str, Any]) -> list[tuple[Any, str]]:
    looked_at = any(_data(reading) == "captured" for reading in result["readings"])
    return [(result.get("captured_rows") or 0, "captured rows")] if looked_at else []


def _reasons(readings: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Signal and reason -> how many of its readings are undefined for that; the column's name is no reason."""
    found: dict[tuple[str, str], int] = {}
    for reading in readings:
        if reading["level"] == "undefined":
            says = str(reading["says"]).removeprefix(f"{reading['feature']}: ")
            found[_title(reading), says] = found.get((_title(reading), says), 0) + 1
    return found


def _unknown(readings: Sequence[Mapping[str, Any]]) -> Html:
    """What can't be told: no drift was found there, because nobody could look."""
    rows = [
        (pages.badge("undefined", "plain"), name, says, count) for (name, says), count in _reasons(readings).items()
    ]
    if not rows:
        return Html("")
    intro = "Nothing was found here because nobody could look."
    return pages.section("Not known", intro, pages.table(("", "Signal", "Why", "Readings"), rows, numbers=(3,)))


def _findings(found: Sequence[Mapping[str, Any]], retraining: str) -> Html:
    if not found:
        return pages.section("Findings", "Nothing moved beyond its limits.")
    rows = [
        (pages.badge(reading["level"], _TONES[reading["level"]]), _title(reading), reading["says"]) for reading in found
    ]
    return pages.section("Findings", retraining, pages.table(("", "Signal", "What"), rows))


def _plots(distributions: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Html:
    drifted = [reading for reading in found if reading["signal"] != "model_performance"]
    moved = list(dict.fromkeys((_data(reading), str(reading["feature"] or "prediction")) for reading in drifted))
    by_column = {(_data(each), str(each["column"])): each for each in distributions}
    shown = [by_column[column] for column in moved if column in by_column][:_PLOTS]
    if not shown:
        return Html("")
    parts = [
        f"<h3 class=small>{pages.text(each['column'])}{_DATA[_data(each)]}</h3>"
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


def _signal(name: str, data: str, readings: Sequence[Mapping[str, Any]]) -> Html:
    own = [
        reading for reading in readings if reading["signal"] == name and _data(reading) == data and reading["metric"]
    ]
    if not own:
        return Html("")
    title, intro = _SIGNALS[name]
    reference = "Noise" if name.endswith("drift") else "At training"
    headers = ("", "Feature", "Metric", "Value", reference, "Limit", "Rows", "")

    def table(readings: Sequence[Mapping[str, Any]]) -> Html:
        return pages.table(headers, [_row(reading) for reading in readings], numbers=(3, 4, 5, 6))

    # What is as it was is most of it, and why something isn't known stands above: there for who looks for it.
    folded = {"ok": "within their limits", "undefined": "that aren't known"}
    by_level = {level: [reading for reading in own if reading["level"] == level] for level in folded}
    many = [level for level in folded if len(by_level[level]) > _FEW]
    shown = [reading for reading in own if reading["level"] not in many]
    parts = [table(shown)] if shown else []
    parts += [pages.fold(f"{len(by_level[level])} readings {folded[level]}", table(by_level[level])) for level in many]
    return pages.section(f"{title}{_DATA[data]}", intro, *parts)


def _row(reading: Mapping[str, Any]) -> tuple[object, ...]:
    threshold = reading["threshold"]
    return (
        pages.badge(reading["level"], _TONES[reading["level"]]),
        reading["feature"],
        reading["metric"].replace("_", " "),
        reading["value"],
        reading["reference"],
        None if threshold is None or math.isnan(threshold) else float(threshold),
        reading["rows"],
        reading["says"] if reading["level"] == "undefined" else "",
    )
