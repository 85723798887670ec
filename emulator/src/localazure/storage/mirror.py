"""Local copies of blobs, for engines that read files (DuckDB, Spark, jobs), fetched again only when they changed.

    cache/blobs/<container>/<name>              the newest content of each blob that was ever asked for
    cache/etags/<container>/<name>.json         which ETag that is, and the file it was written to
    cache/trees/<container>/<key>/<digest>/...  folders: hard links, named after the names and ETags in them

A folder is never changed after it was made: a reader that holds one isn't disturbed when blobs come, go or change.
Files are replaced, never rewritten, so that the links keep the old content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from localazure.core.errors import NotFound
from localazure.storage.locations import Location

_KEEP_SECONDS = 24 * 3600
_PARALLEL = 4


class _Listed(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def etag(self) -> str: ...


class Mirror:
    """Local copies below `root`. Thread-safe; several processes may share the folder."""

    def __init__(
        self,
        root: Path,
        listed: Callable[[str, str], Sequence[_Listed]],
        download: Callable[[str, str, Path], str],
    ) -> None:
        self._root = root
        self._listed = listed
        self._download = download
        self._locks: dict[Path, threading.Lock] = {}
        self._guard = threading.Lock()

    def materialize(self, location: Location) -> Path:
        """The local file or folder of a location; `*` matches within a segment, `**` across them."""
        container, path = location.container, location.path
        fixed = path.partition("*")[0]
        found = self._listed(container, fixed)
        if "*" in path:
            return self._matches(location, found)
        exact = [blob for blob in found if blob.name == path]
        folder = path.rstrip("/") + "/" if path else ""
        below = [blob for blob in found if blob.name.startswith(folder) and blob.name != folder]
        # Data Lake clients mark a folder with an empty blob of its name; the folder is what is meant then.
        if exact and not (below and exact[0].size == 0):
            return self._file(container, exact[0])
        if below:
            name = path.rstrip("/").rpartition("/")[2] or container
            return self._tree(container, path.rstrip("/"), folder, below, name)
        raise NotFound(f"There is nothing at '{location}'.", code="BlobNotFound")

    def _matches(self, location: Location, found: Sequence[_Listed]) -> Path:
        container, path = location.container, location.path
        pattern = re.compile(_expression(path.rstrip("/")) + "(?:/.*)?", re.DOTALL)
        matching = [blob for blob in found if pattern.fullmatch(blob.name)]
        if not matching:
            raise NotFound(f"Nothing matches '{location}'.", code="BlobNotFound")
        folder = path.partition("*")[0].rpartition("/")[0]
        folder = folder + "/" if folder else ""
        return self._tree(container, path, folder, matching, folder.rstrip("/").rpartition("/")[2] or container)

    def _file(self, container: str, blob: _Listed) -> Path:
        path = self._path("blobs", container, blob.name)
        record = self._path("etags", container, blob.name + ".json")
        with self._lock(path):
            if _recorded(record) != [blob.etag, *_identity(path)]:
                etag = self._download(container, blob.name, path)
                record.parent.mkdir(parents=True, exist_ok=True)
                draft = record.with_name(f"{record.name}.{uuid.uuid4().hex}.part")
                # With the file's own identity: if two processes write at once, a record that belongs to the other one's
                # file only leads to one download more.
                draft.write_text(json.dumps([etag, *_identity(path)]))
                draft.replace(record)
        return path

    def _tree(self, container: str, key: str, folder: str, blobs: Sequence[_Listed], name: str) -> Path:
        names = {blob.name for blob in blobs}
        # A blob that is a folder of others can't be a file here as well.
        parents = {parent for n in names for parent in _parents(n)}
        files = [blob for blob in blobs if blob.name not in parents and not blob.name.endswith("/")]
        if not files:
            raise NotFound(f"There are no files at '{container}/{key}'.", code="BlobNotFound")
        listing = "\n".join(f"{blob.name} {blob.etag}" for blob in files)
        group = self._root / "trees" / container / _digest(key)
        tree = group / _digest(listing)
        if not tree.exists():
            draft = group / f"{tree.name}.{uuid.uuid4().hex}.part"
            with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="mirror") as pool:
                copies = list(pool.map(lambda blob: self._file(container, blob), files))
            for blob, copy in zip(files, copies, strict=True):
                target = draft / name / blob.name[len(folder) :]
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(copy, target)
            # Somebody else may have been faster; theirs has the same content.
            with contextlib.suppress(OSError):
                draft.rename(tree)
            shutil.rmtree(draft, ignore_errors=True)
            _prune(group, tree)
        os.utime(tree)
        return tree / name

    def _path(self, part: str, container: str, name: str) -> Path:
        # "." and ".." are legal in a blob's name and would lead elsewhere in a file system.
        if any(segment in {"..", "."} for segment in name.split("/")) or "\0" in name:
            raise NotFound(f"The blob '{container}/{name}' has a name that no file can have.")
        return self._root / part / container / name

    def _lock(self, path: Path) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(path, threading.Lock())


def _identity(path: Path) -> list[int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _recorded(record: Path) -> list[object] | None:
    try:
        content: list[object] = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    return content


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _expression(path: str) -> str:
    parts = re.split(r"(\*\*|\*)", path)
    return "".join(".*" if part == "**" else "[^/]*" if part == "*" else re.escape(part) for part in parts)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems have no hard links.
        shutil.copyfile(source, target)


def _prune(group: Path, keep: Path) -> None:
    """Remove a folder's earlier states, once nobody reads them any more."""
    oldest = time.time() - _KEEP_SECONDS
    for tree in group.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if tree != keep and tree.stat().st_mtime < oldest:
                shutil.rmtree(tree, ignore_errors=True)
