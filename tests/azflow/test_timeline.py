"""Plots over days: one axis for all panels, gaps that stay gaps, names that are data and no markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import date

import pytest

from azflow import timeline
from azflow.timeline import Bars, Cell, Cells, Curve, Curves, Lane, Mark, Piece, Stretch

FIRST, LAST = date(2013, 3, 9), date(2013, 5, 31)
APRIL, MAY = (date(2013, 3, 9), date(2013, 4, 5)), (date(2013, 4, 6), date(2013, 5, 31))


def drawn(*panels: timeline.Panel, first: date = FIRST, last: date = LAST) -> ET.Element:
    return ET.fromstring(timeline.draw(panels, first, last, label="a <year>"))


def texts(svg: ET.Element) -> list[str]:
    return [found.text or "" for found in svg.iter("{http://www.w3.org/2000/svg}text")]


def all_of(svg: ET.Element, name: str) -> list[ET.Element]:
    return list(svg.iter(f"{{http://www.w3.org/2000/svg}}{name}"))


def test_panels_lie_under_each_other_on_one_axis_of_months() -> None:
    curve = Curve("champion", [Stretch(*APRIL, 0.7, 0.69, 0.71), Stretch(*MAY, 0.75)])
    svg = drawn(Curves("AUC", [curve]), Lane("Who", [Piece(*APRIL, "v1"), Piece(*MAY, "v2")]))
    assert [name for name in texts(svg) if name in ("Mar", "Apr", "May", "Jun")] == ["Mar", "Apr", "May"]
    dots = [float(str(circle.get("cx"))) for circle in all_of(svg, "circle") if circle.get("r") == "4.5"]
    bands = [rect for rect in all_of(svg, "rect") if rect.get("rx") == "4"]
    for dot, band in zip(dots, bands, strict=True):
        left, width = float(str(band.get("x"))), float(str(band.get("width")))
        assert dot == pytest.approx(left + width / 2, abs=0.2)
    assert float(str(bands[0].get("y"))) > max(float(str(circle.get("cy"))) for circle in all_of(svg, "circle"))


def test_what_is_not_known_breaks_the_line() -> None:
    days = [(date(2013, 3, 9 + 2 * index), date(2013, 3, 10 + 2 * index)) for index in range(5)]
    values = [0.7, 0.72, None, 0.74, float("nan")]
    svg = drawn(Curves("AUC", [Curve("a", [Stretch(*day, value) for day, value in zip(days, values, strict=True)])]))
    assert [len(str(line.get("points")).split()) for line in all_of(svg, "polyline")] == [2, 1]
    assert "nan" not in ET.tostring(svg, "unicode")
    assert drawn(Curves("AUC", [Curve("a", [Stretch(*APRIL, None)])]), Bars("D", [Stretch(*APRIL, None)])) is not None


def test_bars_are_pale_where_zero_lies_inside() -> None:
    sure, unsure, worse = Stretch(*APRIL, 0.05, 0.03, 0.07), Stretch(*MAY, 0.01, -0.01, 0.03), Stretch(*MAY, -0.04)
    looks = [(bar.get("class"), bar.get("opacity")) for bar in all_of(drawn(Bars("D", [sure, unsure, worse])), "rect")]
    assert looks == [("good", "0.85"), ("good", "0.35"), ("bad", "0.85")]


def test_marks_of_one_day_stand_beside_each_other_and_inside() -> None:
    marks = [
        Mark(LAST, "up", "good", "promoted"),
        Mark(LAST, "dot", "amber", "alarm", 1),
        Mark(APRIL[1], "cross", "bad", ""),
    ]
    svg = drawn(Lane("Who", [Piece(FIRST, LAST, "v1")], marks))
    found = [re.search(r"translate\(([\d.]+)", str(path.get("transform"))) for path in all_of(svg, "path")]
    places = [float(one[1]) for one in found if one]
    assert len(set(places)) == 3 and max(places) < timeline.WIDTH


def test_cells_grow_towards_their_limit_and_an_unknown_one_is_hollow() -> None:
    cells = [Cell(*APRIL, 0.1), Cell(*MAY, 3.0), Cell(*MAY, None), Cell(*MAY, 1.2, "bad", "moved <far>")]
    faint, full, hollow, alarm = all_of(drawn(Cells("Drift", [("a_very_long_name_of_a_feature", cells)])), "rect")
    assert float(str(faint.get("opacity"))) < float(str(full.get("opacity"))) < float(str(alarm.get("opacity")))
    assert hollow.get("fill") == "none" and alarm.get("class") == "bad"


def test_words_are_data() -> None:
    svg = timeline.draw([Lane("a <b>", [Piece(FIRST, LAST, "v<1>")])], FIRST, LAST, label='"x"')
    assert "<b>" not in svg and "v&lt;1&gt;" in svg and 'aria-label="&quot;x&quot;"' in svg
