"""ROW tokens of a bulk load -> Arrow: what the server's own encoder made, and what clients send besides."""

from __future__ import annotations

import random
import struct
from typing import Any

import pyarrow as pa
import pytest
from test_rows import CASES, T

from localazure.sql.results import Column, SqlError, SqlType
from localazure.tds import rows
from localazure.tds.bulk import BulkTarget, arrow_type, make_table
from localazure.tds.packets import ProtocolError
from localazure.tds.requests import parse_bulk_load
from localazure.tds.tokens import make_column_metadata
from localazure.tds.types import COLLATION

DONE = b"\xfd" + b"\0" * 12
UTF8 = b"\x09\x04\xd0\x04\x34"


def load(payload: bytes, names: tuple[str, ...] = ("v",)) -> pa.Table:
    return make_table(BulkTarget("t", names), parse_bulk_load(payload))


def described(*types: bytes) -> bytes:
    """COLMETADATA of columns without names."""
    head = b"\x81" + struct.pack("<H", len(types))
    return head + b"".join(struct.pack("<IH", 0, 1) + kind + b"\0" for kind in types)


@pytest.mark.parametrize(("kind", "arrow", "values"), CASES, ids=[str(kind) for kind, _, _ in CASES])
def test_every_type_comes_back(kind: SqlType, arrow: pa.DataType, values: list[Any]) -> None:
    values = [None, *values, None] * 3
    columns = (Column("v", kind), Column("end", SqlType("int")))
    given = pa.table([pa.array(values, arrow), pa.array(range(len(values)), pa.int32())], names=["v", "end"])
    found = load(make_column_metadata(columns) + b"".join(rows.encode_rows(columns, given)) + DONE, ("v", "end"))
    found.validate(full=True)
    assert found.column(0).type == arrow_type(kind)
    assert found.to_pydict() == given.cast(found.schema).to_pydict()


def test_rows_without_some_fields() -> None:
    """NBCROW: a bit says NULL, and nothing is sent."""
    rng = random.Random(5)
    columns = described(b"\x26\x04", b"\xe7\x14\x00" + COLLATION, b"\x28", b"\x38", b"\xa5\xff\xff")
    wanted, body = [], b""
    for number in range(3000):
        row = [
            None if rng.random() < 0.3 else number,
            None if rng.random() < 0.3 else rng.choice(["", "plain", "caf\u00e9", "\u4f60"]),
            None if rng.random() < 0.3 else 735000 + number % 900,
            number,
            None if rng.random() < 0.3 else bytes(number % 5),
        ]
        bits = sum(1 << index for index, value in enumerate(row) if value is None)
        body += b"\xd2" + bytes((bits,))
        if row[0] is not None:
            body += b"\x04" + struct.pack("<i", row[0])
        if row[1] is not None:
            text = row[1].encode("utf-16-le")
            body += struct.pack("<H", len(text)) + text
        if row[2] is not None:
            body += b"\x03" + row[2].to_bytes(3, "little")
        body += struct.pack("<i", number)
        if row[4] is not None:
            chunk = struct.pack("<I", len(row[4])) + row[4] if row[4] else b""
            body += struct.pack("<Q", len(row[4])) + chunk + b"\0" * 4
        wanted.append(row)
    found = load(columns + body + DONE, ("a", "b", "c", "d", "e"))
    days = [None if value is None else value - 719162 for value in (row[2] for row in wanted)]
    assert found.column("c").cast(pa.int32()).to_pylist() == days
    for index, name in ((0, "a"), (1, "b"), (3, "d"), (4, "e")):
        assert found.column(name).to_pylist() == [row[index] for row in wanted]


TEXTS: list[tuple[bytes, str, list[str]]] = [
    (b"\xa7\x14\x00" + COLLATION, "cp1252", ["caf\u00e9", "\u20ac", "", "plain"]),
    (b"\xa7\x14\x00" + UTF8, "utf-8", ["caf\u00e9", "\u4f60\U0001f600", "", "plain"]),
    (b"\xe7\x14\x00" + COLLATION, "utf-16-le", ["\U0001f600", "a\u4f60", "", "plain"]),
]


@pytest.mark.parametrize(("kind", "encoding", "values"), TEXTS, ids=[encoding for _, encoding, _ in TEXTS])
def test_text_of_every_encoding(kind: bytes, encoding: str, values: list[str]) -> None:
    raw = [value.encode(encoding) for value in values]
    body = b"".join(b"\xd1" + struct.pack("<H", len(value)) + value for value in raw)
    assert load(described(kind) + body + DONE).column(0).to_pylist() == values


def test_bytes_that_are_no_text_of_the_code_page_are_replaced() -> None:
    body = b"\xd1\x03\x00a\x81b" + b"\xd1\x01\x00\xe9"
    assert load(described(b"\xa7\x14\x00" + COLLATION) + body).column(0).to_pylist() == ["a\ufffdb", "\u00e9"]


HALVES = "\U0001f600".encode("utf-16-le")
NVARCHAR = b"\xe7\x14\x00" + COLLATION


def test_an_empty_message_is_no_rows() -> None:
    """Found by the fuzzer."""
    assert load(b"", ("a", "b")).num_rows == 0


WRONG: dict[str, bytes] = {
    "no columns": b"\x81\0\0",
    "a row that ends early": described(b"\x26\x04") + b"\xd1\x04\x01",
    "a row without fields": described(b"\x26\x04") + b"\xd1",
    "text that ends early": described(NVARCHAR) + b"\xd1\x08\x00a\0",
    "an unknown token": described(b"\x26\x04") + b"\x99",
    "a size that the type doesn't have": described(b"\x26\x04") + b"\xd1\x03abc",
    "half a character": described(NVARCHAR) + b"\xd1\x03\x00a\0b",
    "a pair in two rows": described(NVARCHAR) + b"\xd1\x02\x00" + HALVES[:2] + b"\xd1\x02\x00" + HALVES[2:],
    "a day after 9999": described(b"\x28") + b"\xd1\x03\xff\xff\xff",
    "a time after midnight": described(b"\x29\x00") + b"\xd1\x03\xff\xff\xff",
    "a datetime before year 1": described(b"\x6f\x08") + b"\xd1\x08" + struct.pack("<iI", -(10**6), 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_broken_rows_are_the_clients_fault(name: str) -> None:
    with pytest.raises(ProtocolError):
        load(WRONG[name])


def test_a_decimal_of_too_many_digits() -> None:
    with pytest.raises(SqlError) as raised:
        load(described(b"\x6a\x05\x03\x00") + b"\xd1\x05\x01" + struct.pack("<I", 4000))
    assert raised.value.number == 4863


def test_rows_of_many_batches_arrive() -> None:
    columns = (*(Column(name, T("int")) for name in "abcdefg"), Column("s", T("nvarchar", 20)))
    count = 20_000
    numbers = pa.array(range(count), pa.int32())
    given = pa.table([*[numbers] * 7, pa.array([f"row {i}" for i in range(count)])], names=[c.name for c in columns])
    payload = make_column_metadata(columns) + b"".join(rows.encode_rows(columns, given))
    found = load(payload, tuple(c.name for c in columns))
    assert found.equals(given)
