"""`notebookutils.fs`: files of the lake, and of the driver's own disk (`file:`).

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#file-system-utilities . Sizes are
bytes, times milliseconds since 1970 (UTC). A path without a scheme is the default file system's. Folders of the lake
are what ADLS shows over the blob interface: prefixes, or blobs marked `hdi_isfolder`.

A mount gives `synfs:/<job id>/<mount point>/...` the meaning of a folder of the lake, here and to Spark. On Azure it is
a folder of the driver as well (`getMountPath`): that would need a file system driver, and is refused.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localazure_compute import lake
from localazure_compute import mounts as _mounts
from localazure_compute.lake import Lake, LakePath
from notebookutils import _help

_REFUSED = {
    "getMountPath": "a mount is no folder of the driver here; use the synfs: or abfss: path",
    "mountToDriverNode": "a mount is no folder of the driver here; use the synfs: or abfss: path",
    "unmountFromDriverNode": "a mount is no folder of the driver here; use the synfs: or abfss: path",
}


@dataclass(frozen=True)
class FileInfo:
    """One entry of `ls`."""

    name: str
    path: str
    size: int
    isDir: bool
    isFile: bool
    modifyTime: int


@dataclass(frozen=True)
class MountPointInfo:
    """One entry of `mounts`."""

    mountPoint: str
    source: str
    scope: str
    localPath: str
    storageType: str


def ls(dir: str) -> list[FileInfo]:
    """The entries of a folder (or the one of a file), by name. Raises FileNotFoundError."""
    path = _path(dir)
    if isinstance(path, Path):
        return _local_entries(path)
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
    return _exists(_path(file))


def mkdirs(dir: str) -> bool:
    """Make a folder, and those it lies in."""
    path = _path(dir)
    if isinstance(path, Path):
        path.mkdir(parents=True, exist_ok=True)
    elif not _lake().exists(path):
        _lake().write(path, b"", folder_marker=True)
    return True


def head(file: str, maxBytes: int = 100 * 1024) -> str:
    """The first bytes of a file, as UTF-8 text. Raises FileNotFoundError."""
    return _read(_path(file), maxBytes).decode(errors="replace")


def put(file: str, content: str, overwrite: bool = False) -> bool:
    """Write text to a file. Raises FileExistsError unless `overwrite`."""
    path = _path(file)
    if not overwrite and _exists(path):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    _write(path, content.encode())
    return True


def append(file: str, content: str, createFileIfNotExists: bool = False) -> bool:
    """Add text at a file's end. Raises FileNotFoundError unless `createFileIfNotExists`."""
    path = _path(file)
    if not _is_file(path):
        if not createFileIfNotExists:
            raise FileNotFoundError(f"{path} doesn't exist")
        return put(file, content)
    _write(path, _read(path) + content.encode())
    return True


def cp(src: str, dest: str, recurse: bool = False) -> bool:
    """Copy a file, or with `recurse` a folder. Raises FileNotFoundError, IsADirectoryError."""
    for source, target in _pairs(_path(src), _path(dest), recurse, "cp"):
        _write(target, _read(source))
    return True


def fastcp(src: str, dest: str, recurse: bool = True) -> bool:
    """`cp`; on Azure by azcopy."""
    return cp(src, dest, recurse)


def mv(src: str, dest: str, create_path: bool = False, overwrite: bool = False) -> bool:
    """Move a file or folder. Raises FileNotFoundError; FileExistsError unless `overwrite`."""
    source_root, target_root = _path(src), _path(dest)
    if not overwrite and _is_file(target_root):
        raise FileExistsError(f"{target_root} exists; pass overwrite=True to replace it")
    for source, target in _pairs(source_root, target_root, True, "mv"):
        _write(target, _read(source))
        _delete(source)
    if isinstance(source_root, Path):
        shutil.rmtree(source_root, ignore_errors=True)
    elif _is_marked_folder(source_root):
        _lake().delete(source_root)
    return True


def rm(path: str, recurse: bool = False) -> bool:
    """Delete a file, or with `recurse` a folder. Raises FileNotFoundError, IsADirectoryError."""
    target = _path(path)
    if isinstance(target, Path):
        return _remove_local(target, recurse)
    if next(_lake().entries(target), None) is not None:
        if not recurse:
            raise IsADirectoryError(f"{target} is a folder that isn't empty; pass recurse=True to delete it")
        _lake().delete_tree(target)
        _lake().delete(target)
        return True
    if not _lake().delete(target):
        raise FileNotFoundError(f"{target} doesn't exist")
    return True


def mount(source: str, mountPoint: str, extraConfigs: dict[str, object] | None = None) -> bool:
    """Give a folder of the lake a mount point of this session. Raises LakeError for another storage account.

    `extraConfigs` may hold `scope` and time-outs; the process's own identity is used, whatever it says of credentials.
    """
    _mounts.add(mountPoint, lake.parse(source), str((extraConfigs or {}).get("scope") or "job"))
    return True


def unmount(mountPoint: str) -> bool:
    """End a mount. Raises ValueError if there is none."""
    _mounts.remove(mountPoint)
    return True


def mounts() -> list[MountPointInfo]:
    """The session's mounts."""
    return [
        MountPointInfo(each.point, str(each.source), each.scope, "", "Azure Data Lake Storage Gen2")
        for each in _mounts.all()
    ]


def refreshMounts() -> bool:
    """Nothing to do: a mount is read anew at every look."""
    return True


def help(method: str = "") -> None:
    """Print what there is."""
    _help.show("notebookutils.fs", globals(), method)


def _local_entries(path: Path) -> list[FileInfo]:
    if not path.exists():
        raise FileNotFoundError(f"file:{path} doesn't exist")
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [
        FileInfo(
            each.name,
            f"file:{each}",
            0 if each.is_dir() else each.stat().st_size,
            each.is_dir(),
            each.is_file(),
            int(each.stat().st_mtime * 1000),
        )
        for each in found
    ]


def _remove_local(path: Path, recurse: bool) -> bool:
    if path.is_dir():
        if any(path.iterdir()) and not recurse:
            raise IsADirectoryError(f"file:{path} is a folder that isn't empty; pass recurse=True to delete it")
        shutil.rmtree(path)
    else:
        path.unlink()
    return True


def _pairs(
    source: LakePath | Path, target: LakePath | Path, recurse: bool, verb: str
) -> Iterator[tuple[LakePath | Path, LakePath | Path]]:
    """What is copied whereto: a file, or every file of a folder."""
    if _is_file(source):
        return iter([(source, _child(target, source.name) if _is_folder(target) else target)])
    if not _exists(source):
        raise FileNotFoundError(f"{source} doesn't exist")
    if not recurse:
        raise IsADirectoryError(f"{source} is a folder; pass recurse=True to {verb} it")
    if isinstance(source, Path):
        names = [file.relative_to(source).as_posix() for file in sorted(source.rglob("*")) if file.is_file()]
    else:
        offset = len(source.path) + 1 if source.path else 0
        names = [each.path[offset:] for each in _lake().entries(source) if not each.is_folder_marker]
    return iter([(_child(source, name), _child(target, name)) for name in names])


def _child(path: LakePath | Path, name: str) -> LakePath | Path:
    return path / name if isinstance(path, Path) else path.child(name)


def _exists(path: LakePath | Path) -> bool:
    return path.exists() if isinstance(path, Path) else _lake().exists(path) or _is_marked_folder(path)


def _is_file(path: LakePath | Path) -> bool:
    return path.is_file() if isinstance(path, Path) else _lake().size(path) is not None


def _is_folder(path: LakePath | Path) -> bool:
    if isinstance(path, Path):
        return path.is_dir()
    return next(_lake().entries(path), None) is not None or _is_marked_folder(path)


def _is_marked_folder(path: LakePath) -> bool:
    parent = path.at(path.path.rpartition("/")[0])
    return any(entry.path == path.path and entry.is_folder_marker for entry in _lake().entries(parent))


def _read(path: LakePath | Path, limit: int | None = None) -> bytes:
    if isinstance(path, LakePath):
        return _lake().read(path, limit)
    with path.open("rb") as file:
        return file.read(-1 if limit is None else limit)


def _write(path: LakePath | Path, content: bytes) -> None:
    if isinstance(path, LakePath):
        _lake().write(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _delete(path: LakePath | Path) -> None:
    if isinstance(path, Path):
        path.unlink()
    else:
        _lake().delete(path)


def _path(text: str) -> LakePath | Path:
    """A path of the lake or of the disk. Raises ValueError for another file system."""
    address = _mounts.resolved(text)
    if address is not None:
        return lake.parse(address)
    if isinstance(text, str) and text.startswith("file:"):
        return Path("/" + text.removeprefix("file:").lstrip("/"))
    raise ValueError(f"notebookutils.fs on {text!r}: paths are abfss://, wasbs://, synfs:/, file:/ or the lake's own")


@functools.cache
def _lake() -> Lake:
    return Lake.from_environment()


def __getattr__(name: str) -> object:
    if name in _REFUSED:
        raise NotImplementedError(f"notebookutils.fs.{name} is not implemented by localazure: {_REFUSED[name]}")
    raise AttributeError(f"module 'notebookutils.fs' has no attribute {name!r}")
