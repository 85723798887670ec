"""Whose end an inference server's is: of localazure as a whole, not of the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMPUTE = Path(__file__).resolve().parents[2] / "compute"

FOLLOWER = """
import os, sys
from localazure_compute import parents
parents.follow(os.getppid(), int(sys.argv[1]))
"""
# As the API starts a server: in a session of its own.
API = f"""
import os, subprocess, sys, time
server = subprocess.Popen([sys.executable, "-c", {FOLLOWER!r}, str(os.getppid())], start_new_session=True)
print(os.getpid(), server.pid, flush=True)
time.sleep(60)
"""
# As the supervisor: it adopts whom the API leaves behind (prctl(2), PR_SET_CHILD_SUBREAPER).
SUPERVISOR = f"""
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.Popen([sys.executable, "-c", {API!r}]).wait()
print("the api ended", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_a_server_outlives_the_api_and_not_the_supervisor() -> None:
    environment = os.environ | {"PYTHONPATH": str(COMPUTE)}
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], env=environment, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        api, server = (int(pid) for pid in supervisor.stdout.readline().split())
        time.sleep(0.6)  # the follower has noted who its parents are
        os.kill(api, signal.SIGKILL)
        assert supervisor.stdout.readline() == b"the api ended\n"
        time.sleep(0.8)
        assert lives(server)
        supervisor.kill()
    try:
        end = time.monotonic() + 20
        while lives(server):
            assert time.monotonic() < end, "the server outlived localazure"
            time.sleep(0.05)
    finally:
        if lives(server):
            os.kill(server, signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
