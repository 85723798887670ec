"""PRELOGIN, LOGIN7 and the federated-authentication token: parsed and made, no decisions taken.

[MS-TDS] 2.2.6.5 (PRELOGIN), 2.2.6.4 (LOGIN7), 2.2.6.3 (Federated Authentication Token).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from localazure.tds.packets import (
    DEFAULT_PACKET_SIZE,
    MAX_PACKET_SIZE,
    MIN_PACKET_SIZE,
    ProtocolError,
    Reader,
    text,
)

TDS_7_4: Final = 0x74000004
TDS_8_0: Final = 0x08000000

SERVER_VERSION: Final = (12, 0, 2000)
"""What a dedicated SQL pool reports as its product version: 12.0.2000."""


class PreloginOption(IntEnum):
    """[MS-TDS] 2.2.6.5 PL_OPTION_TOKEN."""

    VERSION = 0x00
    ENCRYPTION = 0x01
    INSTANCE = 0x02
    THREAD_ID = 0x03
    MARS = 0x04
    TRACE_ID = 0x05
    FEDAUTH_REQUIRED = 0x06
    NONCE = 0x07
    TERMINATOR = 0xFF


class Encryption(IntEnum):
    """[MS-TDS] 2.2.6.5 ENCRYPTION values (client certificates, 0x80, are not offered)."""

    OFF = 0x00
    ON = 0x01
    NOT_SUPPORTED = 0x02
    REQUIRED = 0x03


class FedAuthLibrary(IntEnum):
    """[MS-TDS] 2.2.6.4 FEDAUTH feature, bFedAuthLibrary."""

    LIVE_ID = 0x00
    SECURITY_TOKEN = 0x01
    ADAL = 0x02


class Feature(IntEnum):
    """[MS-TDS] 2.2.6.4 FeatureId, those that are answered."""

    FEDAUTH = 0x02
    UTF8_SUPPORT = 0x0A
    TERMINATOR = 0xFF


@dataclass(frozen=True)
class Prelogin:
    """Options by token, in the order they came."""

    options: Mapping[int, bytes]

    @property
    def encryption(self) -> int:
        """What the client asks for; a client that says nothing wants encryption of the log-in only."""
        value = self.options.get(PreloginOption.ENCRYPTION, b"\0")
        return value[0] if value else 0

    @property
    def fedauth(self) -> bool:
        """Whether the client named FEDAUTHREQUIRED: the answer has to name it too."""
        return PreloginOption.FEDAUTH_REQUIRED in self.options


def parse_prelogin(payload: bytes) -> Prelogin:
    """[MS-TDS] 2.2.6.5: (token, offset, length) triples, big-endian, ended by 0xFF, then the values."""
    reader = Reader(payload)
    options: dict[int, bytes] = {}
    while (token := reader.u8()) != PreloginOption.TERMINATOR:
        offset, length = struct.unpack(">HH", reader.take(4))
        options[token] = Reader(payload, min(offset, len(payload))).take(length)
    return Prelogin(options)


def make_prelogin(*, encryption: int, fedauth: bool) -> bytes:
    """[MS-TDS] 2.2.6.5: the server's answer. MARS is never offered."""
    major, minor, build = SERVER_VERSION
    options = {
        PreloginOption.VERSION: struct.pack(">BBHH", major, minor, build, 0),
        PreloginOption.ENCRYPTION: bytes((encryption,)),
        PreloginOption.INSTANCE: b"\0",
        PreloginOption.THREAD_ID: b"",
        PreloginOption.MARS: b"\0",
    }
    if fedauth:
        options[PreloginOption.FEDAUTH_REQUIRED] = b"\1"
    table, values = b"", b""
    offset = 5 * len(options) + 1
    for token, value in options.items():
        table += struct.pack(">BHH", token, offset + len(values), len(value))
        values += value
    return table + b"\xff" + values


def reply_encryption(asked: int) -> Encryption:
    """[MS-TDS] 2.2.6.5, table of client and server settings, for a server that supports but does not demand TLS."""
    wanted = Encryption(asked & 0x03)
    return Encryption.ON if wanted is Encryption.REQUIRED else wanted


@dataclass(frozen=True)
class FedAuthRequest:
    """The FEDAUTH feature of a LOGIN7: a token handed over at once, or a wish to be told where to get one."""

    library: int
    echo: bool
    token: str = field(default="", repr=False)
    nonce: bytes = b""
    workflow: int = 0


@dataclass(frozen=True)
class Login:
    """A LOGIN7, reduced to what the server acts on. The password never shows in a repr."""

    tds_version: int
    packet_size: int
    client_pid: int
    host: str
    user: str
    password: str = field(repr=False)
    application: str
    server: str
    library: str
    language: str
    database: str
    integrated: bool
    read_only: bool
    fedauth: FedAuthRequest | None
    features: tuple[int, ...]


_FIXED = struct.Struct("<IIIIIIBBBBiI")


def parse_login(payload: bytes) -> Login:
    """[MS-TDS] 2.2.6.4 LOGIN7: 36 fixed bytes, then (offset, length in characters) pairs, then the feature list."""
    reader = Reader(payload)
    (
        length,
        tds,
        psize,
        _version,
        pid,
        _connection,
        _flags1,
        flags2,
        type_flags,
        flags3,
        _zone,
        _lcid,
    ) = _FIXED.unpack(reader.take(_FIXED.size))
    if length > len(payload):
        raise ProtocolError(f"LOGIN7 says {length} bytes, {len(payload)} came")
    end = length

    def pair() -> tuple[int, int]:
        return reader.u16(), reader.u16()

    def string(where: tuple[int, int]) -> str:
        return text(Reader(payload, min(where[0], end), end).take(where[1] * 2))

    host, user, secret, application, server = pair(), pair(), pair(), pair(), pair()
    extension, library, language, database = pair(), pair(), pair(), pair()
    masked = Reader(payload, min(secret[0], end), end).take(secret[1] * 2)
    # Each byte has its nibbles swapped after an exclusive or with 0xA5.
    password = text(bytes((((b ^ 0xA5) << 4) & 0xF0) | ((b ^ 0xA5) >> 4) for b in masked))
    features: dict[int, bytes] = {}
    if flags3 & 0x10 and extension[1] >= 4:
        where = Reader(payload, min(extension[0], end), end).u32()
        features = _parse_features(Reader(payload, min(where, end), end))
    fedauth = features.get(Feature.FEDAUTH)
    return Login(
        tds_version=tds,
        packet_size=negotiate_packet_size(psize),
        client_pid=pid,
        host=string(host),
        user=string(user),
        password=password,
        application=string(application),
        server=string(server),
        library=string(library),
        language=string(language),
        database=string(database),
        integrated=bool(flags2 & 0x80),
        read_only=bool(type_flags & 0x20),
        fedauth=None if fedauth is None else parse_fedauth_feature(fedauth),
        features=tuple(features),
    )


def negotiate_packet_size(asked: int) -> int:
    """[MS-TDS] 2.2.6.4 PacketSize: 0 leaves the choice to the server; everything else is cut to what is allowed."""
    return min(max(asked, MIN_PACKET_SIZE), MAX_PACKET_SIZE) if asked else DEFAULT_PACKET_SIZE


def _parse_features(reader: Reader) -> dict[int, bytes]:
    features: dict[int, bytes] = {}
    while (kind := reader.u8()) != Feature.TERMINATOR:
        features[kind] = reader.take(reader.u32())
    return features


def parse_fedauth_feature(data: bytes) -> FedAuthRequest:
    """[MS-TDS] 2.2.6.4 FEDAUTH: options byte (echo in bit 0, library above it), then a token or a workflow."""
    reader = Reader(data)
    options = reader.u8()
    library, echo = options >> 1, bool(options & 1)
    if library == FedAuthLibrary.SECURITY_TOKEN:
        token = text(reader.take(reader.u32()))
        return FedAuthRequest(library, echo, token=token, nonce=reader.rest()[:32])
    if library == FedAuthLibrary.ADAL:
        return FedAuthRequest(library, echo, workflow=reader.u8() if len(reader) else 0)
    raise ProtocolError(f"federated authentication library {library} is not supported; use an access token")


def parse_fedauth_token(payload: bytes) -> str:
    """[MS-TDS] 2.2.6.3: total length, then the token in UTF-16LE, then an optional nonce."""
    reader = Reader(payload)
    reader.u32()
    return text(reader.take(reader.u32()))
