"""Airflow on this machine: its configuration, its four components, and a small client of its REST API.

The components (API server, scheduler, DAG processor, triggerer) run in one session of their own, so that ending the
session ends every worker they started. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from environments import AIRFLOW, ROOT, SetUpError

COMPONENTS = {
    "api-server": ["api-server", "--host", "127.0.0.1", "--workers", "1"],
    "scheduler": ["scheduler"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--capacity", "1000"],
}
HEALTHY_WITHIN = 240.0
_TRIGGER_ATTEMPTS = 3
USER = "admin"


@dataclass(frozen=True)
class AirflowHome:
    """Where one Airflow lives, the connection and the project its DAGs use, and settings beyond the usual ones."""

    folder: Path
    port: int
    connection: Mapping[str, Any]
    ca_bundle: Path
    project: Path = ROOT
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        """A secret made once and kept in the home, readable by its owner only."""
        path = self.folder / "secrets" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(make())
        return path.read_text()

    @property
    def password(self) -> str:
        return self.secret("password", lambda: secrets.token_urlsafe(9))

    def environment(self) -> dict[str, str]:
        """Airflow's configuration as environment variables (https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html)."""
        passwords = self.folder / "secrets" / "passwords.json"
        if not passwords.exists():
            password = self.password
            self.secret("passwords.json", lambda: json.dumps({USER: password}))
        settings = {
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": self.secret("api"),
            "AIRFLOW__API_AUTH__JWT_SECRET": self.secret("jwt"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.project / "dags"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": self.secret(
                "fernet", lambda: base64.urlsafe_b64encode(os.urandom(32)).decode()
            ),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.project / "plugins"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW_CONN_AZURE_DEFAULT": json.dumps(self.connection),
            "DO_NOT_TRACK": "1",
            "GX_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": str(self.project / "plugins"),
            "REQUESTS_CA_BUNDLE": str(self.ca_bundle),
            "SSL_CERT_FILE": str(self.ca_bundle),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        return inherited | settings | dict(self.settings)


class AirflowComponents:
    """Starts, watches and ends the components of one `AirflowHome`."""

    def __init__(self, home: AirflowHome) -> None:
        self.home = home
        self._record = home.folder / "components.json"

    def log(self, component: str) -> Path:
        return self.home.folder / "component-logs" / f"{component}.log"

    def running(self) -> dict[str, int]:
        """The components of an earlier start that still run, with their process ids."""
        if not self._record.exists():
            return {}
        pids: dict[str, int] = json.loads(self._record.read_text())
        return {name: pid for name, pid in pids.items() if _alive(pid, name)}

    def migrate(self) -> None:
        """Creates or upgrades the metadata database."""
        command = [str(AIRFLOW.python), "-m", "airflow", "db", "migrate"]
        done = subprocess.run(
            command, env=self.home.environment(), cwd=self.home.project, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SetUpError(
                "`airflow db migrate` failed:\n" + "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            )

    def start(self) -> None:
        """Starts what isn't running; returns at once. A port that somebody else has is an error."""
        pids = self.running()
        with socket.socket() as probe:
            if "api-server" not in pids and probe.connect_ex(("127.0.0.1", self.home.port)) == 0:
                raise SetUpError(
                    f"port {self.home.port} is taken by another program; choose one for Airflow with --airflow-port"
                )
        for name, arguments in COMPONENTS.items():
            if name in pids:
                continue
            command = [str(AIRFLOW.python), "-m", "airflow", *arguments]
            if name == "api-server":
                command += ["--port", str(self.home.port)]
            self.log(name).parent.mkdir(parents=True, exist_ok=True)
            with self.log(name).open("ab") as output:
                process = subprocess.Popen(
                    command,
                    env=self.home.environment(),
                    cwd=self.home.project,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            pids[name] = process.pid
            self._record.write_text(json.dumps(pids))

    def wait_until_healthy(self) -> None:
        """Returns once scheduler, DAG processor and triggerer have reported; raises with the log of one that ended."""
        deadline = time.monotonic() + HEALTHY_WITHIN
        health: dict[str, Any] = {}
        while time.monotonic() < deadline:
            if missing := set(COMPONENTS) - set(self.running()):
                name = sorted(missing)[0]
                last = "\n".join(self.log(name).read_text(errors="replace").splitlines()[-15:])
                raise SetUpError(f"Airflow's {name} ended while it started; the end of {self.log(name)}:\n{last}")
            try:
                with urllib.request.urlopen(f"{self.home.url}/api/v2/monitor/health", timeout=5) as answer:
                    health = json.load(answer)
                if all(
                    (health.get(part) or {}).get("status") == "healthy"
                    for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")
                ):
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.5)
        raise SetUpError(
            f"Airflow wasn't healthy within {HEALTHY_WITHIN:.0f} s: {health or 'no answer'}; "
            f"see {self.log('scheduler').parent}"
        )

    def stop(self) -> None:
        """Ends the components and everything they started; returns when they are gone."""
        pids = self.running()
        # SIGTERM first makes the triggerer wait half a minute for a child that is gone already.
        for sent, patience in ((signal.SIGINT, 8.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for pid in pids.values():
                _signal_group(pid, sent, leader_only=sent is signal.SIGINT)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and any(_group_alive(pid) for pid in pids.values()):
                for pid in pids.values():
                    _reap(pid)
                time.sleep(0.2)
        self._record.unlink(missing_ok=True)


def _alive(pid: int, component: str) -> bool:
    _reap(pid)
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc").exists():
            return False
        words = subprocess.run(
            ["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
        ).stdout
    return "airflow" in words and component.replace("-", "") in words.replace("-", "").replace("_", "")


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _signal_group(pid: int, number: signal.Signals, *, leader_only: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.kill if leader_only else os.killpg)(pid, number)


def _group_alive(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class AirflowApi:
    """The few calls of Airflow's public REST API v2 that the tools need."""

    def __init__(self, home: AirflowHome) -> None:
        self._home = home
        self._token: str | None = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Answers the decoded JSON; raises `urllib.error.HTTPError` with the server's words in its `msg`."""
        if self._token is None:
            credentials = {"username": USER, "password": self._home.password}
            self._token = str(self._send("POST", "/auth/token", credentials)["access_token"])
        return self._send(method, f"/api/v2{path}", body)

    def _send(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self._home.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._token}"} if self._token else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            error.msg = f"{error.msg}: {error.read().decode(errors='replace')[:2000]}"
            raise
        return json.loads(content) if content else None

    def wait_for_dag(self, dag_id: str, seconds: float = 120) -> None:
        """Returns when the DAG is there to be started; raises with its import errors otherwise."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.call("GET", f"/dags/{dag_id}")
                return
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
            time.sleep(0.5)
        found = self.call("GET", "/importErrors")["import_errors"]
        words = "\n".join(f"{one['filename']}:\n{one['stack_trace']}" for one in found) or "no import error reported"
        raise SetUpError(f"Airflow didn't find the DAG {dag_id} within {seconds:.0f} s: {words}")

    def pause(self, dag_id: str, paused: bool) -> bool:
        """Pauses or unpauses the DAG; answers whether it was paused before."""
        before = bool(self.call("GET", f"/dags/{dag_id}")["is_paused"])
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": paused})
        return before

    def trigger(self, dag_id: str, conf: Mapping[str, Any], run_id: str = "", run_after: str | None = None) -> str:
        """Starts a run by hand, as the UI's form does; answers the run id: the one given, or one with the time.

        :param run_after: ISO; the instant that the run is to be of, for whatever asks it for the time. Default: now.

        With SQLite a request fails (500) when another run's write holds the database for too long; the run has its id
        from us, so that a second attempt starts no second one.
        """
        run_id = run_id or f"manual__{datetime.now(UTC).isoformat()}"
        for attempt in range(1, _TRIGGER_ATTEMPTS + 1):
            try:
                body = {"dag_run_id": run_id, "logical_date": None, "run_after": run_after, "conf": dict(conf)}
                self.call("POST", f"/dags/{dag_id}/dagRuns", body)
                break
            except urllib.error.HTTPError as error:
                if error.code == HTTPStatus.CONFLICT and attempt > 1:
                    break
                if error.code < HTTPStatus.INTERNAL_SERVER_ERROR or attempt == _TRIGGER_ATTEMPTS:
                    raise
                time.sleep(2)
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}")["state"])

    def runs(self, dag_id: str, newest: int = 20) -> list[dict[str, Any]]:
        """The newest runs of a DAG, newest first."""
        return list(self.call("GET", f"/dags/{dag_id}/dagRuns?order_by=-run_after&limit={newest}")["dag_runs"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        answer = self.call(
            "GET", f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}/taskInstances?limit=200"
        )
        return list(answer["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """A task's XCom, or None where it wrote none."""
        run = urllib.parse.quote(run_id, safe="")
        try:
            return self.call(
                "GET", f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=false"
            )["value"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> list[str]:
        """The lines of one try's log; an exception as the words it carries."""
        run = urllib.parse.quote(run_id, safe="")
        answer = self.call(
            "GET", f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/logs/{max(try_number, 1)}?full_content=true"
        )
        content = answer.get("content", [])
        return [line for entry in content for line in _log_lines(entry)]


def _log_lines(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [str(entry)]
    raised = [f"{one.get('exc_type')}: {one.get('exc_value')}" for one in (entry.get("error_detail") or [])[:1]]
    return [str(entry.get("event", "")), *raised]
