"""`notebookutils.fs`: files of the lake by abfss path.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#file-system-utilities . Sizes are
bytes, times milliseconds since 1970 (UTC). Folders are what ADLS shows over the blob interface: prefixes, or blobs
marked `hdi_isfolder`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from localazure_compute import lake
from localazure_compute.lake import Lake, LakePath

_REFUSED = (
    "mount",
    "unmount",
    "mounts",
    "getMountPath",
    "refreshMounts",
    "fastcp",
    "mountToDriverNode",
    "unmountFromDriverNode",
)


@dataclass(frozen=True)
class FileInfo:
    """One entry of `ls`."""

    name: str
    path: str
    size: int
    isDir: bool
    isFile: bool
    modifyTime: int


def ls(dir: str) -> list[FileInfo]:
    """The entries of a folder (or the one of a file), by name. Raises FileNotFoundError."""
    path = _path(dir)
    entries: dict[str, FileInfo] = {}
    offset = len(path.path) + 1 if path.path else 0
    is_there = not path.path
    for entry in _lake().entries(path):
        is_there = True
        name, slash, _ = entry.path[offset:].partition("/")
        modified = int(entry.modified.timestamp() * 1000)
        is_folder = bool(slash) or entry.is_folder_marker
        known = entries.get(name)
        if known is None or (is_folder and known.modifyTime < modified):
            size = 0 if is_folder else entry.size
            entries[name] = FileInfo(name, str(path.child(name)), size, is_folder, not is_folder, modified)
    if is_there:
        return [entries[name] for name in sorted(entries)]
    for entry in _lake().entries(path.at(path.path.rpartition("/")[0])):
        if entry.path == path.path:
            modified = int(entry.modified.timestamp() * 1000)
            folder = entry.is_folder_marker
            return [] if folder else [FileInfo(path.name, str(path), entry.size, False, True, modified)]
    raise FileNotFoundError(f"{path} doesn't exist")


def exists(file: str) -> bool:
    """Whether a file or folder is there."""
    path = _path(file)
    return _lake().exists(path) or _is_marked_folder(path)


def mkdirs(dir: str) -> bool:
    """Make a folder."""
    path = _path(dir)
    if not _lake().exists(path):
        _lake().write(path, b"", folder_marker=True)
    return True


def head(file: str, maxBytes: int = 100 * 1024) -> str:
    """The first bytes of a file, as UTF-8 text. Raises FileNotFoundError."""
    return _lake().read(_path(file), maxBytes).decode(errors="replace")


def put(file: str, content: str, overwrite: bool = False) -> bool:
    """Write text to a file. Raises FileExistsError unless `overwrite`."""
    path = _path(file)
    if not overwrite and _lake().exists(path):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    _lake().write(path, content.encode())
    return True


def append(file: str, content: str, createFileIfNotExists: bool = False) -> bool:
    """Add text at a file's end. Raises FileNotFoundError unless `createFileIfNotExists`."""
    path = _path(file)
    if _lake().size(path) is None:
        if not createFileIfNotExists:
            raise FileNotFoundError(f"{path} doesn't exist")
        return put(file, content)
    _lake().write(path, _lake().read(path) + content.encode())
    return True


def cp(src: str, dest: str, recurse: bool = False) -> bool:
    """Copy a file, or with `recurse` a folder. Raises FileNotFoundError, IsADirectoryError."""
    for source, target in _pairs(_path(src), _path(dest), recurse, "cp"):
        _lake().copy(source, target)
    return True


def mv(src: str, dest: str, create_path: bool = False, overwrite: bool = False) -> bool:
    """Move a file or folder. Raises FileNotFoundError; FileExistsError unless `overwrite`."""
    source_root, target_root = _path(src), _path(dest)
    if not overwrite and _lake().size(target_root) is not None:
        raise FileExistsError(f"{target_root} exists; pass overwrite=True to replace it")
    for source, target in _pairs(source_root, target_root, True, "mv"):
        _lake().copy(source, target)
        _lake().delete(source)
    if _is_marked_folder(source_root):
        _lake().delete(source_root)
    return True


def rm(path: str, recurse: bool = False) -> bool:
    """Delete a file, or with `recurse` a folder. Raises FileNotFoundError, IsADirectoryError."""
    target = _path(path)
    if next(_lake().entries(target), None) is not None:
        if not recurse:
            raise IsADirectoryError(f"{target} is a folder that isn't empty; pass recurse=True to delete it")
        _lake().delete_tree(target)
        _lake().delete(target)
        return True
    if not _lake().delete(target):
        raise FileNotFoundError(f"{target} doesn't exist")
    return True


def _pairs(source: LakePath, target: LakePath, recurse: bool, verb: str) -> list[tuple[LakePath, LakePath]]:
    if _lake().size(source) is not None:
        into_folder = next(_lake().entries(target), None) is not None or _is_marked_folder(target)
        return [(source, target.child(source.name) if into_folder else target)]
    entries = list(_lake().entries(source))
    if not entries and not _is_marked_folder(source):
        raise FileNotFoundError(f"{source} doesn't exist")
    if not recurse:
        raise IsADirectoryError(f"{source} is a folder; pass recurse=True to {verb} it")
    offset = len(source.path) + 1 if source.path else 0
    return [(source.at(e.path), target.child(e.path[offset:])) for e in entries if not e.is_folder_marker]


def _is_marked_folder(path: LakePath) -> bool:
    parent = path.at(path.path.rpartition("/")[0])
    return any(entry.path == path.path and entry.is_folder_marker for entry in _lake().entries(parent))


def _path(text: str) -> LakePath:
    if not lake.is_lake(text):
        raise NotImplementedError(
            f"notebookutils.fs on {text!r} is not implemented by localazure: only abfss:// paths are"
        )
    return lake.parse(text)


@functools.cache
def _lake() -> Lake:
    return Lake.from_environment()


def __getattr__(name: str) -> object:
    if name in _REFUSED:
        raise NotImplementedError(f"notebookutils.fs.{name} is not implemented by localazure")
    raise AttributeError(f"module 'notebookutils.fs' has no attribute {name!r}")
