"""Inference servers: one process of Azure's own server an instance, kept alive.

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
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from localazure.executors import processes
from localazure.settings import Settings

log = logging.getLogger(__name__)

_MODULE = "localazure_compute.inference_server"
_PORTS = 80
_READY_POLL_SECONDS = 0.25
_EXIT_POLL_SECONDS = 0.25
# An instance that ends more often than this within the window is given up, as a pod in CrashLoopBackOff is by people.
_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 600.0
_FAILURE_LINES = 30


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


class StartFailed(Exception):
    """An instance didn't become ready; `lines` are the last ones of its log."""

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self.lines = lines


class Instance:
    """One inference server on a port of its own. Its log is appended to over restarts."""

    def __init__(self, spec: Spec, number: int, port: int, argv: list[str], environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.address = f"127.0.0.1:{port}"
        self.log = spec.folder / f"inference-server-{number}.log"
        self.restarts = 0
        self.given_up = False
        self._argv = argv
        self._environment = dict(environment)
        self._pid_file = spec.folder / f"inference-server-{number}.pid"
        self._process: processes.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    def launch(self) -> None:
        """Start the server. Returns at once."""
        self._process = processes.start(self._argv, env=self._environment, cwd=self.spec.code, log=self.log)
        self._pid_file.write_text(str(self._process.pid))

    async def ready(self) -> None:
        """Wait until the readiness probe answers. Raises StartFailed if the server ends before, or takes too long."""
        end = time.monotonic() + self.spec.readiness.patience
        async with _client(self.spec.readiness.timeout) as client:
            while not await self._answers(client):
                if (code := self._exit_code()) is not None:
                    raise StartFailed(
                        f"the inference server of {self.spec.label} ended with exit code {code} before it was ready",
                        processes.tail(self.log, _FAILURE_LINES),
                    )
                if time.monotonic() > end:
                    raise StartFailed(
                        f"{self.spec.label} wasn't ready within {self.spec.readiness.patience:.0f} s "
                        "(readiness_probe: initial_delay + period * failure_threshold)",
                        processes.tail(self.log, _FAILURE_LINES),
                    )
                await asyncio.sleep(_READY_POLL_SECONDS)

    def keep(self) -> None:
        """From now on, start the server again when it ends or stops answering."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.label}")

    async def stop(self, grace: float = 5) -> None:
        """End the server. Open requests have `grace` seconds."""
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._process:
            await self._process.aterminate(grace)
        self._pid_file.unlink(missing_ok=True)

    async def _keep(self) -> None:
        ends: list[float] = []
        while True:
            reason = await self._trouble()
            now = time.monotonic()
            ends = [end for end in ends if now - end < _RESTART_WINDOW_SECONDS] + [now]
            if len(ends) > _RESTARTS:
                self.given_up = True
                log.error("%s: %s; given up after %d restarts (log: %s)", self.spec.label, reason, _RESTARTS, self.log)
                return
            log.warning("%s: %s; starting it again (log: %s)", self.spec.label, reason, self.log)
            if self._process:
                await self._process.aterminate(1)
            # The first restart is at once, later ones wait 1, 2, 4, ... seconds.
            if len(ends) > 1:
                await asyncio.sleep(2.0 ** (len(ends) - 2))
            self.restarts += 1
            self.launch()
            with contextlib.suppress(StartFailed):
                # If it fails again, _trouble says so at once.
                await self.ready()

    async def _trouble(self) -> str:
        """Wait until the server has ended or its liveness probe has failed too often; what happened."""
        probe, failures, asked = self.spec.liveness, 0, time.monotonic()
        async with _client(probe.timeout) as client:
            while True:
                if (code := self._exit_code()) is not None:
                    return f"the inference server ended with exit code {code}"
                if time.monotonic() - asked >= probe.period:
                    failures = 0 if await self._answers(client) else failures + 1
                    asked = time.monotonic()
                    if failures >= probe.failure_threshold:
                        return f"the liveness probe failed {failures} times"
                await asyncio.sleep(_EXIT_POLL_SECONDS)

    async def _answers(self, client: httpx.AsyncClient) -> bool:
        try:
            response = await client.get(f"http://{self.address}/")
        except httpx.HTTPError:
            return False
        return response.status_code == httpx.codes.OK

    def _exit_code(self) -> int | None:
        return self._process.poll() if self._process else None


class Servers:
    """Starts and ends instances, and hands out their ports."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ports: set[int] = set()

    async def start(self, spec: Spec) -> list[Instance]:
        """All instances of `spec`, ready and kept. Raises StartFailed, with none of them left."""
        instances = [self._instance(spec, number) for number in range(spec.instances)]
        try:
            for instance in instances:
                instance.launch()
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

    async def stop(self, instances: list[Instance], grace: float = 5) -> None:
        """End instances and free their ports."""
        await asyncio.gather(*(instance.stop(grace) for instance in instances))
        self._ports -= {int(instance.address.rpartition(":")[2]) for instance in instances}

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
        port = self._free_port()
        argv = [str(spec.python), "-m", _MODULE, "--entry_script", str(spec.entry_script)]
        argv += ["--port", str(port)]
        if spec.model_dir:
            argv += ["--model_dir", str(spec.model_dir)]
        return Instance(spec, number, port, argv, self._environment(spec))

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

    def _free_port(self) -> int:
        first = self._settings.inference_port_base
        for port in range(first, first + _PORTS):
            if port in self._ports:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self._ports.add(port)
            return port
        raise StartFailed(f"no port is free for an inference server between {first} and {first + _PORTS - 1}", [])


def _client(timeout: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=timeout, trust_env=False)
