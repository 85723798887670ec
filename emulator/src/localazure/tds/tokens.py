"""The server's tokens, each made by a pure function.

[MS-TDS] 2.2.7 (packet data token stream definition).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Final

from localazure.sql.results import Column, SqlType
from localazure.tds.login import SERVER_VERSION
from localazure.tds.packets import b_varchar, us_varchar
from localazure.tds.types import COLLATION, make_type_info

SERVER_NAME: Final = "localazure"
PRODUCT: Final = "Microsoft SQL Server"


class Token(IntEnum):
    """[MS-TDS] 2.2.7: token types that are sent or read."""

    RETURNSTATUS = 0x79
    COLMETADATA = 0x81
    ERROR = 0xAA
    INFO = 0xAB
    RETURNVALUE = 0xAC
    LOGINACK = 0xAD
    FEATUREEXTACK = 0xAE
    ROW = 0xD1
    NBCROW = 0xD2
    ENVCHANGE = 0xE3
    FEDAUTHINFO = 0xEE
    DONE = 0xFD
    DONEPROC = 0xFE
    DONEINPROC = 0xFF


class DoneStatus(IntFlag):
    """[MS-TDS] 2.2.7.6 DONE, Status."""

    FINAL = 0x0000
    MORE = 0x0001
    ERROR = 0x0002
    IN_TRANSACTION = 0x0004
    COUNT = 0x0010
    ATTENTION = 0x0020
    RPC_IN_BATCH = 0x0080
    SERVER_ERROR = 0x0100


class EnvChange(IntEnum):
    """[MS-TDS] 2.2.7.9 ENVCHANGE, Type."""

    DATABASE = 1
    LANGUAGE = 2
    PACKET_SIZE = 4
    COLLATION = 7
    BEGIN_TRANSACTION = 8
    COMMIT_TRANSACTION = 9
    ROLLBACK_TRANSACTION = 10
    RESET_ACKNOWLEDGED = 18


SELECT_COMMAND: Final = 0xC1
"""CurCmd of a SELECT's DONE."""


def make_done(
    status: DoneStatus,
    count: int | None = None,
    *,
    token: Token = Token.DONE,
    command: int = 0,
) -> bytes:
    """[MS-TDS] 2.2.7.6 DONE, 2.2.7.7 DONEINPROC, 2.2.7.8 DONEPROC; ``count`` sets DONE_COUNT."""
    if count is not None:
        status |= DoneStatus.COUNT
    return struct.pack("<BHHQ", token, status, command, max(0, count or 0))


def make_message(
    token: Token,
    number: int,
    state: int,
    severity: int,
    message: str,
    *,
    line: int = 1,
    procedure: str = "",
) -> bytes:
    """[MS-TDS] 2.2.7.10 ERROR and 2.2.7.13 INFO. Text beyond 8,000 characters is cut, and says so."""
    if len(message) > 8000:
        message = message[:7980] + " ... (cut)"
    # SQLSTATE aside, all the client learns is here: number, state, class, text, server, procedure, line.
    body = struct.pack("<iBB", number, state & 0xFF, severity & 0xFF) + us_varchar(message) + b_varchar(SERVER_NAME)
    body += b_varchar(procedure) + struct.pack("<i", line)
    return struct.pack("<BH", token, len(body)) + body


def make_env_change(kind: EnvChange, new: bytes | str, old: bytes | str = b"") -> bytes:
    """[MS-TDS] 2.2.7.9 ENVCHANGE: strings as B_VARCHAR, binary values as B_VARBYTE."""
    body = bytes((kind,))
    for value in (new, old):
        body += b_varchar(value) if isinstance(value, str) else bytes((len(value),)) + value
    return struct.pack("<BH", Token.ENVCHANGE, len(body)) + body


def make_collation_change() -> bytes:
    """[MS-TDS] 2.2.7.9 type 7: the database's collation, so that the client knows the code page."""
    return make_env_change(EnvChange.COLLATION, COLLATION)


def make_login_ack(tds_version: int) -> bytes:
    """[MS-TDS] 2.2.7.14 LOGINACK: interface 1 (T-SQL), the agreed version big-endian, the server's name and version."""
    major, minor, build = SERVER_VERSION
    body = bytes((1,)) + struct.pack(">I", tds_version) + b_varchar(PRODUCT) + struct.pack(">BBH", major, minor, build)
    return struct.pack("<BH", Token.LOGINACK, len(body)) + body


def make_feature_ack(features: Sequence[tuple[int, bytes]]) -> bytes:
    """[MS-TDS] 2.2.7.11 FEATUREEXTACK."""
    body = b"".join(struct.pack("<BI", kind, len(data)) + data for kind, data in features)
    return bytes((Token.FEATUREEXTACK,)) + body + b"\xff"


def make_fedauth_info(sts_url: str, spn: str) -> bytes:
    """[MS-TDS] 2.2.7.12 FEDAUTHINFO: 0x01 the STS URL, 0x02 the SPN; offsets count from the body."""
    values = ((0x01, sts_url.encode("utf-16-le")), (0x02, spn.encode("utf-16-le")))
    offset = 4 + 9 * len(values)
    table, data = struct.pack("<I", len(values)), b""
    for kind, value in values:
        table += struct.pack("<BII", kind, len(value), offset + len(data))
        data += value
    return struct.pack("<BI", Token.FEDAUTHINFO, len(table) + len(data)) + table + data


def make_column_metadata(columns: Sequence[Column]) -> bytes:
    """[MS-TDS] 2.2.7.4 COLMETADATA. User type 0; flags: nullable, and read-only as for any query's result."""
    parts = [struct.pack("<BH", Token.COLMETADATA, len(columns))]
    for column in columns:
        flags = 0x0001 if column.nullable else 0x0000
        parts.append(struct.pack("<IH", 0, flags | 0x0008) + make_type_info(column.type) + b_varchar(column.name))
    return b"".join(parts)


def make_return_status(value: int) -> bytes:
    """[MS-TDS] 2.2.7.18 RETURNSTATUS."""
    return struct.pack("<Bi", Token.RETURNSTATUS, value)


def make_return_int(ordinal: int, name: str, value: int) -> bytes:
    """[MS-TDS] 2.2.7.19 RETURNVALUE of an int output parameter: status 1, user type 0, no flags."""
    head = struct.pack("<BH", Token.RETURNVALUE, ordinal) + b_varchar(name) + struct.pack("<BIH", 1, 0, 0)
    return head + make_type_info(SqlType("int")) + struct.pack("<Bi", 4, value)
