"""The shipped T-SQL: it renders, and a dedicated pool would take it by azflow's own lint."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from rendering import FIRST_NIGHT, SQL_FILES, render

import lint_sql
from azflow import tsql
from azflow.specs import Night
from lint_sql import findings, pools

LATER_NIGHT = Night.of("nightly_retraining__flight_delay", "second", date(2013, 3, 9))
NEW_MONTH = Night.of("nightly_retraining__flight_delay", "third", date(2013, 4, 2), date(2013, 3, 30))


@pytest.mark.parametrize("file", SQL_FILES)
@pytest.mark.parametrize(
    "night", [FIRST_NIGHT, LATER_NIGHT, NEW_MONTH], ids=["backfill", "one day", "over a month's end"]
)
def test_it_renders_without_leftovers(file: str, night: Night) -> None:
    text = render(file, night)
    assert not re.search(r"\{\{|\{%|\bUndefined\b", text)
    assert "localazure" not in text.lower()
    assert not [line for line in text.splitlines() if len(line) > 400]


@pytest.mark.parametrize("file", SQL_FILES)
def test_lint_finds_nothing(file: str) -> None:
    assert findings(file, pools().get(file, "dedicated")) == []


def test_the_lint_names_file_line_and_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.sql").write_text(
        "{% set day = night.partition %}\nSELECT 1 AS n;\nGO\nSELECT * FROM dbo.t FOR XML PATH;\n"
    )
    (tmp_path / "broken.sql").write_text("SELECT {{ nigth.partition }};\n")
    monkeypatch.setattr(lint_sql, "SQL", tmp_path)
    (first, *_) = findings("x.sql", "dedicated")
    assert first.startswith("include/sql/x.sql:4: error refused-construct: a dedicated pool has no FOR XML")
    assert "include/sql/broken.sql: error template: 'nigth' is undefined" in findings("broken.sql", "dedicated")[0]


@pytest.mark.parametrize("file", SQL_FILES)
def test_no_comment_of_a_batch_swallows_a_statement(file: str) -> None:
    # Jinja's whitespace control can glue a statement to a comment's end.
    for batch in tsql.batches(render(file)):
        assert tsql.statements(batch.text), f"a batch without a statement at line {batch.line}"


def test_a_backfill_copies_every_day_once() -> None:
    text = render("staging/flights.sql")
    days = re.findall(r"landing/flights/([\d-]+)/flights\.csv", text)
    assert days == FIRST_NIGHT.days
    assert len(days) == 67


def test_a_night_touches_the_months_of_its_days_only() -> None:
    switched = re.findall(
        r"SWITCH PARTITION (\d+)\s+TO ml\.flight_features PARTITION (\d+)", render("features/flight_features.sql")
    )
    assert switched == [("2", "2"), ("3", "3"), ("4", "4")]
    over_the_end = render("features/flight_features.sql", NEW_MONTH)
    assert re.findall(r"SWITCH PARTITION (\d+)", over_the_end) == ["4", "5"]


def test_the_sets_follow_the_window() -> None:
    text = render("export/flight_delay.sql")
    assert "BETWEEN '2013-01-01' AND '2013-03-01'" in text
    assert "BETWEEN '2013-03-02' AND '2013-03-08'" in text
    score = text[text.index("flight_delay_score\nWITH") :]
    assert "WHERE flight_date = '2013-03-08'" in score
    assert "[late]" not in score, "the label isn't known before departure"


def test_a_month_without_a_partition_is_refused() -> None:
    beyond = Night.of("d", "r", date(2014, 1, 5))
    for file in ("features/flight_features.sql", "writeback/flight_predictions.sql"):
        text = render(file, beyond)
        assert "THROW 100001" in text
        assert "SWITCH PARTITION" not in text


@pytest.mark.parametrize(
    ("file", "view"),
    [
        ("writeback/flight_predictions.sql", "v_flight_predictions"),
        ("writeback/flight_predictions.sql", "v_flight_performance_daily"),
        ("monitoring/readings.sql", "v_monitoring_readings"),
        ("decisions/model_decisions.sql", "v_model_decisions"),
    ],
)
def test_who_fills_a_table_keeps_its_views_up_to_date(file: str, view: str) -> None:
    batches = [batch.text.strip() for batch in tsql.batches(render(file))]
    altered = next(index for index, text in enumerate(batches) if text.startswith(f"ALTER VIEW reporting.{view} AS"))
    # The only statement of its batch, as T-SQL wants it, after the one that makes sure that there is a view to alter.
    assert len(tsql.statements(batches[altered])) == 1
    assert f"EXEC('CREATE VIEW reporting.{view} AS SELECT 1" in batches[altered - 1]
