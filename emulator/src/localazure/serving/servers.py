"""Inference servers: one process of Azure's own server an instance, kept alive.

An instance's socket is localazure's: it is bound and listened on here, and the server takes it over as from systemd
(https://docs.gunicorn.org/en/stable/deploy.html#systemd). So a deployment whose only server ended refuses nobody: its
callers wait in the socket until the next server is there. As long as another instance serves, the socket of one that
ended is closed instead, and its callers go to the other one at once.

An instance is ready when its readiness probe answers, and is started again when it ends or its liveness probe fails
as often as the deployment allows
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-kubernetes-online, probe settings). The
readiness probe is asked from the start and often, not only after its initial delay: nobody waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from localazure.executors import processes
from localazure.settings import Settings

log = logging.getLogger(__name__)

_MODULE = "localazure_compute.inference_server"
_PORTS = 80
_BACKLOG = 2048
_READY_POLL_SECONDS = 0.05
_EXIT_POLL_SECONDS = 0.05
# An instance that ends more often than this within the window is given up, as a pod in CrashLoopBackOff is by people.
_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 600.0
_FAILURE_LINES = 100
# Asked for later, it may be gone and another process have taken its place.
_SUPERVISOR = os.getppid()


@dataclass(frozen=True)
class Probe:
    """A probe, in seconds."""

    initial_delay: float
    period: float
    timeout: float
    failure_threshold: int

    @property
    def patience(self) -> float:
        """How long a start may take before it counts as failed."""
        return self.initial_delay + self.period * self.failure_threshold


@dataclass(frozen=True)
class Spec:
    """What runs: one version of a deployment, its files in place."""

    label: str  # endpoint/deployment, for people
    python: Path
    folder: Path
    code: Path
    entry_script: Path
    model_dir: Path | None
    environment: Mapping[str, str] = field(repr=False)
    instances: int
    readiness: Probe
    liveness: Probe
    workers: int = 1


class StartFailed(Exception):
    """An instance didn't become ready; `lines` are the last ones of its log."""

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self.lines = lines


class Instance:
    """One inference server on a socket of its own. Its log is appended to over restarts."""

    def __init__(self, spec: Spec, number: int, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.number = number
        self.port = listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.log = spec.folder / f"inference-server-{number}.log"
        self.restarts = 0
        self.given_up = False
        # Whether it answers; and what is called when that changes.
        self.up = False
        self.changed: Callable[[Instance], None] = lambda _: None
        self._listener: socket.socket | None = listener
        self._environment = dict(environment)
        self._pid_file = spec.folder / f"inference-server-{number}.pid"
        self._process: processes.Process | None = None
        self._ended = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def listening(self) -> bool:
        """Whether callers are taken, if only to wait."""
        return self._listener is not None

    @property
    def pid(self) -> int | None:
        """The server's process, and the id of its process group."""
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start the server. Returns at once. Raises OSError if its port was taken over by somebody."""
        if self._listener is None:
            self._listener = listen(self.port)
        descriptor = self._listener.fileno()
        spec = self.spec
        argv = [str(spec.python), "-m", _MODULE, "--entry_script", str(spec.entry_script), "--port", str(self.port)]
        argv += ["--worker_count", str(spec.workers)]
        if spec.model_dir:
            argv += ["--model_dir", str(spec.model_dir)]
        self._process = processes.start(
            argv,
            env=self._environment | {"LOCALAZURE_LISTENER": str(descriptor)} | _parents(),
            cwd=spec.code,
            log=self.log,
            pass_fds=[descriptor],
        )
        self._pid_file.write_text(str(self._process.pid))
        self._ended = _end_of(self._process)

    async def ready(self) -> None:
        """Wait until the readiness probe answers. Raises StartFailed if the server ends before, or takes too long."""
        end = time.monotonic() + self.spec.readiness.patience
        async with _client(self.spec.readiness.timeout) as client:
            while not await self._answers(client):
                if self._ended.is_set():
                    raise StartFailed(
                        f"the inference server of {self.spec.label} ended with exit code {self._exit_code()} before it "
                        "was ready",
                        processes.tail(self.log, _FAILURE_LINES),
                    )
                if time.monotonic() > end:
                    raise StartFailed(
                        f"{self.spec.label} wasn't ready within {self.spec.readiness.patience:.0f} s "
                        "(readiness_probe: initial_delay + period * failure_threshold)",
                        processes.tail(self.log, _FAILURE_LINES),
                    )
                await asyncio.sleep(_READY_POLL_SECONDS)
        self._turn(up=True)

    def keep(self) -> None:
        """From now on, start the server again when it ends or stops answering."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.label}")

    def refuse(self) -> None:
        """Take no callers any more; those that wait are refused, and may go elsewhere."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def stop(self, grace: float = 5) -> None:
        """End the server. Open requests have `grace` seconds."""
        self.changed = lambda _: None
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self.refuse()
        if self._process:
            await self._process.aterminate(grace)
        self._pid_file.unlink(missing_ok=True)

    async def _keep(self) -> None:
        ends: list[float] = []
        while True:
            reason = await self._trouble()
            self._turn(up=False)
            now = time.monotonic()
            ends = [end for end in ends if now - end < _RESTART_WINDOW_SECONDS] + [now]
            if len(ends) > _RESTARTS:
                self.given_up = True
                self.refuse()
                log.error("%s: %s; given up after %d restarts (log: %s)", self.spec.label, reason, _RESTARTS, self.log)
                self.changed(self)
                return
            log.warning("%s: %s; starting it again (log: %s)", self.spec.label, reason, self.log)
            if self._process:
                await self._process.aterminate(1)
            # The first restart is at once, later ones wait 1, 2, 4, ... seconds.
            if len(ends) > 1:
                await asyncio.sleep(2.0 ** (len(ends) - 2))
            self.restarts += 1
            try:
                self.launch()
                await self.ready()
            except (StartFailed, OSError) as error:
                # If it fails again, _trouble says so at once.
                log.warning("%s: %s", self.spec.label, error)
                self._ended.set()

    async def _trouble(self) -> str:
        """Wait until the server has ended or its liveness probe has failed too often; what happened."""
        probe, failures = self.spec.liveness, 0
        async with _client(probe.timeout) as client:
            while failures < probe.failure_threshold:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), probe.period)
                if self._ended.is_set():
                    return f"the inference server ended with exit code {self._exit_code()}"
                failures = 0 if await self._answers(client) else failures + 1
        return f"the liveness probe failed {failures} times"

    async def _answers(self, client: httpx.AsyncClient) -> bool:
        """Whether the server answers its probe; at once False if it ends."""
        asked = asyncio.ensure_future(client.get(f"http://{self.address}/"))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
            return asked.done() and asked.result().status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
        finally:
            for each in (asked, ended):
                each.cancel()
            await asyncio.gather(asked, ended, return_exceptions=True)

    def _turn(self, *, up: bool) -> None:
        if self.up != up:
            self.up = up
            self.changed(self)

    def _exit_code(self) -> int | None:
        return self._process.poll() if self._process else None


class Fleet:
    """The instances of one deployment. `changed` is called when an address comes or goes."""

    def __init__(self, spec: Spec, instances: list[Instance], changed: Callable[[], None]) -> None:
        self.spec = spec
        self.instances = instances
        self._changed = changed
        for instance in instances:
            instance.changed = self._on_change

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where requests go: the instances that answer; if none does, those where callers may wait for a restart."""
        serving = [instance for instance in self.instances if instance.up]
        return tuple(each.address for each in serving or self.instances if each.listening)

    @property
    def given_up(self) -> bool:
        """Whether an instance ended so often that it isn't started again."""
        return any(instance.given_up for instance in self.instances)

    def adopt(self, instances: Sequence[Instance]) -> None:
        """More instances, ready and kept."""
        for instance in instances:
            instance.changed = self._on_change
        self.instances = [*self.instances, *instances]
        self.spec = replace(self.spec, instances=len(self.instances))

    def release(self, count: int) -> list[Instance]:
        """All but `count` instances, those that don't answer first; they are the caller's to stop."""
        ranked = sorted(self.instances, key=lambda instance: not instance.up)
        kept, released = ranked[:count], ranked[count:]
        self.instances = sorted(kept, key=lambda instance: instance.number)
        self.spec = replace(self.spec, instances=len(self.instances))
        return released

    def _on_change(self, instance: Instance) -> None:
        if not instance.up and any(other.up for other in self.instances):
            instance.refuse()
        self._changed()


class Servers:
    """Starts and ends instances, and hands out their ports."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ports: set[int] = set()

    async def start(self, spec: Spec, changed: Callable[[], None]) -> Fleet:
        """All instances of `spec`, ready and kept. Raises StartFailed, with none of them left."""
        return Fleet(spec, await self._start(spec, range(spec.instances)), changed)

    async def scale(self, fleet: Fleet, count: int) -> list[Instance]:
        """Bring a fleet to `count` instances. Those it no longer has are returned, to be drained and stopped.

        Raises StartFailed; the fleet is as it was then.
        """
        if count > len(fleet.instances):
            taken = {instance.number for instance in fleet.instances}
            numbers = [number for number in range(count) if number not in taken][: count - len(fleet.instances)]
            added = await self._start(fleet.spec, numbers)
            fleet.adopt(added)
        return fleet.release(count)

    async def _start(self, spec: Spec, numbers: Sequence[int]) -> list[Instance]:
        instances: list[Instance] = []
        try:
            for number in numbers:
                instances.append(self._instance(spec, number))
                instances[-1].launch()
            async with asyncio.TaskGroup() as group:
                for instance in instances:
                    group.create_task(instance.ready())
        except BaseException as error:
            await self.stop(instances, grace=1)
            if isinstance(error, ExceptionGroup) and (failed := error.subgroup(StartFailed)):
                raise failed.exceptions[0] from None
            raise
        for instance in instances:
            instance.keep()
        return instances

    async def stop(self, instances: Sequence[Instance], grace: float = 5) -> None:
        """End instances and free their ports."""
        await asyncio.gather(*(instance.stop(grace) for instance in instances))
        self._ports -= {instance.port for instance in instances}

    def reap(self) -> int:
        """End servers that a killed API process left behind; how many there were."""
        found = 0
        for file in (self._settings.home / "deployments").glob("*/*/*/*.pid"):
            with contextlib.suppress(ValueError, ProcessLookupError, PermissionError):
                pid = int(file.read_text())
                # The pid may be somebody else's by now.
                command = subprocess.run(
                    ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
                ).stdout
                if _MODULE in command and str(file.parent) in command:
                    os.killpg(pid, signal.SIGKILL)
                    found += 1
            file.unlink(missing_ok=True)
        return found

    def _instance(self, spec: Spec, number: int) -> Instance:
        return Instance(spec, number, self._free_port(), self._environment(spec))

    def _environment(self, spec: Spec) -> dict[str, str]:
        """The server's whole environment: nothing of localazure's own, so that no secret of it is in reach."""
        inherited = {
            name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ") if name in os.environ
        }
        # A deployment's own variables win, except for those that make it run at all.
        return {
            "PATH": f"{spec.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GX_ANALYTICS_ENABLED": "false",
            **inherited,
            **spec.environment,
            "AML_APP_ROOT": str(spec.code),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(spec.code), str(self._settings.compute_source), spec.environment.get("PYTHONPATH")])
            ),
        }

    def _free_port(self) -> socket.socket:
        first = self._settings.inference_port_base
        for port in range(first, first + _PORTS):
            if port in self._ports:
                continue
            try:
                listener = listen(port)
            except OSError:
                continue
            self._ports.add(port)
            return listener
        raise StartFailed(f"no port is free for an inference server between {first} and {first + _PORTS - 1}", [])


def listen(port: int) -> socket.socket:
    """A socket that listens on the loopback interface. Raises OSError."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _parents() -> dict[str, str]:
    """Whose child a server may be. Only on Linux does the supervisor adopt those of an API that was killed."""
    if sys.platform != "linux":
        return {}
    return {"LOCALAZURE_PARENTS": f"{os.getpid()},{_SUPERVISOR}"}


def _end_of(process: processes.Process) -> asyncio.Event:
    """An event that is set when the process has ended: at once on Linux, within a moment elsewhere."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):

        async def watch() -> None:
            while process.poll() is None:
                await asyncio.sleep(_EXIT_POLL_SECONDS)
            ended.set()

        task = loop.create_task(watch())
        _WATCHES.add(task)
        task.add_done_callback(_WATCHES.discard)
        return ended

    def end() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        process.poll()
        ended.set()

    loop.add_reader(descriptor, end)
    return ended


_WATCHES: set[asyncio.Task[None]] = set()


def _client(timeout: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=timeout, trust_env=False)
