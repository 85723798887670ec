"""T-SQL text: batches, statements, labels, bound parameters, and each lint rule at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from azflow import tsql, tsql_lint
from azflow.tsql_rules import RULES, Pool

ROOT = Path(__file__).resolve().parents[2]


def kinds(text: str) -> list[str]:
    return [statement.kind for statement in tsql.statements(text)]


# batches


def test_batches_split_on_go_lines_and_keep_the_scripts_lines() -> None:
    text = "SELECT 1\nGO\n\n-- two\nSELECT 2\ngo -- end\nSELECT 3"
    assert [(batch.line, batch.text.strip(), batch.times) for batch in tsql.batches(text)] == [
        (1, "SELECT 1", 1),
        (3, "-- two\nSELECT 2", 1),
        (7, "SELECT 3", 1),
    ]


def test_go_inside_strings_and_comments_is_no_separator_and_go_counts() -> None:
    text = "SELECT 'a\nGO\nb'\n/*\nGO\n/* nested */\n*/\nGO 3\r\n-- only a comment\nGO\n"
    assert [(batch.line, batch.times) for batch in tsql.batches(text)] == [(1, 3)]


@pytest.mark.parametrize(("text", "line"), [("SELECT 1,\n'open", 2), ("\n\n/* open /* */", 3), ("SELECT [open", 1)])
def test_text_that_never_ends_names_the_line(text: str, line: int) -> None:
    with pytest.raises(tsql.TsqlTextError) as caught:
        tsql.batches(text)
    assert caught.value.line == line


# statements


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1 SELECT 2", ["select", "select"]),
        ("INSERT INTO a SELECT 1 FROM b UPDATE a SET x = 1", ["insert", "update"]),
        ("WITH c AS (SELECT 1 AS x) INSERT INTO a SELECT x FROM c; DELETE FROM a", ["insert", "delete"]),
        ("SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 3", ["select"]),
        ("UPDATE a SET x = CASE WHEN y = 1 THEN 2 ELSE 3 END WHERE z = 1 DELETE a", ["update", "delete"]),
        (
            "IF EXISTS (SELECT 1 FROM a) BEGIN DELETE FROM a END ELSE PRINT 'x'",
            ["if", "begin", "delete", "end", "else", "print"],
        ),
        ("IF OBJECT_ID('a') IS NOT NULL DROP TABLE a", ["if", "drop_table"]),
        ("DROP TABLE IF EXISTS a DROP TABLE IF EXISTS b", ["drop_table", "drop_table"]),
        ("ALTER TABLE a ALTER COLUMN b int ALTER TABLE a SWITCH TO b", ["alter_table", "alter_table"]),
        ("CREATE TABLE a WITH (HEAP, DISTRIBUTION = ROUND_ROBIN) AS SELECT 1 AS x", ["ctas"]),
        ("CREATE EXTERNAL TABLE a WITH (LOCATION = 'x') AS SELECT 1 AS x", ["cetas"]),
        ("COPY INTO a FROM 'x' WITH (FILE_TYPE = 'CSV') UPDATE STATISTICS a", ["copy", "update_statistics"]),
        (
            "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN UPDATE SET y = 1"
            " WHEN NOT MATCHED THEN INSERT VALUES (1);",
            ["merge"],
        ),
        ("CREATE PROCEDURE p AS BEGIN SELECT 1; DELETE FROM a; END", ["create_procedure"]),
        ("BEGIN TRY SELECT 1 END TRY BEGIN CATCH THROW END CATCH", ["begin", "select", "end", "begin", "throw", "end"]),
        ("BEGIN TRAN DELETE FROM a COMMIT", ["transaction", "delete", "transaction"]),
        ("GRANT SELECT, INSERT ON a TO b SELECT 1", ["grant", "select"]),
        ("DECLARE @a int = 1, @b int SET @b = @a", ["declare", "set"]),
        ("INSERT INTO a EXEC p @x = 1", ["insert"]),
    ],
)
def test_statements_need_no_semicolons(text: str, expected: list[str]) -> None:
    assert kinds(text) == expected


# labels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT a FROM b; -- done", "SELECT a FROM b OPTION (LABEL = 'x'); -- done"),
        ("UPDATE a SET b = 1 WHERE c = 2", "UPDATE a SET b = 1 WHERE c = 2 OPTION (LABEL = 'x')"),
        ("DELETE FROM a WHERE c = 2", "DELETE FROM a WHERE c = 2 OPTION (LABEL = 'x')"),
        ("SELECT a FROM b OPTION (HASH JOIN)", "SELECT a FROM b OPTION (LABEL = 'x', HASH JOIN)"),
        ("SELECT a FROM b OPTION (LABEL = 'mine')", "SELECT a FROM b OPTION (LABEL = 'mine')"),
        ("INSERT INTO a SELECT 1 FROM b", "INSERT INTO a SELECT 1 FROM b OPTION (LABEL = 'x')"),
        ("INSERT INTO a VALUES (1)", "INSERT INTO a VALUES (1)"),
        ("SELECT 1", "SELECT 1"),
        ("CREATE TABLE a (b int)", "CREATE TABLE a (b int)"),
        ("CREATE VIEW v AS SELECT a FROM b", "CREATE VIEW v AS SELECT a FROM b"),
        ("IF EXISTS (SELECT 1 FROM a) PRINT 'x'", "IF EXISTS (SELECT 1 FROM a) PRINT 'x'"),
    ],
)
def test_labels_go_where_a_pool_takes_them(text: str, expected: str) -> None:
    assert tsql.label_statements(text, "x") == expected


def test_a_labels_quotes_are_doubled_and_its_length_bounded() -> None:
    labelled = tsql.label_statements("SELECT a FROM b", "o'clock" + "x" * 400)
    assert "LABEL = 'o''clock" in labelled
    assert len(labelled) < 300


# parameters


def test_parameters_are_bound_in_order_and_declared_variables_left_alone() -> None:
    text = (
        "DECLARE @n int = @partition -- why?\nSELECT '@day', @@ROWCOUNT FROM a WHERE d = @Day AND e = @n AND f = @day"
    )
    bound, values = tsql.bind(text, {"day": "2013-03-08", "partition": 7})
    assert bound == ("DECLARE @n int = ?        \nSELECT '@day', @@ROWCOUNT FROM a WHERE d = ? AND e = @n AND f = ?")
    assert values == (7, "2013-03-08", "2013-03-08")


def test_a_parameter_nobody_gave_is_an_error() -> None:
    with pytest.raises(tsql.UnboundParameter, match="@missing") as caught:
        tsql.bind("SELECT 1,\n@missing", {})
    assert caught.value.line == 2


def test_a_procedures_argument_names_are_not_parameters() -> None:
    assert tsql.bind("EXEC p @name = @value", {"value": 3}) == ("EXEC p @name = ?", (3,))


def test_a_question_mark_of_ones_own_cant_stand_beside_bound_parameters() -> None:
    with pytest.raises(tsql.TsqlTextError, match="question mark"):
        tsql.bind("SELECT ? WHERE 1 = @a", {"a": 1})


# rules: (rule, text that breaks it, text that keeps it)

DEDICATED = [
    (
        "ctas-distribution",
        "CREATE TABLE a WITH (HEAP) AS SELECT 1 AS x",
        "CREATE TABLE a WITH (HEAP, DISTRIBUTION = ROUND_ROBIN) AS SELECT 1 AS x",
    ),
    (
        "ddl-in-transaction",
        "BEGIN TRAN CREATE TABLE a (b int) COMMIT",
        "BEGIN TRAN DELETE FROM a COMMIT CREATE TABLE a (b int)",
    ),
    ("nested-transaction", "BEGIN TRAN BEGIN TRAN COMMIT", "BEGIN TRAN COMMIT BEGIN TRAN ROLLBACK"),
    ("nested-transaction", "BEGIN TRAN mine", "BEGIN TRAN"),
    ("nested-transaction", "SAVE TRANSACTION here", "COMMIT"),
    ("refused-construct", "SELECT a FROM b ORDER BY a OFFSET 1 ROWS FETCH NEXT 2 ROWS ONLY", "SELECT TOP 2 a FROM b"),
    ("refused-construct", "SELECT a FROM b FOR JSON PATH", "SELECT a FROM b"),
    ("refused-construct", "SELECT CHOOSE(1, 'a', 'b')", "SELECT t.CHOOSE FROM t"),
    ("refused-construct", "SELECT TRANSLATE('a', 'b', 'c')", "SELECT REPLACE('a', 'b', 'c')"),
    ("refused-construct", "SELECT a FROM OPENROWSET(BULK 'x') AS r", "SELECT openrowset FROM t"),
    ("refused-construct", "DECLARE @t TABLE (a int)", "CREATE TABLE #t (a int)"),
    ("refused-construct", "SELECT a FROM other.dbo.t", "SELECT a FROM dbo.t"),
    ("refused-construct", "WAITFOR DELAY '00:00:01'", "PRINT 'waitfor'"),
    ("refused-construct", "USE other", "PRINT 'use'"),
    ("refused-construct", "GOTO done", "PRINT 'goto'"),
    ("refused-construct", "INSERT INTO a EXEC p", "EXEC p"),
    (
        "refused-construct",
        "CREATE PROC p @a int = 1 AS SELECT 1",
        "CREATE PROC p @a int AS SELECT b FROM c WHERE b = @a",
    ),
    (
        "throw-number",
        "THROW 50001, 'x', 1",
        "BEGIN TRY SELECT 1 END TRY BEGIN CATCH THROW END CATCH THROW 100001, 'x', 1",
    ),
    ("refused-construct", "SELECT ERROR_LINE()", "SELECT ERROR_NUMBER()"),
    (
        "merge-non-hash",
        "CREATE TABLE a (x int) WITH (DISTRIBUTION = ROUND_ROBIN)\n"
        "MERGE a USING b ON a.x = b.x WHEN NOT MATCHED THEN INSERT VALUES (1);",
        "CREATE TABLE a (x int) WITH (DISTRIBUTION = HASH(x))\n"
        "MERGE a USING b ON a.x = b.x WHEN NOT MATCHED THEN INSERT VALUES (1);",
    ),
    (
        "staging-columnstore",
        "CREATE TABLE stg.a (x int) WITH (DISTRIBUTION = ROUND_ROBIN)",
        "CREATE TABLE stg.a (x int) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)",
    ),
    (
        "partition-count",
        f"CREATE TABLE a (x int) WITH (PARTITION (x RANGE RIGHT FOR VALUES ({', '.join(map(str, range(80)))})))",
        "CREATE TABLE a (x int) WITH (PARTITION (x RANGE RIGHT FOR VALUES (1, 2, 3)))",
    ),
    (
        "select-star",
        "CREATE TABLE a WITH (DISTRIBUTION = ROUND_ROBIN) AS SELECT b.* FROM b",
        "CREATE TABLE a WITH (DISTRIBUTION = ROUND_ROBIN) AS SELECT COUNT(*) AS n, x * y AS z FROM b",
    ),
    ("no-statistics", "COPY INTO a FROM 'x'", "COPY INTO a FROM 'x'\nUPDATE STATISTICS a"),
    (
        "no-statistics",
        "CREATE TABLE a WITH (DISTRIBUTION = HASH(x)) AS SELECT x FROM b",
        "CREATE TABLE a WITH (DISTRIBUTION = HASH(x)) AS SELECT x FROM b CREATE STATISTICS s ON a (x)",
    ),
    ("oversized-column", "CREATE TABLE a (b nvarchar(max))", "CREATE TABLE a (b nvarchar(40), c decimal(38, 4))"),
    (
        "copy-secret",
        "COPY INTO a FROM 'x' WITH (CREDENTIAL = (IDENTITY = 'Shared Access Signature', SECRET = 'y'))",
        "COPY INTO a FROM 'x' WITH (CREDENTIAL = (IDENTITY = 'Managed Identity'))",
    ),
    (
        "row-by-row",
        "WHILE @i < 9 BEGIN INSERT INTO a VALUES (1) SET @i = @i + 1 END",
        "WHILE @i < 9 BEGIN SET @i = @i + 1 END INSERT INTO a VALUES (1)",
    ),
    ("no-where", "DELETE FROM a", "DELETE FROM a WHERE b = 1"),
    (
        "join-without-equality",
        "SELECT 1 FROM a JOIN b ON a.x > b.y WHERE a.x = 1",
        "SELECT 1 FROM a JOIN b ON a.x = b.y",
    ),
    (
        "hash-key-mismatch",
        "CREATE TABLE a (x int, y int) WITH (DISTRIBUTION = HASH(x))\n"
        "CREATE TABLE b (x int, y int) WITH (DISTRIBUTION = HASH(y))\n"
        "SELECT 1 FROM a AS l JOIN b AS r ON l.x = r.x",
        "CREATE TABLE a (x int, y int) WITH (DISTRIBUTION = HASH(x))\n"
        "CREATE TABLE b (x int, y int) WITH (DISTRIBUTION = HASH(y))\n"
        "SELECT 1 FROM a AS l JOIN b AS r ON l.x = r.y",
    ),
    (
        "function-on-filter",
        "SELECT 1 FROM a WHERE YEAR(a.d) = 2013",
        "SELECT 1 FROM a WHERE a.d >= CONVERT(date, '20130101')",
    ),
    ("leading-wildcard", "SELECT 1 FROM a WHERE b LIKE N'%x'", "SELECT 1 FROM a WHERE b LIKE 'x%'"),
    (
        "join-cast",
        "SELECT 1 FROM a JOIN b ON CAST(a.x AS int) = b.x",
        "SELECT CAST(a.x AS int) FROM a JOIN b ON a.x = b.x",
    ),
]
SERVERLESS = [
    ("serverless-refused", "INSERT INTO a SELECT 1 AS x", "SELECT a.x FROM a"),
    ("serverless-refused", "SELECT x FROM a OPTION (LABEL = 'x')", "SELECT x FROM a"),
    ("serverless-refused", "SELECT x FROM a GROUP BY GROUPING SETS ((x), ())", "SELECT x FROM a GROUP BY x"),
    ("serverless-refused", "CREATE TABLE a (b int)", "CREATE TABLE #a (b int)"),
    (
        "openrowset-filepath",
        "SELECT x FROM OPENROWSET(BULK 'a/*/b', FORMAT = 'PARQUET') WITH (x int) AS r",
        "SELECT x FROM OPENROWSET(BULK 'a/*/b', FORMAT = 'PARQUET') WITH (x int) AS r WHERE r.filepath(1) = 'a'",
    ),
    (
        "openrowset-schema",
        "SELECT x FROM OPENROWSET(BULK 'b.parquet', FORMAT = 'PARQUET') AS r",
        "SELECT x FROM OPENROWSET(BULK 'b.parquet', FORMAT = 'PARQUET') WITH (x int) AS r",
    ),
    (
        "csv-parser",
        "SELECT x FROM OPENROWSET(BULK 'b.csv', FORMAT = 'CSV') WITH (x int) AS r",
        "SELECT x FROM OPENROWSET(BULK 'b.csv', FORMAT = 'CSV', PARSER_VERSION = '2.0') WITH (x int) AS r",
    ),
    ("select-star", "SELECT * FROM a", "SELECT x FROM a"),
]
CASES = [("dedicated", *case) for case in DEDICATED] + [("serverless", *case) for case in SERVERLESS]


@pytest.mark.parametrize(("pool", "rule", "bad", "good"), CASES)
def test_rule(pool: Pool, rule: str, bad: str, good: str) -> None:
    assert rule in {finding.rule for finding in tsql_lint.lint(bad, pool)}
    assert rule not in {finding.rule for finding in tsql_lint.lint(good, pool)}


def test_every_rule_is_tried() -> None:
    assert {rule.id for rule in RULES} == {case[1] for case in CASES}


def test_lines_are_the_scripts_own() -> None:
    findings = tsql_lint.lint("SELECT 1\nGO\n\nSELECT a,\n  CHOOSE(1, 2)\nFROM b")
    assert [(finding.rule, finding.severity, finding.line) for finding in findings] == [
        ("refused-construct", "error", 5)
    ]


def test_text_that_cant_be_read_is_a_finding() -> None:
    assert [(finding.rule, finding.line) for finding in tsql_lint.lint("SELECT 1\nGO\nSELECT 'x")] == [
        ("unreadable", 3)
    ]


def test_a_comment_silences_a_warning_but_never_an_error() -> None:
    assert tsql_lint.lint("-- lint: allow no-where  the table is tiny\nDELETE FROM a") == ()
    assert tsql_lint.lint("DELETE FROM a -- lint: allow no-where") == ()
    assert tsql_lint.lint("-- lint: allow no-where\nDELETE FROM b WHERE x = 1\nDELETE FROM a") != ()
    assert tsql_lint.lint("-- lint: allow refused-construct\nUSE other") != ()


def test_the_documented_catalogue_is_the_codes() -> None:
    page = ROOT / "docs" / "tsql_lint.md"
    assert page.read_text(encoding="utf-8") == tsql_lint.catalogue(), (
        "write it again: PYTHONPATH=plugins python -c "
        "'from azflow import tsql_lint; print(tsql_lint.catalogue(), end=\"\")' > docs/tsql_lint.md"
    )
