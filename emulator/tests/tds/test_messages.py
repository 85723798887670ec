"""Packets, log-in messages, declarations and bulk statements: pure functions."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
from raw_client import HEADER, login7, packet, prelogin

from localazure.sql.results import Column, SqlError, SqlType
from localazure.tds import bulk, login, metadata, types
from localazure.tds.describe import measures
from localazure.tds.packets import Packetizer, PacketStatus, PacketType, ProtocolError, Reader, parse_header
from localazure.tds.procedures import system_name
from localazure.tds.requests import BulkRows, parse_rpc, parse_sql_batch


def _unpacked(data: bytes) -> tuple[list[bytes], list[bool]]:
    payloads, ends = [], []
    while data:
        _kind, status, length, *_ = HEADER.unpack(data[:8])
        payloads.append(data[8:length])
        ends.append(bool(status & 1))
        data = data[length:]
    return payloads, ends


@pytest.mark.parametrize("sizes", [[0], [1], [504], [505], [1008], [100, 404], [504, 504, 1], [5000, 3]])
def test_packets_carry_the_stream_and_end_once(sizes: list[int]) -> None:
    packets = Packetizer(512)
    pieces = [bytes((i,)) * size for i, size in enumerate(sizes)]
    data = b"".join(packets.feed(piece) for piece in pieces) + packets.finish()
    payloads, ends = _unpacked(data)
    assert b"".join(payloads) == b"".join(pieces)
    assert ends == [False] * (len(ends) - 1) + [True]
    assert all(len(p) == 504 for p in payloads[:-1])
    assert _unpacked(packets.finish(b"next"))[0] == [b"next"]


def test_headers() -> None:
    header = parse_header(packet(0x01, b"abc")[:8])
    assert (header.type, header.status, header.length) == (PacketType.SQL_BATCH, PacketStatus.END_OF_MESSAGE, 11)
    for bad in (b"\x99\x01\x00\x08\0\0\0\0", b"\x01\x01\x00\x07\0\0\0\0", b"\x01\x01\xff\xff\0\0\0\0"):
        with pytest.raises(ProtocolError):
            parse_header(bad)


def test_readers_never_run_over() -> None:
    for read in (Reader.u8, Reader.u16, Reader.u32, Reader.u64, Reader.b_varchar, Reader.us_varchar):
        with pytest.raises(ProtocolError, match="early"):
            read(Reader(b"\x05\x00"[: 0 if read is Reader.u8 else 1]))
    with pytest.raises(ProtocolError, match="UTF-16"):
        Reader(b"\x01\x00\xd8").b_varchar()


def test_prelogin_there_and_back() -> None:
    parsed = login.parse_prelogin(prelogin(3, fedauth=True))
    assert (parsed.encryption, parsed.fedauth) == (3, True)
    made = login.parse_prelogin(login.make_prelogin(encryption=1, fedauth=True))
    assert (made.encryption, made.fedauth) == (1, True)
    assert not login.parse_prelogin(login.make_prelogin(encryption=1, fedauth=False)).fedauth


@pytest.mark.parametrize(("asked", "reply"), [(0, 0), (1, 1), (2, 2), (3, 1), (0x80, 0), (0x81, 1)])
def test_encryption_table(asked: int, reply: int) -> None:
    assert login.reply_encryption(asked) == reply


def test_login_is_read_and_hides_its_password() -> None:
    token = "header.body.signature"
    body = b"\x03" + struct.pack("<I", len(token) * 2) + token.encode("utf-16-le")
    features = struct.pack("<BI", 2, len(body)) + body + struct.pack("<BI", 10, 1) + b"\x01"
    parsed = login.parse_login(login7("us\u00e9r", "p\u00e4ss", "db", features=features, packet_size=0))
    assert (parsed.user, parsed.password, parsed.database, parsed.packet_size) == ("us\u00e9r", "p\u00e4ss", "db", 4096)
    assert parsed.features == (2, 10)
    assert parsed.fedauth is not None
    assert parsed.fedauth.token == token
    assert "p\u00e4ss" not in repr(parsed)
    assert token not in repr(parsed)


def test_every_truncation_of_a_login_is_refused_cleanly() -> None:
    whole = login7("user", "password", "database")
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            login.parse_login(whole[:length])


def test_declarations() -> None:
    found = types.parse_declarations(
        "@P1 int, @p2 nvarchar( 20 ),@d decimal(18,2) OUTPUT ,@m varchar(max) = 'x', @t datetime2, @f float(24),"
        " @n numeric, @s sysname, @x double precision, @y [varbinary](5)"
    )
    assert [(d.name, str(d.type), d.output) for d in found] == [
        ("@P1", "int", False), ("@p2", "nvarchar(20)", False), ("@d", "decimal(18,2)", True),
        ("@m", "varchar(max)", False), ("@t", "datetime2(7)", False), ("@f", "real", False),
        ("@n", "decimal(18,0)", False), ("@s", "nvarchar(128)", False), ("@x", "float", False),
        ("@y", "varbinary(5)", False),
    ]  # fmt: skip
    assert types.parse_declarations("  ") == ()
    for bad in ("@a", "a int", "@a geography", "@a int @b int"):
        with pytest.raises(ProtocolError):
            types.parse_declarations(bad)


@pytest.mark.parametrize(
    ("written", "name"),
    [("sp_executesql", "sp_executesql"), ("[sys].sp_tables", "sp_tables"), ("sys.SP_PREPARE", "sp_prepare"),
     ("[dbo].[sp_cursoropen]", "sp_cursoropen"), ("stg.load", "stg.load"), ("..sp_columns", "sp_columns")],
)  # fmt: skip
def test_names_of_system_procedures(written: str, name: str) -> None:
    assert system_name(written) == name


def test_a_type_that_no_pool_takes_is_named() -> None:
    for code, name in ((0x62, "sql_variant"), (0xF3, "table-valued"), (0xF0, "CLR"), (0x05, "0x05")):
        with pytest.raises(ProtocolError, match=name):
            types.parse_type_info(Reader(bytes((code,)) + bytes(20)))


def test_a_batch_and_a_bad_header_length() -> None:
    assert parse_sql_batch(struct.pack("<I", 4) + "SELECT 1".encode("utf-16-le")) == "SELECT 1"
    for bad in (b"", b"\x03\0\0\0", struct.pack("<I", 2**31)):
        with pytest.raises(ProtocolError):
            parse_sql_batch(bad)
    with pytest.raises(ProtocolError):
        list(parse_rpc(struct.pack("<I", 4) + struct.pack("<HHH", 0xFFFF, 99, 0)))


def test_insert_bulk() -> None:
    target = bulk.parse_insert_bulk(
        'insert bulk [dbo].[t] ([a] int, [b]]x] nvarchar(20) COLLATE SQL_Latin1_General_CP1_CI_AS, "c" decimal(10,2))'
        " with (TABLOCK, CHECK_CONSTRAINTS)"
    )
    assert target == bulk.BulkTarget("[dbo].[t]", ("a", "b]x", "c"))
    assert bulk.parse_insert_bulk("INSERT INTO t VALUES (1)") is None
    with pytest.raises(SqlError):
        bulk.parse_insert_bulk("INSERT BULK t (")


def test_bulk_rows_become_arrow_or_an_error_that_names_the_column() -> None:
    target = bulk.BulkTarget("t", ("a", "b"))
    columns = (Column("a", SqlType("int")), Column("b", SqlType("nvarchar", length=5)))
    table = bulk.make_table(target, BulkRows(columns, ([1, None], ["x", None])))
    assert table.schema == pa.schema([("a", pa.int32()), ("b", pa.string())])
    with pytest.raises(SqlError, match="column a"):
        bulk.make_table(target, BulkRows(columns, (["no"], ["x"])))
    with pytest.raises(SqlError, match="2 columns"):
        bulk.make_table(target, BulkRows(columns[:1], ([1],)))


def test_use() -> None:
    assert metadata.parse_use(" use [my]]db] ;") == "my]db"
    assert metadata.parse_use("USE azflow") == "azflow"
    assert metadata.parse_use("USE azflow; SELECT 1") is None


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("int", (4, 10, 0)), ("nvarchar(20)", (40, 0, 0)), ("varchar(max)", (-1, 0, 0)), ("decimal(18,4)", (9, 18, 4)),
     ("time(7)", (5, 16, 7)), ("datetime2(0)", (6, 19, 0)), ("datetime2(3)", (7, 23, 3)),
     ("datetimeoffset(7)", (10, 34, 7))],
)  # fmt: skip
def test_measures_are_those_of_sys_columns(kind: str, wanted: tuple[int, int, int]) -> None:
    (declared,) = types.parse_declarations(f"@x {kind}")
    assert measures(declared.type) == wanted
