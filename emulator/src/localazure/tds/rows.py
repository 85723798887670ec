"""Arrow tables -> ROW tokens, a batch at a time, by numpy.

[MS-TDS] 2.2.7.17 ROW and 2.2.5.5 (data type details).

A batch becomes one byte buffer. For each column the bytes of every row's field are known as fixed-width blocks
(`_Fixed`) or as a flat run of bytes with lengths (`_Varying`); the rows' starts follow by a cumulative sum, and numpy
scatters the columns into place. No Python code runs per value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from localazure.sql.results import Column, SqlType
from localazure.tds.tokens import Token
from localazure.tds.types import CODE_PAGE, decimal_size, is_max, time_size

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FIRST_ROWS: Final = 512
"""The first piece is small, so that the first row leaves early."""
BATCH_ROWS: Final = 16384
BATCH_BYTES: Final = 32 << 20
"""A batch whose text exceeds this is halved: max types can make any number of rows large."""

_DAYS_TO_1970: Final = 719162  # 0001-01-01 .. 1970-01-01
_DAYS_1900_TO_1970: Final = 25567
_DAY_MICROS: Final = 86_400_000_000


@dataclass
class _Fixed:
    """``block[i]`` is row i's field, its length prefix included; a NULL row sends ``null`` instead."""

    block: Bytes
    valid: Mask | None
    null: Bytes


@dataclass
class _Varying:
    """Row i's field is ``head[i]``, then ``lengths[i]`` bytes of ``data``, then ``tail`` (not where NULL)."""

    head: Bytes
    data: Bytes
    lengths: Ints
    valid: Mask | None
    null: Bytes
    tail: Bytes


_Field = _Fixed | _Varying
_Encoder = Callable[[pa.Array, SqlType], _Field]


def encode_rows(columns: Sequence[Column], table: pa.Table) -> Iterator[bytes]:
    """ROW tokens of ``table`` in pieces of some thousand rows. ``columns`` give the wire types, in the same order."""
    if table.num_columns != len(columns):
        raise ValueError(f"{table.num_columns} Arrow columns for {len(columns)} result columns")
    if not columns:
        return
    start, size = 0, FIRST_ROWS
    while start < table.num_rows:
        yield from _encode_slice(columns, table.slice(start, size))
        start, size = start + size, BATCH_ROWS


def _encode_slice(columns: Sequence[Column], piece: pa.Table) -> Iterator[bytes]:
    if piece.num_rows > 1 and piece.get_total_buffer_size() > BATCH_BYTES and _text_bytes(piece) > BATCH_BYTES:
        half = piece.num_rows // 2
        yield from _encode_slice(columns, piece.slice(0, half))
        yield from _encode_slice(columns, piece.slice(half))
        return
    fields = [encode_field(_single(piece.column(index)), column.type) for index, column in enumerate(columns)]
    yield _assemble(fields, piece.num_rows)


def _text_bytes(piece: pa.Table) -> int:
    total = 0
    for column in piece.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            total += pc.sum(pc.binary_length(column)).as_py() or 0
    return total


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _assemble(fields: list[_Field], rows: int) -> bytes:
    # One token byte, then the fields. Starts of fields are running sums over the rows' lengths.
    widths = [_widths(field) for field in fields]
    starts = np.empty((rows,), np.int64)
    total_width: Ints | int = 1
    for width in widths:
        total_width = total_width + width
    if isinstance(total_width, int):
        return _assemble_uniform(fields, rows, total_width)
    np.cumsum(total_width[:-1], out=starts[1:])
    starts[0] = 0
    out = np.empty((int(starts[-1] + total_width[-1]),), np.uint8)
    out[starts] = Token.ROW
    at: Ints = starts + 1
    for field, width in zip(fields, widths, strict=True):
        if isinstance(field, _Fixed):
            _put_fixed(out, at, field)
        else:
            _put_varying(out, at, field)
        at = at + width
    return out.tobytes()


def _assemble_uniform(fields: list[_Field], rows: int, width: int) -> bytes:
    """Every row has the same length: a matrix, filled by columns."""
    out = np.empty((rows, width), np.uint8)
    out[:, 0] = Token.ROW
    at = 1
    for field in fields:
        assert isinstance(field, _Fixed)
        stop = at + field.block.shape[1]
        out[:, at:stop] = field.block
        at = stop
    return out.tobytes()


def _widths(field: _Field) -> Ints | int:
    if isinstance(field, _Fixed):
        full = field.block.shape[1]
        return full if field.valid is None else np.where(field.valid, full, len(field.null))
    full_lengths = field.lengths + (field.head.shape[1] + len(field.tail))
    return full_lengths if field.valid is None else np.where(field.valid, full_lengths, len(field.null))


def _put_block(out: Bytes, at: Ints, block: Bytes) -> None:
    # Scattering by byte position costs one pass per byte of width, which beats an index matrix of the same size.
    for offset in range(block.shape[1]):
        out[at + offset] = block[:, offset]


def _put_nulls(out: Bytes, at: Ints, valid: Mask, null: Bytes) -> None:
    where = at[~valid]
    for offset, value in enumerate(null):
        out[where + offset] = value


def _put_fixed(out: Bytes, at: Ints, field: _Fixed) -> None:
    if field.valid is None:
        _put_block(out, at, field.block)
        return
    _put_block(out, at[field.valid], field.block[field.valid])
    _put_nulls(out, at, field.valid, field.null)


def _put_varying(out: Bytes, at: Ints, field: _Varying) -> None:
    lengths, head = field.lengths, field.head
    if field.valid is not None:
        _put_nulls(out, at, field.valid, field.null)
        at, lengths, head = at[field.valid], lengths[field.valid], head[field.valid]
    _put_block(out, at, head)
    body = at + head.shape[1]
    if len(field.data):
        ends = np.cumsum(lengths)
        # Byte k of the flat run goes to its row's body plus its place within the row.
        out[np.repeat(body - (ends - lengths), lengths) + np.arange(len(field.data))] = field.data
    for offset, value in enumerate(field.tail):
        out[body + lengths + offset] = value


# Fields --------------------------------------------------------------------------------------------------------------


def encode_field(array: pa.Array, kind: SqlType) -> _Field:
    """One column of a batch as wire fields. Raises ValueError when Arrow's type can't stand for ``kind``."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        array = array.cast(_ARROW.get(kind.name, pa.string()))
    encoder = _ENCODERS.get(kind.name)
    if encoder is None:
        raise ValueError(f"type {kind.name} has no form on the wire")
    return encoder(array, kind)


def _valid(array: pa.Array) -> Mask | None:
    if not array.null_count:
        return None
    buffer = array.buffers()[0]
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].view(np.bool_)


def _values(array: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The value buffer of a fixed-width array, without a copy; undefined where NULL."""
    kind = np.dtype(dtype)
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros((len(array),), kind)
    return np.frombuffer(buffer, kind, count=len(array), offset=array.offset * kind.itemsize)


def _prefixed(raw: Bytes, length: int) -> Bytes:
    """A length byte in front of every row of ``raw``."""
    block = np.empty((raw.shape[0], raw.shape[1] + 1), np.uint8)
    block[:, 0] = length
    block[:, 1:] = raw
    return block


_NULL_BYTE: Final = np.zeros((1,), np.uint8)
_NULL_SHORT: Final = np.full((2,), 0xFF, np.uint8)
_NULL_PARTIAL: Final = np.full((8,), 0xFF, np.uint8)


def _by_byte_length(raw: Bytes, array: pa.Array) -> _Fixed:
    return _Fixed(_prefixed(raw, raw.shape[1]), _valid(array), _NULL_BYTE)


def _as_bytes(values: npt.NDArray[Any], width: int) -> Bytes:
    """The low ``width`` bytes of little-endian values."""
    values = np.ascontiguousarray(values)
    return values.view(np.uint8).reshape(len(values), values.dtype.itemsize)[:, :width]


_ARROW: Final = {
    "bit": pa.bool_(), "tinyint": pa.uint8(), "smallint": pa.int16(), "int": pa.int32(), "bigint": pa.int64(),
    "real": pa.float32(), "float": pa.float64(), "date": pa.date32(), "time": pa.time64("us"),
    "datetime": pa.timestamp("us"), "datetime2": pa.timestamp("us"), "smalldatetime": pa.timestamp("us"),
    "datetimeoffset": pa.timestamp("us", tz="UTC"), "decimal": pa.decimal128(38, 0), "money": pa.decimal128(19, 4),
    "binary": pa.binary(), "varbinary": pa.binary(),
}  # fmt: skip


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def _number(array: pa.Array, kind: SqlType) -> _Field:
    arrow = _ARROW[kind.name]
    dtype = arrow.to_pandas_dtype()
    values = _values(_cast(array, arrow), dtype)
    return _by_byte_length(_as_bytes(values, values.dtype.itemsize), array)


def _bit(array: pa.Array, _kind: SqlType) -> _Field:
    array = _cast(array, pa.bool_())
    buffer = array.buffers()[1]
    if buffer is None:
        values = np.zeros((len(array),), np.uint8)
    else:
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
        values = bits[array.offset : array.offset + len(array)]
    return _by_byte_length(values.reshape(-1, 1), array)


def _halves(
    array: pa.Array,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], Mask]:
    """Magnitude (low, high) and sign of 128-bit decimals."""
    pairs = _values(array, np.dtype((np.uint64, (2,)))) if len(array) else np.zeros((0, 2), np.uint64)
    low, high = pairs[:, 0].copy(), pairs[:, 1].copy()
    negative = high >= np.uint64(1 << 63)
    low[negative] = ~low[negative] + np.uint64(1)
    high[negative] = ~high[negative] + (low[negative] == 0)
    return low, high, negative


def _decimal(array: pa.Array, kind: SqlType) -> _Field:
    """[MS-TDS] 2.2.5.5.1.6: sign (1 is plus), magnitude."""
    precision, scale = kind.precision or 18, kind.scale or 0
    if not pa.types.is_decimal128(array.type) or array.type.scale != scale:
        array = array.cast(pa.decimal128(38, scale))
    low, high, negative = _halves(array)
    size = decimal_size(precision)
    block = np.empty((len(array), size + 1), np.uint8)
    block[:, 0] = size
    block[:, 1] = ~negative
    block[:, 2:10] = _as_bytes(low, 8)[:, : min(8, size - 1)] if size > 5 else 0
    if size == 5:
        block[:, 2:6] = _as_bytes(low, 4)
    elif size > 9:
        block[:, 10:] = _as_bytes(high, size - 9)
    return _Fixed(block, _valid(array), _NULL_BYTE)


def _money(array: pa.Array, _kind: SqlType) -> _Field:
    """[MS-TDS] 2.2.5.5.1.5: ten-thousandths, the high four bytes first."""
    if not pa.types.is_decimal128(array.type) or array.type.scale != 4:
        array = array.cast(pa.decimal128(38, 4))
    pairs = _values(array, np.dtype((np.uint64, (2,))))
    raw = _as_bytes(pairs[:, 0], 8)
    return _by_byte_length(raw[:, [4, 5, 6, 7, 0, 1, 2, 3]], array)


def _date(array: pa.Array, _kind: SqlType) -> _Field:
    days = _values(_cast(array, pa.date32()), np.int32) + np.int32(_DAYS_TO_1970)
    return _by_byte_length(_as_bytes(days, 3), array)


def _scaled_time(micros: Ints, scale: int) -> npt.NDArray[np.int64]:
    return micros // 10 ** (6 - scale) if scale <= 6 else micros * 10


def _time(array: pa.Array, kind: SqlType) -> _Field:
    scale = 7 if kind.scale is None else kind.scale
    micros = _values(_cast(array, pa.time64("us")), np.int64)
    return _by_byte_length(_as_bytes(_scaled_time(micros, scale), time_size(scale)), array)


def _micros(array: pa.Array) -> Ints:
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("us"))
    zone = getattr(array.type, "tz", None)
    return _values(_cast(array, pa.timestamp("us", tz=zone)), np.int64)


def _datetime2(array: pa.Array, kind: SqlType) -> _Field:
    scale = 7 if kind.scale is None else kind.scale
    days, micros = np.divmod(_micros(array), _DAY_MICROS)
    parts = [
        _as_bytes(_scaled_time(micros, scale), time_size(scale)),
        _as_bytes(days + _DAYS_TO_1970, 3),
    ]
    if kind.name == "datetimeoffset":
        parts.append(np.zeros((len(array), 2), np.uint8))
    return _by_byte_length(np.concatenate(parts, axis=1), array)


def _datetime(array: pa.Array, kind: SqlType) -> _Field:
    """[MS-TDS] 2.2.5.5.1.8: days since 1900 and 1/300 s, rounded; smalldatetime: days and minutes, rounded."""
    micros = _micros(array)
    # A NULL's value is whatever the buffer holds: keep it in range.
    if (valid := _valid(array)) is not None:
        micros = np.where(valid, micros, 0)
    days, rest = np.divmod(micros, _DAY_MICROS)
    if kind.name == "smalldatetime":
        minutes = (rest + 30_000_000) // 60_000_000
        days = days + _DAYS_1900_TO_1970 + minutes // 1440
        raw = np.concatenate([_as_bytes(days, 2), _as_bytes(minutes % 1440, 2)], axis=1)
    else:
        ticks = (rest * 3 + 5_000) // 10_000
        days = days + _DAYS_1900_TO_1970 + ticks // 25_920_000
        raw = np.concatenate([_as_bytes(days, 4), _as_bytes(ticks % 25_920_000, 4)], axis=1)
    return _by_byte_length(raw, array)


# .NET's and therefore TDS's order of a GUID's bytes: the first three groups little-endian.
_GUID_ORDER: Final = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]


def _guid(array: pa.Array, _kind: SqlType) -> _Field:
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    if pa.types.is_binary(array.type):
        digits = pa.array([None if v is None else v.hex() for v in array.to_pylist()], pa.string())
    else:
        digits = pc.replace_substring_regex(_cast(array, pa.string()), "[-{}]", "")
    digits = pc.fill_null(digits, "0" * 32)
    flat, lengths = _flat(digits)
    if len(lengths) and (lengths != 32).any():
        raise ValueError("a uniqueidentifier column holds text that is no uniqueidentifier")
    nibbles = np.where(flat > 0x39, (flat | 0x20) - 0x57, flat - 0x30).reshape(-1, 16, 2)
    raw = (nibbles[:, :, 0] << 4 | nibbles[:, :, 1]).astype(np.uint8)
    return _by_byte_length(raw[:, _GUID_ORDER], array)


def _flat(array: pa.Array) -> tuple[Bytes, Ints]:
    """Data and lengths of a string or binary array with 32-bit offsets, NULLs as empty."""
    _, offset_buffer, data_buffer = array.buffers()
    if not len(array):
        return np.zeros((0,), np.uint8), np.zeros((0,), np.int64)
    offsets = np.frombuffer(offset_buffer, np.int32, count=len(array) + 1, offset=array.offset * 4).astype(np.int64)
    data = np.zeros((0,), np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return data[offsets[0] : offsets[-1]], np.diff(offsets)


def _per_row(counts_per_byte: npt.NDArray[Any], lengths: Ints) -> Ints:
    """Sums of a per-byte quantity over rows."""
    running = np.concatenate([np.zeros((1,), np.int64), np.cumsum(counts_per_byte, dtype=np.int64)])
    ends = np.cumsum(lengths)
    sums: Ints = running[ends] - running[ends - lengths]
    return sums


def _characters(array: pa.Array, kind: SqlType) -> _Field:
    array = array.cast(pa.string()) if array.type != pa.string() else array
    if kind.name in {"char", "nchar"} and kind.length and kind.length > 0:
        # Blank-padded to the declared width, as T-SQL returns it.
        array = pc.utf8_rpad(array, width=kind.length, padding=" ")
    valid = _valid(array)
    if valid is not None:
        # A NULL row may hide bytes in the data buffer.
        array = pc.fill_null(array, "")
    data, lengths = _flat(array)
    ascii_only = not len(data) or int(data.max()) < 0x80
    limit = kind.length if kind.length is not None and not is_max(kind) else -1
    if kind.name in {"nchar", "nvarchar"}:
        if ascii_only:
            wide = np.zeros((len(data) * 2,), np.uint8)
            wide[::2] = data
            data, lengths = wide, lengths * 2
        else:
            # Two bytes per character, four beyond the basic plane (UTF-8 lead byte 0xF0 and up).
            units = ((data & 0xC0) != 0x80).astype(np.int64) + (data >= 0xF0)
            lengths = _per_row(units, lengths) * 2
            data = np.frombuffer(bytes(data).decode("utf-8", "replace").encode("utf-16-le"), np.uint8)
        limit *= 2
    elif not ascii_only:
        lengths = _per_row((data & 0xC0) != 0x80, lengths)
        data = np.frombuffer(
            bytes(data).decode("utf-8", "replace").encode(CODE_PAGE, "replace"),
            np.uint8,
        )
    return _string_field(data, lengths, valid, kind, limit)


def _binary(array: pa.Array, kind: SqlType) -> _Field:
    array = array.cast(pa.binary()) if array.type != pa.binary() else array
    valid = _valid(array)
    if valid is not None:
        array = pc.fill_null(array, b"")
    data, lengths = _flat(array)
    return _string_field(data, lengths, valid, kind, -1 if is_max(kind) else kind.length or -1)


def _string_field(data: Bytes, lengths: Ints, valid: Mask | None, kind: SqlType, limit: int) -> _Field:
    if is_max(kind):
        # [MS-TDS] 2.2.5.2.3: total length, one chunk with its length, and the empty chunk that ends it. A chunk of
        # length 0 is the end itself, so an empty value has no chunk: its head carries the end and its tail is spare.
        if len(lengths) and not lengths.all():
            return _partial_with_empty(data, lengths, valid)
        head = np.concatenate([_as_bytes(lengths, 8), _as_bytes(lengths, 4)], axis=1)
        return _Varying(head, data, lengths, valid, _NULL_PARTIAL, np.zeros((4,), np.uint8))
    if limit >= 0 and len(lengths) and int(lengths.max()) > limit:
        raise ValueError(f"a value of {int(lengths.max())} bytes does not fit its column of type {kind}")
    return _Varying(
        _as_bytes(lengths, 2),
        data,
        lengths,
        valid,
        _NULL_SHORT,
        np.zeros((0,), np.uint8),
    )


def _partial_with_empty(data: Bytes, lengths: Ints, valid: Mask | None) -> _Varying:
    """Max values of which some are empty: chunk header and terminator become part of the row's bytes."""
    full = np.where(lengths > 0, lengths + 8, 4)
    flat = np.zeros((int(full.sum()),), np.uint8)
    starts = np.cumsum(full) - full
    some = lengths > 0
    for offset in range(4):
        flat[starts[some] + offset] = _as_bytes(lengths, 4)[some, offset]
    body = starts + 4
    flat[np.repeat(body - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(data))] = data
    head = _as_bytes(lengths, 8)
    if valid is not None:
        # NULL rows contribute no bytes.
        keep = np.repeat(valid, full)
        flat, full = flat[keep], np.where(valid, full, 0)
    return _Varying(head, flat, full, valid, _NULL_PARTIAL, np.zeros((0,), np.uint8))


_ENCODERS: Final[dict[str, _Encoder]] = {
    "bit": _bit,
    "tinyint": _number,
    "smallint": _number,
    "int": _number,
    "bigint": _number,
    "real": _number,
    "float": _number,
    "decimal": _decimal,
    "money": _money,
    "date": _date,
    "time": _time,
    "datetime": _datetime,
    "smalldatetime": _datetime,
    "datetime2": _datetime2,
    "datetimeoffset": _datetime2,
    "uniqueidentifier": _guid,
    "char": _characters,
    "varchar": _characters,
    "nchar": _characters,
    "nvarchar": _characters,
    "binary": _binary,
    "varbinary": _binary,
}


def warm_up() -> None:
    """Encode one row of every type: the first use of numpy and Arrow kernels costs imports worth of seconds."""
    kinds = [SqlType(name, length=1 if name.endswith(("char", "binary")) else None) for name in _ENCODERS]
    kinds = [SqlType("decimal", precision=18, scale=0) if kind.name == "decimal" else kind for kind in kinds]
    columns = tuple(Column(kind.name, kind) for kind in kinds)
    arrays = [pa.nulls(1, _ARROW.get(kind.name, pa.string())) for kind in kinds]
    for _ in encode_rows(columns, pa.table(arrays, names=[kind.name for kind in kinds])):
        pass
