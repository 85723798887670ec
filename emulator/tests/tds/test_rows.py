"""Arrow -> ROW tokens, read back by the decoders that read clients' values."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from raw_client import parse

from localazure.sql.results import Column, SqlType
from localazure.tds import rows
from localazure.tds.tokens import make_column_metadata


def round_trip(kind: SqlType, values: list[Any], arrow: pa.DataType) -> list[Any]:
    """Values after encoding and decoding; a second column after them shows that nothing slipped."""
    columns = (Column("v", kind), Column("end", SqlType("int")))
    table = pa.table([pa.array(values, arrow), pa.array(range(len(values)), pa.int32())], names=["v", "end"])
    answer = parse(make_column_metadata(columns) + b"".join(rows.encode_rows(columns, table)))
    assert [row[1] for row in answer.rows] == list(range(len(values)))
    return [row[0] for row in answer.rows]


def T(name: str, length: int | None = None, precision: int | None = None, scale: int | None = None) -> SqlType:
    return SqlType(name, length, precision, scale)


D = Decimal
CASES: list[tuple[SqlType, pa.DataType, list[Any]]] = [
    (T("bit"), pa.bool_(), [True, False]),
    (T("tinyint"), pa.uint8(), [0, 255]),
    (T("smallint"), pa.int16(), [-(2**15), 2**15 - 1]),
    (T("int"), pa.int32(), [-(2**31), 2**31 - 1]),
    (T("bigint"), pa.int64(), [-(2**63), 2**63 - 1]),
    (T("real"), pa.float32(), [0.5, -3.0]),
    (T("float"), pa.float64(), [1.1, -1e300, float("inf")]),
    (T("decimal", precision=9, scale=2), pa.decimal128(9, 2), [D("9999999.99"), D("-0.01"), D("0.00")]),
    (T("decimal", precision=19, scale=0), pa.decimal128(19, 0), [D(10**19 - 1), D(-(10**19) + 1)]),
    (T("decimal", precision=28, scale=5), pa.decimal128(28, 5), [D("-12345678901234567890123.45678")]),
    (T("decimal", precision=38, scale=10), pa.decimal128(38, 10), [D("-1234567890123456789012345678.0123456789")]),
    (T("decimal", precision=38, scale=0), pa.decimal128(38, 0), [D(10**38 - 1), D(-(2**64)), D(2**64)]),
    (T("money"), pa.decimal128(19, 4), [D("-922337203685477.5808"), D("922337203685477.5807"), D("-0.0001")]),
    (T("char", 5), pa.string(), ["ab   ", "abcde"]),
    (T("varchar", 10), pa.string(), ["", "plain", "caf\u00e9", "\u20ac5"]),
    (T("varchar", -1), pa.string(), ["", "x" * 70000, "caf\u00e9"]),
    (T("nchar", 3), pa.string(), ["\u00e9  "]),
    (T("nvarchar", 20), pa.string(), ["", "\u4f60\u597d", "\U0001f600\U0001f600", "plain"]),
    (T("nvarchar", -1), pa.string(), ["", "\U0001f600" * 1000, "", "a"]),
    (T("nvarchar", 5000), pa.string(), ["longer than a short column may be"]),
    (T("binary", 3), pa.binary(), [b"\x01\x02\x03"]),
    (T("varbinary", 8), pa.binary(), [b"", b"\x00\xff"]),
    (T("varbinary", -1), pa.binary(), [b"", b"\xff" * 100000]),
    (T("date"), pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1970, 1, 1)]),
    (T("time", scale=7), pa.time64("us"), [dt.time(23, 59, 59, 999999), dt.time(0)]),
    (T("time", scale=3), pa.time64("us"), [dt.time(1, 2, 3, 456000)]),
    (T("time", scale=0), pa.time64("us"), [dt.time(23, 59, 59)]),
    (T("datetime2", scale=7), pa.timestamp("us"), [dt.datetime.min, dt.datetime.max]),
    (T("datetime2", scale=0), pa.timestamp("us"), [dt.datetime(1969, 12, 31, 23, 59, 59)]),
    (T("datetimeoffset", scale=6), pa.timestamp("us", "UTC"), [dt.datetime(2013, 3, 8, 1, 2, 3, 4, dt.UTC)]),
    (T("datetime"), pa.timestamp("us"), [dt.datetime(1753, 1, 1), dt.datetime(2013, 3, 8, 10, 11, 12, 347000)]),
    (T("smalldatetime"), pa.timestamp("us"), [dt.datetime(1900, 1, 1), dt.datetime(2079, 6, 6, 23, 59)]),
    (T("uniqueidentifier"), pa.string(), ["6F9619FF-8B86-D011-B42D-00C04FC964FF"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arrow", "values"), CASES, ids=[str(k) for k, _, _ in CASES])
def test_values_survive_with_and_without_nulls(kind: SqlType, arrow: pa.DataType, values: list[Any]) -> None:
    assert round_trip(kind, values, arrow) == values
    mixed = [None, *values, None, *values[:1]]
    assert round_trip(kind, mixed, arrow) == mixed
    assert round_trip(kind, [None, None], arrow) == [None, None]
    assert round_trip(kind, [], arrow) == []


@pytest.mark.parametrize(("kind", "arrow", "values"), CASES, ids=[str(k) for k, _, _ in CASES])
def test_slices_of_arrays_begin_where_they_say(kind: SqlType, arrow: pa.DataType, values: list[Any]) -> None:
    long = [None, *values] * 5
    columns = (Column("v", kind),)
    table = pa.table([pa.array(long, arrow)], names=["v"]).slice(3, 6)
    answer = parse(make_column_metadata(columns) + b"".join(rows.encode_rows(columns, table)))
    assert [row[0] for row in answer.rows] == long[3:9]


def test_chunked_columns_and_many_batches() -> None:
    numbers = list(range(rows.BATCH_ROWS * 2 + 100))
    chunks = pa.chunked_array([pa.array(numbers[:70], pa.int32()), pa.array(numbers[70:], pa.int32())])
    columns = (Column("n", SqlType("int")),)
    pieces = list(rows.encode_rows(columns, pa.table([chunks], names=["n"])))
    assert len(pieces) == 3
    answer = parse(make_column_metadata(columns) + b"".join(pieces))
    assert [row[0] for row in answer.rows] == numbers


def test_datetime_rounds_to_its_three_hundredths() -> None:
    values = [dt.datetime(2013, 1, 1, 23, 59, 59, 999000), dt.datetime(2013, 1, 1, 0, 0, 0, 5000)]
    assert round_trip(SqlType("datetime"), values, pa.timestamp("us")) == [
        dt.datetime(2013, 1, 2),
        dt.datetime(2013, 1, 1, 0, 0, 0, 7000),
    ]


def test_smalldatetime_rounds_to_the_minute() -> None:
    values = [dt.datetime(2013, 1, 1, 23, 59, 30), dt.datetime(2013, 1, 1, 0, 0, 29)]
    assert round_trip(SqlType("smalldatetime"), values, pa.timestamp("us")) == [
        dt.datetime(2013, 1, 2),
        dt.datetime(2013, 1, 1),
    ]


def test_what_code_page_1252_lacks_becomes_a_question_mark() -> None:
    assert round_trip(SqlType("varchar", length=10), ["a\u4f60b\U0001f600c", "\u00e9"], pa.string()) == [
        "a?b?c",
        "\u00e9",
    ]


def test_duplicate_and_empty_column_names() -> None:
    columns = (Column("", SqlType("int")), Column("", SqlType("int")))
    table = pa.table([pa.array([1], pa.int32()), pa.array([2], pa.int32())], names=["", ""])
    answer = parse(make_column_metadata(columns) + b"".join(rows.encode_rows(columns, table)))
    assert answer.columns == [["", ""]]
    assert answer.rows == [[1, 2]]


def test_a_value_longer_than_its_type_is_an_error_and_never_a_broken_stream() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        round_trip(SqlType("varchar", length=2), ["abc"], pa.string())


def test_large_values_leave_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BATCH_BYTES", 1000)
    columns = (Column("v", SqlType("varchar", length=-1)),)
    table = pa.table([pa.array(["x" * 600] * 7, pa.string())], names=["v"])
    pieces = list(rows.encode_rows(columns, table))
    assert len(pieces) == 7
    assert len(parse(make_column_metadata(columns) + b"".join(pieces)).rows) == 7
