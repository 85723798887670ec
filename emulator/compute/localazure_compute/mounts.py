"""The session's mounts: `synfs:/<job id>/<mount point>/<path>` stands for a path of the lake.

https://learn.microsoft.com/azure/synapse-analytics/spark/synapse-file-mount-api
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from localazure_compute import lake
from localazure_compute.lake import Lake, LakeError, LakePath

_SYNFS = re.compile(r"^synfs:/+(?:[^/]+/)?(?P<rest>.*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Mount:
    """`point` begins with a slash."""

    point: str
    source: LakePath
    scope: str


_mounts: dict[str, Mount] = {}


def add(point: str, source: LakePath, scope: str) -> None:
    """Raises ValueError for a point that is taken or malformed, LakeError for a source that can't be reached."""
    if not re.fullmatch(r"/[\w.-]+(?:/[\w.-]+)*", point):
        raise ValueError(f"a mount point is a path such as /data, not {point!r}")
    if point in _mounts:
        raise ValueError(f"{point} is mounted already, from {_mounts[point].source}")
    account = Lake.from_environment().account
    if source.account != account:
        raise LakeError(f"{source}: storage account {source.account!r} isn't this workspace's ({account!r})")
    _mounts[point] = Mount(point, source, scope)


def remove(point: str) -> None:
    """Raises ValueError if there is none."""
    if _mounts.pop(point, None) is None:
        raise ValueError(f"nothing is mounted at {point}")


def all() -> list[Mount]:
    """Every mount, by its point."""
    return [_mounts[point] for point in sorted(_mounts)]


def resolved(path: object) -> str | None:
    """A path of the lake, also by a mount; None if it is another file system's. Raises FileNotFoundError for a mount
    that isn't there.
    """
    if not isinstance(path, str) or not path.lower().startswith("synfs:"):
        return lake.address(path)
    # With the job's id in front, or without.
    for rest in (_SYNFS.sub(r"\g<rest>", path), path.partition(":")[2].lstrip("/")):
        for mount in sorted(_mounts.values(), key=lambda each: -len(each.point)):
            inner = mount.point.lstrip("/")
            if rest == inner or rest.startswith(f"{inner}/"):
                return str(mount.source.child(rest.removeprefix(inner).strip("/")))
    raise FileNotFoundError(f"{path}: nothing is mounted there; notebookutils.fs.mounts() lists what is")
