"""The driver processes of Livy's batches and sessions: their files, their start, their words.

Each has a folder of its own below `<home>/livy/`: `files` (what was fetched from the lake), `plan.json`, `driver.log`
(stdout and stderr), and while it runs `work` (the working directory), `tmp` and `lake` (the mirror).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.executors import processes
from localazure.settings import Settings
from localazure.storage import locations
from localazure.storage.blobs import BlobStore
from localazure.synapse import livy_requests, spark_process
from localazure.synapse.driver_failures import Cause
from localazure.synapse.livy_documents import Document
from localazure.synapse.livy_requests import LivyRequest

LOG = "driver.log"
_KEPT = frozenset({LOG, "plan.json", "files"})
_SCHEMES = frozenset({"abfss", "abfs", "wasbs", "wasb", "https", "http"})


class Drivers:
    """Prepares and starts drivers."""

    def __init__(self, settings: Settings, blobs: BlobStore) -> None:
        self._settings = settings
        self._blobs = blobs

    def check(self, request: LivyRequest) -> None:
        """Raise BadRequest, naming the field, for an address that isn't one in the lake.

        Whether something is there is seen when the driver is prepared.
        """
        for field, address in _addresses(request):
            if urlsplit(address).scheme not in _SCHEMES:
                form = "abfss://<container>@<account>.dfs.core.windows.net/<path>"
                raise BadRequest(f"{field} must be an address in the lake ({form}), not {address!r}.", field)
            try:
                locations.parse(address.partition("#")[0], self._settings)
            except AzureError as error:
                raise BadRequest(f"{field}: {error.message}", field) from None

    def prepare(self, folder: Path, request: LivyRequest) -> None:
        """Fetch the files and write `plan.json` into a fresh folder. Raises NotFound, naming field and address."""
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("tmp", "work", "files"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o700)
        local = {(field, address): self._fetched(folder, field, address) for field, address in _addresses(request)}
        conf = livy_requests.spark_conf(request)
        # Where a JVM that is killed leaves its files: below the folder, which is tidied.
        conf["spark.driver.extraJavaOptions"] += f" -Djava.io.tmpdir={folder / 'tmp'}"
        plan = {
            "entry": local.get(("file", request.file), ""),
            "className": "" if request.is_python else request.class_name,
            "args": request.args,
            "conf": conf,
            "runtime": None,
            "driverMegabytes": livy_requests.driver_megabytes(request),
            "followsParent": True,
            "appIdFile": str(folder / "app_id"),
        }
        for name, listed in _lists(request):
            plan[name] = [local[f"{name}[{index}]", address] for index, address in enumerate(listed)]
        (folder / "plan.json").write_text(json.dumps(plan, indent=2))

    def start(self, folder: Path, module: str, argument: Path) -> processes.Process:
        """Run a module of the compute environment in a prepared folder."""
        return processes.start(
            [str(self._settings.compute_python), "-m", module, str(argument)],
            env=spark_process.environment(self._settings, folder) | {"LOCALAZURE_SESSION_FOLDER": str(folder)},
            cwd=folder / "work",
            log=folder / LOG,
        )

    def last_lines(self, document: Document, count: int) -> list[str]:
        """The last lines of a driver's log, for people."""
        if not document["folder"]:
            return []
        return self.cleaned(document, processes.tail(Path(document["folder"]) / LOG, count))

    def cleaned(self, document: Document, lines: list[str]) -> list[str]:
        """Lines with the lake's addresses and plain file names in place of this machine's paths."""
        folder = re.escape(str(document["folder"]).strip("/"))
        mirrored = re.compile(rf"(?:file:)?/*{folder}/lake/([^/\s]+)/")
        local = re.compile(rf"(?:file:)?/*{folder}/(?:files|work)/")
        address = rf"abfss://\1@{self._settings.storage_account}.dfs.core.windows.net/"
        return [local.sub("", mirrored.sub(address, line)) for line in lines]

    def errors(self, document: Document, words: str = "", cause: Cause | None = None) -> list[Document]:
        """errorInfo: the service's own sentence, then what it doesn't tell, the cause."""
        # The sentence: https://github.com/feathr-ai/feathr/issues/654
        pool, number = document["sparkPoolName"], document["id"]
        sentence = (
            f"[plugins.{self._settings.workspace}.{pool}.{number} WorkspaceType:<Synapse>] [Monitoring] Livy "
            f"Endpoint=[{self._settings.api_url}/livyApi]. Livy Id=[{number}] Job failed during run time with "
            f"state=[dead]. {words}"
        ).rstrip()
        found = [{"message": sentence, "errorCode": "LIVY_JOB_STATE_DEAD", "source": "Unknown"}]
        if cause is not None:
            found.append({"message": cause.message, "errorCode": cause.name, "source": cause.source})
        return found

    def _fetched(self, folder: Path, field: str, address: str) -> str:
        plain, mark, alias = address.partition("#")
        location = locations.parse(plain, self._settings)
        # A folder for each: two files may have one name, and a module keeps its own.
        target = folder / "files" / re.sub(r"\W", "", field) / PurePosixPath(location.path).name
        if field == "file":
            target = folder / "files" / target.name
        try:
            self._blobs.download_file(location.container, location.path, target)
        except NotFound:
            raise NotFound(f"{field}: {plain} doesn't exist.", field, "PathNotFound") from None
        return f"{target}{mark}{alias}"


def tidy(folder: Path) -> None:
    """Of an ended driver's folder keep what it ran and what it said."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in _KEPT:
            with contextlib.suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _lists(request: LivyRequest) -> list[tuple[str, list[str]]]:
    return [
        ("pyFiles", request.py_files),
        ("jars", request.jars),
        ("files", request.files),
        ("archives", request.archives),
    ]


def _addresses(request: LivyRequest) -> list[tuple[str, str]]:
    """Every address of a request, with the name of its field."""
    named = [("file", request.file)] if request.file else []
    for name, listed in _lists(request):
        named += [(f"{name}[{index}]", address) for index, address in enumerate(listed)]
    return named
