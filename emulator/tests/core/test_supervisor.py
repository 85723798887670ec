"""The supervisor with programs of the tests' own: what starts, what is told when it ends, what is left after `down`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import port_leases
import pytest

from localazure import supervisor
from localazure.core import certificates
from localazure.executors import processes
from localazure.settings import Settings
from localazure.supervisor import Program, StackError

OTHER = "import time; time.sleep(60)"
# Runs a supervisor over two programs: `api`, which starts a stubborn child in a session of its own, and `other`.
SCRIPT = '''
import sys
from pathlib import Path
from localazure import supervisor
from localazure.settings import Settings
settings = Settings.load(Path(sys.argv[1]))
api = """
import subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""
def program(name, code):
    return supervisor.Program(name, lambda: [sys.executable, "-c", code], 1, "x", lambda: True)
# Answers two connections, then has nothing to do.
shy = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[-1]))
listener.setblocking(True)
for number in range(2):
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""
port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
rows = [program("api", api), program("other", "import time; time.sleep(60)")]
if port:
    command = lambda: [sys.executable, "-c", shy]
    rows.append(supervisor.Program("shy", command, port, "x", lambda: True, awaited=False, on_demand=True))
supervisor.programs = lambda settings: rows
supervisor.supervise(settings)
'''


def wait_for(what: object, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def running(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    settings.logs.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(settings.home)], env=environment)
    names = ("api", "other")
    rows = [Program(name, list, 1, "x", lambda: True) for name in names]
    monkeypatch.setattr(supervisor, "programs", lambda settings: rows)
    try:
        wait_for(lambda: set(supervisor._state(settings)["processes"]) == set(names))
        yield settings
    finally:
        process.terminate()
        process.wait(60)


def pid_of(settings: Settings, name: str) -> int:
    found: int = supervisor._state(settings)["processes"][name]["pid"]
    return found


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")


def test_status_shows_what_runs_and_what_ended(running: Settings) -> None:
    assert supervisor.running(running)
    assert [(row.name, row.state) for row in supervisor.status(running)] == [("api", "up"), ("other", "up")]
    assert all(row.memory > 0 for row in supervisor.status(running))
    os.kill(pid_of(running, "other"), signal.SIGKILL)
    wait_for(lambda: supervisor.status(running)[1].state == "ended (-9)")
    assert supervisor.status(running)[0].state == "up"


def test_a_program_on_demand_starts_with_the_first_connection_and_rests_when_it_ends(settings: Settings) -> None:
    settings.logs.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(settings.home), str(port)], env=environment)

    def asked() -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
            return int(connection.recv(100))

    try:
        wait_for(lambda: len(supervisor._state(settings)["processes"]) == 3)
        assert pid_of(settings, "shy") is None
        first = asked()
        assert first == pid_of(settings, "shy") == asked()
        # It has ended; the next connection waits for the next one, and the port was never closed.
        later = [asked(), asked()]
        assert later[0] == later[1] != first
        wait_for(lambda: pid_of(settings, "shy") is None)
    finally:
        process.terminate()
        process.wait(60)
    with pytest.raises(ConnectionRefusedError):
        asked()


def test_down_ends_jobs_even_of_an_api_that_crashed(running: Settings) -> None:
    said = running.logs / "api.log"
    wait_for(lambda: len(said.read_text().splitlines()) > 1)
    job = int(said.read_text().splitlines()[-1])
    api, other = pid_of(running, "api"), pid_of(running, "other")
    os.kill(api, signal.SIGKILL)
    wait_for(lambda: not alive(api))
    assert alive(job)
    assert supervisor.down(running)
    assert not any(alive(pid) for pid in (job, api, other))
    assert not supervisor.running(running)
    assert not (running.home / "pids.json").exists()
    assert not supervisor.down(running)


def test_a_killed_supervisor_leaves_nothing(running: Settings) -> None:
    pids = [pid_of(running, name) for name in ("api", "other")]
    os.kill(supervisor._state(running)["supervisor"], signal.SIGKILL)
    wait_for(lambda: not supervisor.running(running))
    wait_for(lambda: not any(alive(pid) for pid in pids))


def test_there_is_one_supervisor_a_home(running: Settings) -> None:
    with pytest.raises(StackError, match="another supervisor runs"):
        supervisor.supervise(running)


def test_reset_is_refused_while_up_and_keeps_who_we_are(running: Settings) -> None:
    (running.home / "azurite").mkdir()
    (running.home / "connection.json").write_text("{}")
    secrets = (running.home / "settings.json").read_text()
    with pytest.raises(StackError, match="localazure is up"):
        supervisor.reset(running)
    assert (running.home / "azurite").exists()
    supervisor.reset(running, force=True)
    assert not supervisor.running(running)
    assert not (running.home / "azurite").exists()
    assert not (running.home / "connection.json").exists()
    assert (running.home / "settings.json").read_text() == secrets


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is taken. The one below it is free: it may be looked at first."""
    while True:
        with socket.socket() as listener, socket.socket() as below:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
            try:
                below.bind(("127.0.0.1", port - 1))
            except OSError:
                continue
            below.close()
            listener.listen()
            yield port
            return


@pytest.mark.parametrize(("offset", "name"), [(5, "router's administration"), (6, "inner router")])
def test_a_taken_port_is_named_before_anything_starts(
    certified: Settings, monkeypatch: pytest.MonkeyPatch, taken: int, offset: int, name: str
) -> None:
    monkeypatch.setattr(supervisor, "programs", lambda settings: [])  # the other ports may be anybody's
    settings = replace(certified, port_base=taken - offset)
    with pytest.raises(StackError, match=rf"port {taken} \({name}\) can't be used.*--port-base"):
        supervisor.up(settings, timeout=5)
    assert not supervisor.running(settings)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [("import sys; sys.exit(3)", "other ended with code 3"), ("import time; time.sleep(60)", "other wasn't healthy")],
)
def test_an_up_that_fails_leaves_nothing(
    certified: Settings, monkeypatch: pytest.MonkeyPatch, trouble: str, message: str
) -> None:
    started: list[int] = []
    failed = supervisor._failed

    def remembered(settings: Settings, name: str, what: str) -> StackError:
        state = supervisor._state(settings)
        started.extend([state["supervisor"], *(child["pid"] for child in state["processes"].values())])
        return failed(settings, name, what)

    def launch(settings: Settings) -> processes.Process:
        command = [sys.executable, "-c", SCRIPT.replace(OTHER, trouble), str(settings.home)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return processes.start(command, env=environment, cwd=settings.home, log=settings.logs / "supervisor.log")

    rows = [Program("api", list, 0, "x", lambda: True), Program("other", list, 0, "x", lambda: False)]
    monkeypatch.setattr(supervisor, "programs", lambda settings: rows)
    monkeypatch.setattr(supervisor, "_check_ports", lambda settings: None)
    monkeypatch.setattr(supervisor, "_failed", remembered)
    monkeypatch.setattr(supervisor, "_launch", launch)
    with pytest.raises(StackError, match=message):
        supervisor.up(certified, timeout=4)
    assert not supervisor.running(certified)
    assert len(started) == 3 and not any(alive(pid) for pid in started)
    assert not (certified.home / "pids.json").exists()


def test_an_up_that_fails_leaves_a_supervisor_that_ran_before(running: Settings) -> None:
    certificates.ensure(running)
    os.kill(pid_of(running, "other"), signal.SIGKILL)
    end = time.monotonic() + 10
    while supervisor._state(running)["processes"]["other"]["exit_code"] is None and time.monotonic() < end:
        time.sleep(0.05)
    with pytest.raises(StackError, match="other ended with code -9"):
        supervisor.up(running, timeout=10)
    assert supervisor.running(running)
    assert alive(pid_of(running, "api"))


def test_a_program_that_is_not_there_is_named_at_once(certified: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAZURE_AZURITE", "no-such-azurite")
    monkeypatch.setenv("LOCALAZURE_PORT_BASE", str(port_leases.lease()))
    with pytest.raises(StackError, match=r"azurite can't be started.*no-such-azurite"):
        supervisor.up(Settings.load(certified.home), timeout=60)
    assert not supervisor.running(certified)


def test_what_a_program_said_before_it_ended_is_shown_of_its_last_start_only(settings: Settings) -> None:
    settings.logs.mkdir(parents=True)
    (settings.logs / "tds.log").write_text("--- tds starts 1\nold trouble\n--- tds starts 2\nTraceback\nnew trouble\n")
    message = str(supervisor._failed(settings, "tds", "ended with code 1"))
    assert "new trouble" in message
    assert "old trouble" not in message


def test_the_state_file_survives_being_half_written(settings: Settings) -> None:
    (settings.home / "pids.json").write_text('{"supervisor": 1')
    assert supervisor._state(settings) == {"supervisor": None, "processes": {}}
    (settings.home / "pids.json").write_text(json.dumps({"supervisor": 1, "processes": {}}))
    assert supervisor._state(settings)["supervisor"] == 1
