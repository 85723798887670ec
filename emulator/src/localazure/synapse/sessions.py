"""Spark sessions: processes of the compute environment, one notebook run each, with one standing by.

A Spark session costs seconds to start. So a session of the standard configuration is kept ready (kernel up, JVM warm)
and the next run takes it; another one is started when that run has ended. Every session is a process of its own with a
folder of its own below `<home>/spark/`; its files are the protocol (`localazure_compute.notebook` describes them).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from localazure.core.store import Store
from localazure.executors import processes
from localazure.settings import Settings
from localazure.synapse import options
from localazure.synapse.options import SessionPlan

log = logging.getLogger(__name__)

_COUNTER = "synapse.counter"
_SAS_VERSION = "2021-12-02"
_SAS_DAYS = 3
#: A session that waits longer is replaced before it is used: its SAS ages.
_STALE_SECONDS = 24 * 3600
#: Of a finished session's folder only these files are kept.
_KEPT = frozenset({"output.ipynb", "status.json", "session.log"})


class Session:
    """One session: its folder and process."""

    def __init__(self, number: int, folder: Path, process: processes.Process, plan: SessionPlan) -> None:
        self.number = number
        self.folder = folder
        self.plan = plan
        self._process = process
        self._born = time.monotonic()

    @property
    def log(self) -> Path:
        return self.folder / "session.log"

    def status(self) -> dict[str, Any]:
        """What the host last wrote; `{"state": "Starting"}` before that."""
        try:
            status: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"state": "Starting"}
        return status

    def request(self, document: Mapping[str, Any]) -> None:
        """Hand the run over; at most once."""
        draft = self.folder / "request.json.new"
        draft.write_text(json.dumps(document))
        draft.replace(self.folder / "request.json")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._born < _STALE_SECONDS

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    async def end(self, grace: float = 1) -> None:
        """End the process group and keep of the folder what a run's record needs."""
        await self._process.aterminate(grace)
        await asyncio.to_thread(_tidy, self.folder)


class Sessions:
    """Starts sessions, keeps one warm, ends them all."""

    def __init__(self, settings: Settings, store: Store, warm: int = 1) -> None:
        self._settings = settings
        self._store = store
        self._root = settings.home / "spark"
        self._wanted_warm = warm
        self._warm: list[Session] = []
        self._started: set[Session] = set()
        self._stopped = False

    async def tidy(self) -> None:
        """Clear away what sessions of an earlier life left, but for the records of their runs. Before any start."""
        folders = [folder for folder in self._root.glob("*") if folder.is_dir()]
        for folder in folders:
            await asyncio.to_thread(_tidy, folder)

    def keep_warm(self) -> None:
        """Start what is missing of the sessions that stand by. Doesn't wait for them."""
        self._warm = [session for session in self._warm if session.is_alive]
        try:
            while not self._stopped and len(self._warm) < self._wanted_warm:
                self._warm.append(self._start(options.plan()))
        except OSError as error:
            # Without the compute environment the rest of localazure still works; a run will fail with this error.
            log.warning("no Spark session can be started: %s", error)

    async def take(self, plan: SessionPlan) -> Session:
        """A session for one run: the one that stands by if it fits, else a new one that is still starting."""
        while plan.is_standard and self._warm:
            session = self._warm.pop(0)
            if session.is_alive and session.is_fresh:
                return session
            await self.release(session)
        return self._start(plan)

    async def release(self, session: Session) -> None:
        """End a session. Safe to call twice."""
        if session in self._started:
            self._started.discard(session)
            await session.end()

    async def stop(self) -> None:
        """End every session."""
        self._stopped = True
        self._warm.clear()
        await asyncio.gather(*(self.release(session) for session in list(self._started)))

    def _start(self, plan: SessionPlan) -> Session:
        number = self._next_number()
        folder = self._root / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        folder.chmod(0o700)
        (folder / "session.json").write_text(json.dumps({"conf": plan.static}))
        process = processes.start(
            [str(self._settings.compute_python), "-m", "localazure_compute.notebook", str(folder)],
            env=self._environment(folder),
            cwd=folder,
            log=folder / "session.log",
        )
        session = Session(number, folder, process, plan)
        self._started.add(session)
        return session

    def _next_number(self) -> int:
        self._store.insert(_COUNTER, "session", {"value": 0})
        document = self._store.update(_COUNTER, "session", lambda known: {"value": known["value"] + 1})
        return int(document["value"])

    def _environment(self, folder: Path) -> dict[str, str]:
        """The environment of a session: nothing of the server's own, and no more of the account than a SAS."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ") if name in os.environ}
        temporary = str(folder / "tmp")
        return {
            **inherited,
            "PYTHONPATH": str(self._settings.compute_source),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": temporary,
            "SPARK_LOCAL_DIRS": temporary,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "REQUESTS_CA_BUNDLE": str(self._settings.ca_bundle),
            "SSL_CERT_FILE": str(self._settings.ca_bundle),
            "LOCALAZURE_LAKE_ENDPOINT": self._settings.blob_url,
            "LOCALAZURE_LAKE_ACCOUNT": self._settings.storage_account,
            "LOCALAZURE_LAKE_SAS": account_sas(self._settings),
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GX_ANALYTICS_ENABLED": "false",
        }


def account_sas(settings: Settings, days: int = _SAS_DAYS) -> str:
    """A SAS for all blobs of the account (read, write, delete, list, add, create), as a query string without "?".

    https://learn.microsoft.com/rest/api/storageservices/create-account-sas#version-2020-12-06-and-later
    """
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    values = {
        "sp": "rwdlac",
        "ss": "b",
        "srt": "sco",
        "st": "",
        "se": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sip": "",
        "spr": "https",
        "sv": _SAS_VERSION,
        "ses": "",
    }
    signed = "\n".join([settings.storage_account, *values.values()]) + "\n"
    key = base64.b64decode(settings.storage_account_key)
    signature = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    return urlencode({name: value for name, value in values.items() if value} | {"sig": signature})


def _tidy(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name not in _KEPT:
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
