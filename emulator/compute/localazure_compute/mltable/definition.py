"""The file MLTable: paths and transformations, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from localazure_compute.mltable.errors import MLTableError

READERS = ("read_delimited", "read_parquet", "read_json_lines", "read_delta_lake")
TRANSFORMATIONS = (
    "convert_column_types", "drop_columns", "keep_columns", "filter", "skip", "take", "take_random_sample",
    "extract_columns_from_partition_format", "extract_partition_format",
)  # fmt: skip
PATH_KINDS = ("file", "folder", "pattern")
# Known to the schema and of no effect on the rows.
_DESCRIPTIVE = ("$schema", "type", "name", "version", "description", "tags", "metadata", "id", "traits")


@dataclass(frozen=True)
class Definition:
    """A table before it is read. `paths` are (kind, address) as written; a step is a transformation and its argument.

    `base` is what relative paths start from. `sources` maps a local file or folder to the address it is a copy of;
    rows tell that one, not the copy's.
    """

    paths: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, Any], ...]
    base: Path
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Definition:
        """From the file MLTable in `folder`. MLTableError if it isn't one, or names what isn't implemented."""
        path = folder / "MLTable"
        if not path.is_file():
            raise MLTableError(f"There is no file MLTable in {folder}.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise MLTableError(f"The file MLTable in {folder} is not YAML: {error}") from error
        if not isinstance(content, dict):
            raise MLTableError(f"The file MLTable in {folder} holds no mapping with 'paths' and 'transformations'.")
        return cls.of(content, folder)

    @classmethod
    def of(cls, content: Mapping[str, Any], base: Path) -> Definition:
        """From the file's content."""
        if unknown := sorted(set(content) - {"paths", "transformations", *_DESCRIPTIVE}):
            raise MLTableError(f"The MLTable's key(s) {', '.join(unknown)} are unknown.")
        if content.get("type", "mltable") != "mltable":
            raise MLTableError(f"The MLTable's type must be mltable, not '{content['type']}'.")
        paths = content.get("paths")
        if not isinstance(paths, Sequence) or isinstance(paths, str) or not paths:
            raise MLTableError("The MLTable has no list 'paths'.")
        steps = tuple(_step(entry) for entry in content.get("transformations") or [])
        readers = [name for name, _ in steps if name in READERS]
        if len(readers) != 1 or steps[0][0] not in READERS:
            raise MLTableError(
                f"An MLTable needs one read transformation, and that first ({', '.join(READERS)}); "
                f"this one has {', '.join(readers) or 'none'}."
            )
        metadata = content.get("metadata") or {}
        sources = metadata.get("sources") if isinstance(metadata, Mapping) else None
        return cls(tuple(_path(entry) for entry in paths), steps, base, dict(sources or {}))

    def with_step(self, name: str, argument: Any) -> Definition:
        """The same table with one transformation more."""
        return Definition(self.paths, (*self.steps, _step({name: argument})), self.base, self.sources)

    def content(self) -> dict[str, Any]:
        """As the file MLTable has it."""
        paths = [{kind: address} for kind, address in self.paths]
        return {"type": "mltable", "paths": paths, "transformations": [{name: given} for name, given in self.steps]}


def _path(entry: Any) -> tuple[str, str]:
    kinds = [kind for kind in PATH_KINDS if isinstance(entry, Mapping) and kind in entry]
    if len(kinds) != 1:
        raise MLTableError(f"A path of an MLTable is one of {', '.join(PATH_KINDS)}, not {entry!r}.")
    return kinds[0], str(entry[kinds[0]])


def _step(entry: Any) -> tuple[str, Any]:
    if isinstance(entry, str):
        name, argument = entry, None
    elif isinstance(entry, Mapping) and len(entry) == 1:
        name, argument = next(iter(entry.items()))
    else:
        raise MLTableError(f"A transformation is a name, or one name with its arguments, not {entry!r}.")
    if name not in (*READERS, *TRANSFORMATIONS):
        known = ", ".join((*READERS, *TRANSFORMATIONS))
        raise MLTableError(f"The MLTable transformation {name} is not implemented; there are {known}.")
    return name, argument
