"""A gate's verdict for people: as lines of a log, and as Markdown for whoever has to approve it. Pure.

Both take the verdict as the gate's XCom has it: plain values, with the slices that a report shows too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azflow.metrics import shown

_SHOWN_SLICES = 5


def verdict_lines(verdict: Mapping[str, Any]) -> list[str]:
    """The verdict for a log: what was decided, a table of the figures, the slices that lost most, the reasons."""
    head = ("PROMOTE" + (", by force" if verdict.get("forced") else "")) if verdict["promote"] else "REJECT"
    rows = [("", "version", str(verdict.get("metric") or "metric"), _interval_title(verdict)), *_figures(verdict)]
    lines = [f"{head}, judged on {_counted(verdict)}", *_aligned(rows)]
    if slices := worst_slices(verdict):
        lines += [_slices_title(verdict), *_aligned([_slice_cells(one, verdict) for one in slices])]
    lines += _asides(verdict)
    return [*lines, *(f"because {reason}" for reason in verdict.get("reasons") or ())]


def verdict_markdown(verdict: Mapping[str, Any]) -> str:
    """As `verdict_lines`, as Markdown."""
    metric = str(verdict.get("metric") or "metric")
    better = "lower" if verdict.get("lower_is_better") else "higher"
    unit = f", in {verdict['unit']}" if verdict.get("unit") else ""
    head = "The gate would let the challenger pass." if verdict["promote"] else "The gate turned the challenger down."
    if verdict.get("forced"):
        head = "The gate turned the challenger down; it was told to promote it all the same (force_promotion)."
    parts = [
        f"**{head}**",
        "\n".join(f"- {reason}" for reason in verdict.get("reasons") or ()),
        f"**{metric}**{unit} ({better} is better), on {_counted(verdict)}",
        _table(("", "version", metric, _interval_title(verdict)), _figures(verdict)),
    ]
    if slices := worst_slices(verdict):
        parts.append(f"**{_slices_title(verdict).capitalize()}**")
        headers = ("slice", "rows", "challenger", "champion", "difference")
        cells = [_slice_cells(one, verdict) for one in slices]
        parts.append(_table(headers[: len(cells[0])], cells))
    parts += _asides(verdict)
    return "\n\n".join(part for part in parts if part)


def worst_slices(verdict: Mapping[str, Any], most: int = _SHOWN_SLICES) -> list[Mapping[str, Any]]:
    """The slices on which the challenger lost most against the champion; without a champion, those on which it is
    weakest. The worst first."""
    sign = 1 if verdict.get("lower_is_better") else -1
    compared = verdict.get("champion") is not None
    known = [
        one
        for one in verdict.get("slices") or ()
        if isinstance(one.get("challenger"), int | float)
        and (isinstance(one.get("champion"), int | float) or not compared)
    ]
    return sorted(known, key=lambda one: -sign * (one["challenger"] - (one["champion"] if compared else 0)))[:most]


def _slices_title(verdict: Mapping[str, Any]) -> str:
    return "where it is weakest" if verdict.get("champion") is None else "where it lost most, or gained least"


def _asides(verdict: Mapping[str, Any]) -> list[str]:
    """What else is known of the challenger, in a sentence."""
    said = []
    if isinstance(error := verdict.get("calibration_error"), int | float):
        said.append(f"predictions and outcomes lie {shown(error)} apart on average")
    if isinstance(took := verdict.get("microseconds_per_row"), int | float):
        said.append(f"scoring a row took {took:,.0f} microseconds")
    return ["; ".join(said).capitalize() + "."] if said else []


def _figures(verdict: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Who, version, value, interval."""
    version = str(verdict.get("champion_version") or "")
    found = [("challenger", "new", verdict.get("challenger"), False)]
    if verdict.get("champion") is None:
        rows = [("champion", "none yet", "", "")]
    else:
        rows = []
        found += [
            ("champion", version, verdict["champion"], False),
            ("difference", "", verdict.get("difference"), True),
        ]
    measured = [(who, which, *_measured(each, signed)) for who, which, each, signed in found]
    baselines = [(f"baseline: {one.get('name')}", "", *_measured(one, False)) for one in verdict.get("baselines") or ()]
    return [*measured, *rows, *baselines]


def _measured(found: object, signed: bool) -> tuple[str, str]:
    if not isinstance(found, Mapping) or not isinstance(found.get("value"), int | float):
        return "undefined", ""
    low, high = found.get("low"), found.get("high")
    known = isinstance(low, int | float) and isinstance(high, int | float)
    interval = f"{shown(low, signed=signed)} to {shown(high, signed=signed)}" if known else ""  # type: ignore[arg-type]
    return shown(found["value"], signed=signed), interval


def _slice_cells(one: Mapping[str, Any], verdict: Mapping[str, Any]) -> tuple[str, ...]:
    name, rows, challenger = f"{one['column']} = {one['value']}", f"{one['rows']:,}", shown(one["challenger"])
    if verdict.get("champion") is None:
        return name, rows, challenger
    difference = shown(one["challenger"] - one["champion"], signed=True)
    return name, rows, challenger, shown(one["champion"]), difference


def _interval_title(verdict: Mapping[str, Any]) -> str:
    confidence = verdict.get("confidence")
    return f"{confidence:.0%} interval" if isinstance(confidence, int | float) else "interval"


def _counted(verdict: Mapping[str, Any]) -> str:
    rows = verdict.get("rows")
    return f"{rows:,} hold-out rows" if isinstance(rows, int) else "the hold-out"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # Columns of figures are read from the right.
    rule = "|".join("---" if index < 1 else "---:" for index in range(len(headers)))
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (headers, *rows)]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
