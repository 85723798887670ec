"""What a Spark batch or session is made of: files below include/spark/jobs in the lake, sizes, links.

Files are uploaded under names made of their content: a batch names its files, so a later version of one never changes
what a batch that waits in the queue will run, and two branches of a project don't overwrite each other's.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, SpecError
from azflow.prepare_steps import ExecutorSize

#: What messages call the folder of the user's jobs.
FOLDER = "include/spark/jobs"
#: Where azflow keeps what it uploads, in the lake's container. A lifecycle rule may delete what is older than a month.
LAKE_FOLDER = "azflow/spark"

#: Cores and memory of an executor, and of the driver, as Synapse Studio and ``az synapse spark job submit`` have them.
#: https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-pool-configurations#node-sizes
EXECUTOR_SIZES: Mapping[ExecutorSize, tuple[int, str]] = {
    "Small": (4, "28g"),
    "Medium": (8, "56g"),
    "Large": (16, "112g"),
    "XLarge": (32, "224g"),
    "XXLarge": (64, "400g"),
}

# A zip's members need a time; the same content must give the same bytes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "Container killed by YARN for exceeding memory", "exit code 137")


@dataclass(frozen=True)
class JobFile:
    """A file of a job: where it is, or where it will be once `upload` has put it there.

    :ivar url: as a batch names it, ``abfss://...`` or whatever the user wrote.
    :ivar blob: its path in the lake's container; empty: not ours to upload.
    :ivar source: the file or folder it is made of.
    """

    url: str
    blob: str = ""
    source: Path | None = None


def job_file(connection: AzureConnection, root: Path, name: str, *, suffixes: tuple[str, ...] = ()) -> JobFile:
    """The file `name` of a job: an address stays one; a path below `root` gets its place in the lake.

    A folder becomes a zip of its Python files, the folder itself in it: how a package travels as one of ``pyFiles``.

    :param suffixes: what its name must end in, if anything; a folder passes.
    :raises SpecError: it doesn't exist, lies outside of `root`, or ends otherwise.
    """
    alias, mark = "", ""
    if "://" in name:
        return JobFile(name)
    name, mark, alias = name.partition("#")  # archives: name.zip#folder
    pure, shown = PurePosixPath(name), f"{FOLDER}/{name}"
    if pure.is_absolute() or ".." in pure.parts:
        raise SpecError(shown, "", f"must be relative to {FOLDER}, or an address such as abfss://...")
    path = root / pure
    if not path.exists():
        raise SpecError(shown, "", "doesn't exist")
    if suffixes and path.is_file() and path.suffix not in suffixes:
        raise SpecError(shown, "", f"must end in {' or '.join(suffixes)}")
    content = _content(path, shown)
    file_name = f"{path.name}.zip" if path.is_dir() else path.name
    blob = f"{LAKE_FOLDER}/files/{hashlib.sha256(content).hexdigest()[:16]}/{file_name}"
    return JobFile(f"{connection.lake_abfss_url}/{blob}{mark}{alias}", blob, path)


def upload(connection: AzureConnection, files: Iterable[JobFile]) -> list[str]:
    """Put into the lake what isn't there yet; the paths of what was. A blob is there whole or not at all."""
    from azure.core.exceptions import ResourceExistsError

    done = []
    with connection.blob_service() as service:
        for file in files:
            if not file.blob or file.source is None:
                continue
            blob = service.get_blob_client(connection.container, file.blob)
            if blob.exists():
                continue
            try:
                blob.upload_blob(_content(file.source, file.source.name), overwrite=False)
            except ResourceExistsError:
                continue  # somebody else put the same there
            done.append(file.blob)
    return done


def _content(path: Path, shown: str) -> bytes:
    if path.is_file():
        return path.read_bytes()
    buffer = io.BytesIO()
    members = sorted(each for each in path.rglob("*.py") if each.is_file())
    if not members:
        raise SpecError(shown, "", "is a folder without Python files")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in members:
            entry = zipfile.ZipInfo(f"{path.name}/{member.relative_to(path).as_posix()}", _ZIP_TIME)
            packed.writestr(entry, member.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def sizes(executor_size: str | None, executors: int | None, conf: Mapping[str, Any] | None) -> dict[str, Any]:
    """A session's or batch's size in the service's words; what isn't given is left to the pool.

    :param executor_size: of `EXECUTOR_SIZES`, any case; the driver is of the same size, as in Synapse Studio.
    :param executors: how many; at least one.
    :param conf: Spark's configuration; values become text.
    :raises ConfigurationError: no such size, no such number.
    """
    found: dict[str, Any] = {}
    if executor_size:
        known = {name.lower(): size for name, size in EXECUTOR_SIZES.items()}
        if executor_size.lower() not in known:
            raise ConfigurationError(f"executor_size is {executor_size!r}; it is one of {', '.join(EXECUTOR_SIZES)}.")
        cores, memory = known[executor_size.lower()]
        found |= {"driverCores": cores, "driverMemory": memory, "executorCores": cores, "executorMemory": memory}
    if executors is not None:
        if isinstance(executors, bool) or not isinstance(executors, int) or executors < 1:
            raise ConfigurationError(f"executors is {executors!r}; it must be a whole number from 1.")
        found["numExecutors"] = executors
    if conf:
        found["conf"] = {str(key): _conf_text(value) for key, value in conf.items()}
    return found


def _conf_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def memory_hint(lines: Iterable[str]) -> str:
    """What to do if these lines of a log, or of an error, say that memory ran out; else an empty text."""
    if any(word in line for line in lines for word in _OUT_OF_MEMORY):
        return "It ran out of memory: choose a larger executor_size (the driver has that size too), or collect less."
    return ""


def studio_url(connection: AzureConnection, page: str, **query: str) -> str:
    """A page of Synapse Studio about the connection's workspace."""
    resource = (
        f"/subscriptions/{connection.subscription_id}/resourceGroups/{connection.resource_group}"
        f"/providers/Microsoft.Synapse/workspaces/{connection.synapse_workspace}"
    )
    return (
        f"https://web.azuresynapse.net/{page}?{urlencode({'workspace': resource, **query}, quote_via=quote, safe='')}"
    )
