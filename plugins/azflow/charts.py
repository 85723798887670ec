"""Plots as inline SVG: no script, no library, colours from the page's own style (`pages.STYLE`).

Pure. Lengths are the view box's units; the browser scales the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from azflow.pages import Html

WIDTH = 980
LABELS = 210  # the column of labels on the left
NOTES = 190  # the column of figures on the right
ROW = 27
_TOP = 8
_AXIS = 34


@dataclass(frozen=True)
class Scale:
    """Data -> x. `ticks` are round numbers inside the range."""

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def over(cls, values: Iterable[float], left: float, right: float, *, pad: float = 0.08) -> Scale:
        """A scale that holds all `values`, with a little room on both sides."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        room = (high - low) * pad or abs(high) * pad or 1.0
        return cls(low - room, high + room, left, right)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)

    def ticks(self, count: int = 6) -> list[float]:
        """Round numbers, about `count` of them."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        return [round((first + index) * step, 12) for index in range(math.floor(self.high / step) - first + 1)]


def _svg(height: float, body: str, label: str) -> Html:
    # On a narrow screen it scrolls: as wide as that, nobody could read it.
    return Html(
        f'<div class="scroll wide"><svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(label, quote=True)}" xmlns="http://www.w3.org/2000/svg">{body}</svg></div>'
    )


def _text(x: float, y: float, content: object, *, css: str = "", anchor: str = "start") -> str:
    shown = str(content)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(shown)}</text>'


def _label(y: float, content: str, *, width: int = 30, css: str = "") -> str:
    short = content if len(content) <= width else content[: width - 1] + "…"
    return f"<g><title>{escape(content)}</title>{_text(0, y, short, css=css)}</g>"


def _axis(scale: Scale, bottom: float, *, percent: bool = False, unit: str = "") -> str:
    ticks = scale.ticks()
    decimals = max((len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    parts = []
    for tick in ticks:
        x = scale(tick)
        shown = f"{tick:.0%}" if percent else f"{tick:.{decimals}f}{unit}"
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom:.1f}" class="grid"/>')
        parts.append(_text(x, bottom + 17, shown, css="soft", anchor="middle"))
    return "".join(parts)


@dataclass(frozen=True)
class Interval:
    """One row of `intervals`: a value and, where it is known, its interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    tone: str = "accent"
    note: str = ""


def intervals(rows: Sequence[Interval], *, lines: Mapping[str, float] | None = None, label: str = "") -> Html:
    """Points with whiskers under each other, on one scale.

    :param lines: named vertical lines, e.g. what the difference may not fall below.
    """
    lines = lines or {}
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None] + list(lines.values())
    scale = Scale.over(values, LABELS, WIDTH - NOTES)
    top = _TOP + (18 if lines else 0)
    bottom = top + 34 * len(rows)
    parts = [_axis(scale, bottom)]
    for name, value in lines.items():
        x = scale(value)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" class="axis" stroke-dasharray="4 4"/>')
        parts.append(_text(x, top - 6, name, css="soft", anchor="middle"))
    for index, row in enumerate(rows):
        y = top + 34 * index + 17
        parts.append(_label(y + 4, row.label))
        if row.low is not None and row.high is not None:
            a, b = scale(row.low), scale(row.high)
            parts.append(
                f'<rect x="{a:.1f}" y="{y - 3:.1f}" width="{max(1.0, b - a):.1f}" height="6" rx="3" '
                f'class="{row.tone}" opacity="0.35"/>'
            )
        parts.append(f'<circle cx="{scale(row.value):.1f}" cy="{y:.1f}" r="6.5" class="{row.tone}"/>')
        parts.append(_text(WIDTH - NOTES + 14, y + 4, row.note))
    return _svg(bottom + _AXIS, "".join(parts), label)


def leaderboard(rows: Sequence[tuple[str, float, bool]], *, label: str = "") -> Html:
    """(name, value, is it the best) as dots on one scale, in the given order; a line leads to each."""
    scale = Scale.over([value for _, value, _ in rows], LABELS, WIDTH - NOTES)
    bottom = _TOP + ROW * len(rows)
    parts = [_axis(scale, bottom)]
    for index, (name, value, best) in enumerate(rows):
        y, x = _TOP + ROW * index + ROW / 2, scale(value)
        parts.append(_label(y + 4, name))
        parts.append(f'<line x1="{LABELS}" y1="{y:.1f}" x2="{x:.1f}" y2="{y:.1f}" class="axis" stroke-width="2"/>')
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6.5 if best else 5}" class="{"good" if best else "accent"}"/>'
        )
        parts.append(_text(WIDTH - NOTES + 14, y + 4, f"{value:.4f}" + ("  best" if best else "")))
    return _svg(bottom + _AXIS, "".join(parts), label)


def dumbbells(rows: Sequence[tuple[str, float, float | None, str]], *, label: str = "") -> Html:
    """(name, challenger, champion or None, note): two dots a row and the way between them."""
    scale = Scale.over([v for row in rows for v in row[1:3] if isinstance(v, float)], LABELS, WIDTH - NOTES)
    bottom = _TOP + ROW * len(rows)
    parts = [_axis(scale, bottom)]
    for index, (name, challenger, champion, note) in enumerate(rows):
        y = _TOP + ROW * index + ROW / 2
        parts.append(_label(y + 4, name))
        if champion is not None:
            a, b = sorted((scale(challenger), scale(champion)))
            parts.append(f'<line x1="{a:.1f}" y1="{y:.1f}" x2="{b:.1f}" y2="{y:.1f}" class="axis" stroke-width="2"/>')
            parts.append(f'<circle cx="{scale(champion):.1f}" cy="{y:.1f}" r="5" class="bar soft"/>')
        parts.append(f'<circle cx="{scale(challenger):.1f}" cy="{y:.1f}" r="5.5" class="accent"/>')
        parts.append(_text(WIDTH - NOTES + 14, y + 4, note, css="soft"))
    return _svg(bottom + _AXIS, "".join(parts), label)


@dataclass(frozen=True)
class Span:
    """One row of `spans`: when something ran, in seconds from the beginning of all."""

    label: str
    start: float
    seconds: float
    tone: str = "bar"
    note: str = ""


def spans(rows: Sequence[Span], *, label: str = "") -> Html:
    """When each step ran, under each other."""
    end = max((row.start + row.seconds for row in rows), default=1.0) or 1.0
    scale = Scale(0.0, end, LABELS, WIDTH - NOTES)
    bottom = _TOP + 23 * len(rows)
    parts = [_axis(scale, bottom, unit=" s")]
    for index, row in enumerate(rows):
        y, x = _TOP + 23 * index, scale(row.start)
        width = max(2.0, scale(row.start + row.seconds) - x)
        parts.append(_label(y + 16, row.label))
        parts.append(f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="15" rx="3" class="{row.tone}"/>')
        parts.append(_text(WIDTH - NOTES + 14, y + 16, row.note, css="soft"))
    return _svg(bottom + _AXIS, "".join(parts), label)


def shares(rows: Sequence[tuple[str, Sequence[tuple[str, float, str]], str]], *, label: str = "") -> Html:
    """(name, [(what, percent, css)], note): one bar of 100 % a row, in parts."""
    left, right = LABELS, WIDTH - NOTES
    bottom = _TOP + 34 * len(rows)
    parts = []
    for index, (name, pieces, note) in enumerate(rows):
        y, x = _TOP + 34 * index, float(left)
        parts.append(_label(y + 21, name))
        for what, percent, css in pieces:
            width = (right - left) * percent / 100
            parts.append(f"<g><title>{escape(what)}: {percent:g} %</title>")
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 5}" width="{max(0.0, width - 1.5):.1f}" height="22" rx="3" class="{css}"/>'
            )
            parts.append("</g>")
            x += width
        parts.append(_text(right + 14, y + 21, note, css="soft"))
    return _svg(bottom + 4, "".join(parts), label)


def calibration(curves: Mapping[str, Sequence[tuple[float, float]]], *, unit: str = "", label: str = "") -> Html:
    """Predicted against observed, each curve with its name; on the diagonal predictions mean what they say.

    :param unit: of the values; empty: they are rates from 0 to 1.
    """
    points = [value for curve in curves.values() for point in curve for value in point]
    size, left, height = 300.0, 60.0, 300.0
    if unit:
        across = Scale.over(points, left, left + 1.6 * size)
        low, top = across.low, across.high
    else:
        low, top = 0.0, min(1.0, max(points, default=1.0) * 1.08)
    x, y = Scale(low, top, left, left + 1.6 * size), Scale(low, top, _TOP + height, _TOP)
    parts = []
    for tick in x.ticks(5):
        shown = f"{tick:g}" if unit else f"{tick:.0%}"
        parts.append(f'<line x1="{x(tick):.1f}" y1="{_TOP}" x2="{x(tick):.1f}" y2="{_TOP + height}" class="grid"/>')
        parts.append(f'<line x1="{left}" y1="{y(tick):.1f}" x2="{left + 1.6 * size}" y2="{y(tick):.1f}" class="grid"/>')
        parts.append(_text(x(tick), _TOP + height + 17, shown, css="soft", anchor="middle"))
        parts.append(_text(left - 8, y(tick) + 4, shown, css="soft", anchor="end"))
    ends = f'x1="{x(low):.1f}" y1="{y(low):.1f}" x2="{x(top):.1f}" y2="{y(top):.1f}"'
    parts.append(f'<line {ends} class="axis" stroke-dasharray="4 4"/>')
    colours = ("var(--accent)", "var(--muted)")
    for index, (name, curve) in enumerate(curves.items()):
        colour = colours[index % len(colours)]
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3.5" fill="{colour}"/>' for px, py in curve]
        parts.append(f'<circle cx="{left + 1.6 * size + 40:.1f}" cy="{30 + 24 * index}" r="6" fill="{colour}"/>')
        parts.append(_text(left + 1.6 * size + 54, 34 + 24 * index, name))
    named = f"predicted, {unit}" if unit else "predicted"
    parts.append(_text(left + 0.8 * size, _TOP + height + 38, named, css="soft", anchor="middle"))
    middle = _TOP + height / 2
    turned = f'transform="rotate(-90 16 {middle})" text-anchor="middle"'
    seen = escape(f"observed, {unit}" if unit else "observed")
    parts.append(f'<text x="16" y="{middle}" {turned} class="soft">{seen}</text>')
    return _svg(_TOP + height + 46, "".join(parts), label)


@dataclass(frozen=True)
class Point:
    """One run in `trend`: its label below, its value, and whether it is the one that is looked at."""

    label: str
    value: float
    note: str = ""
    this: bool = False


_TREND = 210.0
_CROWDED = 12


def trend(points: Sequence[Point], *, label: str = "") -> Html:
    """Values from left to right, oldest first, joined by a line; the one that is looked at is filled."""
    left, right, bottom = 70.0, WIDTH - 30.0, _TOP + _TREND
    up = Scale.over([point.value for point in points], bottom, _TOP + 12)
    step = (right - left) / max(1, len(points) - 1)
    places = [(left + step * index if len(points) > 1 else (left + right) / 2) for index in range(len(points))]
    ticks = up.ticks(5)
    decimals = max((len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    parts = []
    for tick in ticks:
        y = up(tick)
        parts.append(f'<line x1="{left - 8:.1f}" y1="{y:.1f}" x2="{right + 8:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(left - 14, y + 4, f"{tick:.{decimals}f}", css="soft", anchor="end"))
    way = " ".join(f"{x:.1f},{up(point.value):.1f}" for x, point in zip(places, points, strict=True))
    parts.append(f'<polyline points="{way}" fill="none" stroke="var(--muted)" stroke-width="2"/>')
    for index, (x, point) in enumerate(zip(places, points, strict=True)):
        y = up(point.value)
        tone = "accent" if point.this else "bar soft"
        parts.append(f"<g><title>{escape(point.note or point.label)}</title>")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if point.this else 5}" class="{tone}"/></g>')
        if len(points) <= _CROWDED or point.this or index == 0:
            anchor = "end" if index == len(points) - 1 and len(points) > 1 else "start" if index == 0 else "middle"
            parts.append(_text(x, bottom + 19, point.label, css="" if point.this else "soft", anchor=anchor))
    return _svg(bottom + 28, "".join(parts), label)


def distributions(
    bins: Sequence[object], baseline: Sequence[float], target: Sequence[float], *, label: str = ""
) -> Html:
    """Two distributions over the same bins, as pairs of bars: the baseline behind, the target in front.

    :param bins: names of categories, one a share; or edges of numbers, one more than there are shares.
    """
    height, left, right = 150.0, 46.0, float(WIDTH)
    most = max([*baseline, *target, 1e-9])
    width = (right - left) / max(len(baseline), 1)
    parts = []
    for share in (0.0, most / 2, most):
        y = _TOP + height * (1 - share / most)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(left - 6, y + 4, f"{share:.0%}", css="soft", anchor="end"))
    for index, (before, after) in enumerate(zip(baseline, target, strict=True)):
        for share, offset, css in ((before, 0.12, "bar soft"), (after, 0.5, "accent")):
            tall = height * share / most
            parts.append(
                f'<rect x="{left + width * (index + offset):.1f}" y="{_TOP + height - tall:.1f}" '
                f'width="{width * 0.38:.1f}" height="{tall:.1f}" class="{css}"/>'
            )
    edges = len(bins) > len(baseline)
    step = max(1, len(bins) // 8) if edges else 1
    for index in range(0, len(bins), step):
        shown = f"{bins[index]:.4g}" if isinstance(bins[index], float) else str(bins[index])
        x = left + width * (index if edges else index + 0.5)
        parts.append(_text(min(x, right - 20), _TOP + height + 17, shown[:14], css="soft", anchor="middle"))
    return _svg(_TOP + height + _AXIS - 8, "".join(parts), label)
