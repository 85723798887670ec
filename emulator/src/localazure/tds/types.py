"""Transact-SQL types on the wire: TYPE_INFO and values, in both directions.

[MS-TDS] 2.2.5.4 (data types), 2.2.5.5 (data type details), 2.2.5.6 (TYPE_INFO).

A decoder is a function ``(data, position) -> (value, next position)``; parameters and bulk rows share them.
Python values: bit bool, integers int, decimal and money Decimal, real and float float, characters str, binary bytes,
date date, time time, datetime kinds datetime, datetimeoffset datetime in UTC, uniqueidentifier str (upper case).
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Final

from localazure.sql.results import SqlType
from localazure.tds.packets import ProtocolError, Reader, text

COLLATION: Final = bytes.fromhex("0904d00034")
"""SQL_Latin1_General_CP1_CI_AS, the default of a dedicated pool: code page 1252."""
CODE_PAGE: Final = "cp1252"

MAX_SHORT: Final = 0xFFFF
PLP_NULL: Final = 0xFFFFFFFFFFFFFFFF
PLP_UNKNOWN: Final = 0xFFFFFFFFFFFFFFFE

Decoder = Callable[[bytes, int], tuple[object, int]]

_INTEGERS: Final = {"tinyint": 1, "smallint": 2, "int": 4, "bigint": 8}
_FLOATS: Final = {"real": 4, "float": 8}
_DATETIMES: Final = {"smalldatetime": 4, "datetime": 8}
_SCALED_TIMES: Final = {"time": 0x29, "datetime2": 0x2A, "datetimeoffset": 0x2B}
_STRINGS: Final = {
    "char": 0xAF,
    "varchar": 0xA7,
    "nchar": 0xEF,
    "nvarchar": 0xE7,
    "binary": 0xAD,
    "varbinary": 0xA5,
}

_DAY_ZERO_1900: Final = datetime(1900, 1, 1)
_DAY_ZERO_1: Final = date(1, 1, 1).toordinal()
_EXACT: Final = Context(prec=40)


def decimal_size(precision: int) -> int:
    """[MS-TDS] 2.2.5.5.1.6: sign byte and magnitude."""
    return 5 if precision <= 9 else 9 if precision <= 19 else 13 if precision <= 28 else 17


def time_size(scale: int) -> int:
    """[MS-TDS] 2.2.5.5.1.8: bytes of a time at ``scale`` fractional digits."""
    return 3 if scale <= 2 else 4 if scale <= 4 else 5


def is_max(kind: SqlType) -> bool:
    """Whether values travel as partially length-prefixed chunks: varchar(max) and its kin."""
    return kind.name in _STRINGS and (kind.length is None or kind.length < 0 or byte_length(kind) > 8000)


def byte_length(kind: SqlType) -> int:
    """Bytes a string or binary type may hold; characters of n-types are two bytes."""
    length = kind.length or 0
    return length * 2 if kind.name in {"nchar", "nvarchar"} else length


def make_type_info(kind: SqlType) -> bytes:
    """[MS-TDS] 2.2.5.6 TYPE_INFO; always the nullable form of a type."""
    name = kind.name
    if name in _INTEGERS:
        return bytes((0x26, _INTEGERS[name]))
    if name == "bit":
        return b"\x68\x01"
    if name in _FLOATS:
        return bytes((0x6D, _FLOATS[name]))
    if name == "decimal":
        precision, scale = kind.precision or 18, kind.scale or 0
        return bytes((0x6A, decimal_size(precision), precision, scale))
    if name == "money":
        return b"\x6e\x08"
    if name in _DATETIMES:
        return bytes((0x6F, _DATETIMES[name]))
    if name == "date":
        return b"\x28"
    if name in _SCALED_TIMES:
        return bytes((_SCALED_TIMES[name], 7 if kind.scale is None else kind.scale))
    if name == "uniqueidentifier":
        return b"\x24\x10"
    if name in _STRINGS:
        collation = b"" if name.endswith("binary") else COLLATION
        if is_max(kind):
            code = {"char": 0xA7, "nchar": 0xE7, "binary": 0xA5}.get(name, _STRINGS[name])
            return struct.pack("<BH", code, MAX_SHORT) + collation
        return struct.pack("<BH", _STRINGS[name], max(1, byte_length(kind))) + collation
    raise ValueError(f"type {name} has no form on the wire")


@dataclass(frozen=True)
class WireType:
    """A TYPE_INFO from the client: the T-SQL type it stands for and how to read its values.

    prefix: bytes of a value's length: 2 of characters and binaries, 1 of the other types, 0 where ``size`` is fixed;
    None where a value has chunks, which only ``decode`` reads. utf8: of characters.
    """

    sql: SqlType
    decode: Decoder
    prefix: int | None = None
    size: int = 0
    utf8: bool = False


def parse_type_info(reader: Reader) -> WireType:
    """[MS-TDS] 2.2.5.6 TYPE_INFO.

    Raises ProtocolError for bytes that are no type, and for types no pool accepts as a value (named in the message).
    """
    code = reader.u8()
    if code in _FIXED:
        name, size = _FIXED[code]
        return WireType(SqlType(name), _fixed(_SCALARS[name, size], size), 0, size)
    parser = _VARIABLE.get(code)
    if parser is None:
        refused = {
            0x62: "sql_variant",
            0xF0: "a CLR type",
            0xF3: "a table-valued parameter",
        }.get(code)
        raise ProtocolError(f"{refused} is not supported" if refused else f"0x{code:02x} is not a TDS data type")
    return parser(reader)


# Scalars: bytes of a known size -> value -----------------------------------------------------------------------------


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=len(data) > 1)


def _real(data: bytes) -> float:
    # The shortest decimal that is this float32: 0.1 as real is 0.1, not 0.10000000149011612.
    return float(struct.unpack("<f", data)[0])


def _money(data: bytes) -> Decimal:
    if len(data) == 4:
        return Decimal(int.from_bytes(data, "little", signed=True)).scaleb(-4)
    high, low = data[:4], data[4:]
    return Decimal(int.from_bytes(low + high, "little", signed=True)).scaleb(-4, _EXACT)


def _datetime(data: bytes) -> datetime:
    if len(data) == 4:
        days, minutes = struct.unpack("<HH", data)
        return _DAY_ZERO_1900 + timedelta(days=days, minutes=minutes)
    days, ticks = struct.unpack("<iI", data)
    # 1/300 s; T-SQL shows milliseconds ending in 0, 3 or 7.
    return _DAY_ZERO_1900 + timedelta(days=days, milliseconds=(ticks * 10 + 1) // 3)


def _guid(data: bytes) -> str:
    return str(uuid.UUID(bytes_le=data)).upper()


def _date(data: bytes) -> date:
    return date.fromordinal(int.from_bytes(data, "little") + _DAY_ZERO_1)


def _time_of(data: bytes, scale: int) -> time:
    micros = int.from_bytes(data, "little") * 10**7 // 10**scale // 10
    seconds, micros = divmod(micros, 1_000_000)
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, micros)


_Scalar = Callable[[bytes], object]
_SCALARS: Final[dict[tuple[str, int], _Scalar]] = {
    ("bit", 1): lambda data: data != b"\0",
    ("tinyint", 1): _integer,
    ("smallint", 2): _integer,
    ("int", 4): _integer,
    ("bigint", 8): _integer,
    ("real", 4): _real,
    ("float", 8): lambda data: struct.unpack("<d", data)[0],
    ("money", 4): _money,
    ("money", 8): _money,
    ("smalldatetime", 4): _datetime,
    ("datetime", 8): _datetime,
    ("uniqueidentifier", 16): _guid,
    ("date", 3): _date,
}
_FIXED: Final = {
    0x32: ("bit", 1),
    0x30: ("tinyint", 1),
    0x34: ("smallint", 2),
    0x38: ("int", 4),
    0x7F: ("bigint", 8),
    0x3B: ("real", 4),
    0x3E: ("float", 8),
    0x7A: ("money", 4),
    0x3C: ("money", 8),
    0x3A: ("smalldatetime", 4),
    0x3D: ("datetime", 8),
}


def _need(data: bytes, start: int, size: int) -> int:
    stop = start + size
    if stop > len(data):
        raise ProtocolError(f"message ends {stop - len(data)} bytes early at offset {start}")
    return stop


def _fixed(scalar: _Scalar, size: int) -> Decoder:
    def decode(data: bytes, pos: int) -> tuple[object, int]:
        stop = _need(data, pos, size)
        return scalar(data[pos:stop]), stop

    return decode


def _byte_length(scalars: dict[int, _Scalar]) -> Decoder:
    """BYTELEN_TYPE: a length byte, 0 for NULL."""

    def decode(data: bytes, pos: int) -> tuple[object, int]:
        start = _need(data, pos, 1)
        size = data[pos]
        if not size:
            return None, start
        stop = _need(data, start, size)
        scalar = scalars.get(size)
        if scalar is None:
            raise ProtocolError(f"{size} bytes is no size of this data type (offset {pos})")
        return scalar(data[start:stop]), stop

    return decode


def _sized(names: dict[int, str]) -> Callable[[Reader], WireType]:
    scalars = {size: _SCALARS[name, size] for size, name in names.items()}

    def parse(reader: Reader) -> WireType:
        size = reader.u8()
        if size not in names:
            raise ProtocolError(f"{size} bytes is no size of {'/'.join(dict.fromkeys(names.values()))}")
        return WireType(SqlType(names[size]), _byte_length(scalars), 1)

    return parse


def _parse_decimal(reader: Reader) -> WireType:
    """[MS-TDS] 2.2.5.5.1.6 Decimal/Numeric."""
    reader.u8()
    precision, scale = reader.u8(), reader.u8()
    if not 1 <= precision <= 38 or scale > precision:
        raise ProtocolError(f"decimal({precision},{scale}) is not a type")

    def scalar(data: bytes) -> Decimal:
        magnitude = int.from_bytes(data[1:], "little")
        return Decimal(magnitude if data[0] else -magnitude).scaleb(-scale, _EXACT)

    sizes: dict[int, _Scalar] = dict.fromkeys((5, 9, 13, 17), scalar)
    return WireType(SqlType("decimal", precision=precision, scale=scale), _byte_length(sizes), 1)


def _parse_date(_reader: Reader) -> WireType:
    return WireType(SqlType("date"), _byte_length({3: _date}), 1)


def _scaled(name: str) -> Callable[[Reader], WireType]:
    """[MS-TDS] 2.2.5.5.1.8: time, datetime2, datetimeoffset."""

    def parse(reader: Reader) -> WireType:
        scale = reader.u8()
        if scale > 7:
            raise ProtocolError(f"{name}({scale}) is not a type")
        size = time_size(scale)

        def as_time(data: bytes) -> time:
            return _time_of(data, scale)

        def as_datetime(data: bytes) -> datetime:
            return datetime.combine(_date(data[size : size + 3]), _time_of(data[:size], scale))

        def as_offset(data: bytes) -> datetime:
            # The moment is sent in UTC; the offset behind it only says how the sender likes it shown.
            return as_datetime(data).replace(tzinfo=UTC)

        scalars: dict[str, dict[int, _Scalar]] = {
            "time": {size: as_time},
            "datetime2": {size + 3: as_datetime},
            "datetimeoffset": {size + 5: as_offset},
        }
        return WireType(SqlType(name, scale=scale), _byte_length(scalars[name]), 1)

    return parse


def _short_string(name: str) -> Callable[[Reader], WireType]:
    """USHORTLEN_TYPE: char, varchar, nchar, nvarchar, binary, varbinary; 0xFFFF as the size means max (PLP)."""

    def parse(reader: Reader) -> WireType:
        size = reader.u16()
        collation = b"" if name.endswith("binary") else reader.take(5)
        codec = _codec(name, collation)
        if size == MAX_SHORT:
            return WireType(SqlType(name, length=-1), _partial(codec))
        if size > 8000:
            raise ProtocolError(f"{name} of {size} bytes: at most 8000, or max")

        def decode(data: bytes, pos: int) -> tuple[object, int]:
            start = _need(data, pos, 2)
            length = data[pos] | data[pos + 1] << 8
            if length == MAX_SHORT:
                return None, start
            stop = _need(data, start, length)
            return codec(data[start:stop]), stop

        kind = SqlType(name, length=size // 2 if name.startswith("n") else size)
        return WireType(kind, decode, 2, utf8=_is_utf8(collation))

    return parse


def _long_string(name: str) -> Callable[[Reader], WireType]:
    """LONGLEN_TYPE as parameters send it: text, ntext, image become the max types that replaced them."""

    def parse(reader: Reader) -> WireType:
        reader.u32()
        codec = _codec(name, b"" if name == "varbinary" else reader.take(5))

        def decode(data: bytes, pos: int) -> tuple[object, int]:
            start = _need(data, pos, 4)
            length = int.from_bytes(data[pos:start], "little")
            if length == 0xFFFFFFFF:
                return None, start
            stop = _need(data, start, length)
            return codec(data[start:stop]), stop

        return WireType(SqlType(name, length=-1), decode)

    return parse


def _parse_xml(reader: Reader) -> WireType:
    """[MS-TDS] 2.2.5.5.3: XML without a schema collection, read as the text it is."""
    if reader.u8():
        raise ProtocolError("xml bound to a schema collection is not supported")
    return WireType(SqlType("nvarchar", length=-1), _partial(text))


def _is_utf8(collation: bytes) -> bool:
    """[MS-TDS] 2.2.5.1.2: bit 26 of the collation's first four bytes is fUTF8."""
    return len(collation) == 5 and bool(collation[3] & 0x04)


def _codec(name: str, collation: bytes) -> Callable[[bytes], object]:
    if name.endswith("binary"):
        return bytes
    if name.startswith("n"):
        return text
    encoding = "utf-8" if _is_utf8(collation) else CODE_PAGE

    def decode(data: bytes) -> str:
        return data.decode(encoding, "replace")

    return decode


def _partial(codec: Callable[[bytes], object]) -> Decoder:
    """[MS-TDS] 2.2.5.2.3 Partially Length-Prefixed Bytes: total length, chunks, an empty chunk."""

    def decode(data: bytes, pos: int) -> tuple[object, int]:
        start = _need(data, pos, 8)
        total = int.from_bytes(data[pos:start], "little")
        if total == PLP_NULL:
            return None, start
        chunks: list[bytes] = []
        while True:
            pos, start = start, _need(data, start, 4)
            size = int.from_bytes(data[pos:start], "little")
            if not size:
                break
            stop = _need(data, start, size)
            chunks.append(data[start:stop])
            start = stop
        value = b"".join(chunks)
        if total != PLP_UNKNOWN and total != len(value):
            raise ProtocolError(f"a max value announces {total} bytes and brings {len(value)}")
        return codec(value), start

    return decode


def _parse_null(_reader: Reader) -> WireType:
    """[MS-TDS] 2.2.5.4.1 NULLTYPE: no data at all."""
    return WireType(SqlType("int"), lambda _data, pos: (None, pos))


_VARIABLE: Final[dict[int, Callable[[Reader], WireType]]] = {
    0x1F: _parse_null,
    0x26: _sized({1: "tinyint", 2: "smallint", 4: "int", 8: "bigint"}),
    0x68: _sized({1: "bit"}),
    0x6D: _sized({4: "real", 8: "float"}),
    0x6E: _sized({4: "money", 8: "money"}),
    0x6F: _sized({4: "smalldatetime", 8: "datetime"}),
    0x24: _sized({16: "uniqueidentifier"}),
    0x6A: _parse_decimal,
    0x6C: _parse_decimal,
    0x28: _parse_date,
    0x29: _scaled("time"),
    0x2A: _scaled("datetime2"),
    0x2B: _scaled("datetimeoffset"),
    0xAF: _short_string("char"),
    0xA7: _short_string("varchar"),
    0xEF: _short_string("nchar"),
    0xE7: _short_string("nvarchar"),
    0xAD: _short_string("binary"),
    0xA5: _short_string("varbinary"),
    0x23: _long_string("varchar"),
    0x63: _long_string("nvarchar"),
    0x22: _long_string("varbinary"),
    0xF1: _parse_xml,
}


# Declarations --------------------------------------------------------------------------------------------------------

_DECLARATION = re.compile(
    r"""\s*(?P<name>@[\w@\#$]+)\s+(?:AS\s+)?(?:\[?sys\]?\.)?\[?(?P<type>[a-z_0-9]+(?:\s+varying|\s+precision)?)\]?
    \s*(?:\(\s*(?P<one>\d+|max)\s*(?:,\s*(?P<two>\d+)\s*)?\))?
    \s*(?P<rest>(?:=\s*[^,]*|output|out|readonly|\s)*)(?:,|$)""",
    re.IGNORECASE | re.VERBOSE,
)
_ALIASES: Final = {
    "numeric": "decimal", "dec": "decimal", "integer": "int", "smallmoney": "money", "rowversion": "binary",
    "timestamp": "binary", "double precision": "float", "sysname": "nvarchar", "character": "char",
    "character varying": "varchar", "char varying": "varchar", "binary varying": "varbinary",
    "text": "varchar", "ntext": "nvarchar", "image": "varbinary", "xml": "nvarchar",
}  # fmt: skip
_LONG: Final = {"text", "ntext", "image", "xml"}


@dataclass(frozen=True)
class Declared:
    """One entry of a parameter declaration list such as ``@P1 int, @P2 nvarchar(20) OUTPUT``."""

    name: str
    type: SqlType
    output: bool = False


def parse_declarations(declarations: str) -> tuple[Declared, ...]:
    """The second argument of sp_executesql and sp_prepare.

    https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-executesql-transact-sql
    Raises ProtocolError with the piece that is no declaration.
    """
    found: list[Declared] = []
    pos = 0
    while declarations[pos:].strip():
        match = _DECLARATION.match(declarations, pos)
        if match is None:
            raise ProtocolError(f"not a parameter declaration: {declarations[pos : pos + 60]!r}")
        kind = declared_type(match["type"], match["one"], match["two"])
        output = bool(re.search(r"\bout(put)?\b", match["rest"], re.IGNORECASE))
        found.append(Declared(match["name"], kind, output))
        pos = match.end()
    return tuple(found)


def declared_type(written: str, one: str | None = None, two: str | None = None) -> SqlType:
    """A type as T-SQL text writes it; T-SQL's defaults for what is left out (decimal is 18,0, varchar is 1)."""
    word = " ".join(written.lower().split())
    name = _ALIASES.get(word, word)
    first = None if one is None else -1 if one.lower() == "max" else int(one)
    if word in _LONG:
        return SqlType(name, length=-1)
    if word == "sysname":
        return SqlType(name, length=128)
    if word in {"rowversion", "timestamp"}:
        return SqlType(name, length=8)
    if name in _STRINGS:
        return SqlType(name, length=1 if first is None else first)
    if name == "decimal":
        return SqlType(name, precision=18 if first is None else first, scale=int(two or 0))
    if name in _SCALED_TIMES:
        return SqlType(name, scale=7 if first is None else first)
    if name == "float":
        return SqlType("real" if first is not None and first <= 24 else "float")
    if name in _INTEGERS or name in _FLOATS or name in _DATETIMES:
        return SqlType(name)
    if name in {"bit", "money", "date", "uniqueidentifier"}:
        return SqlType(name)
    raise ProtocolError(f"type {written!r} in a parameter declaration is not supported")
