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
_BULK_LOAD = 0x07
_COLLATION = bytes.fromhex("0904d00034")
# (TYPE_INFO, a value with its prefix): one column of each kind that a bulk load brings.
_BULK: tuple[tuple[bytes, bytes], ...] = (
    (b"\x26\x04", b"\x04\x01\0\0\0"),
    (b"\x38", b"\x02\0\0\0"),
    (b"\x68\x01", b"\x01\x01"),
    (b"\x6d\x08", b"\x08" + struct.pack("<d", 1.5)),
    (b"\x6a\x09\x12\x04", b"\x09\x01" + struct.pack("<q", 12345)),
    (b"\x6e\x08", b"\x08" + bytes(8)),
    (b"\x6f\x08", b"\x08" + struct.pack("<iI", 41000, 300)),
    (b"\x28", b"\x03" + (734000).to_bytes(3, "little")),
    (b"\x29\x07", b"\x05" + bytes(5)),
    (b"\x2a\x03", b"\x07" + bytes(4) + (734000).to_bytes(3, "little")),
    (b"\x2b\x07", b"\x0a" + bytes(5) + (734000).to_bytes(3, "little") + bytes(2)),
    (b"\x24\x10", b"\x10" + bytes(range(16))),
    (b"\xe7\x28\x00" + _COLLATION, b"\x08\x00" + "\U0001f600ab".encode("utf-16-le")),
    (b"\xa7\x28\x00" + _COLLATION, b"\x04\x00caf\xe9"),
    (b"\xa5\x28\x00", b"\x02\x00\x00\xff"),
    (b"\xe7\xff\xff" + _COLLATION, struct.pack("<QI", 4, 4) + b"a\0b\0" + bytes(4)),
)
_BATCHES = (
    "DECLARE @a int = 3; WHILE @a > 0 BEGIN SET @a = @a - 1; PRINT @a END; SELECT @a AS a",
    "BEGIN TRY SELECT 1 / 0 AS a END TRY BEGIN CATCH SELECT ERROR_MESSAGE() AS m; THROW 100001, N'x', 1 END CATCH",
    "WITH c AS (SELECT name, ROW_NUMBER() OVER (PARTITION BY type ORDER BY name DESC) AS r FROM sys.objects) "
    "SELECT TOP (3) [name], CASE WHEN r IN (1, 2) THEN 'a' ELSE N'b' END FROM c WHERE name LIKE 'a[^b]%' ORDER BY 1",
    "EXEC sp_executesql N'SELECT @p + 1 AS a', N'@p int', @p = 41; SELECT CONVERT(varchar(10), GETDATE(), 112) AS d",
    "CREATE TABLE #t (a int NOT NULL, b decimal(10, 2)); INSERT INTO #t VALUES (1, 2.5); UPDATE #t SET b += 1; "
    "SELECT SUM(b) OVER (ORDER BY a ROWS UNBOUNDED PRECEDING) FROM #t; DROP TABLE #t",
)


def _bulk_rows() -> bytes:
    """COLMETADATA, rows with every field, a row without some, DONE."""
    head = b"\x81" + struct.pack("<H", len(_BULK))
    head += b"".join(struct.pack("<IH", 0, 1) + kind + b"\0" for kind, _ in _BULK)
    full = b"".join(value for _, value in _BULK)
    absent = sum(1 << index for index in range(0, len(_BULK), 2))
    some = b"".join(value for index, (_, value) in enumerate(_BULK) if index % 2)
    rows = (b"\xd1" + full) * 3 + b"\xd2" + absent.to_bytes((len(_BULK) + 7) // 8, "little") + some
    return head + rows + b"\xfd" + bytes(12)


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
            elif kind == _BULK_LOAD:
                client.batch(f"INSERT BULK fuzzed ({', '.join(f'c{index} int' for index in range(len(_BULK)))})")
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
            lambda: (0x01, None, HEADERS + self.random.choice(_BATCHES).encode("utf-16-le")),
            lambda: (_BULK_LOAD, None, _bulk_rows()),
            lambda: (_BULK_LOAD, None, _bulk_rows()),
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
