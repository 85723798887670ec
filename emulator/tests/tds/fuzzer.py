"""Broken messages, made of good ones by a seeded generator: before log-in, after it, and in the packets themselves.

A round opens a connection, sends one broken message and looks at what comes back: tokens that can be read, a closed
connection, or silence where the message says that more is to come. A bystander logged in all along must be answered.
"""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from raw_client import HEADERS, RawClient, call, integer, login7, nvarchar, packet, parse, prelogin

_EDGES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SILENCE_SECONDS = 0.25


@dataclass
class Fuzzer:
    """One stream of rounds. ``outcomes`` counts what came back; a bystander that waits too long is a failure."""

    port: int
    user: str
    password: str
    database: str
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.bystander = self._logged_in()

    def _logged_in(self) -> RawClient:
        client = RawClient(self.port)
        client.log_in(self.user, self.password, self.database)
        return client

    def round(self) -> None:
        """One broken message."""
        kind, before, payload = self.random.choice(self._messages())()
        broken = self._broken(payload)
        data = self._packets(kind, broken)
        client = RawClient(self.port, seconds=5) if before is not None else self._logged_in()
        try:
            client.socket.settimeout(5)
            if before:
                client.send(before)
            client.send(data)
            self.outcomes[self._answer(client, before is None)] += 1
        except (ConnectionError, BrokenPipeError):
            self.outcomes["closed"] += 1
        finally:
            client.close()

    def check(self) -> None:
        """The bystander asks, and a new client logs in. Raises when either isn't answered rightly and soon."""
        started = time.monotonic()
        assert self.bystander.batch("SELECT 41 + 1 AS a").rows == [[42]]
        client = self._logged_in()
        assert client.batch("SELECT 'x' AS a").rows == [["x"]]
        client.close()
        self.slowest = max(self.slowest, time.monotonic() - started)

    def close(self) -> None:
        self.bystander.close()

    # ---- messages --------

    def _messages(self) -> list[Callable[[], tuple[int, bytes | None, bytes]]]:
        """(packet type, what goes before it or None after a log-in, a good payload)."""
        login = login7(self.user, self.password, self.database)
        token = struct.pack("<BI", 2, 2) + b"\x05\x01"
        hello = packet(0x12, prelogin(2))
        return [
            lambda: (0x12, b"", prelogin(2, fedauth=True)),
            lambda: (0x10, hello, login),
            lambda: (0x10, hello, login7("", "", self.database, features=token)),
            lambda: (0x01, None, HEADERS + "SELECT 1 AS a; SELECT 'x' AS b".encode("utf-16-le")),
            lambda: (0x03, None, HEADERS + call(10, nvarchar("SELECT @a"), nvarchar("@a int"), integer(1, "@a"))),
            lambda: (0x03, None, HEADERS + call(13, integer(None, output=True), nvarchar(""), nvarchar("SELECT 1"))),
            lambda: (0x03, None, HEADERS + call("sp_tables", nvarchar("%"))),
            lambda: (0x0E, None, HEADERS + struct.pack("<HBB", 5, 0, 0)),
            lambda: (0x07, None, bytes.fromhex("8101000000000000002604016100d10401000000fd000000000000000000000000")),
        ]

    # ---- damage --------

    def _broken(self, payload: bytes) -> bytes:
        data = bytearray(payload)
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            self.random.choice((self._flip, self._edge, self._cut, self._double, self._insert, self._swap))(data)
        return bytes(data)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def _edge(self, data: bytearray) -> None:
        """A length or number set to what lengths and numbers break at."""
        size = self.random.choice((1, 2, 4))
        if len(data) >= size:
            at = self.random.randrange(len(data) - size + 1)
            value = self.random.choice(_EDGES) & (256**size - 1)
            data[at : at + size] = value.to_bytes(size, self.random.choice(("little", "big")))  # type: ignore[arg-type]

    def _cut(self, data: bytearray) -> None:
        del data[self.random.randrange(len(data) + 1) :]

    def _double(self, data: bytearray) -> None:
        if data:
            begin = self.random.randrange(len(data))
            piece = data[begin : begin + self.random.randrange(1, 64)]
            data[begin:begin] = piece * self.random.choice((1, 2, 40))

    def _insert(self, data: bytearray) -> None:
        at = self.random.randrange(len(data) + 1)
        data[at:at] = self.random.randbytes(self.random.randrange(1, 32))

    def _swap(self, data: bytearray) -> None:
        if len(data) > 1:
            a, b = self.random.randrange(len(data)), self.random.randrange(len(data))
            data[a], data[b] = data[b], data[a]

    def _packets(self, kind: int, payload: bytes) -> bytes:
        """The message in packets, whose headers may be broken as well."""
        size = self.random.choice((64, 512, 4088))
        pieces = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
        out = bytearray()
        for index, piece in enumerate(pieces):
            out += packet(kind, piece, int(index == len(pieces) - 1))
        if self.random.random() < 0.2:
            self._edge_header(out)
        return bytes(out)

    def _edge_header(self, data: bytearray) -> None:
        at = self.random.randrange(min(8, len(data)))
        data[at] = self.random.randrange(256)

    # ---- answers --------

    def _answer(self, client: RawClient, logged_in: bool) -> str:
        client.socket.settimeout(_SILENCE_SECONDS)
        try:
            answer = parse(client.receive())
        except TimeoutError:
            # Allowed: the message may say that it goes on. What is owed then is that leaving ends it.
            return "waits for more"
        except ConnectionError:
            return "closed"
        except (AssertionError, IndexError, ValueError, struct.error):
            return "unreadable" if logged_in else "pre-login answer"
        return "error" if answer.errors else "answered"


def memory(pid: int) -> int:
    """Resident bytes of a process (Linux)."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
