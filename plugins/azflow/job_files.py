"""A job's or a component's YAML below include/ml: rendered, overridden, digested, and the SDK's complaints about it.

Values of ours are written ``{{ name }}``; Azure ML's own expressions ``${{inputs.x}}`` are left alone.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-overview
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from azflow.errors import ConfigurationError, SpecError, first_line
from azflow.specs import INCLUDE, Night

_EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
#: Azure ML limits a tag's value: https://learn.microsoft.com/azure/machine-learning/resource-limits-capacity
_TAG_LENGTH = 256
_COMPONENT_KEYS = frozenset({"component", "trial"})
#: Keys whose text may be a local path: https://learn.microsoft.com/azure/machine-learning/reference-yaml-overview
_FILE_KEYS = _COMPONENT_KEYS | {"code", "conda_file", "path"}


def read_job(job: str, values: Mapping[str, Any], include: Path = INCLUDE) -> dict[str, Any]:
    """A job's YAML below ``include/ml``, rendered with `values`: plain data.

    :param job: path below include/ml.
    :raises SpecError: it can't be read, rendered or parsed; names the file and the line.
    """
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    path, shown = include / "ml" / job, f"include/ml/{job}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(shown, "", f"can't be read: {problem.strerror}") from None
    text = keep_expressions(text)
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        rendered = environment.from_string(text).render(**values)
    except jinja2.TemplateSyntaxError as problem:
        raise SpecError(shown, f"line {problem.lineno}", f"is no template: {problem.message}") from None
    except jinja2.UndefinedError as problem:
        raise SpecError(shown, "", f"{problem.message}; inputs given: {_names(values.get('inputs'))}") from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as problem:
        raise SpecError(shown, "", f"can't be rendered: {first_line(problem)}") from problem
    try:
        content = yaml.safe_load(rendered)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"line {mark.line + 1} (rendered)" if mark else ""
        raise SpecError(shown, place, f"is no YAML: {getattr(problem, 'problem', None) or problem}") from None
    if not isinstance(content, dict):
        raise SpecError(shown, "", "must be a mapping of keys")
    return content


def keep_expressions(value: Any) -> Any:
    """Template text, in plain values of any depth, that keeps Azure ML's ``${{...}}``: it has Jinja's braces too."""
    if isinstance(value, str):
        return _EXPRESSION.sub(lambda found: "{% raw %}" + found[0] + "{% endraw %}", value)
    if isinstance(value, Mapping):
        return {key: keep_expressions(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [keep_expressions(each) for each in value]
    return value


def override(
    content: dict[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """`content` with the values a task gives: inputs and outputs the YAML declares, and any other key (merged deeply).

    Inputs that the YAML doesn't declare are for its template only.
    """
    merged = _merge(content, settings)
    for key, given, literal in (("inputs", inputs, True), ("outputs", outputs, False)):
        declared = merged.get(key)
        if not isinstance(declared, dict):
            continue
        changed = dict(declared)
        for name in declared.keys() & given.keys():
            entry, value = declared[name], given[name]
            if isinstance(value, Mapping):
                changed[name] = {**entry, **value} if isinstance(entry, dict) else dict(value)
            elif isinstance(entry, dict):
                changed[name] = {**entry, "path": value}
            else:
                changed[name] = value if literal else {"path": value}
        merged[key] = changed
    return merged


def content_digest(content: Mapping[str, Any], job: str, include: Path = INCLUDE) -> str:
    """Digest of the local files that a YAML names, and those that the components it names name in turn: code, conda
    files, build contexts, data.

    Two tries of a task are the same work only if the code is the same.

    :param job: where the YAML lies, relative to include/ml.
    """
    digest = hashlib.sha256()
    for root in named_files(content, (include / "ml" / job).parent):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts:
                shown = path.relative_to(root) if root.is_dir() else path.name
                digest.update(f"{shown}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def named_files(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Files and folders below `folder` that a job's or component's content names, in its order; each once."""
    found: dict[Path, None] = {}
    _collect(content, folder, found)
    return list(found)


def _collect(content: object, folder: Path, found: dict[Path, None]) -> None:
    if isinstance(content, list):
        for each in content:
            _collect(each, folder, found)
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if not isinstance(value, str):
            _collect(value, folder, found)
            continue
        if key not in _FILE_KEYS or "${{" in value or "\n" in value:
            continue
        text = value.removeprefix("file:")
        if not text or text.startswith("azureml:") or "://" in text:
            continue
        path = (folder / text).resolve()
        if path in found or not path.exists():
            continue
        found[path] = None
        if key in _COMPONENT_KEYS and path.is_file():
            try:
                _collect(yaml.safe_load(path.read_text(encoding="utf-8")), path.parent, found)
            except (yaml.YAMLError, UnicodeDecodeError):
                continue  # the SDK will say what is wrong with it


def git_commit(folder: Path = INCLUDE) -> str:
    """The project's commit (with ``-dirty``): AZFLOW_GIT_COMMIT, where an image was built without .git, or git's."""
    if given := os.environ.get("AZFLOW_GIT_COMMIT"):
        return given
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def origin(night: Night) -> dict[str, str]:
    """Where something comes from, as tags of jobs and assets."""
    return {
        "git_commit": tag(git_commit()),
        "dag": tag(night.dag_id),
        "run": tag(night.run_id),
        "partition": str(night.partition),
    }


def tag(value: object) -> str:
    """`value` as a tag's text, within Azure ML's limit."""
    return str(value)[:_TAG_LENGTH]


def truth(value: str | bool, name: str) -> bool:
    """A flag from a template, whose values are text. Raises ConfigurationError, naming it."""
    if isinstance(value, bool):
        return value
    text = value.strip().lower()
    if text in ("true", "1", "yes"):
        return True
    if text in ("", "false", "0", "no", "none"):
        return False
    raise ConfigurationError(f"{name} is {value!r}; it must be true or false.")


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _names(values: object) -> str:
    return ", ".join(sorted(values)) if isinstance(values, Mapping) and values else "none"


# -- what the SDK says about it --------------------------------------------------------------------------------------

_JSON = re.compile(r"\{.*\}", re.DOTALL)
_NOT_IN_SET = re.compile(r"(Value '.*' passed is not in set) \[(.*)\]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Of marshmallow's own making: they stand in the SDK's paths and in no file.
_NO_KEYS = frozenset({"value", "_schema", "null", "*", ""})
_MOST_FINDINGS = 5
Finding = tuple[tuple[str, ...], str]


def refusal(shown: str, problem: BaseException, source: Path | None = None, subject: str = "job") -> SpecError:
    """The SDK's or the service's complaint as an error that names file, line and key, in its own words.

    :param shown: what messages call the YAML.
    :param source: where it lies, if it is a file.
    """
    found = findings(problem)
    if not found and "type" in (words := sdk_words(problem)) and words.startswith("Unsupported"):
        found = [(("type",), words)]
    if not found:
        return SpecError(shown, "", f"is no {subject} that Azure ML takes: {sdk_words(problem)}")
    text = ""
    if source is not None:
        with contextlib.suppress(OSError):
            text = source.read_text(encoding="utf-8")
    said = []
    for path, words in found[:_MOST_FINDINGS]:
        line = line_of(text, path)
        place = [f"line {line}"] if line else []
        said.append((", ".join([*place, ".".join(path)] if path else place), words))
    first, words = said[0]
    rest = "".join(f"\n  {where}: {what}" for where, what in said[1:])
    more = f"\n  and {len(found) - _MOST_FINDINGS} more" if len(found) > _MOST_FINDINGS else ""
    return SpecError(shown, first, f"{words}{rest}{more}")


def findings(problem: BaseException) -> list[Finding]:
    """What a validation error of azure-ai-ml complains about: (path of keys, its words), in its order.

    The SDK nests JSON in its messages: a tree of marshmallow's, a list of ``{"path", "message"}``, or one in the other.
    """
    return _unique(_read_findings(_COLOURS.sub("", str(problem)), ()))


def _read_findings(text: str, path: tuple[str, ...]) -> Iterator[Finding]:
    try:
        content = json.loads(match[0]) if (match := _JSON.search(text)) else None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return
    if not isinstance(content.get("errors"), list):
        yield from _flatten(content, path)
        return
    for error in content["errors"]:
        message = str(error.get("message") or "")
        below = (*path, *_keys(str(error.get("path") or "").split(".")))
        nested = list(_read_findings(message, below))
        yield from nested or [(below, _one_line(message))]


def _flatten(tree: object, path: tuple[str, ...]) -> Iterator[Finding]:
    """Leaves of marshmallow's tree. Mappings in a list are what the members of a union miss: of those whose `type` fits
    the first counts; if none fits, their types are all that can be said."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flatten(value, (*path, *_keys([str(key)])))
    elif isinstance(tree, list):
        yield from ((path, _one_line(str(each))) for each in tree if not isinstance(each, Mapping))
        members = [each for each in tree if isinstance(each, Mapping)]
        # A member for plain values says nothing about a mapping.
        members = [each for each in members if set(each) - _NO_KEYS] or members
        fitting = next((each for each in members if "type" not in each), None)
        if fitting is not None:
            yield from _flatten(fitting, path)
        else:
            for each in members:
                yield from _flatten({"type": each["type"]}, path)


def _keys(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if part not in _NO_KEYS]


def _unique(found: Iterator[Finding]) -> list[Finding]:
    """Each finding once; the allowed values of a union's members in one list."""
    said: dict[Finding, None] = {}
    sets: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for path, words in found:
        if match := _NOT_IN_SET.fullmatch(words):
            key = (path, match[1])
            if key not in sets:
                said[path, match[1]] = None
            sets.setdefault(key, []).append(match[2])
        elif words:
            said[path, words] = None
    return [
        (path, f"{words} [{', '.join(sets[path, words])}]" if (path, words) in sets else words) for path, words in said
    ]


def line_of(source: str, path: Sequence[str]) -> int | None:
    """The 1-based line of a key in a YAML template, or of the nearest key above it that is there; None: no idea.

    :param source: the template's text: Jinja's tags are looked over, they keep their lines.
    """
    blind = re.sub(r"\{#.*?#\}|\{%.*?%\}", lambda tag: "\n" * tag[0].count("\n"), source, flags=re.DOTALL)
    blind = re.sub(r"(?<!\$)\{\{.*?\}\}", lambda tag: "x" + "\n" * tag[0].count("\n"), blind, flags=re.DOTALL)
    try:
        node = yaml.compose(blind, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    line = None
    for key in path:
        if not isinstance(node, yaml.MappingNode):
            break
        for name, value in node.value:
            if name.value == key:
                line, node = name.start_mark.line + 1, value
                break
        else:
            break
    return line


def sdk_words(problem: BaseException) -> str:
    """The SDK's message without its colours, help links and empty lines."""
    return _one_line(_COLOURS.sub("", str(problem)))[:1000] or type(problem).__name__


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
