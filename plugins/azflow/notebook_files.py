"""Notebooks as files below include/spark/notebooks: read, typed parameters, the other notebooks they run. Pure.

Published under a name made of its content, a notebook can't be overwritten by another branch of the project. That holds
for the notebooks it runs (``%run``, ``notebook.run``, ``notebook.runMultiple``) only if they are published so, too:
those that lie in the repository are, and the reference is rewritten to their published name. Any other reference is
the workspace's own notebook and stays as it is.

https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-development-using-notebooks#reference-notebook
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from azflow.errors import ConfigurationError, SpecError

#: What messages call the folder.
FOLDER = "include/spark/notebooks"

# %run [/folder/]name [{ "parameter": value }]; options (-b, -c) are about the session's own resource files.
_RUN = re.compile(r"""^(?P<head>[ \t]*%run[ \t]+)(?P<name>"[^"\n]+"|'[^'\n]+'|[^\s{"'-][^\s{]*)""", re.MULTILINE)
_MAGIC = re.compile(r"^([ \t]*)[%!].*$", re.MULTILINE)
_LANGUAGE = re.compile(r"\A\s*%%(\w+)")
_TYPES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "string"}


@dataclass(frozen=True)
class Bundle:
    """A notebook as it is published, with the notebooks of the repository it runs.

    :ivar name: made of its content.
    :ivar content: nbformat 4 without outputs; references rewritten.
    :ivar others: published name -> content of those it runs, directly or through others.
    :ivar expected: name of a notebook that ``%run`` expects in the workspace -> where it is named.
    """

    name: str
    content: dict[str, Any]
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)


def bundle(root: Path, notebook: str) -> Bundle:
    """The notebook below `root` and, in turn, those it runs.

    :param notebook: relative to `root`.
    :raises SpecError: one of them can't be read or is no notebook, they run each other in a circle, or a name fits two.
    """
    return _bundle(root, PurePosixPath(notebook), ())


def _bundle(root: Path, path: PurePosixPath, above: tuple[PurePosixPath, ...]) -> Bundle:
    shown = f"{FOLDER}/{path}"
    if path.is_absolute() or ".." in path.parts:
        raise SpecError(shown, "", f"must be relative to {FOLDER}")
    if path in above:
        circle = " -> ".join(str(each) for each in (*above[above.index(path) :], path))
        raise SpecError(shown, "", f"notebooks run each other in a circle: {circle}")
    content = read_notebook(root / path, shown)
    others: dict[str, dict[str, Any]] = {}
    expected: dict[str, str] = {}

    def published(name: str) -> str | None:
        """The published name of what a cell calls `name`; None: it isn't the repository's."""
        found = _find(root, name, path, shown)
        if found is None:
            return None
        below = _bundle(root, found, (*above, path))
        others.update(below.others)
        others[below.name] = below.content
        expected.update(below.expected)
        return below.name

    runs_many = any("runMultiple" in "".join(cell["source"]) for cell in content["cells"])
    for number, cell in enumerate(content["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        language = _LANGUAGE.match(source)
        if language and language[1].lower() != "pyspark":
            continue

        def replaced(found: re.Match[str], place: str = f"{shown}, cell {number}") -> str:
            name = found["name"].strip("\"'")
            if (new := published(name)) is None:
                expected.setdefault(PurePosixPath(name).name, f"{place}: {found[0].strip()}")
                return found[0]
            return f"{found['head']}{new}"

        source = _RUN.sub(replaced, source)
        for start, end, name in sorted(_named(source, runs_many), reverse=True):
            if (new := published(name)) is not None:
                source = source[:start] + json.dumps(new) + source[end:]
        cell["source"] = source.splitlines(keepends=True)
    return Bundle(artifact_name(path.stem, content), content, others, expected)


def _find(root: Path, name: str, runner: PurePosixPath, shown: str) -> PurePosixPath | None:
    """The file that a cell of `runner` calls `name`, relative to `root`.

    In the workspace names are flat and folders are for the eye: so a bare name finds a file in any folder.
    """
    wanted = PurePosixPath(name.removesuffix(".ipynb").strip("/") + ".ipynb")
    if ".." in wanted.parts:
        return None
    for candidate in (wanted, runner.parent / wanted):
        if (root / candidate).is_file():
            return candidate
    if len(wanted.parts) > 1:
        return None
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob(wanted.name))
    if len(found) > 1:
        raise SpecError(shown, "", f"runs {name!r}, and there are several: {', '.join(found)}; name the folder")
    return PurePosixPath(found[0]) if found else None


def _named(source: str, runs_many: bool) -> Iterator[tuple[int, int, str]]:
    """Names of notebooks in calls of `notebook.run` and `notebook.runMultiple`: (from, to, name), as far as they are
    literals."""
    # Magics are no Python. The lines stay, and with them the places of what isn't one.
    try:
        tree = ast.parse(_MAGIC.sub(r"\1pass", source))
    except SyntaxError:
        return
    raw, starts = source.encode(), [0]
    for line in raw.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)

    def place(node: ast.Constant) -> tuple[int, int, str]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        return len(raw[:first].decode()), len(raw[:last].decode()), str(node.value)

    found: dict[tuple[int, int], str] = {}
    for node in ast.walk(tree):
        literals: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_notebook(node.func.value):
            given = node.args[:1] or [word.value for word in node.keywords if word.arg == "path"]
            if node.func.attr == "run":
                literals = given
            elif node.func.attr == "runMultiple":
                literals = [each for one in given if isinstance(one, ast.List) for each in one.elts]
        elif runs_many and isinstance(node, ast.Dict):
            # runMultiple's graph, mostly built before the call: {"activities": [{"name": ..., "path": <notebook>}]}
            literals = [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "path"
            ]
        for literal in literals:
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                start, end, name = place(literal)
                found[start, end] = name
    for (start, end), name in found.items():
        yield start, end, name


def _is_notebook(node: ast.expr) -> bool:
    """Whether an expression is the module `notebook` of notebookutils or mssparkutils."""
    return (isinstance(node, ast.Attribute) and node.attr == "notebook") or (
        isinstance(node, ast.Name) and node.id == "notebook"
    )


def read_notebook(path: Path, shown: str) -> dict[str, Any]:
    """The notebook in `path` without its outputs: nbformat 4, plain values.

    :param shown: what messages call the file.
    :raises SpecError: it can't be read or is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(shown, "", f"can't be read: {problem.strerror}") from None
    except json.JSONDecodeError as problem:
        raise SpecError(shown, f"line {problem.lineno}", f"is no JSON: {problem.msg}") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):  # noqa: PLR2004
        raise SpecError(shown, "nbformat", "is no notebook of nbformat 4")
    cells = []
    for cell in notebook["cells"]:
        kept = {key: cell[key] for key in ("cell_type", "metadata", "source", "attachments") if key in cell}
        if isinstance(kept.get("source"), str):
            kept["source"] = kept["source"].splitlines(keepends=True)  # Synapse takes lists of lines only
        kept.setdefault("source", [])
        if cell.get("cell_type") == "code":
            kept |= {"outputs": [], "execution_count": None}
        cells.append(kept)
    return {
        "nbformat": 4,
        "nbformat_minor": notebook.get("nbformat_minor", 2),
        "metadata": notebook.get("metadata", {}),
        "cells": cells,
    }


def artifact_name(stem: str, content: Mapping[str, Any]) -> str:
    """The name `content` is published under: readable, and another one for another content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', stem)[:100]}-{digest}"


# -- parameters ------------------------------------------------------------------------------------------------------


def declared_parameters(content: Mapping[str, Any]) -> dict[str, str] | None:
    """Name -> type of what the cell tagged ``parameters`` assigns; None: there is no such cell, or it can't be read.

    An empty type: the default says none (``None``, a list, an expression).
    """
    for cell in content["cells"]:
        if cell["cell_type"] != "code" or "parameters" not in (cell.get("metadata") or {}).get("tags", []):
            continue
        try:
            tree = ast.parse(_MAGIC.sub(r"\1", "".join(cell["source"])))
        except SyntaxError:
            return None
        found: dict[str, str] = {}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    found[target.id] = _type_of(getattr(node, "value", None))
        return found
    return None


def _type_of(value: ast.expr | None) -> str:
    try:
        return _TYPES.get(type(ast.literal_eval(value)), "") if value is not None else ""
    except ValueError:
        return ""


def typed_parameters(
    parameters: Mapping[str, object], shown: str, declared: Mapping[str, str] | None = None
) -> dict[str, dict[str, object]]:
    """``{name: {"type", "value"}}`` as the service wants it; types are string, int, float, bool.

    A value is plain or ``{"type", "value"}``. The type of a plain one is that of the notebook's default, so text from a
    template becomes a number where the notebook has one; without a default it is the value's own.

    :param declared: what `declared_parameters` found.
    :raises ConfigurationError: a type that isn't one of the four, a value that isn't of its type, a name that the
        notebook doesn't declare.
    """
    if declared is not None and (unknown := sorted(set(parameters) - set(declared))):
        raise ConfigurationError(
            f"{shown}: its cell of parameters doesn't assign {', '.join(unknown)}; "
            f"it has {', '.join(sorted(declared)) or 'none'}."
        )
    return {name: _typed(name, value, shown, (declared or {}).get(name, "")) for name, value in parameters.items()}


def _typed(name: str, value: object, shown: str, declared: str) -> dict[str, object]:
    where = f"{shown}: parameter {name!r}"
    if isinstance(value, Mapping):
        kind, inner = str(value.get("type", "")).lower(), value.get("value")
        if set(value) != {"type", "value"} or kind not in _TYPES.values():
            raise ConfigurationError(f"{where} must be {{type, value}}; type is one of {', '.join(_TYPES.values())}.")
        if kind == "string" and type(inner) in _TYPES:
            inner = str(inner)  # said to be text: YAML reads 007 as a number
    else:
        if type(value) not in _TYPES:
            raise ConfigurationError(f"{where} is a {type(value).__name__}; use text, int, float or bool.")
        kind, inner = declared or _TYPES[type(value)], value
    try:
        return {"type": kind, "value": _converted(kind, inner)}
    except ValueError as problem:
        default = " as the notebook's default is" if declared and not isinstance(value, Mapping) else ""
        raise ConfigurationError(f"{where} should be of type {kind}{default}: {problem}.") from None


def _converted(kind: str, value: object) -> object:
    """`value` as a `kind`: text is read, whole numbers may be floats, nothing else changes. Raises ValueError."""
    if isinstance(value, str):
        text = value.strip()
        if kind == "string":
            return value
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        if kind == "float":
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if math.isfinite(number):
                return number
    elif _TYPES.get(type(value)) == kind and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    elif kind == "float" and type(value) is int:
        return float(value)
    raise ValueError(f"{value!r} is none")
