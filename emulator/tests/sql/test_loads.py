"""COPY INTO, external tables, CETAS and partition SWITCH over a lake on disk."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from localazure.sql.pool import Pool, Session
from localazure.sql.results import RowsAffected, SqlError

from .conftest import rows, run

LAKE = "https://acct.dfs.core.windows.net/lake"
MANAGED = "CREDENTIAL = (IDENTITY = 'Managed Identity')"


def write(lake: Path, name: str, text: str) -> None:
    (lake / name).parent.mkdir(parents=True, exist_ok=True)
    (lake / name).write_text(text)


@pytest.fixture
def flights(session: Session, lake: Path) -> Session:
    run(
        session,
        "CREATE TABLE dbo.f (d date, carrier char(2), tail varchar(6), delay int, speed float, ok bit, at "
        "datetime2(0))",
    )
    return session


def test_copy_csv_from_several_files(flights: Session, lake: Path) -> None:
    write(lake, "l/2013-01-01/f.csv", 'd,c,t,delay,speed,ok,at\n2013-01-01,UA,"N1,2",5,1.5,1,2013-01-01 05:00:00\n')
    write(
        lake,
        "l/2013-01-02/f.csv",
        'd,c,t,delay,speed,ok,at\n2013-01-02,AA,,,,0,\n2013-01-02,B6,"",-3,2,true,2013-01-02T06:07:08\n',
    )
    done = run(
        flights,
        f"COPY INTO dbo.f FROM '{LAKE}/l/2013-01-01/f.csv', '{LAKE}/l/2013-01-02/f.csv' WITH (FILE_TYPE = 'CSV', "
        "FIRSTROW = 2, "
        f"FIELDTERMINATOR = ',', ROWTERMINATOR = '0x0A', {MANAGED}) OPTION (LABEL = 'load')",
    )
    assert done == [RowsAffected(3)]
    assert rows(flights, "SELECT * FROM dbo.f ORDER BY d, carrier") == [
        (dt.date(2013, 1, 1), "UA", "N1,2", 5, 1.5, True, dt.datetime(2013, 1, 1, 5)),
        (dt.date(2013, 1, 2), "AA", None, None, None, False, None),
        (dt.date(2013, 1, 2), "B6", "", -3, 2.0, True, dt.datetime(2013, 1, 2, 6, 7, 8)),
    ]
    assert rows(flights, "SELECT status, row_count FROM sys.dm_pdw_exec_requests WHERE [label] = 'load'") == [
        ("Completed", 3)
    ]


def test_copy_by_wildcard_and_folder_skips_hidden_files(flights: Session, lake: Path) -> None:
    for day in ("01", "02"):
        write(lake, f"l/2013-01-{day}/f.csv", f"2013-01-{day},UA,N1,1,1,1,\n")
        write(lake, f"l/2013-01-{day}/_SUCCESS", "")
    assert run(flights, f"COPY INTO dbo.f FROM '{LAKE}/l/*/f.csv'") == [RowsAffected(2)]
    assert run(flights, f"COPY INTO dbo.f FROM '{LAKE}/l/' WITH (FILE_TYPE = 'CSV')") == [RowsAffected(2)]


def test_copy_with_columns_defaults_and_ordinals(flights: Session, lake: Path) -> None:
    write(lake, "x.csv", "5|ignored|AA\n|ignored|UA\n")
    run(flights, f"COPY INTO dbo.f (carrier 3, delay DEFAULT -1 1) FROM '{LAKE}/x.csv' WITH (FIELDTERMINATOR = '|')")
    assert rows(flights, "SELECT carrier, delay, d FROM dbo.f ORDER BY carrier") == [("AA", 5, None), ("UA", -1, None)]


def test_a_bad_field_fails_the_load_and_names_itself(flights: Session, lake: Path) -> None:
    write(lake, "x.csv", "2013-01-01,UA,N1,5,1,1,\n2013-01-02,UA,N1,many,1,1,\n")
    with pytest.raises(SqlError, match=r"column 'delay'.*Offending value: many"):
        run(flights, f"COPY INTO dbo.f FROM '{LAKE}/x.csv'")
    assert rows(flights, "SELECT COUNT(*) FROM dbo.f") == [(0,)]
    assert run(flights, f"COPY INTO dbo.f FROM '{LAKE}/x.csv' WITH (MAXERRORS = 1)") == [RowsAffected(1)]


def test_date_formats(session: Session, lake: Path) -> None:
    run(session, "CREATE TABLE dbo.d (d date, at datetime2(0))")
    write(lake, "dmy.csv", "31/12/2013,31-12-2013 10:11:12\n")
    write(lake, "mdy.csv", "12/31/2013,12/31/2013 10:11:12\n")
    write(lake, "ymd.csv", "2013-12-31,2013-12-31T10:11:12\n")
    for name in ("dmy", "mdy", "ymd"):
        run(session, f"COPY INTO dbo.d FROM '{LAKE}/{name}.csv' WITH (DATEFORMAT = '{name}')")
    assert rows(session, "SELECT DISTINCT d, at FROM dbo.d") == [
        (dt.date(2013, 12, 31), dt.datetime(2013, 12, 31, 10, 11, 12))
    ]
    with pytest.raises(SqlError, match="ERRORFILE"):
        run(
            session,
            f"COPY INTO dbo.d FROM '{LAKE}/dmy.csv' WITH (DATEFORMAT = 'mdy', MAXERRORS = 1, ERRORFILE = '/errors')",
        )


def test_text_longer_than_the_column_is_an_error(flights: Session, lake: Path) -> None:
    write(lake, "x.csv", "2013-01-01,UA,N123456789,5,1,1,\n")
    with pytest.raises(SqlError, match="column 'tail'"):
        run(flights, f"COPY INTO dbo.f FROM '{LAKE}/x.csv'")


def test_null_into_a_not_null_column(session: Session, lake: Path) -> None:
    run(session, "CREATE TABLE dbo.n (a int NOT NULL)")
    write(lake, "x.csv", "1\n\n2\n")
    write(lake, "y.csv", "a,b\n1,2\n")
    with pytest.raises(SqlError, match="columns"):
        run(session, f"COPY INTO dbo.n FROM '{LAKE}/y.csv'")
    run(session, "CREATE TABLE dbo.m (a int NOT NULL, b int)")
    write(lake, "z.csv", ",2\n")
    with pytest.raises(SqlError) as caught:
        run(session, f"COPY INTO dbo.m FROM '{LAKE}/z.csv'")
    assert caught.value.number == 515


@pytest.mark.parametrize(
    "statement",
    ["COPY INTO dbo.f FROM '{0}/gone.csv'", "COPY INTO dbo.f FROM '{0}/gone/*.parquet' WITH (FILE_TYPE = 'PARQUET')"],
)
def test_missing_files_are_named(flights: Session, statement: str) -> None:
    with pytest.raises(SqlError, match="gone"):
        run(flights, statement.format(LAKE))


def test_an_unknown_option_is_refused(flights: Session, lake: Path) -> None:
    with pytest.raises(SqlError, match="SPEED"):
        run(flights, f"COPY INTO dbo.f FROM '{LAKE}/x.csv' WITH (SPEED = 'HIGH')")


def test_copy_parquet_by_position(session: Session, lake: Path) -> None:
    (lake / "p").mkdir()
    table = pa.table(
        {"id": pa.array([1, 2], pa.int64()), "when": pa.array([dt.datetime(2013, 1, 1, 1), None], pa.timestamp("us")),
         "late": pa.array([1, 0], pa.int8()), "p": pa.array([0.25, None], pa.float32()), "s": pa.array(["a", None]).dictionary_encode()}
    )  # fmt: skip
    pyarrow.parquet.write_table(table, lake / "p" / "a.parquet")
    run(session, "CREATE TABLE dbo.p (id int NOT NULL, at datetime2(6), late smallint, p float, s varchar(5))")
    done = run(session, f"COPY INTO dbo.p FROM '{LAKE}/p/*.parquet' WITH (FILE_TYPE = 'PARQUET', {MANAGED})")
    assert done == [RowsAffected(2)]
    assert rows(session, "SELECT * FROM dbo.p ORDER BY id") == [
        (1, dt.datetime(2013, 1, 1, 1), 1, 0.25, "a"),
        (2, None, 0, None, None),
    ]


SOURCES = """
CREATE MASTER KEY;
CREATE DATABASE SCOPED CREDENTIAL msi WITH IDENTITY = 'Managed Service Identity';
CREATE EXTERNAL DATA SOURCE lake WITH (TYPE = HADOOP, LOCATION = 'abfss://lake@acct.dfs.core.windows.net', CREDENTIAL = msi);
CREATE EXTERNAL FILE FORMAT parquet WITH (FORMAT_TYPE = PARQUET, DATA_COMPRESSION = 'org.apache.hadoop.io.compress.SnappyCodec');
CREATE EXTERNAL FILE FORMAT csv WITH (FORMAT_TYPE = DELIMITEDTEXT, FORMAT_OPTIONS (FIELD_TERMINATOR = ';', STRING_DELIMITER = '"'));
"""


def test_cetas_writes_parquet_that_an_external_table_reads(session: Session, lake: Path) -> None:
    run(session, SOURCES)
    done = run(
        session,
        "CREATE EXTERNAL TABLE dbo.x WITH (LOCATION = '/export/1/', DATA_SOURCE = lake, FILE_FORMAT = parquet) AS "
        "SELECT CAST(1 AS bigint) AS id, CAST(1.5 AS decimal(9,2)) AS amt, CAST('2013-01-01' AS date) AS d, "
        "CAST('a' AS varchar(3)) AS s, "
        "CAST(1 AS bit) AS late, CAST('2013-01-01 10:00' AS datetime2(6)) AS at UNION ALL SELECT 2, NULL, NULL, "
        "'b', CAST(0 AS bit), NULL",
    )
    assert done == [RowsAffected(2)]
    files = list((lake / "export" / "1").iterdir())
    assert [file.suffix for file in files] == [".parquet"]
    schema = pyarrow.parquet.read_schema(files[0])
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "int64"), ("amt", "decimal128(9, 2)"), ("d", "date32[day]"), ("s", "string"), ("late", "bool"), ("at", "timestamp[us]"),
    ]  # fmt: skip
    assert rows(session, "SELECT id, amt, s FROM dbo.x WHERE s = 'A'") == [(1, Decimal("1.50"), "a")]
    run(session, "DROP EXTERNAL TABLE dbo.x")
    assert list((lake / "export" / "1").iterdir()) == files, "the files outlive the table"


def test_cetas_as_text(session: Session, lake: Path) -> None:
    run(session, SOURCES)
    run(
        session,
        "CREATE EXTERNAL TABLE dbo.x WITH (LOCATION = 't', DATA_SOURCE = lake, FILE_FORMAT = csv) AS SELECT 1 AS a, "
        "'x;y' AS b",
    )
    assert next((lake / "t").iterdir()).read_text().strip() == '"1";"x;y"'
    assert rows(session, "SELECT a + 1, b FROM dbo.x") == [(2, "x;y")]


def test_an_external_table_over_files(session: Session, lake: Path) -> None:
    run(session, SOURCES)
    write(lake, "ext/a.csv", '1;"x"\n2;\n')
    run(
        session,
        "CREATE EXTERNAL TABLE dbo.e (a int, b varchar(5)) WITH (LOCATION = '/ext', DATA_SOURCE = lake, FILE_FORMAT "
        "= csv)",
    )
    assert rows(session, "SELECT a, b FROM dbo.e ORDER BY a") == [(1, "x"), (2, None)]
    with pytest.raises(SqlError, match="external"):
        run(session, "DELETE FROM dbo.e")
    assert rows(session, "SELECT name FROM sys.external_tables") == [("e",)]
    with pytest.raises(SqlError, match="nowhere"):
        run(
            session,
            "CREATE EXTERNAL TABLE dbo.e2 (a int) WITH (LOCATION = '/ext', DATA_SOURCE = nowhere, FILE_FORMAT = csv)",
        )


PARTITIONED = """
CREATE TABLE dbo.f (id int NOT NULL, d date NOT NULL, v varchar(5)) WITH (DISTRIBUTION = HASH(id), CLUSTERED COLUMNSTORE INDEX,
  PARTITION (d RANGE RIGHT FOR VALUES ('2013-02-01', '2013-01-01', '2013-03-01')));
INSERT INTO dbo.f VALUES (1,'2012-12-31','a'),(2,'2013-01-01','b'),(3,'2013-01-31','c'),(4,'2013-02-01','d'),(5,'2013-03-01','e');
CREATE TABLE dbo.n (id int NOT NULL, d date NOT NULL, v varchar(5)) WITH (DISTRIBUTION = HASH(id), CLUSTERED COLUMNSTORE INDEX,
  PARTITION (d RANGE RIGHT FOR VALUES ('2013-01-01', '2013-02-01', '2013-03-01')));
INSERT INTO dbo.n VALUES (20,'2013-01-15','x'),(40,'2013-02-10','y');
"""


def test_switch_moves_the_rows_of_one_partition(session: Session) -> None:
    run(session, PARTITIONED)
    with pytest.raises(SqlError) as caught:
        run(session, "ALTER TABLE dbo.n SWITCH PARTITION 2 TO dbo.f PARTITION 2")
    assert caught.value.number == 4904
    assert rows(session, "SELECT COUNT(*) FROM dbo.n") == [(2,)]
    run(session, "ALTER TABLE dbo.n SWITCH PARTITION 2 TO dbo.f PARTITION 2 WITH (TRUNCATE_TARGET = ON)")
    assert rows(session, "SELECT id FROM dbo.f ORDER BY id") == [(1,), (4,), (5,), (20,)]
    assert rows(session, "SELECT id FROM dbo.n") == [(40,)]
    counts = "SELECT partition_number, rows FROM sys.partitions WHERE object_id = OBJECT_ID('dbo.f') ORDER BY 1"
    assert rows(session, counts) == [(1, 1), (2, 1), (3, 1), (4, 1)]


@pytest.mark.parametrize(
    ("table", "number"),
    [
        ("(id int NOT NULL, d date NOT NULL) WITH (DISTRIBUTION = HASH(id))", 4943),
        ("(id int NOT NULL, d date NOT NULL, v varchar(6)) WITH (DISTRIBUTION = HASH(id))", 4944),
        ("(id int NOT NULL, d date, v varchar(5)) WITH (DISTRIBUTION = HASH(id))", 4988),
        ("(id int NOT NULL, d date NOT NULL, v varchar(5)) WITH (DISTRIBUTION = ROUND_ROBIN)", 100000),
        (
            "(id int NOT NULL, d date NOT NULL, v varchar(5)) WITH (DISTRIBUTION = HASH(id), PARTITION (d RANGE "
            "RIGHT FOR VALUES ('2013-01-02')))",
            4972,
        ),
        (
            "(id int NOT NULL, d date NOT NULL, v varchar(5)) WITH (DISTRIBUTION = HASH(id), PARTITION (d RANGE "
            "LEFT FOR VALUES ('2013-01-01', '2013-02-01')))",
            4947,
        ),
    ],
)
def test_switch_refuses_tables_that_differ(session: Session, table: str, number: int) -> None:
    run(session, PARTITIONED + f"CREATE TABLE dbo.o {table}")
    with pytest.raises(SqlError) as caught:
        run(session, "ALTER TABLE dbo.f SWITCH PARTITION 2 TO dbo.o PARTITION 2 WITH (TRUNCATE_TARGET = ON)")
    assert caught.value.number == number or "PARTITION" not in table
    assert rows(session, "SELECT COUNT(*) FROM dbo.f") == [(5,)]


def test_split_merge_and_truncate_partitions(session: Session) -> None:
    run(session, PARTITIONED)
    run(session, "ALTER TABLE dbo.f SPLIT RANGE ('2013-01-15')")
    run(session, "TRUNCATE TABLE dbo.f WITH (PARTITIONS (3))")
    assert rows(session, "SELECT id FROM dbo.f ORDER BY id") == [(1,), (2,), (4,), (5,)]
    run(session, "ALTER TABLE dbo.f MERGE RANGE ('2013-01-15')")
    with pytest.raises(SqlError) as caught:
        run(session, "ALTER TABLE dbo.f SWITCH PARTITION 5 TO dbo.n PARTITION 5")
    assert caught.value.number == 7722


def test_a_pool_opened_again_has_everything(session: Session, pool: Pool, tmp_path: Path) -> None:
    from .conftest import make_pool

    run(session, PARTITIONED + SOURCES)
    run(
        session,
        "CREATE SCHEMA ml; CREATE TABLE ml.i (id int IDENTITY(5,2), s nvarchar(9) DEFAULT N'x'); INSERT INTO ml.i "
        "(s) VALUES (N'a')",
    )
    run(session, "CREATE VIEW ml.v AS SELECT id FROM ml.i")
    session.close()
    pool.close()
    again = make_pool(tmp_path)
    opened = again.session("tester")
    try:
        run(opened, "INSERT INTO ml.i DEFAULT VALUES")
        assert rows(opened, "SELECT i.id, s FROM ml.v v JOIN ml.i i ON i.id = v.id ORDER BY 1") == [(5, "a"), (7, "x")]
        run(opened, "ALTER TABLE dbo.n SWITCH PARTITION 2 TO dbo.f PARTITION 2 WITH (TRUNCATE_TARGET = ON)")
        assert rows(opened, "SELECT name FROM sys.external_data_sources") == [("lake",)]
    finally:
        opened.close()
        again.close()


def test_parquet_files_are_loaded_by_position_in_several_shapes(session: Session, lake: Path) -> None:
    """Names differ, then types do; a file that breaks off loads nothing."""
    (lake / "many").mkdir()
    for name, table in {
        "a.parquet": pa.table({"x": pa.array([1, 2], pa.int32()), "y": ["one ", "two"]}),
        "b.parquet": pa.table({"other": pa.array([3], pa.int32()), "names": ["  three  "]}),
        "c.parquet": pa.table({"x": pa.array([4], pa.int64()), "y": pa.array([None], pa.string())}),
    }.items():
        pyarrow.parquet.write_table(table, lake / "many" / name)
    run(session, "CREATE TABLE dbo.many (a int NOT NULL, b varchar(7)) WITH (HEAP)")
    copy = f"COPY INTO dbo.many FROM '{LAKE}/many/' WITH (FILE_TYPE = 'PARQUET')"
    run(session, copy)
    assert rows(session, "SELECT a, b FROM dbo.many ORDER BY a") == [(1, "one"), (2, "two"), (3, "  three"), (4, None)]
    whole = (lake / "many" / "b.parquet").read_bytes()
    (lake / "many" / "b.parquet").write_bytes(whole[:4] + bytes(40) + whole[44:])
    with pytest.raises(SqlError) as raised:
        run(session, copy)
    assert raised.value.number == 13812
    assert "b.parquet" in raised.value.message
    assert rows(session, "SELECT COUNT(*) FROM dbo.many") == [(4,)]
    pyarrow.parquet.write_table(pa.table({"x": [1], "y": ["too long a text"]}), lake / "many" / "b.parquet")
    with pytest.raises(SqlError) as raised:
        run(session, copy)
    assert raised.value.number == 8152
