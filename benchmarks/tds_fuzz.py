"""Broken TDS messages against a running localazure, for as long as you like: nothing may crash, hang or grow.

    var/env/localazure/bin/python benchmarks/tds_fuzz.py --connection HOME/connection.json [--minutes 60] [--seed 1]

Messages are those of emulator/tests/tds/fuzzer.py. Every 50th round another connection and a new log-in must be
answered. Prints a line a minute and at the end what came back, the slowest of those answers, and the TDS process'
memory at the beginning and the end. The exit code is 1 if somebody else was disturbed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "emulator/src"), str(CHECKOUT / "emulator/tests/tds")]

from fuzzer import Fuzzer, memory  # noqa: E402 - from the checkout

MINUTE = 60


def main() -> int:
    """Fuzz, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--connection", type=Path, required=True, help="connection.json of a running localazure")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    given = json.loads(options.connection.read_text())
    pids = json.loads((options.connection.parent / "pids.json").read_text())
    pid = int(pids["processes"]["tds"]["pid"])
    fuzzer = Fuzzer(
        int(given["sql_server"].partition(",")[2]),
        given["sql_login"],
        given["sql_password"],
        given["sql_database"],
        options.seed,
    )
    started, first, rounds = time.monotonic(), memory(pid), 0
    told = started
    disturbed = ""
    while time.monotonic() - started < options.minutes * MINUTE:
        fuzzer.round()
        rounds += 1
        if rounds % 50 == 0:
            try:
                fuzzer.check()
            except Exception as error:
                disturbed = f"round {rounds}, seed {options.seed}: {type(error).__name__}: {error}"
                break
        if time.monotonic() - told > MINUTE:
            told = time.monotonic()
            print(f"{rounds} rounds, {memory(pid) / 2**20:.0f} MB", flush=True)
    seconds = time.monotonic() - started
    print(f"{rounds} rounds in {seconds:.0f} s ({rounds / seconds:.0f}/s): {dict(fuzzer.outcomes)}")
    print(f"slowest answer to somebody else {fuzzer.slowest:.2f} s; memory {first / 2**20:.0f} -> "
          f"{memory(pid) / 2**20:.0f} MB")  # fmt: skip
    if disturbed:
        print(f"DISTURBED: {disturbed}")
    return 1 if disturbed else 0


if __name__ == "__main__":
    sys.exit(main())
