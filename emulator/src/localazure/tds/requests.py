"""What a logged-in client asks for: SQL batch, RPC, transaction manager request, bulk load. Parsed only.

[MS-TDS] 2.2.6.7 (SQLBatch), 2.2.6.6 (RPC Request), 2.2.6.9 (Transaction Manager Request), 2.2.6.1 (Bulk Load BCP).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np
import pyarrow as pa

from localazure.sql.results import Column, SqlType
from localazure.tds.bulk_columns import column_of
from localazure.tds.packets import ProtocolError, Reader, text
from localazure.tds.tokens import Token
from localazure.tds.types import MAX_SHORT, WireType, parse_type_info

MAX_PARAMETERS: Final = 2100
"""Parameters of one call: https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-service-capacity-limits"""


def _skip_all_headers(reader: Reader) -> None:
    """[MS-TDS] 2.2.5.3 ALL_HEADERS: its total length counts itself. Nothing in it is needed without MARS."""
    total = reader.u32()
    if total < 4:
        raise ProtocolError(f"ALL_HEADERS says {total} bytes")
    reader.take(total - 4)


def parse_sql_batch(payload: bytes) -> str:
    """[MS-TDS] 2.2.6.7: headers, then the text to the end of the message."""
    reader = Reader(payload)
    _skip_all_headers(reader)
    return text(reader.rest())


class ProcedureId(IntEnum):
    """[MS-TDS] 2.2.6.6 ProcID."""

    SP_CURSOR = 1
    SP_CURSOROPEN = 2
    SP_CURSORPREPARE = 3
    SP_CURSOREXECUTE = 4
    SP_CURSORPREPEXEC = 5
    SP_CURSORUNPREPARE = 6
    SP_CURSORFETCH = 7
    SP_CURSOROPTION = 8
    SP_CURSORCLOSE = 9
    SP_EXECUTESQL = 10
    SP_PREPARE = 11
    SP_EXECUTE = 12
    SP_PREPEXEC = 13
    SP_PREPEXECRPC = 14
    SP_UNPREPARE = 15


@dataclass(frozen=True)
class RpcParameter:
    """A parameter as it came: its name may be empty (positional), its type is the one on the wire."""

    name: str
    type: SqlType
    value: object
    output: bool = False
    default: bool = False


@dataclass(frozen=True)
class RpcCall:
    """One call of a message. ``name`` is lower case without quoting for the well-known procedures."""

    name: str
    parameters: tuple[RpcParameter, ...]
    execute: bool = True


_RPC_SEPARATOR: Final = 0xFF
_RPC_NO_EXEC: Final = 0xFE


def parse_rpc(payload: bytes) -> Iterator[RpcCall]:
    """[MS-TDS] 2.2.6.6: calls of one message, split by 0xFF (or 0xFE: don't execute), read as they are wanted."""
    reader = Reader(payload)
    _skip_all_headers(reader)
    while len(reader):
        call = _parse_call(reader)
        # _parse_call stops at a separator or at the end.
        if len(reader) and reader.u8() == _RPC_NO_EXEC:
            call = replace(call, execute=False)
        yield call


def _parse_call(reader: Reader) -> RpcCall:
    length = reader.u16()
    if length == 0xFFFF:
        number = reader.u16()
        try:
            name = ProcedureId(number).name.lower()
        except ValueError:
            raise ProtocolError(f"procedure id {number} is not defined") from None
    else:
        name = text(reader.take(length * 2))
    reader.u16()
    parameters: list[RpcParameter] = []
    while len(reader) and reader.data[reader.pos] not in (_RPC_SEPARATOR, _RPC_NO_EXEC):
        if len(parameters) >= MAX_PARAMETERS:
            raise ProtocolError(f"{name}: more than {MAX_PARAMETERS} parameters")
        parameters.append(_parse_parameter(reader))
    return RpcCall(name, tuple(parameters))


@contextmanager
def _values_that_exist() -> Iterator[None]:
    """Dates after 9999, times after midnight and the like are the client's fault, not the server's."""
    try:
        yield
    except (ArithmeticError, ValueError) as error:
        raise ProtocolError(f"a value is outside its type: {error}") from error


def _parse_parameter(reader: Reader) -> RpcParameter:
    name = reader.b_varchar()
    flags = reader.u8()
    wire = parse_type_info(reader)
    with _values_that_exist():
        value, reader.pos = wire.decode(reader.data, reader.pos)
    return RpcParameter(name, wire.sql, value, output=bool(flags & 1), default=bool(flags & 2))


class TransactionRequest(IntEnum):
    """[MS-TDS] 2.2.6.9 RequestType."""

    GET_DTC_ADDRESS = 0
    PROPAGATE = 1
    BEGIN = 5
    PROMOTE = 6
    COMMIT = 7
    ROLLBACK = 8
    SAVE = 9


@dataclass(frozen=True)
class TransactionCall:
    """A request; ``begin_next`` is the flag that opens the next transaction at once after a commit or rollback."""

    kind: TransactionRequest
    name: str = ""
    isolation: int = 0
    begin_next: bool = False


def parse_transaction(payload: bytes) -> TransactionCall:
    """[MS-TDS] 2.2.6.9."""
    reader = Reader(payload)
    _skip_all_headers(reader)
    number = reader.u16()
    try:
        kind = TransactionRequest(number)
    except ValueError:
        raise ProtocolError(f"transaction request {number} is not defined") from None
    if kind is TransactionRequest.BEGIN:
        isolation = reader.u8()
        return TransactionCall(kind, _name(reader), isolation)
    if kind in (TransactionRequest.COMMIT, TransactionRequest.ROLLBACK):
        name = _name(reader)
        flags = reader.u8() if len(reader) else 0
        isolation = reader.u8() if flags & 1 and len(reader) else 0
        return TransactionCall(kind, name, isolation, begin_next=bool(flags & 1))
    return TransactionCall(kind)


def _name(reader: Reader) -> str:
    # A byte of *bytes*, unlike B_VARCHAR.
    return text(reader.take(reader.u8())) if len(reader) else ""


@dataclass(frozen=True)
class BulkRows:
    """A bulk load decoded into columns: of Python values, or of Arrow."""

    columns: tuple[Column, ...]
    values: tuple[list[object] | pa.ChunkedArray, ...]


_BATCH_FIELDS: Final = 1 << 18
_BATCH_BYTES: Final = 8 << 20
"""Both bound what the starts of a batch's fields and the gathering of its text take."""


def parse_bulk_load(payload: bytes) -> BulkRows:
    """[MS-TDS] 2.2.6.1 BulkLoadBCP: COLMETADATA, ROW and NBCROW tokens, DONE."""
    reader = Reader(payload)
    if not len(reader):
        return BulkRows((), ())
    if reader.u8() != Token.COLMETADATA:
        raise ProtocolError("a bulk load starts with COLMETADATA")
    columns, wires = _parse_bulk_columns(reader)
    data = np.frombuffer(payload, np.uint8)
    chunks: tuple[list[pa.Array], ...] = tuple([] for _ in columns)
    # Of columns whose values have chunks the values themselves.
    lists: tuple[list[object], ...] = tuple([] for _ in columns)
    pos, more = reader.pos, True
    while more:
        starts, pos, more = _scan(payload, pos, wires, lists)
        if not starts:
            break
        found = np.array(starts, np.int64).reshape(-1, len(columns))
        with _values_that_exist():
            for index, wire in enumerate(wires):
                if wire.prefix is not None:
                    chunks[index].append(column_of(wire, data, found[:, index]))
    return BulkRows(
        columns,
        tuple(
            values if wire.prefix is None or not arrays else pa.chunked_array(arrays)
            for wire, values, arrays in zip(wires, lists, chunks, strict=True)
        ),
    )


def _scan(
    payload: bytes, pos: int, wires: list[WireType], lists: tuple[list[object], ...]
) -> tuple[list[int], int, bool]:
    """(where the fields of the next rows begin, -1 for those that aren't sent; the position behind; whether more is).

    Fields that only their type's decoder can read go into ``lists``.
    """
    starts: list[int] = []
    append, end, bitmap_size = starts.append, len(payload), (len(wires) + 7) // 8
    plan = [(wire.prefix, wire.size, wire.decode, values) for wire, values in zip(wires, lists, strict=True)]
    stop = pos + _BATCH_BYTES
    try:
        for _ in range(max(1, _BATCH_FIELDS // len(wires))):
            if pos >= end:
                return starts, pos, False
            if pos > stop:
                break
            token = payload[pos]
            pos += 1
            if token == Token.ROW:
                absent = 0
            elif token == Token.NBCROW:
                absent = int.from_bytes(payload[pos : pos + bitmap_size], "little")
                pos += bitmap_size
            elif token == Token.DONE:
                return starts, pos, False
            else:
                raise ProtocolError(f"token 0x{token:02x} at offset {pos - 1} has no place in a bulk load")
            for prefix, size, decode, values in plan:
                if absent & 1:
                    append(-1)
                    if prefix is None:
                        values.append(None)
                elif prefix == 1:
                    append(pos)
                    pos += 1 + payload[pos]
                elif prefix == 2:
                    append(pos)
                    length = payload[pos] | payload[pos + 1] << 8
                    pos += 2 if length == MAX_SHORT else 2 + length
                elif prefix == 0:
                    append(pos)
                    pos += size
                else:
                    append(pos)
                    with _values_that_exist():
                        value, pos = decode(payload, pos)
                    values.append(value)
                absent >>= 1
            if pos > end:
                raise IndexError
    except IndexError:
        raise ProtocolError(f"a bulk load's row ends behind its message, at offset {end}") from None
    return starts, pos, True


def _parse_bulk_columns(reader: Reader) -> tuple[tuple[Column, ...], list[WireType]]:
    count = reader.u16()
    if not 1 <= count <= 1024:
        raise ProtocolError(f"{count} columns: a table has 1 to 1024")
    columns: list[Column] = []
    wires: list[WireType] = []
    for _ in range(count):
        reader.u32()
        flags = reader.u16()
        code = reader.data[reader.pos] if len(reader) else 0
        if code in (0x22, 0x23, 0x63):
            raise ProtocolError("text, ntext and image in a bulk load are not supported: use the max types")
        wire = parse_type_info(reader)
        columns.append(Column(reader.b_varchar(), wire.sql, bool(flags & 1)))
        wires.append(wire)
    return tuple(columns), wires
