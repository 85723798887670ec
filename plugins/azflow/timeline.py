"""Plots over days: panels under each other on one axis of time, as inline SVG in the manner of `charts`.

Pure. A panel knows its height and draws itself below a given line; `draw` puts them together. What isn't known (a value
of None) is left out and breaks the line: nothing is joined across it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from typing import Protocol

from azflow.charts import WIDTH, Scale
from azflow.pages import Html

LEFT, RIGHT = 158.0, WIDTH - 16.0
_TITLE = 26.0  # a panel's heading
_GAP = 22.0  # between panels
_MONTHS = 30.0  # the axis
_LANE = 26.0
_CELL = 18.0
_BESIDE, _MARKS_A_DAY = 12.0, 3
_LETTER = 6.6  # the width of one, more or less
_STROKES = {"accent": "var(--accent)", "soft": "var(--soft)", "good": "var(--good)", "bad": "var(--bad)"}


class Panel(Protocol):
    """Part of a timeline."""

    @property
    def height(self) -> float:
        """With its heading."""

    def draw(self, x: Scale, top: float) -> str:
        """SVG, from `top` down; `x` takes ordinals of days, a day being as wide as from its ordinal to the next."""


@dataclass(frozen=True)
class Stretch:
    """Some days and what was measured on them; `low` and `high` are the value's interval."""

    first: date
    last: date
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a value to draw."""
        return self.value is not None and math.isfinite(self.value)


@dataclass(frozen=True)
class Curve:
    """A named series of stretches, oldest first. `tone`: accent, soft, good or bad."""

    name: str
    stretches: Sequence[Stretch]
    tone: str = "accent"


@dataclass(frozen=True)
class Curves:
    """Curves beside each other: a dot a stretch, a whisker for its interval, a line from one to the next."""

    title: str
    curves: Sequence[Curve]
    tall: float = 230.0

    @property
    def height(self) -> float:
        return _TITLE + self.tall

    def draw(self, x: Scale, top: float) -> str:
        known = [stretch for curve in self.curves for stretch in curve.stretches if stretch.known]
        values = [end for one in known for end in (one.value, one.low, one.high) if end is not None]
        y = Scale.over(values, top + self.height, top + _TITLE)
        parts = [_heading(self.title, top), *_legend(self.curves, top), _levels(y)]
        for number, curve in enumerate(self.curves):
            # Whiskers of two curves at one place would hide each other.
            aside = 5.0 * (number - (len(self.curves) - 1) / 2)
            stroke = _STROKES[curve.tone]
            for run in _unbroken(curve.stretches):
                way = " ".join(f"{_middle(x, one) + aside:.1f},{y(one.value or 0.0):.1f}" for one in run)
                parts.append(f'<polyline points="{way}" fill="none" stroke="{stroke}" stroke-width="2.2"/>')
            for one in curve.stretches:
                if one.value is None or not one.known:
                    continue
                at = _middle(x, one) + aside
                parts.append(f"<g><title>{escape(one.note or f'{curve.name} {one.value:.4f}')}</title>")
                parts.append(_whisker(at, one, y, stroke))
                parts.append(f'<circle cx="{at:.1f}" cy="{y(one.value):.1f}" r="4.5" fill="{stroke}"/></g>')
        return "".join(parts)


@dataclass(frozen=True)
class Bars:
    """Differences from zero: green above, red below, pale where the interval holds zero."""

    title: str
    stretches: Sequence[Stretch]
    tall: float = 120.0

    @property
    def height(self) -> float:
        return _TITLE + self.tall

    def draw(self, x: Scale, top: float) -> str:
        known = [one for one in self.stretches if one.known]
        y = Scale.over(
            [0.0, *(end for one in known for end in (one.value, one.low, one.high) if end is not None)],
            top + self.height,
            top + _TITLE,
        )
        zero = y(0.0)
        parts = [_heading(self.title, top), _levels(y, signed=True, count=4)]
        for one in known:
            value = one.value or 0.0
            css = "good" if value >= 0 else "bad"
            sure = one.low is None or one.high is None or one.low > 0 or one.high < 0
            left, right = x(one.first.toordinal()) + 1.5, x(one.last.toordinal() + 1) - 1.5
            tall = max(1.5, abs(zero - y(value)))
            parts.append(f"<g><title>{escape(one.note or f'{value:+.4f}')}</title>")
            parts.append(
                f'<rect x="{left:.1f}" y="{min(zero, y(value)):.1f}" width="{max(1.0, right - left):.1f}" '
                f'height="{tall:.1f}" rx="2" class="{css}" opacity="{0.85 if sure else 0.35}"/>'
            )
            parts.append(_whisker((left + right) / 2, one, y, "var(--ink)", width=1.2))
            parts.append("</g>")
        parts.append(f'<line x1="{LEFT}" y1="{zero:.1f}" x2="{RIGHT}" y2="{zero:.1f}" class="axis"/>')
        return "".join(parts)


@dataclass(frozen=True)
class Piece:
    """Some days in a `Lane`, with words that are shown where there is room."""

    first: date
    last: date
    words: str
    css: str = "wait"


@dataclass(frozen=True)
class Mark:
    """Something at the end of a day. `sign`: up, cross, back or dot; `place`: the how-manyth of the day, from 0 on."""

    day: date
    sign: str
    css: str
    note: str
    place: int = 0


@dataclass(frozen=True)
class Lane:
    """What was the case when, and above it what happened when."""

    title: str
    pieces: Sequence[Piece]
    marks: Sequence[Mark] = ()

    @property
    def height(self) -> float:
        return _LANE * 2 if self.marks else _LANE

    def draw(self, x: Scale, top: float) -> str:
        band = top + self.height - _LANE
        parts = [_words(0, band + 17.5, self.title, css="soft")]
        for piece in self.pieces:
            left, right = x(piece.first.toordinal()), x(piece.last.toordinal() + 1)
            parts.append(f"<g><title>{escape(piece.words)}, {piece.first} to {piece.last}</title>")
            parts.append(
                f'<rect x="{left + 1:.1f}" y="{band + 2:.1f}" width="{max(1.0, right - left - 2):.1f}" height="22" '
                f'rx="4" class="{piece.css}"/>'
            )
            if right - left > _LETTER * len(piece.words) + 6:
                parts.append(_words((left + right) / 2, band + 17.5, piece.words, anchor="middle"))
            parts.append("</g>")
        for mark in self.marks:
            at = x(mark.day.toordinal() + 1) + _BESIDE * mark.place
            if at + _BESIDE * (_MARKS_A_DAY - 1 - mark.place) > WIDTH:
                at -= _BESIDE * (_MARKS_A_DAY - 1)
            parts.append(f"<g><title>{escape(mark.note)}</title>{_sign(mark, at, top + 14)}</g>")
        return "".join(parts)


@dataclass(frozen=True)
class Cell:
    """One reading in `Cells`: `share` of its limit (1.0 is the limit itself), None if it isn't known."""

    first: date
    last: date
    share: float | None
    css: str = "accent"
    note: str = ""


@dataclass(frozen=True)
class Cells:
    """A row for each name, a cell a stretch; the stronger, the nearer to its limit."""

    title: str
    rows: Sequence[tuple[str, Sequence[Cell]]]

    @property
    def height(self) -> float:
        return _TITLE + _CELL * len(self.rows)

    def draw(self, x: Scale, top: float) -> str:
        parts = [_heading(self.title, top)]
        for number, (name, cells) in enumerate(self.rows):
            y = top + _TITLE + _CELL * number
            parts.append(_words(0, y + 13, name if len(name) <= 22 else name[:21] + "…", css="soft"))  # noqa: PLR2004
            for cell in cells:
                left, right = x(cell.first.toordinal()) + 1, x(cell.last.toordinal() + 1) - 1
                shape = (
                    f'x="{left:.1f}" y="{y + 1:.1f}" width="{max(1.0, right - left):.1f}" height="{_CELL - 2}" rx="2"'
                )
                if cell.share is None:
                    look = 'fill="none" class="grid" stroke-dasharray="3 3"'
                else:
                    strength = 0.06 + 0.5 * min(1.0, cell.share) if cell.css == "accent" else 0.9
                    look = f'class="{cell.css}" opacity="{strength:.2f}"'
                parts.append(f"<g><title>{escape(cell.note or name)}</title><rect {shape} {look}/></g>")
        return "".join(parts)


def draw(panels: Sequence[Panel], first: date, last: date, *, label: str = "") -> Html:
    """The panels under each other, on the days from `first` to `last`, with months below."""
    x = Scale(first.toordinal(), last.toordinal() + 1, LEFT, RIGHT)
    tops, bottom = [], 4.0
    for panel in panels:
        tops.append(bottom)
        bottom += panel.height + _GAP
    bottom -= _GAP - 6
    parts = [*_months(x, first, last, bottom)]
    parts += [panel.draw(x, top) for panel, top in zip(panels, tops, strict=True)]
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {bottom + _MONTHS:g}" role="img" aria-label="{escape(label, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


# pieces


def _words(x: float, y: float, content: str, *, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(content)}</text>'


def _heading(content: str, top: float) -> str:
    return _words(0, top + 12, content)


def _legend(curves: Sequence[Curve], top: float) -> Iterator[str]:
    right = RIGHT
    for curve in reversed(curves):
        right -= _LETTER * len(curve.name)
        yield _words(right, top + 12, curve.name)
        yield f'<circle cx="{right - 11:.1f}" cy="{top + 8:.1f}" r="5" fill="{_STROKES[curve.tone]}"/>'
        right -= 34


def _levels(y: Scale, *, signed: bool = False, count: int = 5) -> str:
    """Horizontal lines at round values; `y` goes from the bottom up."""
    ticks = y.ticks(count)
    decimals = max((len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    parts = []
    for tick in ticks:
        at, sign = y(tick), "+" if signed and tick > 0 else ""
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}" class="grid"/>')
        parts.append(_words(LEFT - 10, at + 4, f"{sign}{tick:.{decimals}f}", css="soft", anchor="end"))
    return "".join(parts)


def _months(x: Scale, first: date, last: date, bottom: float) -> Iterator[str]:
    month = first.replace(day=1)
    while month <= last:
        after = (month + timedelta(days=32)).replace(day=1)
        at, end = x(max(month, first).toordinal()), x(min(after, last + timedelta(days=1)).toordinal())
        if month >= first:
            yield f'<line x1="{at:.1f}" y1="22" x2="{at:.1f}" y2="{bottom:.1f}" class="grid"/>'
        if end - at > 5 * _LETTER:
            yield _words((at + end) / 2, bottom + 18, f"{month:%b}", css="soft", anchor="middle")
        month = after


def _middle(x: Scale, one: Stretch) -> float:
    return (x(one.first.toordinal()) + x(one.last.toordinal() + 1)) / 2


def _unbroken(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """Runs of neighbours that have a value."""
    run: list[Stretch] = []
    for one in stretches:
        if one.known:
            run.append(one)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _whisker(at: float, one: Stretch, y: Scale, stroke: str, width: float = 1.6) -> str:
    if one.low is None or one.high is None:
        return ""
    ends = f'x1="{at:.1f}" y1="{y(one.low):.1f}" x2="{at:.1f}" y2="{y(one.high):.1f}"'
    return f'<line {ends} stroke="{stroke}" stroke-width="{width}" opacity="0.55"/>'


_SIGNS: Mapping[str, str] = {
    "up": "M0,-7 L6.5,5 L-6.5,5 Z",
    "cross": "M-5.5,-3.5 L-3.5,-5.5 L0,-2 L3.5,-5.5 L5.5,-3.5 L2,0 L5.5,3.5 L3.5,5.5 L0,2 L-3.5,5.5 L-5.5,3.5 L-2,0 Z",
    "back": "M0,7 L6.5,-5 L-6.5,-5 Z",
    "dot": "M-4.5,0 A4.5,4.5 0 1,0 4.5,0 A4.5,4.5 0 1,0 -4.5,0 Z",
}


def _sign(mark: Mark, at: float, middle: float) -> str:
    return f'<path d="{_SIGNS[mark.sign]}" transform="translate({at:.1f} {middle:.1f})" class="{mark.css}"/>'
