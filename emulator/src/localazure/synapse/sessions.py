"""Spark sessions: processes of the compute environment, with one standing by.

A Spark session costs seconds to start. So a session of the standard configuration is kept ready (kernel up, JVM warm)
from the first request to the endpoint until nobody has asked for something for long; the next run takes it, and when
that run has ended the session gets itself ready for another one: the JVM stays, Python process and SparkContext are
new. Any other session serves one run. Every session is a process of its own with a folder
of its own below `<home>/spark/`; its files are the protocol (`localazure_compute.notebook` describes them).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localazure.core.store import Store
from localazure.executors import processes
from localazure.settings import Settings
from localazure.synapse import options, spark_process
from localazure.synapse.options import SessionPlan

log = logging.getLogger(__name__)

_COUNTER = "synapse.counter"
#: An older session is replaced before it is used: its SAS ages.
_STALE_SECONDS = 24 * 3600
#: A JVM serves so many runs.
_RUNS = 25
#: Of a run's folder only these files are kept when it has ended.
_KEPT = frozenset({"output.ipynb", "status.json", "session.log"})


class Session:
    """One session, and the run it serves or waits for."""

    def __init__(self, number: int, folder: Path, process: processes.Process, plan: SessionPlan, runs: int) -> None:
        self.number = number
        self.plan = plan
        #: Whether it was there before its present run.
        self.stood_by = False
        self._folder = folder
        self._process = process
        self._runs = runs
        self._run = 1
        self._born = time.monotonic()

    @property
    def folder(self) -> Path:
        """The present run's folder."""
        return self._folder / str(self._run)

    @property
    def log(self) -> Path:
        """The output of the session's processes."""
        return self._folder / "session.log"

    def status(self) -> dict[str, Any]:
        """What the host last wrote; `{"state": "Starting"}` before that."""
        try:
            status: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"state": "Starting"}
        return status

    def request(self, document: Mapping[str, Any]) -> None:
        """Hand the run over; once a run."""
        draft = self.folder / "request.json.new"
        draft.write_text(json.dumps(document))
        draft.replace(self.folder / "request.json")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_usable(self) -> bool:
        """Whether a run may take it."""
        is_fresh = time.monotonic() - self._born < _STALE_SECONDS
        return self.is_alive and is_fresh and self.status()["state"] in ("Starting", "Idle")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    async def next_run(self) -> bool:
        """Turn to the next run, if this one ended by itself and the session serves another one."""
        if not self.is_alive or self._run >= self._runs or self.status()["state"] not in ("Succeeded", "Failed"):
            return False
        await asyncio.to_thread(_tidy, self.folder)
        self._run += 1
        self.folder.mkdir(exist_ok=True)
        return True

    async def end(self, grace: float = 1) -> None:
        """End the process group and keep of the folder what the runs' records need."""
        await self._process.aterminate(grace)
        await asyncio.to_thread(_tidy_session, self._folder)


class Sessions:
    """Starts sessions, keeps one warm, ends them all."""

    def __init__(
        self, settings: Settings, store: Store, warm: int = 1, idle_seconds: Callable[[], float | None] = lambda: None
    ) -> None:
        """`idle_seconds` says how long after the last request the session that stands by ends; None: never."""
        self._idle_seconds = idle_seconds
        self._settings = settings
        self._store = store
        self._root = settings.home / "spark"
        self._wanted_warm = warm
        self._warm: list[Session] = []
        self._started: set[Session] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._stopped = False

    async def tidy(self) -> None:
        """Clear away what sessions of an earlier life left, but for the records of their runs. Before any start."""
        for folder in [folder for folder in self._root.glob("*") if folder.is_dir()]:
            await asyncio.to_thread(_tidy_session, folder)

    def keep_warm(self) -> None:
        """Start what is missing of the sessions that stand by. Doesn't wait for them. They end when this wasn't called
        for long: they take more memory than all the rest.
        """
        if self._resting is not None:
            self._resting.cancel()
        if not self._stopped and self._wanted_warm:
            delay = self._idle_seconds()
            self._resting = asyncio.get_running_loop().call_later(delay, self._rest) if delay is not None else None
        self._warm = [session for session in self._warm if session.is_usable]
        try:
            while not self._stopped and len(self._warm) < self._wanted_warm:
                self._warm.append(self._start(options.plan()))
        except OSError as error:
            # Without the compute environment the rest of localazure still works; a run will fail with this error.
            log.warning("no Spark session can be started: %s", error)

    def _rest(self) -> None:
        for session in self._warm:
            ending = asyncio.ensure_future(self._end(session))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._warm.clear()

    async def take(self, plan: SessionPlan) -> Session:
        """A session for one run: the one that stands by if it fits, else a new one that is still starting."""
        while plan.is_standard and self._warm:
            session = self._warm.pop(0)
            if session.is_usable:
                session.stood_by = True
                return session
            await self._end(session)
        return self._start(plan)

    async def release(self, session: Session) -> None:
        """A run has left the session: it stands by for the next one, or ends."""
        wanted = not self._stopped and session.plan.is_standard and len(self._warm) < self._wanted_warm
        if wanted and await session.next_run():
            self._warm.append(session)
        else:
            await self._end(session)
        if not self._stopped:
            self.keep_warm()

    async def _end(self, session: Session) -> None:
        if session in self._started:
            self._started.discard(session)
            await session.end()

    def start_no_more(self) -> None:
        """From now on sessions end with their run."""
        self._stopped = True

    async def stop(self) -> None:
        """End every session."""
        self._stopped = True
        if self._resting is not None:
            self._resting.cancel()
        self._warm.clear()
        await asyncio.gather(*(self._end(session) for session in list(self._started)))

    def _start(self, plan: SessionPlan) -> Session:
        number = self._next_number()
        folder = self._root / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("tmp", "1"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o700)
        runs = _RUNS if plan.is_standard else 1
        (folder / "session.json").write_text(json.dumps({"conf": plan.static, "runs": runs}))
        process = processes.start(
            [str(self._settings.compute_python), "-m", "localazure_compute.notebook", str(folder)],
            env=self._environment(folder),
            cwd=folder,
            log=folder / "session.log",
        )
        session = Session(number, folder, process, plan, runs)
        self._started.add(session)
        return session

    def _next_number(self) -> int:
        self._store.insert(_COUNTER, "session", {"value": 0})
        document = self._store.update(_COUNTER, "session", lambda known: {"value": known["value"] + 1})
        return int(document["value"])

    def _environment(self, folder: Path) -> dict[str, str]:
        """The environment of a session; Jupyter keeps its files there as well."""
        return {
            **spark_process.environment(self._settings, folder),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
            "JUPYTER_PLATFORM_DIRS": "1",
        }


def _tidy_session(folder: Path) -> None:
    for run in folder.iterdir():
        if run.name.isdecimal():
            _tidy(run)
    for entry in folder.iterdir():
        if not entry.name.isdecimal() and entry.name not in _KEPT:
            _remove(entry)


def _tidy(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name not in _KEPT:
            _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def write_notebooks(folder: Path, notebooks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Put the workspace's notebooks where `notebook.run` and `%run` look for them; the folder."""
    target = folder / "notebooks"
    target.mkdir(exist_ok=True)
    for name, properties in notebooks.items():
        with contextlib.suppress(OSError):  # a name no file can have: then %run won't find it, and says so
            (target / f"{name}.json").write_text(json.dumps(properties))
    return target
