"""Which tables a script loads, and what is said about them."""

from __future__ import annotations

import pytest

from azflow.table_health import TableHealth, loaded_tables, look

SCRIPT = """CREATE TABLE #t WITH (HEAP, DISTRIBUTION = ROUND_ROBIN) AS SELECT 1 AS x;
COPY INTO stg.flights FROM 'https://a/b' WITH (FILE_TYPE = 'CSV');
GO
CREATE TABLE [ml].[Day] WITH (DISTRIBUTION = HASH(id)) AS SELECT id FROM stg.flights;
WITH d AS (SELECT id FROM ml.day) INSERT INTO pool.ml.history SELECT id FROM d;
INSERT plain SELECT 1;
MERGE INTO ml.day AS t USING stg.flights AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET id = s.id;
UPDATE ml.other SET x = 1; SELECT 1 AS x;
"""


def test_the_tables_that_a_script_loads() -> None:
    assert loaded_tables(SCRIPT) == ("stg.flights", "ml.day", "ml.history", "dbo.plain")


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((60, 60 * 1_000_000, 0, 0, 3), []),
        ((0, 0, 0, 0, 1), []),
        ((600, 600 * 50_000, 0, 0, 1), ["600 row groups have 50000 rows on average, under 100000"]),
        ((0, 0, 842, 0, 1), ["842 of its 842 rows lie uncompressed"]),
        ((60, 60_000_000, 1000, 7_000_000, 1), ["7000000 of its 60001000 rows are deleted"]),
        ((60, 60_000_000, 0, 0, 0), ["it has no statistics"]),
    ],
)
def test_what_is_wrong_with_a_table(numbers: tuple[int, ...], says: list[str]) -> None:
    found = TableHealth("ml.day", *numbers).problems()
    assert len(found) == len(says)
    assert all(text in problem for text, problem in zip(says, found, strict=True))


def test_an_empty_view_is_no_row_groups() -> None:
    asked: list[tuple[object, ...]] = []

    def query(text: str, values: tuple[object, ...]) -> list[list[object]]:
        asked.append(values)
        return [[None] * 4] if "row_group" in text else [[2]]

    assert look("ml.day", query) == TableHealth("ml.day", 0, 0, 0, 0, 2)
    assert asked == [("ml", "day")] * 2
