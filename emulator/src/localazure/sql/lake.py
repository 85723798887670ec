"""Files of the lake by location: listed with their sizes first, fetched one by one when a statement needs them.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/develop-storage-files-overview
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/query-folders-multiple-csv-files
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localazure.core.errors import AzureError
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.pool import Pool
    from localazure.storage.blobs import BlobStore
    from localazure.storage.locations import Location

_PARALLEL = 8


@dataclass(frozen=True)
class LakeFile:
    """A file: ``name`` in its container, ``size`` in bytes, ``uri`` as filepath() shows it, ``parts``: what each
    wildcard of the location matched."""

    container: str
    name: str
    size: int
    uri: str
    parts: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return self.name.rpartition("/")[2]


def storage(pool: Pool, line: int) -> BlobStore:
    """The pool's blobs; SqlError 13807 when it has none."""
    if pool.blobs is None:
        raise SqlError(13807, "This pool has no storage account.", line=line)
    return pool.blobs


def resolved(pool: Pool, uri: str, line: int) -> Location:
    """The place behind a location; SqlError 13807, in the storage's own words, when there is no such account."""
    from localazure.storage.locations import parse

    try:
        return parse(uri, pool.settings)
    except AzureError as error:
        raise _unlisted(uri, error.message, line) from error


def list_files(pool: Pool, uri: str, line: int, *, recursive: bool = False) -> list[LakeFile]:
    """The files of a location: one, those directly in a folder, or those that match its wildcards.

    A serverless pool goes into subfolders only for ``/**``; recursive: as a dedicated pool does. Names that begin with
    _ or . are left out unless the location names them. Empty when nothing matches.
    """
    location = resolved(pool, uri, line)
    fixed = location.path.partition("*")[0]
    try:
        blobs = storage(pool, line).list(location.container, fixed)
    except AzureError as error:
        raise _unlisted(uri, error.message, line) from error
    listed = [(blob.name, blob.size) for blob in blobs]
    # A Data Lake marks a folder with an empty blob of its name.
    folders = {parent for name, _ in listed for parent in _parents(name)}
    root = uri.removesuffix(location.path) if uri.endswith(location.path) else f"{location.container}/"
    found: list[LakeFile] = []
    for expression in _expressions(location.path, recursive):
        for name, size in listed:
            match = expression.fullmatch(name)
            if match and name not in folders and not name.endswith("/") and _shown(name, match, location.path):
                parts = tuple(match.groups())
                found.append(LakeFile(location.container, name, size, root + name, parts))
        if found:
            break
    return sorted(found, key=lambda file: file.name)


def fetch(pool: Pool, files: list[LakeFile], line: int) -> list[Path]:
    """Local copies of files, in their order."""
    from localazure.storage.locations import Location

    blobs = storage(pool, line)

    def one(file: LakeFile) -> Path:
        try:
            return blobs.materialize(Location(file.container, file.name))
        except AzureError as error:
            raise SqlError(
                15856, f"I/O operation against '{file.uri}' failed (details: {error.message}).", line=line
            ) from error

    if len(files) == 1:
        return [one(files[0])]
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="lake") as workers:
        return list(workers.map(one, files))


def _unlisted(uri: str, why: str, line: int) -> SqlError:
    return SqlError(13807, f"Content of directory on path '{uri}' cannot be listed. {why}", line=line)


def _expressions(path: str, recursive: bool) -> list[re.Pattern[str]]:
    """Patterns for a file of this name, then for the files in a folder of this name: the first to find any counts."""
    body = "".join(
        "(.*)" if part == "**" else "([^/]*)" if part == "*" else re.escape(part)
        for part in re.split(r"(\*\*|\*)", path.rstrip("/"))
    )
    inside = ".+" if recursive else "[^/]+"
    folder = re.compile(f"{body}/{inside}" if body else inside, re.DOTALL)
    return [folder] if path.endswith("/") or not body else [re.compile(body, re.DOTALL), folder]


def _shown(name: str, match: re.Match[str], path: str) -> bool:
    last = path.rstrip("/").rpartition("/")[2]
    if last.startswith(("_", ".")) or name == path:
        return True
    inner = "/".join(part for part in match.groups() if "/" in part)
    hidden = [name.rpartition("/")[2], *inner.split("/")[:-1]]
    return not any(part.startswith(("_", ".")) for part in hidden)


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]
