"""The page of a year, from the record that tools/year.py keeps; and the same as a table for other programs. Pure.

A period of the record, every part but the first two only as far as the year has got::

    first_day, partition   its days, ISO; the night is the last one's
    night                  {"run_id", "decision", "reasons", "metric", "rows", "challenger", "champion", "difference",
                            "champion_before", "version", "serving", "report"}; decision is promoted, rejected,
                            not approved or rolled back, a measured thing {"value", "low", "high"} or None
    scores                 {"rows", "labelled", "served": {"version", "value", "low", "high"}, "first": the same,
                            "difference"}: two versions on the period's flights; values are None without labels
    monitor                {"level", "counts", "findings", "readings", "alarm", "page"}
    drift_night            as night: the one that an alarm started
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))

from azflow import pages, timeline
from azflow.pages import Html, Tone

#: 97.5 % of Student's t, by degrees of freedom from 1 on; beyond them the normal distribution's.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.960
_DECISIONS: Mapping[str, tuple[str, Tone]] = {
    "promoted": ("up", "good"),
    "rejected": ("cross", "bad"),
    "not approved": ("cross", "bad"),
    "rolled back": ("back", "warn"),
}
_SIGN_COLOURS = {"back": "amber"}
_LEVELS: Mapping[str, Tone] = {"alarm": "bad", "warn": "warn", "ok": "good", "undefined": "plain"}
_SHOWN_READINGS = 10
_LEAST = 2  # periods that an interval needs


@dataclass(frozen=True)
class Mean:
    """The mean of the periods' values with its interval; `low` and `high` are None for less than two periods."""

    value: float
    low: float | None
    high: float | None
    periods: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """By Student's t: each period counts once, so that the interval holds what periods differ in."""
        if not values:
            return None
        count, mean = len(values), math.fsum(values) / len(values)
        if count < _LEAST:
            return cls(mean, None, None, count)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
        student = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _NORMAL
        room = student * deviation / math.sqrt(count)
        return cls(mean, mean - room, mean + room, count)


def summarise(record: Mapping[str, Any]) -> dict[str, Any]:
    """The year in a few figures; what isn't known yet is None."""
    periods = record["periods"]
    compared = [period for period in periods if _difference(period) is not None]
    nights = [night for period in periods for night in _nights(period)]
    decisions = [night["decision"] for night in nights]
    means = {
        "served": Mean.of([period["scores"]["served"]["value"] for period in compared]),
        "first": Mean.of([period["scores"]["first"]["value"] for period in compared]),
        "difference": Mean.of([_difference(period) or 0.0 for period in compared]),
    }
    alike = sum(period["scores"]["served"]["version"] == period["scores"]["first"]["version"] for period in compared)
    return {
        "first_day": periods[0]["partition"] if periods else None,
        "last_day": periods[-1]["partition"] if periods else None,
        "metric": next((night["metric"] for night in nights if night["metric"]), ""),
        "nights": len(nights),
        "periods": len(compared),
        "flights": sum(period["scores"]["labelled"] or 0 for period in compared),
        "same_version": alike,
        "promoted": decisions.count("promoted"),
        "rejected": decisions.count("rejected") + decisions.count("not approved"),
        "rolled_back": decisions.count("rolled back"),
        "alarms": sum((period.get("monitor") or {}).get("level") == "alarm" for period in periods),
        "drift_nights": sum("drift_night" in period for period in periods),
        **{name: None if mean is None else vars(mean) for name, mean in means.items()},
    }


def headline(record: Mapping[str, Any]) -> tuple[str, str]:
    """What the year comes to, in a sentence, and why, in a few. The words follow the figures, whatever they are."""
    found = summarise(record)
    difference = found["difference"]
    first = _first(record)
    if first is None:
        return "No challenger was promoted, so nobody served.", _why_none(record)
    if difference is None:
        return "No period has been scored with both models yet.", "Outcomes are missing, or the year has just begun."
    metric = _metric(found["metric"])
    values = (
        f"{metric} {found['served']['value']:.3f} on average over {difference['periods']} periods, "
        f"{found['first']['value']:.3f} for the model of {_day(first['partition'])} that was never retrained"
    )
    shown = _signed_interval(difference)
    if found["same_version"] == found["periods"]:
        return f"Nothing replaced the first model: {metric} {found['served']['value']:.3f} on average.", _why_none(
            record
        )
    if difference["low"] is None:
        return f"One period says little: {values} ({shown}).", _widest(record)
    if difference["low"] > 0:
        return f"Retraining paid: {values} ({shown}).", _widest(record)
    if difference["high"] < 0:
        return f"Retraining cost: {values} ({shown}).", _widest(record)
    return f"It can't be told whether retraining paid: {values} ({shown}; zero lies inside).", _widest(record)


def render(record: Mapping[str, Any]) -> str:
    """The page: one self-contained HTML file, also of a year that has only begun."""
    found = summarise(record)
    says, why = headline(record)
    lead = f"Nights from {_day(found['first_day'])} to {_day(found['last_day'])}{_apart(record)}"
    return pages.page(
        f"{record['model']}: a year of nights",
        lead,
        Html(f'<p class="says"><b>{escape(says)}</b></p><p class="soft">{escape(why)}</p>'),
        _facts(found),
        _plot(record, found),
        _table(record, found),
        _method(record, found),
        footer="Written by bin/demo --year.",
    )


def table(record: Mapping[str, Any]) -> list[list[object]]:
    """A row a period under a heading, for a CSV file."""
    rows: list[list[object]] = [
        [
            "first_day",
            "last_day",
            "flights",
            "served_version",
            *(f"{who}_{what}" for who in ("served", "first", "difference") for what in ("value", "low", "high")),
            "drift",
            "alarms",
            "decision",
            "version",
            "reasons",
            "drift_night",
        ]
    ]
    for period in record["periods"]:
        scores, monitor, night = (period.get(name) or {} for name in ("scores", "monitor", "night"))
        rows.append(
            [
                period["first_day"],
                period["partition"],
                scores.get("labelled"),
                (scores.get("served") or {}).get("version"),
                *(
                    (scores.get(who) or {}).get(what)
                    for who in ("served", "first", "difference")
                    for what in ("value", "low", "high")
                ),
                monitor.get("level"),
                (monitor.get("counts") or {}).get("alarm"),
                night.get("decision"),
                night.get("version"),
                "; ".join(night.get("reasons") or ()),
                (period.get("drift_night") or {}).get("decision"),
            ]
        )
    return rows


# words


def _why_none(record: Mapping[str, Any]) -> str:
    """Why challengers were not promoted, by how often."""
    reasons = [
        (night["reasons"] or ["no reason was written down"])[0]
        for period in record["periods"]
        for night in _nights(period)
        if night["decision"] != "promoted"
    ]
    if not reasons:
        return "No night has judged a challenger against it yet."
    last = f"The last one: {reasons[-1]}"
    return f"{len(reasons)} challenger{'s were' if len(reasons) > 1 else ' was'} not promoted. {last}"


def _widest(record: Mapping[str, Any]) -> str:
    """Where the two models are furthest apart, and where retraining was no help."""
    compared = [period for period in record["periods"] if _difference(period) is not None]
    best = max(compared, key=lambda period: _difference(period) or 0.0)
    worst = min(compared, key=lambda period: _difference(period) or 0.0)
    said = []
    if (_difference(best) or 0.0) > 0:
        said.append(f"The gap is widest from {_days(best)} ({_difference(best):+.3f}).")
    first = _first(record)
    if first is not None:
        said.append(
            f"The model that was never retrained knows {_day(record['periods'][0]['first_day'])} to "
            f"{_day(first['partition'])} and nothing since; what holds in one season needn't hold in another."
        )
    if (_difference(worst) or 0.0) < 0:
        behind = sum((_difference(period) or 0.0) < 0 for period in compared)
        said.append(
            f"In {behind} of {len(compared)} periods it was the better one all the same, most from {_days(worst)} "
            f"({_difference(worst):+.3f}): a challenger is judged on one past week, and the weeks after may differ."
        )
    return " ".join(said)


def _first(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The period whose night promoted the first version."""
    promoted = (period for period in record["periods"] for night in _nights(period) if night["decision"] == "promoted")
    return next(promoted, None)


def _nights(period: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ("night", "drift_night"):
        if period.get(name):
            yield period[name]


def _difference(period: Mapping[str, Any]) -> float | None:
    found = ((period.get("scores") or {}).get("difference") or {}).get("value")
    return float(found) if isinstance(found, int | float) else None


def _day(iso: str | None) -> str:
    if iso is None:
        return "-"
    day = date.fromisoformat(iso)
    return f"{day.day} {day:%B}"


def _days(period: Mapping[str, Any]) -> str:
    first, last = date.fromisoformat(period["first_day"]), date.fromisoformat(period["partition"])
    begins = f"{first.day}" if first.month == last.month else f"{first.day} {first:%B}"
    return f"{begins} to {last.day} {last:%B}"


def _apart(record: Mapping[str, Any]) -> str:
    """How many days lie between the nights; the last one may be nearer, for the year ends then."""
    days = [date.fromisoformat(period["partition"]) for period in record["periods"]]
    gaps = [(after - before).days for before, after in pairwise(days)]
    if len(gaps) > 1 and gaps[-1] < min(gaps[:-1]):
        gaps.pop()
    if not gaps:
        return ""
    return f", {min(gaps)} days apart" if min(gaps) == max(gaps) else f", {min(gaps)} to {max(gaps)} days apart"


def _metric(name: str) -> str:
    return {"roc_auc": "ROC AUC"}.get(name, name.replace("_", " "))


def _signed_interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['value']:+.3f}"
    return f"{found['value']:+.3f}, 95 % interval {found['low']:+.3f} to {found['high']:+.3f}"


# parts


def _facts(found: Mapping[str, Any]) -> Html:
    difference = found["difference"]
    shown: list[tuple[object, str]] = []
    if difference is not None:
        shown += [
            (f"{found['served']['value']:.3f}", f"{_metric(found['metric'])} of the champions, mean"),
            (f"{found['first']['value']:.3f}", "of the model never retrained"),
            (f"{difference['value']:+.3f}", "difference"),
        ]
    shown += [
        (found["nights"], "nights, each with a challenger"),
        (f"{found['promoted']} / {found['rejected'] + found['rolled_back']}", "promoted / turned down"),
        (found["alarms"], "drift alarms"),
    ]
    return pages.facts(shown)


def _plot(record: Mapping[str, Any], found: Mapping[str, Any]) -> Html:
    periods = record["periods"]
    if not periods:
        return Html("")
    compared = [period for period in periods if period.get("scores")]
    begin = date.fromisoformat((compared or periods)[0]["first_day"])
    end = date.fromisoformat(periods[-1]["partition"])
    panels: list[timeline.Panel] = []
    if any(_difference(period) is not None for period in compared):
        metric = _metric(found["metric"])
        panels += [
            timeline.Curves(
                f"{metric} on the period's flights",
                [
                    timeline.Curve("champion at the time", [_stretch(one, "served") for one in compared]),
                    timeline.Curve("never retrained", [_stretch(one, "first") for one in compared], "soft"),
                ],
            ),
            timeline.Bars("Difference", [_stretch(one, "difference") for one in compared]),
        ]
    panels.append(timeline.Lane("Who served", _served(periods, begin, end), list(_marks(periods, begin))))
    if rows := _drift(compared):
        panels.append(timeline.Cells("Drift, last week of each period", rows))
    drawn = timeline.draw(panels, begin, end, label="the year: metric of both models, versions, decisions, drift")
    legend = pages.join(
        [
            '<span class="good-ink">▲</span> promoted &nbsp; <span class="bad-ink">✕</span> rejected &nbsp; ',
            '<span class="warn-ink">▼</span> rolled back &nbsp; <span class="warn-ink">●</span> drift alarm. ',
            "Whiskers: 95 % bootstrap intervals; pale bars: zero lies inside. ",
            "Drift: the fuller a cell, the nearer to its limit; yellow warns, red alarms.",
        ]
    )
    return pages.section("The year", legend, f'<div class="scroll wide">{drawn}</div>')


def _stretch(period: Mapping[str, Any], who: str) -> timeline.Stretch:
    measured = (period.get("scores") or {}).get(who) or {}
    value = measured.get("value")
    version = f"version {measured['version']}, " if measured.get("version") else ""
    signed = "+.4f" if who == "difference" else ".4f"
    note = f"{version}{_days(period)}: {value:{signed}}" if value is not None else f"{_days(period)}: not known"
    return timeline.Stretch(
        date.fromisoformat(period["first_day"]),
        date.fromisoformat(period["partition"]),
        value,
        measured.get("low"),
        measured.get("high"),
        note,
    )


def _served(periods: Sequence[Mapping[str, Any]], begin: date, end: date) -> list[timeline.Piece]:
    """Which version served on which days; a night's decision holds from the next day on."""
    changes: list[tuple[date, str]] = []
    for period in periods:
        after = date.fromisoformat(period["partition"]) + timedelta(days=1)
        for night in _nights(period):
            if night.get("serving") and (not changes or changes[-1][1] != night["serving"]):
                changes.append((after, str(night["serving"])))
    pieces = []
    for index, (since, version) in enumerate(changes):
        until = changes[index + 1][0] - timedelta(days=1) if index + 1 < len(changes) else end
        if until >= max(since, begin):
            pieces.append(timeline.Piece(max(since, begin), until, f"v{version}"))
    return pieces


def _marks(periods: Sequence[Mapping[str, Any]], begin: date) -> Iterator[timeline.Mark]:
    for period in periods:
        day = date.fromisoformat(period["partition"])
        if day < begin:
            continue
        decided = [
            (place, night) for place, night in ((0, period.get("night")), (2, period.get("drift_night"))) if night
        ]
        for place, night in decided:
            sign, css = _DECISIONS[night["decision"]]
            why = f": {night['reasons'][0]}" if night["reasons"] else ""
            yield timeline.Mark(day, sign, _SIGN_COLOURS.get(sign, css), f"{day}: {night['decision']}{why}", place)
        if (period.get("monitor") or {}).get("level") == "alarm":
            alarms = "; ".join(str(one["says"]) for one in period["monitor"]["findings"] if one["level"] == "alarm")
            yield timeline.Mark(day, "dot", "amber", f"{day}: drift alarm: {alarms}", 1)


def _drift(periods: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[timeline.Cell]]]:
    """The readings that came nearest to their limits in the year, the nearest first."""
    strongest: dict[tuple[str, str, str], float] = {}
    for period in periods:
        for reading in _readings(period):
            key = (reading["signal"], reading["feature"], reading["metric"])
            weight = {"alarm": 2.0, "warn": 1.0}.get(reading["level"], 0.0)
            strongest[key] = max(strongest.get(key, 0.0), weight + min(_share(reading) or 0.0, 5.0) / 10)
    chosen = sorted(strongest, key=lambda key: (-strongest[key], key))[:_SHOWN_READINGS]
    rows = []
    for key in chosen:
        cells = []
        for period in periods:
            found = next(
                (one for one in _readings(period) if (one["signal"], one["feature"], one["metric"]) == key),
                None,
            )
            first, last = date.fromisoformat(period["first_day"]), date.fromisoformat(period["partition"])
            if found is None:
                cells.append(timeline.Cell(first, last, None, note=f"{_days(period)}: not read"))
                continue
            css = {"alarm": "bad", "warn": "amber"}.get(found["level"], "accent")
            cells.append(timeline.Cell(first, last, _share(found), css, f"{_days(period)}: {found['says']}"))
        rows.append((_name(key), cells))
    return rows


def _readings(period: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of the scored flights; what callers sent to the endpoint is of the same columns, and another matter."""
    found = (period.get("monitor") or {}).get("readings") or ()
    return [reading for reading in found if reading.get("data", "scored") == "scored"]


def _share(reading: Mapping[str, Any]) -> float | None:
    """How much of its limit a reading takes: a distance itself, a rate or a metric by what it lost since training."""
    value, limit, reference = (reading.get(name) for name in ("value", "threshold", "reference"))
    if value is None or not limit:
        return None
    if reading["signal"] in ("data_quality", "model_performance"):
        if reference is None:
            return None
        lost = reference - value if reading["metric"] in ("roc_auc", "accuracy") else value - reference
        return max(0.0, float(lost) / float(limit))
    if reading["metric"].endswith("_test"):
        return None
    return float(value) / float(limit)


def _name(key: tuple[str, str, str]) -> str:
    signal, feature, metric = key
    if signal == "data_quality":
        return f"{feature}: {metric.replace('_', ' ').removesuffix(' rate')}"
    return feature or _metric(metric)


def _table(record: Mapping[str, Any], found: Mapping[str, Any]) -> Html:
    rows = []
    for period in record["periods"]:
        scores, monitor = period.get("scores") or {}, period.get("monitor") or {}
        night = period.get("night") or {}
        served, first, difference = (scores.get(name) or {} for name in ("served", "first", "difference"))
        drift: list[str] = []
        if monitor:
            level = str(monitor["level"])
            badge = pages.badge(level, _LEVELS[level])
            drift.append(_link(badge, monitor.get("page", "")))
            named = dict.fromkeys(
                _name((one["signal"], one["feature"], one["metric"]))
                for one in monitor["findings"]
                if one["level"] == level
            )
            drift.append(f'<div class="soft small">{escape(", ".join(list(named)[:3]))}</div>')
        decided = [
            _decided(one, label)
            for one, label in ((night, ""), (period.get("drift_night"), "after the alarm: "))
            if one
        ]
        rows.append(
            (
                Html(f"<span class=nowrap>{escape(_days(period))}</span>"),
                scores.get("labelled"),
                f"v{served['version']}" if served.get("version") else None,
                _measured(served),
                _measured(first),
                _measured(difference, signed=True),
                Html("".join(drift)) if drift else None,
                Html("".join(decided)) if decided else None,
            )
        )
    headers = [
        "Days",
        "Flights",
        "Served",
        "Champion then",
        "Never retrained",
        "Difference",
        "Drift",
        "The night after",
    ]
    intro = (
        "Champion and never retrained: on the same flights of the period, none of which either of them had seen. "
        "The night after: challenger against champion on its last seven days."
    )
    return pages.section("Period by period", intro, pages.table(headers, rows, numbers=(1, 3, 4, 5)))


def _measured(found: Mapping[str, Any], *, signed: bool = False) -> Html | None:
    if found.get("value") is None:
        return None
    form = "+.3f" if signed else ".3f"
    shown = f"{found['value']:{form}}"
    if found.get("low") is None:
        return Html(shown)
    return Html(f'{shown}<div class="soft small">{found["low"]:{form}} to {found["high"]:{form}}</div>')


def _decided(night: Mapping[str, Any], label: str) -> str:
    _, tone = _DECISIONS[night["decision"]]
    version = f" v{night['version']}" if night.get("version") and night["decision"] == "promoted" else ""
    badge = _link(pages.badge(f"{night['decision']}{version}", tone), night.get("report", ""))
    difference = night.get("difference") or {}
    against = f" {difference['value']:+.3f}" if isinstance(difference.get("value"), int | float) else ""
    why = f'<div class="soft small">{escape(night["reasons"][0])}</div>' if night["reasons"] else ""
    return f"<div>{escape(label)}{badge}{against}{why}</div>"


def _link(label: str, path: str) -> Html:
    """To a page beside this one."""
    return Html(f'<a href="{escape(path, quote=True)}">{label}</a>' if path else label)


def _method(record: Mapping[str, Any], found: Mapping[str, Any]) -> Html:
    alike = found["same_version"]
    said = [
        "Each night trains on the days that were known by then. The version that serves when a period begins scores "
        "all of it; the first version ever promoted scores the same flights. Outcomes are joined afterwards, as they "
        "come late.",
        "Intervals of a period are bootstrap intervals over its flights; the one of the difference is paired. The "
        "interval of the year's mean difference is Student's over the periods, so that it holds how much they differ.",
    ]
    if alike:
        said.append(
            f"In {alike} of {found['periods']} periods the champion still was the first version: their difference is "
            "zero by definition, and they count."
        )
    if record.get("trials"):
        said.append(f"Training: AutoML with {record['trials']} trials a night.")
    return pages.section("How it was measured", "", *(f"<p>{escape(one)}</p>" for one in said))
