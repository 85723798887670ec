"""The lake for a jar's own readers and writers, as far as its arguments name it.

A local Spark's JVM has no ABFS driver. So the paths of the lake among a jar's arguments are copied to the mirror before
it runs, Hadoop's overload of ViewFS shows the mirror under the lake's own addresses, and what the jar has written,
changed and removed there is brought to the lake when it ended well. Other paths of the lake aren't there for it.
https://hadoop.apache.org/docs/r3.3.4/hadoop-project-dist/hadoop-hdfs/ViewFsOverloadScheme.html
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from pyspark.errors import AnalysisException

from localazure_compute import lake, spark_lake
from localazure_compute.lake import Lake, LakePath

_ADDRESS = re.compile(r"(abfss?|wasbs?)://([^/\s,;\"']+)[^\s,;\"']*", re.IGNORECASE)
_VIEW = "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme"


class ArgumentPaths:
    """The paths of one run."""

    def __init__(self, arguments: list[str]) -> None:
        self._folder = spark_lake.mirror_folder()
        self._lake = Lake.from_environment()
        self._addresses = [match for argument in arguments for match in _ADDRESS.finditer(argument)]
        self._before: dict[Path, tuple[int, int]] = {}

    def fetch(self) -> dict[str, str]:
        """Copy what is there; the configuration that shows it to Hadoop. Raises LakeError for another account."""
        mirror = spark_lake.Mirror(self._lake, self._folder)
        conf: dict[str, str] = {}
        for match in self._addresses:
            container = self._folder / lake.parse(match[0]).container
            container.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(AnalysisException):  # nothing there yet: the jar is to write it
                mirror.fetch(match[0])
            conf[f"spark.hadoop.fs.{match[1].lower()}.impl"] = _VIEW
            conf[f"spark.hadoop.fs.viewfs.mounttable.{match[2]}.linkFallback"] = container.as_uri()
        self._before = self._files()
        return conf

    def publish(self) -> None:
        """Bring to the lake what has changed, `_SUCCESS` last."""
        after = self._files()
        changed = [file for file, state in after.items() if self._before.get(file) != state]
        self._lake.each(self._lake.delete, [(self._path(file),) for file in self._before.keys() - after.keys()])
        marks = [file for file in changed if file.name == spark_lake.MARKER]
        self._lake.each(self._lake.upload, [(file, self._path(file)) for file in changed if file not in marks])
        self._lake.each(self._lake.upload, [(file, self._path(file)) for file in marks])

    def _files(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for file in self._folder.rglob("*"):
            # Hidden ones are the local file system's checksums.
            if file.is_file() and not file.name.startswith("."):
                found[file] = (file.stat().st_size, file.stat().st_mtime_ns)
        return found

    def _path(self, file: Path) -> LakePath:
        container, *parts = file.relative_to(self._folder).parts
        return LakePath(container, self._lake.account, "dfs.core.windows.net", "/".join(parts))
