"""What the wire costs: rows fetched beside the same bytes from a recording, bulk copy, and many connections at once.

    var/env/airflow/bin/python benchmarks/tds.py --connection HOME/connection.json [--kinds mssql-python-rust,pymssql]

HOME is that of a running localazure. For every client library the answer to one query (200,000 rows of ten columns) is
recorded once; then the library fetches it from localazure, and from a relay that logs it in at localazure and plays the
recorded bytes back as fast as the socket takes them: what is between the two is what making the rows costs. TLS covers
the log-in only, so that bytes can be played back. Bulk copy loads 100,000 rows of nine columns with mssql-python.
Seconds are the least of the rounds. The exit code is 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests/contract"))

from tds_clients import clients, missing  # noqa: E402 - from the checkout

ROWS, LOADED, CONNECTIONS = 200_000, 100_000, 50
FETCH_AIM, LOAD_AIM = 0.9, 40_000
FETCHING = ("mssql-python", "mssql-python-rust", "pymssql", "python-tds")
LOADING = ("mssql-python", "mssql-python-rust")
SQL_BATCH, RPC = 1, 3
WIDE = "dbo.benchmark_wide"
BULK = "dbo.benchmark_bulk"
MAKE_WIDE = f"""CREATE TABLE {WIDE} WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS
    SELECT CAST(n AS int) AS i, CAST(n AS bigint) * 1000003 AS b, CAST(n % 97 AS smallint) AS s,
        CAST('row ' + CAST(n AS varchar(10)) AS varchar(20)) AS v, CAST(N'caf\u00e9 ' AS nvarchar(20)) AS nv,
        CAST(n / 7.0 AS decimal(18,4)) AS d, CAST(n AS float) / 3 AS f,
        DATEADD(DAY, n % 3650, CAST('2013-01-01' AS date)) AS day,
        DATEADD(SECOND, n, CAST('2013-01-01' AS datetime2(3))) AS moment,
        CASE WHEN n % 5 = 0 THEN NULL ELSE CAST(n % 2 AS bit) END AS flag
    FROM (SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * g.d + 100000 * h.d AS n
        FROM #digits a CROSS JOIN #digits b CROSS JOIN #digits c CROSS JOIN #digits e CROSS JOIN #digits g
        CROSS JOIN (SELECT 0 AS d UNION ALL SELECT 1) h) numbers"""
SELECT = f"SELECT i, b, s, v, nv, d, f, day, moment, flag FROM {WIDE}"
MAKE_BULK = f"""CREATE TABLE {BULK} (i int NOT NULL, b bigint, s nvarchar(30), v varchar(20), d decimal(12,2), f float,
    day date, moment datetime2(3), flag bit) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)"""


class Relay:
    """A socket before localazure. Forwards; records the answer to the first request, or plays ``recorded`` instead."""

    def __init__(self, port: int, recorded: bytes | None = None) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.recorded = bytearray(recorded or b"")
        self._plays = recorded is not None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        recording = threading.Event()
        threading.Thread(target=self._back, args=(server, client, recording), daemon=True).start()
        asked = False
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                # TLS records and the log-in's packets have other first bytes.
                if not asked and data[0] in (SQL_BATCH, RPC) and b"w\0i\0d\0e\0" in data:
                    asked = True
                    if self._plays:
                        client.sendall(self.recorded)
                        continue
                    recording.set()
                server.sendall(data)
        for side in (client, server):
            side.close()

    def _back(self, server: socket.socket, client: socket.socket, recording: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 18):
                if recording.is_set():
                    self.recorded += data
                client.sendall(data)

    def close(self) -> None:
        """Take no more clients."""
        self._listening.close()


def at(given: dict[str, Any], port: int) -> dict[str, Any]:
    """The connection, on another port."""
    return {**given, "sql_server": f"localhost,{port}"}


def _play(port: int, recorded: bytes, pipe: Any) -> None:
    relay = Relay(port, recorded)
    pipe.send(relay.port)
    pipe.recv()


@contextlib.contextmanager
def playing(port: int, recorded: bytes) -> Iterator[int]:
    """The port of a relay in a process of its own: its work isn't the benchmark's."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_play, args=(port, recorded, theirs), daemon=True)
    process.start()
    try:
        yield int(ours.recv())
    finally:
        ours.send(None)
        process.join(5)


def fetched(kind: str, given: dict[str, Any]) -> float:
    """Seconds to fetch the rows, on a connection of its own: the relay answers once."""
    for client in clients(kind, given, encrypt="no"):
        rows, seconds = client.count(SELECT)
        if rows != ROWS:
            raise SystemExit(f"{kind} got {rows} rows")
    return float(seconds)


def fetching(kind: str, given: dict[str, Any], rounds: int) -> bool:
    """Print a client's rates; whether it is at the aim."""
    port = int(given["sql_server"].partition(",")[2])
    relay = Relay(port)
    fetched(kind, at(given, relay.port))
    relay.close()
    canned, ours = float("inf"), float("inf")
    with playing(port, bytes(relay.recorded)) as canned_port:
        # In turns: what else the machine does meets both.
        for _ in range(rounds):
            canned = min(canned, fetched(kind, at(given, canned_port)))
            ours = min(ours, fetched(kind, given))
    share = canned / ours
    print(f"{kind:18} {ROWS / ours:10,.0f} {ROWS / canned:14,.0f} {share:9.0%}", flush=True)
    return share >= FETCH_AIM


def loading(kind: str, given: dict[str, Any], rounds: int) -> bool:
    """Print a client's bulk copy; whether it is at the aim."""
    day, moment = dt.date(2013, 3, 8), dt.datetime(2013, 3, 8, 1, 2, 3, 456000)
    rows = [
        (
            i,
            i * 1000003,
            f"r\u00f6w {i}",
            None if i % 5 == 0 else f"text {i}",
            Decimal(i) / 4,
            i / 3,
            day,
            moment,
            i % 2 == 0,
        )
        for i in range(LOADED)
    ]
    for client in clients(kind, given):
        seconds = float("inf")
        for _ in range(rounds):
            client.run(f"TRUNCATE TABLE {BULK}")
            seconds = min(seconds, float(client.bulk_seconds(BULK, rows)))
        rate = LOADED / seconds
        if client.query(f"SELECT COUNT(*), SUM(CAST(i AS bigint)), COUNT(v), SUM(d) FROM {BULK}") != [
            (LOADED, LOADED * (LOADED - 1) // 2, LOADED * 4 // 5, Decimal(LOADED * (LOADED - 1) // 2) / 4)
        ]:
            raise SystemExit(f"{kind} loaded other rows")
    print(f"{kind:18} {rate:10,.0f}", flush=True)
    return rate >= LOAD_AIM


def main() -> int:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--connection", type=Path, required=True, help="connection.json of a running localazure")
    parser.add_argument("--kinds", default=",".join(FETCHING), help="client libraries, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    given = json.loads(options.connection.read_text())
    os.environ["SSL_CERT_FILE"] = given["ca_bundle"]
    kinds = [kind for kind in options.kinds.split(",") if not print_missing(kind)]
    for client in clients("mssql-python-rust", given):
        client.run(
            *(f"IF OBJECT_ID('{table}') IS NOT NULL DROP TABLE {table}" for table in (WIDE, BULK)),
            "CREATE TABLE #digits WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS "
            "SELECT d FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) v(d)",
            MAKE_WIDE,
            MAKE_BULK,
        )
    met = []
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"fetch {ROWS:,} x 10    rows/s  recorded bytes     share (aim {FETCH_AIM:.0%})")
    met += [fetching(kind, given, options.rounds) for kind in kinds]
    print(f"bulk copy {LOADED:,} x 9 rows/s (aim {LOAD_AIM:,})")
    met += [loading(kind, given, options.rounds) for kind in kinds if kind in LOADING]
    for client in clients("mssql-python-rust", given):
        answers = client.parallel(CONNECTIONS, f"SELECT COUNT(*) FROM {WIDE}")
        met.append(answers == [[(ROWS,)]] * CONNECTIONS)
        print(f"{CONNECTIONS} connections at once: {sum(answer == [(ROWS,)] for answer in answers)} answered")
        client.run(f"DROP TABLE {WIDE}", f"DROP TABLE {BULK}")
    return 0 if all(met) else 1


def print_missing(kind: str) -> str:
    """Why a client is left out; empty when it isn't."""
    if reason := missing(kind):
        print(f"{kind} is left out: {reason}", file=sys.stderr)
    return reason


if __name__ == "__main__":
    sys.exit(main())
