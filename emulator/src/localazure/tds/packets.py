"""Packets and the bounded cursor that every parser reads through.

[MS-TDS] 2.2.3 (packet header, message types) and 2.2.4 (packet data).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

HEADER_SIZE: Final = 8
DEFAULT_PACKET_SIZE: Final = 4096
MIN_PACKET_SIZE: Final = 512
MAX_PACKET_SIZE: Final = 32767

_HEADER = struct.Struct(">BBHHBB")


class PacketType(IntEnum):
    """[MS-TDS] 2.2.3.1.1 Type."""

    SQL_BATCH = 0x01
    PRE_TDS7_LOGIN = 0x02
    RPC = 0x03
    TABULAR_RESULT = 0x04
    ATTENTION = 0x06
    BULK_LOAD = 0x07
    FEDAUTH_TOKEN = 0x08
    TRANSACTION_MANAGER = 0x0E
    LOGIN7 = 0x10
    SSPI = 0x11
    PRELOGIN = 0x12


class PacketStatus(IntFlag):
    """[MS-TDS] 2.2.3.1.2 Status."""

    NORMAL = 0x00
    END_OF_MESSAGE = 0x01
    IGNORE = 0x02
    RESET_CONNECTION = 0x08
    RESET_CONNECTION_SKIP_TRANSACTION = 0x10


class ProtocolError(Exception):
    """The client sent bytes that [MS-TDS] does not allow, or more of them than is accepted. Ends the connection."""


@dataclass(frozen=True)
class Header:
    """One packet's header. ``length`` counts the header itself."""

    type: PacketType
    status: PacketStatus
    length: int
    packet_id: int = 0


@dataclass(frozen=True)
class ClientMessage:
    """A whole message from the client, its packets joined."""

    type: PacketType
    payload: bytes
    status: PacketStatus = PacketStatus.END_OF_MESSAGE


def parse_header(data: bytes) -> Header:
    """[MS-TDS] 2.2.3.1 Packet Header: eight bytes, big-endian length."""
    kind, status, length, _spid, packet_id, _window = _HEADER.unpack(data)
    try:
        known = PacketType(kind)
    except ValueError:
        raise ProtocolError(f"packet type 0x{kind:02x} is not a TDS client message") from None
    if not HEADER_SIZE <= length <= MAX_PACKET_SIZE:
        raise ProtocolError(f"packet length {length} is outside {HEADER_SIZE}..{MAX_PACKET_SIZE}")
    return Header(known, PacketStatus(status), length, packet_id)


def make_packet(kind: PacketType, payload: bytes, *, last: bool, packet_id: int = 1, spid: int = 0) -> bytes:
    """[MS-TDS] 2.2.3.1: one packet around ``payload``."""
    status = PacketStatus.END_OF_MESSAGE if last else PacketStatus.NORMAL
    return _HEADER.pack(kind, status, HEADER_SIZE + len(payload), spid, packet_id & 0xFF, 0) + payload


class Packetizer:
    """Cuts a token stream that arrives piece by piece into packets of the negotiated size.

    The last packet is held back until ``finish``: only then is it known to be the last.
    """

    def __init__(self, packet_size: int, spid: int = 0) -> None:
        self._room = packet_size - HEADER_SIZE
        self._spid = spid & 0xFFFF
        self._pending = b""
        self._id = 0

    def feed(self, data: bytes) -> bytes:
        """Full packets that ``data`` completes, possibly none."""
        data = self._pending + data if self._pending else data
        room = self._room
        # Strictly more than a packet's worth: finish() must have something to mark as the end.
        count = max(0, (len(data) - 1) // room)
        if not count:
            self._pending = data
            return b""
        view = memoryview(data)
        parts: list[bytes | memoryview] = []
        size, spid, packet_id = room + HEADER_SIZE, self._spid, self._id
        pack = _HEADER.pack
        for start in range(0, count * room, room):
            packet_id = (packet_id + 1) & 0xFF
            parts.append(pack(PacketType.TABULAR_RESULT, 0, size, spid, packet_id, 0))
            parts.append(view[start : start + room])
        self._id = packet_id
        self._pending = data[count * room :]
        return b"".join(parts)

    def finish(self, data: bytes = b"") -> bytes:
        """The rest of the message, its last packet marked; the next ``feed`` starts a new message."""
        head = self.feed(data) if data else b""
        tail = make_packet(
            PacketType.TABULAR_RESULT,
            self._pending,
            last=True,
            packet_id=self._id + 1,
            spid=self._spid,
        )
        self._pending, self._id = b"", 0
        return head + tail


class Reader:
    """A cursor over one message; every read is bounds-checked, so that no length field is ever trusted."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int = 0, end: int | None = None) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data) if end is None else end

    def __len__(self) -> int:
        return self.end - self.pos

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        start = self.pos
        stop = start + count
        if count < 0 or stop > self.end:
            raise ProtocolError(f"message ends {stop - self.end} bytes early at offset {start}")
        self.pos = stop
        return self.data[start:stop]

    def u8(self) -> int:
        """BYTE."""
        if self.pos >= self.end:
            raise ProtocolError(f"message ends early at offset {self.pos}")
        value = self.data[self.pos]
        self.pos += 1
        return value

    def u16(self) -> int:
        """USHORT, little-endian."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """ULONG, little-endian."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """ULONGLONG, little-endian."""
        return int.from_bytes(self.take(8), "little")

    def i32(self) -> int:
        """LONG, little-endian."""
        return int.from_bytes(self.take(4), "little", signed=True)

    def b_varchar(self) -> str:
        """B_VARCHAR: a byte of characters, UTF-16."""
        return text(self.take(self.u8() * 2))

    def us_varchar(self) -> str:
        """US_VARCHAR: two bytes of characters, UTF-16."""
        return text(self.take(self.u16() * 2))

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.end - self.pos)


def text(data: bytes) -> str:
    """UTF-16LE to str. Lone surrogates survive in no Python codec, so they are refused."""
    try:
        return data.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"text is not UTF-16: {error.reason}") from None


def b_varchar(value: str) -> bytes:
    """B_VARCHAR; cut at 255 characters, which is all its length byte can say."""
    data = value.encode("utf-16-le", "replace")[:510]
    return bytes((len(data) // 2,)) + data


def us_varchar(value: str) -> bytes:
    """US_VARCHAR; cut at 65,535 characters."""
    data = value.encode("utf-16-le", "replace")[:131070]
    return struct.pack("<H", len(data) // 2) + data
