"""Notebooks as text: from Synapse's artifact JSON to cells that run, with parameters injected. Pure functions.

Parameters follow Synapse: their cell is tagged `parameters_overwritten` and comes after the cell tagged `parameters`,
or first if no cell has the tag (https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-development-using-notebooks).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PARAMETERS_TAG = "parameters"
INJECTED_TAG = "parameters_overwritten"
INJECTED_COMMENT = "# This cell is generated from runtime parameters."
PYTHON_KERNELS = frozenset({"synapse_pyspark", "python3", "python", "pyspark"})
#: First-line magics that choose another language.
REFUSED_MAGICS = frozenset({"%%spark", "%%scala", "%%csharp", "%%sparkr", "%%r"})
#: Magics that would change what all sessions share: the compute environment's packages.
REFUSED_LINE_MAGICS = frozenset({"%pip", "%conda", "%mamba", "%micromamba", "%uv"})
CONFIGURE = "%%configure"
_IDENTIFIER = re.compile(r"^[A-Za-z_]\w*$")


class UnsupportedNotebook(ValueError):
    """The notebook needs something that isn't implemented; the message names it and the cell."""


@dataclass(frozen=True)
class Cell:
    """One cell. `index` is its position in the artifact; None for the injected one."""

    kind: str
    source: str
    index: int | None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        tags = self.metadata.get("tags")
        return [str(tag) for tag in tags] if isinstance(tags, list) else []


def cells(properties: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> list[Cell]:
    """The cells to run, in order. Raises UnsupportedNotebook for another language or a refused magic."""
    _check_language(properties.get("metadata") or {})
    result = [
        Cell(
            kind=str(cell.get("cell_type", "code")),
            source=_joined(cell.get("source")),
            index=index,
            metadata=cell.get("metadata") or {},
        )
        for index, cell in enumerate(properties.get("cells") or [])
    ]
    for cell in result:
        first = cell.source.lstrip().split(None, 1)
        if cell.kind == "code" and first and first[0].lower() in REFUSED_MAGICS:
            raise UnsupportedNotebook(f"cell {cell.index}: the magic {first[0]} is not implemented by localazure")
    _check_configure(result)
    if parameters:
        tagged = [
            position for position, cell in enumerate(result) if cell.kind == "code" and PARAMETERS_TAG in cell.tags
        ]
        position = tagged[0] + 1 if tagged else 0
        injected = Cell("code", assignments(parameters), None, {"tags": [INJECTED_TAG]})
        result.insert(position, injected)
    return result


def configuration(source: str) -> dict[str, Any]:
    """What a `%%configure` cell asks for. Raises ValueError if it isn't an object of JSON."""
    first, _, body = source.strip().partition("\n")
    words = first.split()
    if words[0] != CONFIGURE or set(words[1:]) - {"-f", "--force"}:
        raise ValueError(f"{first}: only {CONFIGURE} and {CONFIGURE} -f are there")
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise ValueError(f"{CONFIGURE} isn't JSON: {error}") from None
    if not isinstance(asked, dict):
        raise ValueError(f"{CONFIGURE} must be an object of JSON")
    return asked


def stem(name: str) -> str:
    """A notebook's name without the folder it is shown in."""
    return name.rsplit("/", 1)[-1].removesuffix(".ipynb")


def assignments(parameters: Mapping[str, Any]) -> str:
    """Python assignments of parameter values (str, int, float, bool, None). Raises ValueError for a bad name."""
    lines = [INJECTED_COMMENT]
    for name, value in parameters.items():
        if not _IDENTIFIER.match(name):
            raise ValueError(f"parameter name {name!r} isn't a Python identifier")
        lines.append(f"{name} = {value!r}")
    return "\n".join(lines)


def runnable(source: str) -> str:
    """A cell's source without the `%%pyspark` line, which names the language the kernel has anyway."""
    stripped = source.lstrip()
    if stripped.split(None, 1)[:1] == ["%%pyspark"]:
        return stripped.partition("\n")[2]
    return source


def arguments(text: str) -> tuple[str, dict[str, Any]]:
    """The line of a `%run` magic: `/folder/Name {"a": 1}` -> ("Name", {"a": 1})."""
    name, brace, rest = text.partition("{")
    name = name.strip().strip("\"'")
    if not name or name.startswith("-"):
        raise UnsupportedNotebook(f"%run {text}: only %run <notebook> {{parameters}} is implemented by localazure")
    try:
        values = json.loads(brace + rest) if brace else {}
    except ValueError as error:
        raise ValueError(f"%run {text}: the parameters aren't JSON ({error})") from None
    return stem(name), values


def _check_configure(found: list[Cell]) -> None:
    code = [cell for cell in found if cell.kind == "code" and cell.source.strip()]
    for cell in code[1:]:
        if cell.source.split(None, 1)[0] == CONFIGURE:
            raise UnsupportedNotebook(f"cell {cell.index}: {CONFIGURE} must be the first code cell of a run")


def _check_language(metadata: Mapping[str, Any]) -> None:
    kernel = (metadata.get("kernelspec") or {}).get("name") or "synapse_pyspark"
    language = (metadata.get("language_info") or {}).get("name") or "python"
    if kernel.lower() not in PYTHON_KERNELS or language.lower() not in ("python", "pyspark", "ipython"):
        raise UnsupportedNotebook(
            f"notebook language {language!r} (kernel {kernel!r}) is not implemented by localazure: PySpark is"
        )


def _joined(source: Any) -> str:
    return "".join(source) if isinstance(source, list) else str(source or "")
