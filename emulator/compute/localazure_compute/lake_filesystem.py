"""The lake as a file system of Spark's JVM: `abfss://` paths in Scala, in SQL and in catalogue tables.

Hadoop's ABFS driver isn't on a package registry that Python's tools reach, but its client for WebHDFS is in Spark's own
jars. So this process serves its lake by that protocol, to its own JVM alone (on the loopback interface, below a random
path), and Hadoop's overload of ViewFS shows it under the lake's addresses. Paths that are renamed before anybody may
see them (`_temporary`, Spark's staging folders) stay on the local disk.

https://hadoop.apache.org/docs/r3.3.4/hadoop-project-dist/hadoop-hdfs/WebHDFS.html
https://hadoop.apache.org/docs/r3.3.4/hadoop-project-dist/hadoop-hdfs/ViewFsOverloadScheme.html
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

from localazure_compute.lake import HOME, Entry, Lake, LakePath
from localazure_compute.spark_lake import Mirror

_PREFIX = "/webhdfs/v1"
#: Below a Delta table, a folder that exists for Spark's JVM alone: the files of one version. Written by LakeFiles.link.
VERSION = ".delta-version="
_VIEW = "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme"
_SCHEMES = ("abfss", "abfs", "wasbs")
_HOSTS = {"abfss": "dfs", "abfs": "dfs", "wasbs": "blob"}
_BLOCK = 128 * 1024 * 1024
_COPY = 1 << 20
_PATIENCE = 900
#: Java's classes of what goes wrong, by Python's: (class, status).
_ERRORS: dict[type[Exception], tuple[str, HTTPStatus]] = {
    FileNotFoundError: ("java.io.FileNotFoundException", HTTPStatus.NOT_FOUND),
    FileExistsError: ("org.apache.hadoop.fs.FileAlreadyExistsException", HTTPStatus.FORBIDDEN),
    NotImplementedError: ("java.lang.UnsupportedOperationException", HTTPStatus.BAD_REQUEST),
    OSError: ("java.io.IOException", HTTPStatus.FORBIDDEN),
}


@dataclass(frozen=True)
class Status:
    """A file or folder. `modified` is milliseconds since 1970."""

    name: str
    size: int
    modified: int
    is_folder: bool

    def document(self, name: str | None = None) -> dict[str, Any]:
        """WebHDFS's FileStatus."""
        return {
            "pathSuffix": self.name if name is None else name,
            "type": "DIRECTORY" if self.is_folder else "FILE",
            "length": self.size,
            "modificationTime": self.modified,
            "accessTime": self.modified,
            "blockSize": 0 if self.is_folder else _BLOCK,
            "replication": 0 if self.is_folder else 1,
            "permission": "755" if self.is_folder else "644",
            "owner": "",
            "group": "",
            "fileId": 0,
            "childrenNum": 0,
            "storagePolicy": 0,
        }


class LakeFiles:
    """What Hadoop's FileSystem does, on the lake. Thread-safe. Errors are OSError's kinds."""

    def __init__(self, mirror: Mirror, scratch: Path) -> None:
        self._mirror = mirror
        self._scratch = scratch
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    @property
    def _lake(self) -> Lake:
        return self._mirror.lake

    def status(self, path: LakePath) -> Status:
        """Raises FileNotFoundError."""
        if is_hidden(path):
            return _local_status(self._hidden(path), path)
        if not path.path:
            return Status("", 0, 0, True)
        known = self._lake.properties(path)
        if known is not None and not known.is_folder_marker:
            return Status(path.name, known.size, _milliseconds(known), False)
        if known is not None or next(self._lake.entries(path), None) is not None:
            return Status(path.name, 0, _milliseconds(known) if known else 0, True)
        raise FileNotFoundError(f"{path} doesn't exist")

    def children(self, path: LakePath) -> list[Status]:
        """Of a folder its entries, of a file itself. Raises FileNotFoundError."""
        if is_hidden(path):
            found = self._hidden(path)
            _local_status(found, path)
            return [_local_status(each, path.child(each.name)) for each in sorted(found.iterdir())]
        offset = len(path.path) + 1 if path.path else 0
        entries: dict[str, Status] = {}
        for entry in self._lake.entries(path):
            name, slash, _ = entry.path[offset:].partition("/")
            if slash or entry.is_folder_marker:
                known = entries.get(name)
                entries[name] = Status(name, 0, max(_milliseconds(entry), known.modified if known else 0), True)
            else:
                entries[name] = Status(name, entry.size, _milliseconds(entry), False)
        if not entries:
            itself = self.status(path)
            return [] if itself.is_folder else [Status("", itself.size, itself.modified, False)]
        return [entries[name] for name in sorted(entries)]

    def local(self, path: LakePath) -> Path:
        """A local copy of a file, up to date. Raises FileNotFoundError."""
        if is_hidden(path):
            found = self._hidden(path)
            if not found.is_file():
                raise FileNotFoundError(f"{path} doesn't exist")
            return found
        with self._lock(path):
            return self._mirror.fetch_file(path)

    def write(self, path: LakePath, content: Callable[[BinaryIO], None], *, overwrite: bool) -> None:
        """Create a file from what `content` writes. Raises FileExistsError."""
        _check_writable(path)
        if not overwrite and self._is_there(path):
            raise FileExistsError(f"{path} already exists")
        if is_hidden(path):
            target = self._hidden(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                content(file)
            return
        draft = self._mirror.staging()
        try:
            with draft.open("wb") as file:
                content(file)
            self._lake.upload(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def make_folder(self, path: LakePath) -> None:
        """Raises FileExistsError if a file is there."""
        _check_writable(path)
        if is_hidden(path):
            self._hidden(path).mkdir(parents=True, exist_ok=True)
        elif not self._is_there(path):
            self._lake.write(path, b"", folder_marker=True)
        elif not self.status(path).is_folder:
            raise FileExistsError(f"{path} is a file")

    def rename(self, source: LakePath, target: LakePath) -> bool:
        """Whether it was done: a file isn't replaced, and into a folder that is there the source moves."""
        what = self.status(source)
        if self._is_there(target):
            if not self.status(target).is_folder:
                return False
            target = target.child(source.name)
            if self._is_there(target):
                return False
        for inner in self._files(source) if what.is_folder else [""]:
            origin, goal = (source.child(inner), target.child(inner)) if inner else (source, target)
            with self.local(origin).open("rb") as file:
                self.write(goal, lambda out, file=file: shutil.copyfileobj(file, out, _COPY), overwrite=True)  # type: ignore[misc]
        if what.is_folder:
            self.make_folder(target)
        self.delete(source, recursive=True)
        return True

    def delete(self, path: LakePath, *, recursive: bool) -> bool:
        """Whether there was something. Raises OSError for a folder that isn't empty, unless `recursive`."""
        _check_writable(path)
        if is_hidden(path):
            found = self._hidden(path)
            shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
            return True
        if next(self._lake.entries(path), None) is not None:
            if not recursive:
                raise OSError(f"{path} is a folder that isn't empty")
            self._lake.delete_tree(path)
            self._lake.delete(path)
            return True
        # What was never published goes with its folder.
        shutil.rmtree(self._scratch / path.container / path.path, ignore_errors=True)
        return self._lake.delete(path)

    def link(self, folder: LakePath, files: dict[str, Path]) -> None:
        """Show local files below a hidden folder, by their names there."""
        for name, file in files.items():
            target = self._hidden(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(file, target)
        self._hidden(folder).mkdir(parents=True, exist_ok=True)

    def summary(self, path: LakePath) -> dict[str, int]:
        """WebHDFS's ContentSummary."""
        itself = self.status(path)
        sizes = [itself.size]
        if itself.is_folder:
            sizes = [entry.size for entry in self._lake.entries(path) if not entry.is_folder_marker]
        space = {"spaceConsumed": sum(sizes), "quota": -1, "spaceQuota": -1}
        return {"length": sum(sizes), "fileCount": len(sizes), "directoryCount": int(itself.is_folder), **space}

    def _files(self, folder: LakePath) -> Iterator[str]:
        """Names of all files below a folder."""
        if is_hidden(folder):
            root = self._hidden(folder)
            yield from (file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if file.is_file())
            return
        offset = len(folder.path) + 1 if folder.path else 0
        yield from (e.path[offset:] for e in list(self._lake.entries(folder)) if not e.is_folder_marker)

    def _is_there(self, path: LakePath) -> bool:
        try:
            self.status(path)
        except FileNotFoundError:
            return False
        return True

    def _hidden(self, path: LakePath) -> Path:
        return self._scratch / path.container / path.path

    def _lock(self, path: LakePath) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(str(path), threading.Lock())


def is_hidden(path: LakePath) -> bool:
    """Whether a path is one that a write in progress makes, and nobody reads before it is renamed.

    https://spark.apache.org/docs/3.5.9/cloud-integration.html: of FileOutputCommitter, and of a dynamic overwrite.
    """
    return any(part == "_temporary" or part.startswith((".spark-staging", VERSION)) for part in path.path.split("/"))


def _check_writable(path: LakePath) -> None:
    if f"/{VERSION}" in path.path:
        raise PermissionError(
            f"{path}: a Delta table is written by Python and by spark.sql in Python here, not by Scala"
        )


class Server(ThreadingHTTPServer):
    """Serves `files` on a port of its own until the process ends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: LakeFiles, account: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.account = account
        self.secret = secrets.token_urlsafe(16)
        threading.Thread(target=self.serve_forever, name="lake-filesystem", daemon=True).start()

    def configuration(self, containers: list[str]) -> dict[str, str]:
        """What tells Hadoop that these containers' addresses are to be found here."""
        found = {}
        for scheme in _SCHEMES:
            found[f"fs.{scheme}.impl"] = _VIEW
            for container in containers:
                authority = f"{container}@{self.account}.{_HOSTS[scheme]}.core.windows.net"
                address = f"webhdfs://127.0.0.1:{self.server_port}/{self.secret}/{container}"
                found[f"fs.viewfs.mounttable.{authority}.linkFallback"] = address
        return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of this process."""


def serve(mirror: Mirror) -> Server:
    """The lake behind a mirror, served to this process's JVM."""
    return Server(LakeFiles(mirror, mirror.scratch), mirror.lake.account)


class _Handler(BaseHTTPRequestHandler):
    """One connection of Hadoop's client."""

    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the driver's log is its user's."""

    def do_GET(self) -> None:
        self._answer({
            "GETFILESTATUS": self._status,
            "LISTSTATUS": self._list,
            "OPEN": self._open,
            "GETCONTENTSUMMARY": lambda path: self._send({"ContentSummary": self.server.files.summary(path)}),
        })  # fmt: skip

    def do_PUT(self) -> None:
        self._answer({
            "CREATE": self._create,
            "MKDIRS": self._make_folder,
            "RENAME": self._rename,
            # Owners, permissions and times of a write's files: nothing of the lake's.
            "SETPERMISSION": self._done,
            "SETTIMES": self._done,
            "SETREPLICATION": lambda _path: self._send({"boolean": True}),
        })  # fmt: skip

    def do_POST(self) -> None:
        self._answer({})

    def do_DELETE(self) -> None:
        self._answer({"DELETE": self._delete})

    def _answer(self, operations: dict[str, Callable[[LakePath], None]]) -> None:
        address = urlsplit(self.path)
        self._query = dict(parse_qsl(address.query, keep_blank_values=True))
        try:
            self._one(operations, unquote(address.path))
        except Exception as error:
            kind = next((each for each in _ERRORS if isinstance(error, each)), OSError)
            name, status = _ERRORS[kind]
            # What is left of the body would be read as the next request.
            self.close_connection = True
            remote = {"exception": name.rpartition(".")[2], "javaClassName": name, "message": str(error)}
            self._send({"RemoteException": remote}, status)

    def _one(self, operations: dict[str, Callable[[LakePath], None]], path: str) -> None:
        if self._query.get("op") == "GETHOMEDIRECTORY":  # asked of the root, when a file system is made
            self._send({"Path": HOME})
            return
        start = f"{_PREFIX}/{self.server.secret}/"
        if not secrets.compare_digest(path[: len(start)].encode(), start.encode()):
            raise FileNotFoundError("there is nothing of yours here")
        container, _, inner = path[len(start) :].partition("/")
        name = self._query.get("op", "").upper()
        if name not in operations:
            raise NotImplementedError(f"the operation {name} on the lake is not implemented by localazure's Spark")
        operations[name](self._at(container, inner))

    def _at(self, container: str, inner: str) -> LakePath:
        parts = [part for part in inner.split("/") if part]
        if ".." in parts or "." in parts:
            raise FileNotFoundError(f"{inner!r} holds '.' or '..', which ADLS paths can't")
        return LakePath(container, self.server.account, "dfs.core.windows.net", "/".join(parts))

    def _status(self, path: LakePath) -> None:
        self._send({"FileStatus": self.server.files.status(path).document("")})

    def _list(self, path: LakePath) -> None:
        found = [each.document() for each in self.server.files.children(path)]
        self._send({"FileStatuses": {"FileStatus": found}})

    def _open(self, path: LakePath) -> None:
        if "data" not in self._query:
            self._redirect()
            return
        with self.server.files.local(path).open("rb") as file:
            size = file.seek(0, 2)
            start = min(int(self._query.get("offset", "0")), size)
            count = min(int(self._query.get("length", str(size))), size - start)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(count))
            self.end_headers()
            self.wfile.flush()
            if count:
                self.connection.sendfile(file, start, count)

    def _create(self, path: LakePath) -> None:
        if "data" not in self._query:
            self._redirect()
            return
        overwrite = self._query.get("overwrite", "true") == "true"
        self.server.files.write(path, self._body, overwrite=overwrite)
        self.send_response(HTTPStatus.CREATED)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _make_folder(self, path: LakePath) -> None:
        self.server.files.make_folder(path)
        self._send({"boolean": True})

    def _rename(self, path: LakePath) -> None:
        container, _, inner = self._query["destination"].removeprefix(f"/{self.server.secret}/").partition("/")
        self._send({"boolean": self.server.files.rename(path, self._at(container, inner))})

    def _delete(self, path: LakePath) -> None:
        recursive = self._query.get("recursive", "false") == "true"
        self._send({"boolean": self.server.files.delete(path, recursive=recursive)})

    def _done(self, _path: LakePath) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self) -> None:
        """To where the bytes are: the protocol's two steps, here the same place."""
        self.send_response(HTTPStatus.TEMPORARY_REDIRECT)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}{self.path}&data=true")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, document: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self, out: BinaryIO) -> None:
        """The request's body, which Hadoop sends in chunks (RFC 9112, 7.1)."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            self._copy(int(self.headers.get("Content-Length") or 0), out)
            return
        while size := int(self.rfile.readline().partition(b";")[0].strip() or b"0", 16):
            self._copy(size, out)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _copy(self, count: int, out: BinaryIO) -> None:
        while count:
            piece = self.rfile.read(min(count, _COPY))
            if not piece:
                raise OSError("the writer hung up")
            out.write(piece)
            count -= len(piece)


def _local_status(found: Path, path: LakePath) -> Status:
    if not found.exists():
        raise FileNotFoundError(f"{path} doesn't exist")
    known = found.stat()
    folder = found.is_dir()
    return Status(found.name, 0 if folder else known.st_size, int(known.st_mtime * 1000), folder)


def _milliseconds(entry: Entry) -> int:
    return int(entry.modified.timestamp() * 1000)
