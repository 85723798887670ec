"""The processes of a home: one detached supervisor, and its children in process groups of their own.

The supervisor restarts nothing: a child that ends is written down (`pids.json`), logged, and shown by `status`. That
it runs is known by a lock it holds on `<home>/supervisor.lock`, not by a process id that may belong to somebody else by
now. On Linux it adopts orphans (PR_SET_CHILD_SUBREAPER), so that even the jobs of an API that crashed end with `down`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import json
import logging
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from localazure.core import certificates
from localazure.executors import processes
from localazure.serving.router import router_command
from localazure.settings import Settings

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_API_GRACE_SECONDS = 30.0
_GRACE_SECONDS = 10.0
_DOWN_SECONDS = _API_GRACE_SECONDS + 2 * _GRACE_SECONDS
_LOG_LINES = 15
_LOG_MARK = "--- "
_LOG_KEPT_BYTES = 10 * 1024 * 1024
_PR_SET_CHILD_SUBREAPER = 36
_LOOPBACK = "127.0.0.1"

# What `reset` empties. Settings, certificates and keys stay: clients that know the home keep working.
_STATE = (
    "store.sqlite", "store.sqlite-shm", "store.sqlite-wal", "azurite", "sql", "mlflow", "jobs", "cache", "deployments",
    "environments", "faults", "clock.json", "spark", "livy", "notebooks", "router", "logs", "pids.json",
    "connection.json",
)  # fmt: skip


class StackError(Exception):
    """The processes can't be brought to where they should be; the message says what and where."""


@dataclass(frozen=True)
class Program:
    """A child: how it starts, where it listens, and whether `up` waits for it."""

    name: str
    command: Callable[[], list[str]]
    port: int
    address: str
    healthy: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    awaited: bool = True
    #: Not started before somebody connects to its port, and ends by itself when nobody has for long: the supervisor
    #: listens in its place and hands the socket over (`--fd N`), so that no connection is refused or lost.
    on_demand: bool = False


def programs(settings: Settings) -> list[Program]:
    """Every child of the supervisor."""
    home = settings.home
    python = [sys.executable, "-m"]
    return [
        Program(
            "azurite",
            lambda: [
                *settings.azurite,
                "--blobHost", settings.bind_host, "--blobPort", str(settings.blob_port),
                "--cert", str(settings.server_certificate), "--key", str(settings.server_key),
                "--oauth", "basic", "--skipApiVersionCheck", "--disableTelemetry",
                "--location", str(home / "azurite"), "--silent",
            ],
            settings.blob_port,
            settings.blob_url,
            lambda: _answers(settings, f"{settings.blob_url}?comp=list"),
            # https://github.com/Azure/Azurite#customized-storage-accounts--keys
            {"AZURITE_ACCOUNTS": f"{settings.storage_account}:{settings.storage_account_key}"},
        ),
        Program(
            "api",
            lambda: [*python, "localazure", "--home", str(home), "api"],
            settings.api_port,
            settings.api_url,
            lambda: _answers(settings, f"{settings.api_url}/healthz", HTTPStatus.OK),
        ),
        Program(
            "mlflow",
            # MLflow's own server from the compute environment; the launcher beside it lets a run have its job's name.
            # 200 MB and seconds of imports: on demand.
            lambda: [
                str(settings.compute_python), "-m", "localazure_compute.tracking_server",
                "--home", str(home / "mlflow"), "--port", str(settings.mlflow_port),
            ],
            settings.mlflow_port,
            settings.mlflow_url,
            lambda: _answers(settings, f"{settings.mlflow_url}/health", HTTPStatus.OK),
            {
                "PYTHONPATH": str(settings.compute_source),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "1",
            },
            awaited=False,
            on_demand=True,
        ),
        Program(
            "tds",
            lambda: [*python, "localazure.tds", "--home", str(home)],
            settings.tds_port,
            settings.sql_server,
            lambda: all(_listens(settings.bind_host, port) for port in (settings.tds_port, settings.serverless_port)),
        ),
        Program(
            "router",
            # Called when it starts and not before: it writes the router's first configuration.
            lambda: router_command(settings),
            settings.router_port,
            settings.router_url,
            lambda: (
                _listens(_LOOPBACK, settings.admin_port) and _listens(settings.bind_host, settings.router_port)
            ),
        ),
    ]  # fmt: skip


def up(settings: Settings, timeout: float = 180) -> None:
    """Start everything and wait until it is healthy. StackError has a process' last lines.

    What it started ends again if it fails or is interrupted. A supervisor that ran before is left as it is.
    """
    _prepare(settings)
    if running(settings):
        _await_healthy(settings, None, timeout)
        return
    _check_ports(settings)
    launched = _launch(settings)
    try:
        _await_healthy(settings, launched, timeout)
    except BaseException:
        # Gently: the supervisor ends its children, and they are in process groups of their own.
        launched.terminate(_DOWN_SECONDS)
        raise


def _await_healthy(settings: Settings, launched: processes.Process | None, timeout: float) -> None:
    end = time.monotonic() + timeout
    waiting = [program for program in programs(settings) if program.awaited]
    while True:
        state = _state(settings)
        for program in waiting:
            child = state["processes"].get(program.name)
            if child and child["exit_code"] is not None:
                raise _failed(settings, program.name, f"ended with code {child['exit_code']}")
        # Only processes of ours may pass for healthy: another home's could answer on the same port.
        if state["supervisor"] is not None and state["processes"]:
            waiting = [program for program in waiting if not program.healthy()]
        elif launched and launched.poll() is not None and not running(settings):
            raise _failed(settings, "supervisor", "ended")
        if not waiting:
            return
        if time.monotonic() > end:
            name = waiting[0].name
            raise _failed(settings, name, f"wasn't healthy after {timeout:.0f} s")
        time.sleep(_POLL_SECONDS)


def foreground(settings: Settings) -> None:
    """`up` in this process, until SIGTERM: for containers. That it is healthy is for `status` to say."""
    _prepare(settings)
    _check_ports(settings)
    supervise(settings)


def _prepare(settings: Settings) -> None:
    certificates.ensure(settings)
    for folder in ("azurite", "mlflow", "logs"):
        (settings.home / folder).mkdir(exist_ok=True)
    settings.write_connection()


def down(settings: Settings) -> bool:
    """End everything, jobs included; whether anything was running."""
    if not running(settings):
        return False
    supervisor = _state(settings)["supervisor"]
    # The lock's holder writes its id first of all; without it there is nothing we may signal.
    if supervisor is None:
        raise StackError(f"a supervisor holds {settings.home / 'supervisor.lock'} and has not written pids.json yet; "
                         "try again")  # fmt: skip
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)
    end = time.monotonic() + _DOWN_SECONDS
    while running(settings):
        if time.monotonic() > end:
            log.warning("the supervisor %d doesn't end; it and its children are killed", supervisor)
            for pid in [*_descendants(supervisor), supervisor]:
                _kill(pid)
            end = time.monotonic() + _GRACE_SECONDS
        time.sleep(_POLL_SECONDS)
    return True


def reset(settings: Settings, *, force: bool = False) -> None:
    """Empty the home: tables, blobs, jobs, models, endpoints, logs. Refused while it is up, unless forced."""
    if running(settings):
        if not force:
            raise StackError("localazure is up; `localazure down` first, or `localazure reset --force`")
        down(settings)
    for name in _STATE:
        path = settings.home / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Status:
    """One row of `localazure status`. `memory` in bytes, with the process' children; `state` in words."""

    name: str
    pid: int | None
    port: int
    address: str
    state: str
    healthy: bool
    memory: int


def status(settings: Settings) -> list[Status]:
    """What runs and how it is."""
    up_now = running(settings)
    state = _state(settings)
    table = _process_table()
    rows = []
    for program in programs(settings):
        child = state["processes"].get(program.name)
        if not up_now or child is None:
            rows.append(Status(program.name, None, program.port, program.address, "down", False, 0))
            continue
        if child["exit_code"] is not None:
            word = f"ended ({child['exit_code']})"
            rows.append(Status(program.name, None, program.port, program.address, word, False, 0))
            continue
        if child["pid"] is None:
            rows.append(Status(program.name, None, program.port, program.address, "standing by", True, 0))
            continue
        healthy = program.healthy()
        word = "up" if healthy else "starting"
        memory = sum(table[pid][1] for pid in [child["pid"], *_descendants(child["pid"], table)] if pid in table)
        rows.append(Status(program.name, child["pid"], program.port, program.address, word, healthy, memory))
    return rows


def running(settings: Settings) -> bool:
    """Whether this home's supervisor lives: whether somebody holds its lock."""
    with _lock_file(settings) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def supervise(settings: Settings) -> None:
    """The supervisor's life: start the children, watch them, end them on SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    with _lock_file(settings) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another supervisor runs in {settings.home}") from None
        _adopt_orphans()
        stopping: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: stopping.append(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        children: dict[str, processes.Process] = {}
        ended: dict[str, int] = {}
        standing_by: dict[socket.socket, Program] = {}

        def start(program: Program, *, handed_over: socket.socket | None = None) -> None:
            children[program.name] = _start(settings, program, handed_over)
            log.info("%s started as process %d", program.name, children[program.name].pid)
            _write_state(settings, children, ended, standing_by.values())

        _write_state(settings, children, ended, ())
        try:
            for program in programs(settings):
                if program.on_demand:
                    standing_by[_listener(program.port)] = program
                    _write_state(settings, children, ended, standing_by.values())
                else:
                    start(program)
            while not stopping:
                _reap({child.pid for child in children.values()})
                for name, child in list(children.items()):
                    code = child.poll()
                    if code is None or name in ended:
                        continue
                    if code == 0 and any(program.name == name for program in standing_by.values()):
                        del children[name]
                        log.info("%s has nothing to do and stands by", name)
                    else:
                        ended[name] = code
                        log.error("%s (process %d) ended with code %d and is not restarted", name, child.pid, code)
                    _write_state(settings, children, ended, standing_by.values())
                wanted = [each for each, program in standing_by.items() if program.name not in children]
                for listener in _called(wanted, _POLL_SECONDS):
                    start(standing_by[listener], handed_over=listener)
        finally:
            log.info("stopping")
            for listener in standing_by:
                listener.close()
            _stop(children)
            (settings.home / "pids.json").unlink(missing_ok=True)


def _listener(port: int) -> socket.socket:
    """A socket that listens on loopback; connections wait in it until a program is given it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((_LOOPBACK, port))
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _called(listeners: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Those that somebody has connected to, waited for `seconds`."""
    if not listeners:
        time.sleep(seconds)
        return []
    return select.select(listeners, [], [], seconds)[0]


def _start(settings: Settings, program: Program, handed_over: socket.socket | None = None) -> processes.Process:
    argv = program.command()
    descriptors = [] if handed_over is None else [handed_over.fileno()]
    argv += [text for number in descriptors for text in ("--fd", str(number))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if argv[0] == sys.executable:
        # The same code as ours, also where localazure isn't installed but run from a checkout.
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    environment |= {"LOCALAZURE_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"} | program.environment
    path = settings.logs / f"{program.name}.log"
    _begin_log(path, program.name)
    try:
        # Nothing of ours may go on, on our ports, after a supervisor that was killed.
        return processes.start(
            argv, env=environment, cwd=settings.home, log=path, dies_with_parent=True, pass_fds=descriptors
        )
    except OSError as error:
        raise StackError(f"{program.name} can't be started: {error}") from None


def _begin_log(path: Path, name: str) -> None:
    if path.exists() and path.stat().st_size > _LOG_KEPT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with path.open("a") as file:
        file.write(f"{_LOG_MARK}{name} starts {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")


def _stop(children: dict[str, processes.Process]) -> None:
    # The API first: it ends the jobs, notebooks and inference servers, and they may want to write a last word.
    if api := children.get("api"):
        api.terminate(_API_GRACE_SECONDS)
    rest = [child for name, child in children.items() if name != "api"]
    for child in rest:
        child.signal(signal.SIGTERM)
    end = time.monotonic() + _GRACE_SECONDS
    for child in rest:
        while child.poll() is None and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        child.kill()
    for pid in _descendants(os.getpid()):
        log.warning("process %d was left over and is killed", pid)
        _kill(pid)


def _launch(settings: Settings) -> processes.Process:
    command = [sys.executable, "-m", "localazure", "--home", str(settings.home), "supervise"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONUNBUFFERED": "1"}
    (settings.home / "pids.json").unlink(missing_ok=True)
    # The compute interpreter and Azurite may come from this shell's environment; it is inherited.
    path = settings.logs / "supervisor.log"
    _begin_log(path, "supervisor")
    return processes.start(command, env=environment, cwd=settings.home, log=path)


def _check_ports(settings: Settings) -> None:
    wanted = [
        ("router's administration", _LOOPBACK, settings.admin_port),
        ("inner router", _LOOPBACK, settings.inner_router_port),
        ("serverless SQL pool", settings.bind_host, settings.serverless_port),
        ("data collector", _LOOPBACK, settings.data_collector_port),
        *((program.name, settings.bind_host, program.port) for program in programs(settings)),
    ]
    for name, host, port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if running(settings):
                    return  # somebody else started this home at the same moment
                raise StackError(f"port {port} ({name}) can't be used: {error.strerror}. Choose other ports with "
                                 "`localazure --port-base <number> up`") from None  # fmt: skip


def _failed(settings: Settings, name: str, what: str) -> StackError:
    path = settings.logs / f"{name}.log"
    said = processes.tail(path, _LOG_LINES)
    # Of this start only: a log goes on over many.
    begin = max((index for index, line in enumerate(said) if line.startswith(_LOG_MARK)), default=-1)
    lines = "\n".join(f"    {line}" for line in said[begin + 1 :]) or "    (nothing)"
    return StackError(f"{name} {what}. The last lines of {path}:\n{lines}")


@contextlib.contextmanager
def _lock_file(settings: Settings) -> Iterator[Any]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "supervisor.lock").open("a") as file:
        yield file


def _state(settings: Settings) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((settings.home / "pids.json").read_text())
    except (FileNotFoundError, ValueError):
        return {"supervisor": None, "processes": {}}
    return state


def _write_state(
    settings: Settings, children: dict[str, processes.Process], ended: dict[str, int], standing_by: Iterable[Program]
) -> None:
    resting: dict[str, dict[str, int | None]] = {each.name: {"pid": None, "exit_code": None} for each in standing_by}
    state = {
        "supervisor": os.getpid(),
        "processes": resting
        | {name: {"pid": child.pid, "exit_code": ended.get(name)} for name, child in children.items()},
    }
    draft = settings.home / "pids.json.new"
    draft.write_text(json.dumps(state, indent=2))
    draft.replace(settings.home / "pids.json")


def _answers(settings: Settings, url: str, wanted: int | None = None) -> bool:
    """Whether `url` answers (with status `wanted`)."""
    context = ssl.create_default_context(cafile=str(settings.ca_certificate))
    # The standard library's client: this process lives as long as localazure, and an HTTP client is 15 MB.
    client = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with client.open(url, timeout=5) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, http.client.HTTPException):
        return False
    return wanted is None or status == wanted


def _listens(host: str, port: int) -> bool:
    try:
        # To connect to 0.0.0.0 is to connect to this machine.
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        # prctl(2)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(own: set[int]) -> None:
    """Collect adopted processes that ended; our own children are `Process.poll`'s."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _process_table() -> dict[int, tuple[int, int]]:
    """Every process: id -> (its parent's id, resident bytes)."""
    if not Path("/proc/self/stat").exists():
        columns = ["ps", "-axo", "pid=,ppid=,rss="]
        listing = subprocess.run(columns, capture_output=True, text=True, check=True).stdout
        rows = (line.split() for line in listing.splitlines())
        return {int(pid): (int(parent), int(kilobytes) * 1024) for pid, parent, kilobytes in rows}
    table = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # A process may end while it is read.
            with contextlib.suppress(OSError, ValueError, IndexError):
                # proc(5): the name stands in parentheses and may hold anything; the rest is read from behind it.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                table[int(folder.name)] = (int(fields[1]), int(fields[21]) * page)
    return table


def _descendants(pid: int, table: dict[int, tuple[int, int]] | None = None) -> list[int]:
    table = _process_table() if table is None else table
    found: list[int] = []
    level = {pid}
    while level:
        level = {child for child, (parent, _) in table.items() if parent in level}
        found += sorted(level)
    return found
