"""MLflow's own server, with one difference: a run may be created under a given id.

Azure ML uses a job's name as the id of its MLflow run (https://learn.microsoft.com/azure/machine-learning/how-to-use-mlflow-configure-tracking),
open-source MLflow makes ids up. A run created with the tag `azureml.runId` gets that tag's value as its id, if no run
has it; every other
call is MLflow's, unchanged. One process: MLflow's launcher starts more (workers, a job executor) and 800 MB.

    python -m localazure_compute.tracking_server --home <folder> --port <port> [--fd <listening socket>]
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
import uuid
from contextvars import ContextVar
from pathlib import Path
from typing import Any

RUN_ID_TAG = "azureml.runId"

_next_run_id: ContextVar[str | None] = ContextVar("next_run_id", default=None)


class _RunId:
    """What the store's `uuid.uuid4()` returns for a run whose id was asked for."""

    def __init__(self, value: str) -> None:
        self.hex = value


class _UuidModule:
    """Stands in for the `uuid` module inside MLflow's store: the only place where it makes run ids."""

    def __getattr__(self, name: str) -> Any:
        return getattr(uuid, name)

    def uuid4(self) -> Any:
        wanted = _next_run_id.get()
        return uuid.uuid4() if wanted is None else _RunId(wanted)


def _use_named_runs() -> None:
    """Registers a tracking store that honours `RUN_ID_TAG` for SQLite URIs."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
    from mlflow.server import handlers
    from mlflow.store.tracking import sqlalchemy_store
    from mlflow.utils.validation import _validate_run_id

    class NamedRunStore(sqlalchemy_store.SqlAlchemyStore):
        def create_run(self, experiment_id: Any, user_id: Any, start_time: Any, tags: Any, run_name: Any) -> Any:
            wanted = next((tag.value for tag in tags or () if tag.key == RUN_ID_TAG), None)
            if wanted is not None:
                _validate_run_id(wanted)
                try:
                    self.get_run(wanted)
                except MlflowException:
                    pass
                else:
                    raise MlflowException(f"Run {wanted} already exists", RESOURCE_ALREADY_EXISTS)
            token = _next_run_id.set(wanted)
            try:
                return super().create_run(experiment_id, user_id, start_time, tags, run_name)
            finally:
                _next_run_id.reset(token)

    sqlalchemy_store.uuid = _UuidModule()

    def opened(store_uri: str, artifact_uri: str) -> NamedRunStore:
        # The registry calls with these names, the store's own are others.
        return NamedRunStore(store_uri, artifact_uri)

    handlers._tracking_store_registry.register("sqlite", opened)


def main() -> None:
    """Serves MLflow on 127.0.0.1 until stopped, or idle for long: database and artifacts below `--home`."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--home", type=Path, required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--fd", type=int, help="a socket that listens on the port already")
    arguments.add_argument("--idle-seconds", type=float, default=900, help="end after so long without a request")
    options = arguments.parse_args()
    home: Path = options.home.resolve()
    (home / "artifacts").mkdir(parents=True, exist_ok=True)
    database = f"sqlite:///{home / 'mlflow.db'}"

    # What `mlflow server` sets for its workers (mlflow/server/__init__.py, _run_server).
    from mlflow import server

    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = database
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = str(home / "artifacts")
    os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

    _use_named_runs()
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, default_artifact_root="mlflow-artifacts:/")

    import uvicorn
    from mlflow.server.fastapi_app import app

    watched = _Idle(app)
    configuration = uvicorn.Config(watched, host="127.0.0.1", port=options.port, log_level="warning")
    server = uvicorn.Server(configuration)
    if options.fd is None:
        server.run()
        return
    # The socket stays open with whoever handed it over: a connection that comes as this ends waits for the next one.
    threading.Thread(target=watched.end_when_idle, args=(server, options.idle_seconds), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=options.fd)])


class _Idle:
    """An ASGI application that knows when it was last asked for something."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._open = 0
        self._last = time.monotonic()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        self._open += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._open -= 1
            self._last = time.monotonic()

    def end_when_idle(self, server: Any, seconds: float) -> None:
        """Asks the server to end once nothing was asked of it for so long."""
        while self._open or time.monotonic() - self._last < seconds:
            time.sleep(min(seconds / 4, 5))
        server.should_exit = True


if __name__ == "__main__":
    main()
