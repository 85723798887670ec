from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from localazure.executors import processes

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def start(tmp_path: Path, code: str) -> processes.Process:
    return processes.start([sys.executable, "-c", code], env={"A": "1"}, cwd=tmp_path, log=tmp_path / "logs" / "x.log")


def test_output_and_errors_go_to_the_log_and_the_environment_is_exact(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['A'], 'PATH' in os.environ); print('oops', file=sys.stderr); sys.exit(3)"
    process = start(tmp_path, code)
    assert asyncio.run(process.wait()) == 3
    assert sorted(processes.tail(tmp_path / "logs" / "x.log", 10)) == ["1 False", "oops"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie that nobody has collected yet is dead.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for_line(log: Path) -> str:
    end = time.monotonic() + 10
    while not (lines := processes.tail(log, 1)):
        assert time.monotonic() < end
        time.sleep(0.02)
    return lines[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_terminate_ends_the_whole_group(tmp_path: Path) -> None:
    process = start(tmp_path, PARENT)
    child = int(wait_for_line(tmp_path / "logs" / "x.log"))
    assert alive(child)
    process.terminate(grace=2)
    assert process.poll() is not None
    assert not alive(child)


def test_what_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    )
    process = start(tmp_path, stubborn)
    wait_for_line(tmp_path / "logs" / "x.log")
    asyncio.run(process.aterminate(grace=0.3))
    assert process.poll() == -9
    process.terminate()  # a second time does nothing


def test_the_tail_of_nothing_and_of_much(tmp_path: Path) -> None:
    assert processes.tail(tmp_path / "none.log", 5) == []
    (tmp_path / "much.log").write_text("\n".join(f"line {n}" for n in range(10_000)))
    assert processes.tail(tmp_path / "much.log", 2) == ["line 9998", "line 9999"]


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        processes.start(["no-such-program"], env={}, cwd=tmp_path, log=tmp_path / "x.log")
