"""Reading a YAML file of the user's, and what is wrong with it in words: file, key or line, and the problem. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from azflow.errors import SpecError

#: Union tags: they stand in pydantic's location but not in the file.
_TAGS = frozenset({"sql_step", "Approve", "literal['automatic']", "blob_arrival", "table_arrival"})


class _SafeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C where there is one, that refuses a key given twice (YAML 1.2, 3.2.1.1)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class, but a duplicate key is an error instead of silently the last one."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)  # type: ignore[no-any-return]


def shown(path: Path, include: Path) -> str:
    """`path` as the user knows it: relative to the project, if it lies in it."""
    try:
        return path.resolve().relative_to(include.resolve().parent).as_posix()
    except ValueError:
        return path.as_posix()


def read_mapping(path: Path, name: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    :param name: the file, for the error.
    :raises SpecError: it can't be read, isn't YAML (names the line), or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(name, "", f"can't be read: {problem.strerror}") from None
    try:
        content = yaml.load(text, Loader=_SafeLoader)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else ""
        raise SpecError(name, place, f"is no YAML: {getattr(problem, 'problem', None) or problem}") from None
    if not isinstance(content, dict):
        raise SpecError(name, "", "must be a mapping of keys")
    return content


def error_of(problem: ValidationError, name: str) -> SpecError:
    """The first error as the message; the others are named after it."""
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    first, rest = errors[0], errors[1:]
    message = _message(first)
    if rest:
        message += "".join(f"; {_key(error)}: {_message(error)}" for error in rest)
    return SpecError(name, _key(first), message)


def _key(error: Mapping[str, Any]) -> str:
    parts = [str(part) for part in error["loc"] if str(part) not in _TAGS]
    cleaned = [
        part
        for index, part in enumerate(parts)
        if not (part in ("sql", "notebook", "spark_job") and index >= 1 and parts[0] == "prepare" and index == 2)  # noqa: PLR2004
    ]
    return ".".join(cleaned)


def _message(error: Mapping[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
