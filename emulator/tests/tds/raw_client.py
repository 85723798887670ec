"""A TDS client of bytes: as much as the tests need to send what no library would, and to read every token."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path

from localazure.tds.packets import Reader
from localazure.tds.types import parse_type_info

HEADER = struct.Struct(">BBHHBB")


def packet(kind: int, payload: bytes, status: int = 1) -> bytes:
    """One packet."""
    return HEADER.pack(kind, status, 8 + len(payload), 0, 1, 0) + payload


def prelogin(encryption: int, *, fedauth: bool = False) -> bytes:
    """A PRELOGIN with version, encryption and, if asked, FEDAUTHREQUIRED."""
    options = [(0, b"\x11\x00\x00\x00\x00\x00"), (1, bytes((encryption,)))] + ([(6, b"\x01")] if fedauth else [])
    table, values, offset = b"", b"", 5 * len(options) + 1
    for token, value in options:
        table += struct.pack(">BHH", token, offset + len(values), len(value))
        values += value
    return table + b"\xff" + values


def login7(user: str, password: str, database: str, *, features: bytes = b"", packet_size: int = 4096) -> bytes:
    """A LOGIN7 record."""
    masked = bytes(((b << 4 & 0xF0) | b >> 4) ^ 0xA5 for b in password.encode("utf-16-le"))
    fields = [
        "host".encode("utf-16-le"),
        user.encode("utf-16-le"),
        masked,
        "tests".encode("utf-16-le"),
        "server".encode("utf-16-le"),
        struct.pack("<I", 0) if features else b"",
        "raw".encode("utf-16-le"),
        b"",
        database.encode("utf-16-le"),
    ]
    offset = 36 + 4 * len(fields) + 6 + 4 * 3 + 4
    table, data = b"", b""
    extension_at = 0
    for index, value in enumerate(fields):
        if index == 5 and features:
            extension_at = len(data)
            table += struct.pack("<HH", offset + len(data), 4)
        else:
            table += struct.pack("<HH", offset + len(data), len(value) // 2)
        data += value
    table += b"\0" * 6 + struct.pack("<HH", offset + len(data), 0) * 3 + struct.pack("<I", 0)
    if features:
        where = offset + len(data)
        data = data[:extension_at] + struct.pack("<I", where) + data[extension_at + 4 :] + features + b"\xff"
    flags3 = 0x10 if features else 0
    length = offset + len(data)
    head = struct.pack("<IIIIIIBBBBiI", length, 0x74000004, packet_size, 7, 1, 0, 0xE0, 0x03, 0, flags3, 0, 0x409)
    return head + table + data


@dataclass
class Answer:
    """The tokens of one message, sorted by what they are."""

    tokens: list[int] = field(default_factory=list)
    columns: list[list[str]] = field(default_factory=list)
    rows: list[list[object]] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    infos: list[tuple[int, str]] = field(default_factory=list)
    changes: list[tuple[int, bytes]] = field(default_factory=list)
    done: list[tuple[int, int, int]] = field(default_factory=list)  # token, status, count
    values: list[object] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    fedauth: list[str] = field(default_factory=list)


def parse(payload: bytes) -> Answer:
    """All tokens of a message."""
    reader, answer = Reader(payload), Answer()
    decoders = []
    while len(reader):
        token = reader.u8()
        answer.tokens.append(token)
        if token == 0x81:
            names, decoders = [], []
            for _ in range(reader.u16()):
                reader.take(6)
                decoders.append(parse_type_info(reader).decode)
                names.append(reader.b_varchar())
            answer.columns.append(names)
        elif token == 0xD1:
            row = []
            for decode in decoders:
                value, reader.pos = decode(reader.data, reader.pos)
                row.append(value)
            answer.rows.append(row)
        elif token in (0xAA, 0xAB):
            body = Reader(reader.take(reader.u16()))
            number = body.i32()
            body.take(2)
            (answer.errors if token == 0xAA else answer.infos).append((number, body.us_varchar()))
        elif token == 0xE3:
            body = Reader(reader.take(reader.u16()))
            answer.changes.append((body.u8(), body.rest()))
        elif token in (0xFD, 0xFE, 0xFF):
            answer.done.append((token, reader.u16(), (reader.u16(), reader.u64())[1]))
        elif token == 0xAD:
            reader.take(reader.u16())
        elif token == 0x79:
            reader.i32()
        elif token == 0xAC:
            reader.u16()
            reader.b_varchar()
            reader.take(7)
            value, reader.pos = parse_type_info(reader).decode(reader.data, reader.pos)
            answer.values.append(value)
        elif token == 0xAE:
            while (kind := reader.u8()) != 0xFF:
                answer.features.append(kind)
                reader.take(reader.u32())
        elif token == 0xEE:
            body = Reader(reader.take(reader.u32()))
            for _ in range(body.u32()):
                body.u8()
                size, at = body.u32(), body.u32()
                answer.fedauth.append(body.data[at : at + size].decode("utf-16-le"))
        else:
            raise AssertionError(f"token 0x{token:02x} at {reader.pos - 1}")
    return answer


class RawClient:
    """A socket, TLS inside PRELOGIN packets if wanted, and whole messages."""

    def __init__(self, port: int, *, ca: Path | None = None, seconds: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), seconds)
        self.ca = ca
        self.tls: ssl.SSLObject | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._plain = b""

    def send(self, data: bytes) -> None:
        if self.tls is not None:
            self.tls.write(data)
            data = self._out.read()
        self.socket.sendall(data)

    def message(self, kind: int, payload: bytes, *, size: int = 4096, status: int = 0) -> None:
        """A message cut into packets of ``size``."""
        room = size - 8
        for start in range(0, max(1, len(payload)), room):
            last = start + room >= len(payload)
            self.send(packet(kind, payload[start : start + room], status | last))

    def _take(self, count: int) -> bytes:
        while len(self._plain) < count:
            if self.tls is not None:
                try:
                    self._plain += self.tls.read(65536)
                    continue
                except ssl.SSLWantReadError:
                    pass
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            if self.tls is not None:
                self._in.write(data)
            else:
                self._plain += data
        taken, self._plain = self._plain[:count], self._plain[count:]
        return taken

    def receive(self) -> bytes:
        """The payload of the next message."""
        parts = []
        while True:
            last, payload = self.packet()
            parts.append(payload)
            if last:
                return b"".join(parts)

    def packet(self) -> tuple[bool, bytes]:
        """The next packet: whether it ends its message, and its payload."""
        _kind, status, length, *_ = HEADER.unpack(self._take(8))
        return bool(status & 1), self._take(length - 8)

    def closed(self) -> bool:
        """Whether the server has closed the connection; waits for it."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True

    def pre_log_in(self, encryption: int, *, fedauth: bool = False) -> bytes:
        self.send(packet(0x12, prelogin(encryption, fedauth=fedauth)))
        answer = self.receive()
        if encryption in (0, 1, 3):
            self._handshake()
        return answer

    def _handshake(self) -> None:
        context = ssl.create_default_context(cafile=str(self.ca))
        tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if data := self._out.read():
                    self.socket.sendall(packet(0x12, data))
                self._in.write(self.receive())
        if data := self._out.read():
            self.socket.sendall(packet(0x12, data))
        self.tls = tls

    def log_in(
        self, user: str, password: str, database: str, *, encryption: int = 2, features: bytes = b"", size: int = 4096
    ) -> Answer:
        self.pre_log_in(encryption, fedauth=bool(features))
        self.message(0x10, login7(user, password, database, features=features, packet_size=size))
        if encryption == 0:
            self.tls = None
        return parse(self.receive())

    def batch(self, sql: str, *, status: int = 0) -> Answer:
        """Run a SQL batch."""
        self.start(sql, status=status)
        return parse(self.receive())

    def start(self, sql: str, *, status: int = 0) -> None:
        """Send a SQL batch and don't wait."""
        self.message(0x01, HEADERS + sql.encode("utf-16-le"), status=status)

    def rpc(self, payload: bytes) -> Answer:
        self.message(0x03, HEADERS + payload)
        return parse(self.receive())

    def attention(self) -> None:
        self.send(packet(0x06, b""))

    def close(self) -> None:
        self.socket.close()


HEADERS = struct.pack("<IIHQI", 22, 18, 2, 0, 1)
COLLATION = bytes.fromhex("0904d00034")


def nvarchar(value: str | None, name: str = "") -> bytes:
    """An nvarchar(4000) RPC parameter."""
    data = b"\xff\xff" if value is None else struct.pack("<H", len(value) * 2) + value.encode("utf-16-le")
    return _named(name) + b"\0\xe7\x40\x1f" + COLLATION + data


def integer(value: int | None, name: str = "", *, output: bool = False) -> bytes:
    """An int RPC parameter."""
    data = b"\0" if value is None else struct.pack("<Bi", 4, value)
    return _named(name) + bytes((output,)) + b"\x26\x04" + data


def _named(name: str) -> bytes:
    return bytes((len(name),)) + name.encode("utf-16-le")


def call(procedure: int | str, *parameters: bytes) -> bytes:
    """One RPC call."""
    if isinstance(procedure, int):
        head = struct.pack("<HH", 0xFFFF, procedure)
    else:
        head = struct.pack("<H", len(procedure)) + procedure.encode("utf-16-le")
    return head + b"\0\0" + b"".join(parameters)
