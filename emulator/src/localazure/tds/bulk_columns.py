"""Bytes of a bulk load -> Arrow columns, a batch at a time, by numpy; the mirror of `localazure.tds.rows`.

[MS-TDS] 2.2.5.5 (data type details), 2.2.6.1 (Bulk Load BCP).

Where a row's fields begin is only known from the lengths before them, so that a scan in Python notes the starts; the
values behind them are taken column by column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from localazure.sql.results import SqlError, SqlType
from localazure.tds.packets import ProtocolError, text
from localazure.tds.types import CODE_PAGE, MAX_SHORT, WireType, time_size

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_DAYS_TO_1970: Final = 719162
_DAYS_1900_TO_1970: Final = 25567
_DAY_MICROS: Final = 86_400_000_000
_LAST_DAY: Final = 3652058  # 9999-12-31, from 0001-01-01
_GUID_ORDER: Final = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
_HEX: Final = np.frombuffer(b"0123456789ABCDEF", np.uint8)


def column_of(wire: WireType, data: Bytes, starts: Ints) -> pa.Array:
    """The fields that begin at ``starts`` (-1: NULL), prefixes included, as the Arrow type of `ResultSet`.

    ``wire`` has a prefix. Every field lies inside ``data``. Raises ProtocolError for bytes that are no value of the
    type, SqlError 4863 for a decimal of too many digits.
    """
    if wire.prefix == 2:
        return _text(wire, data, starts)
    here = starts[starts >= 0]
    present = starts >= 0
    if wire.prefix == 1:
        sizes = data[here].astype(np.int64)
        present[present] = sizes > 0
        here, sizes = here[sizes > 0] + 1, sizes[sizes > 0]
    else:
        sizes = np.full(len(here), wire.size, np.int64)
    known = _SIZES.get(wire.sql.name) or (_scaled_size(wire.sql),)
    if len(sizes) and not np.isin(sizes, known).all():
        raise ProtocolError(f"{wire.sql} has a value of {int(sizes[~np.isin(sizes, known)][0])} bytes")
    block = np.zeros((len(starts), max(known)), np.uint8)
    for size in known:
        chosen = sizes == size
        if chosen.any():
            rows = np.flatnonzero(present)[chosen]
            block[rows, :size] = data[here[chosen][:, None] + np.arange(size)]
    if wire.sql.name in {"money", "datetime", "smalldatetime"} and len(sizes):
        block = block[:, : int(sizes[0])]
    return _DECODERS[wire.sql.name](block, wire.sql, present)


def _scaled_size(kind: SqlType) -> int:
    more = {"time": 0, "datetime2": 3, "datetimeoffset": 5}[kind.name]
    return time_size(7 if kind.scale is None else kind.scale) + more


_SIZES: Final[dict[str, tuple[int, ...]]] = {
    "bit": (1,), "tinyint": (1,), "smallint": (2,), "int": (4,), "bigint": (8,), "real": (4,), "float": (8,),
    "money": (4, 8), "smalldatetime": (4,), "datetime": (8,), "uniqueidentifier": (16,), "date": (3,),
    "decimal": (5, 9, 13, 17),
}  # fmt: skip


def _bitmap(present: Mask) -> pa.Buffer | None:
    return None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little").tobytes())


def _array(kind: pa.DataType, values: npt.NDArray[Any], present: Mask) -> pa.Array:
    buffers = [_bitmap(present), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(kind, len(present), buffers)


def _whole(block: Bytes) -> Ints:
    """Unsigned little-endian integers of up to seven bytes."""
    wide = np.zeros((len(block), 8), np.uint8)
    wide[:, : block.shape[1]] = block
    return wide.view(np.int64)[:, 0]


def _as(block: Bytes, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.ascontiguousarray(block).view(np.dtype(dtype))[:, 0]


def _bit(block: Bytes, _kind: SqlType, present: Mask) -> pa.Array:
    return pa.array(block[:, 0] != 0, pa.bool_(), mask=~present)


_NUMBERS: Final = {
    "tinyint": pa.uint8(), "smallint": pa.int16(), "int": pa.int32(), "bigint": pa.int64(), "real": pa.float32(),
    "float": pa.float64(),
}  # fmt: skip


def _number(block: Bytes, kind: SqlType, present: Mask) -> pa.Array:
    arrow = _NUMBERS[kind.name]
    return _array(arrow, _as(block, arrow.to_pandas_dtype()), present)


def _money(block: Bytes, _kind: SqlType, present: Mask) -> pa.Array:
    """[MS-TDS] 2.2.5.5.1.5: ten-thousandths, of eight bytes the high four first."""
    if block.shape[1] == 4:
        values = _as(block, np.int32).astype(np.int64)
    else:
        values = _as(block[:, [4, 5, 6, 7, 0, 1, 2, 3]], np.int64)
    return _array(pa.decimal128(19, 4), np.stack([values, values >> 63], axis=1), present)


def _decimal(block: Bytes, kind: SqlType, present: Mask) -> pa.Array:
    """[MS-TDS] 2.2.5.5.1.6: sign (1 is plus), magnitude."""
    pairs = np.ascontiguousarray(block[:, 1:]).view(np.uint64)
    low, high = pairs[:, 0].copy(), pairs[:, 1].copy()
    negative = (block[:, 0] == 0) & present
    low[negative] = ~low[negative] + np.uint64(1)
    high[negative] = ~high[negative] + (low[negative] == 0)
    made = _array(pa.decimal128(kind.precision or 18, kind.scale or 0), np.stack([low, high], axis=1), present)
    try:
        made.validate(full=True)
    except pa.ArrowInvalid:
        raise SqlError(4863, f"Bulk load data conversion error: a value is no {kind}.") from None
    return made


def _checked(values: Ints, least: int, most: int, kind: SqlType, present: Mask) -> Ints:
    """``values``, 0 where NULL. Raises ProtocolError where one lies outside its type."""
    values = np.where(present, values, 0)
    if ((values < least) | (values > most)).any():
        raise ProtocolError(f"a value is outside its type: {kind}")
    return values


def _days(block: Bytes, kind: SqlType, present: Mask) -> Ints:
    return _checked(_whole(block), 0, _LAST_DAY, kind, present) - _DAYS_TO_1970


def _date(block: Bytes, kind: SqlType, present: Mask) -> pa.Array:
    return _array(pa.date32(), _days(block, kind, present).astype(np.int32), present)


def _micros(block: Bytes, kind: SqlType, present: Mask) -> Ints:
    scale = 7 if kind.scale is None else kind.scale
    ticks = _whole(block)
    micros = ticks // 10 if scale == 7 else ticks * 10 ** (6 - scale)
    return _checked(micros, 0, _DAY_MICROS - 1, kind, present)


def _time(block: Bytes, kind: SqlType, present: Mask) -> pa.Array:
    return _array(pa.time64("us"), _micros(block, kind, present), present)


def _datetime2(block: Bytes, kind: SqlType, present: Mask) -> pa.Array:
    # An offset behind the moment only says how the sender likes it shown: the moment is in UTC.
    size = time_size(7 if kind.scale is None else kind.scale)
    micros = _micros(block[:, :size], kind, present)
    moments = _days(block[:, size : size + 3], kind, present) * _DAY_MICROS + micros
    zone = "UTC" if kind.name == "datetimeoffset" else None
    return _array(pa.timestamp("us", tz=zone), moments, present)


def _datetime(block: Bytes, kind: SqlType, present: Mask) -> pa.Array:
    """[MS-TDS] 2.2.5.5.1.8: days since 1900 and 1/300 s, shown in milliseconds; smalldatetime: days and minutes."""
    if kind.name == "smalldatetime":
        days = _whole(block[:, :2])
        micros = _whole(block[:, 2:]) * 60_000_000
    else:
        days = _as(block[:, :4], np.int32).astype(np.int64)
        micros = (_whole(block[:, 4:]) * 10 + 1) // 3 * 1000
    days = _checked(days, -693595, _LAST_DAY - 693595, kind, present)
    moments = (days - _DAYS_1900_TO_1970) * _DAY_MICROS + micros
    last = (_LAST_DAY - _DAYS_TO_1970 + 1) * _DAY_MICROS - 1
    return _array(pa.timestamp("us"), _checked(moments, -(2**62), last, kind, present), present)


def _guid(block: Bytes, _kind: SqlType, present: Mask) -> pa.Array:
    """Upper-case text with hyphens, as T-SQL shows it."""
    ordered = block[:, _GUID_ORDER]
    digits = np.stack([_HEX[ordered >> 4], _HEX[ordered & 15]], axis=2).reshape(len(block), 32)
    shown = np.full((len(block), 36), ord("-"), np.uint8)
    at = 0
    for start, stop in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)):
        shown[:, at : at + stop - start] = digits[:, start:stop]
        at += stop - start + 1
    return _string(shown.reshape(-1), np.full(len(block), 36, np.int64), present)


_DECODERS: Final[dict[str, Callable[[Bytes, SqlType, Mask], pa.Array]]] = {
    "bit": _bit, "tinyint": _number, "smallint": _number, "int": _number, "bigint": _number, "real": _number,
    "float": _number, "money": _money, "decimal": _decimal, "date": _date, "time": _time, "datetime2": _datetime2,
    "datetimeoffset": _datetime2, "datetime": _datetime, "smalldatetime": _datetime, "uniqueidentifier": _guid,
}  # fmt: skip


# Characters and binaries ---------------------------------------------------------------------------------------------


def _string(flat: Bytes, lengths: Ints, present: Mask, kind: pa.DataType | None = None) -> pa.Array:
    """Text in UTF-8, or bytes, whose rows follow each other in ``flat``."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [_bitmap(present), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(flat))]
    return pa.Array.from_buffers(kind or pa.string(), len(lengths), buffers)


def _text(wire: WireType, data: Bytes, starts: Ints) -> pa.Array:
    """USHORTLEN_TYPE: two bytes of length, 0xFFFF for NULL."""
    present = starts >= 0
    at = np.where(present, starts, 0)
    lengths = np.where(present, data[at].astype(np.int64) | data[at + 1].astype(np.int64) << 8, MAX_SHORT)
    present = lengths != MAX_SHORT
    lengths = np.where(present, lengths, 0)
    ends = np.cumsum(lengths)
    flat = data[np.repeat(at + 2 - (ends - lengths), lengths) + np.arange(int(ends[-1]))]
    if wire.sql.name.endswith("binary"):
        return _string(flat, lengths, present, pa.binary())
    if wire.sql.name.startswith("n"):
        if (lengths & 1).any():
            raise ProtocolError("text is not UTF-16: truncated data")
        units = flat.view(np.dtype("<u2"))
        if not len(units) or int(units.max()) < 0x80:
            return _string(units.astype(np.uint8), lengths // 2, present)
        if ((units & 0xF800) == 0xD800).any():
            # A pair must not be made of two rows' halves.
            return _row_by_row(flat, lengths, present, text)
        counts = 1 + (units >= 0x80).astype(np.int64) + (units >= 0x800)
        return _string(_utf8(flat, "utf-16-le"), _sums(counts, lengths // 2), present)
    if not len(flat) or int(flat.max()) < 0x80:
        return _string(flat, lengths, present)
    if wire.utf8:
        return _row_by_row(flat, lengths, present, lambda value: value.decode("utf-8", "replace"))
    return _string(_utf8(flat, CODE_PAGE), _sums(_CODE_PAGE_WIDTHS[flat], lengths), present)


def _utf8(flat: Bytes, encoding: str) -> Bytes:
    return np.frombuffer(flat.tobytes().decode(encoding, "replace").encode(), np.uint8)


#: How many bytes of UTF-8 each byte of the code page becomes.
_CODE_PAGE_WIDTHS: Final = np.array(
    [len(bytes((code,)).decode(CODE_PAGE, "replace").encode()) for code in range(256)], np.int64
)


def _sums(counts: Ints, lengths: Ints) -> Ints:
    """Sums of ``counts`` over rows of these lengths."""
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    ends = np.cumsum(lengths)
    sums: Ints = running[ends] - running[ends - lengths]
    return sums


def _row_by_row(flat: Bytes, lengths: Ints, present: Mask, decode: Callable[[bytes], str]) -> pa.Array:
    raw, pos, values = flat.tobytes(), 0, []
    for length, some in zip(lengths.tolist(), present.tolist(), strict=True):
        values.append(decode(raw[pos : pos + length]) if some else None)
        pos += length
    return pa.array(values, pa.string())
