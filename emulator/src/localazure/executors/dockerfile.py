"""A Docker build context as requirements: Dockerfiles that do nothing but install Python packages.

Most contexts of Azure ML's environments are a base image, a copied requirements.txt or conda file and one
`RUN pip install`. Those are read here; anything else that an image would hold (`apt-get`, several stages, a program
that is fetched) can't be had without the image and is refused with its line. Files that are copied are there for the
installation only.
https://docs.docker.com/reference/dockerfile
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from localazure.core.errors import NotImplementedOperation
from localazure.executors import requirements
from localazure.executors.requirements import Requirements

# What says nothing about the packages: Azure ML gives the command, the folder and the user itself.
_WITHOUT_MEANING = frozenset(
    {"CMD", "ENTRYPOINT", "EXPOSE", "LABEL", "MAINTAINER", "USER", "WORKDIR", "SHELL", "VOLUME", "HEALTHCHECK",
     "STOPSIGNAL", "COPY", "ADD"}
)  # fmt: skip
_PYTHON_IMAGE = re.compile(r"(?:.*/)?python:(?P<version>3\.\d+)(?:[.\-].*)?")
_PIP_FLAGS = frozenset(
    {"--no-cache-dir", "--quiet", "-q", "--upgrade", "-U", "--user", "--no-input", "--prefer-binary",
     "--disable-pip-version-check", "--root-user-action=ignore", "--no-warn-script-location"}
)  # fmt: skip
_CONDA_FLAGS = frozenset({"-y", "--yes", "-q", "--quiet", "--prune", "--json"})
_HARMLESS = frozenset({"rm", "mkdir", "echo", "true", "cd", "set"})


def read(context: Path, dockerfile: str) -> Requirements:
    """What the Dockerfile at `dockerfile` below `context` installs; NotImplementedOperation names the line that does
    more than that.
    """
    path = context / dockerfile
    if not path.is_file():
        there = ", ".join(sorted(each.name for each in context.iterdir())[:20])
        raise NotImplementedOperation(f"An environment whose build context has no {dockerfile} (it has {there})")
    return _Reader(context, dockerfile).read(path.read_text())


class _Reader:
    def __init__(self, context: Path, name: str) -> None:
        self._context = context
        self._name = name
        self._python = ""
        self._packages: list[str] = []
        self._conda_only: list[str] = []
        self._variables: dict[str, str] = {}
        self._arguments: dict[str, str] = {}
        self._stages = 0
        self._where = ""

    def read(self, text: str) -> Requirements:
        for number, instruction, rest in _instructions(text):
            self._where = f"line {number} of {self._name}: {instruction} {rest}"[:200]
            if instruction in _WITHOUT_MEANING:
                continue
            if instruction == "FROM":
                self._from(self._expanded(rest))
            elif instruction == "ARG":
                name, _, value = rest.partition("=")
                self._arguments.setdefault(name.strip(), value.strip("\"'"))
            elif instruction == "ENV":
                self._env(rest)
            elif instruction == "RUN":
                self._run(self._expanded(rest))
            else:
                raise self._refused()
        variables = tuple((name, value) for name, value in self._variables.items() if name != "PATH")
        return Requirements(self._python, tuple(self._packages), tuple(self._conda_only), variables)

    def _from(self, image: str) -> None:
        self._stages += 1
        if self._stages > 1:
            raise self._refused()
        if match := _PYTHON_IMAGE.fullmatch(image.split(maxsplit=1)[0]):
            self._python = f"=={match['version']}.*"

    def _env(self, rest: str) -> None:
        words = shlex.split(rest)
        if "=" in words[0]:
            self._variables |= {
                name: self._expanded(value) for name, _, value in (each.partition("=") for each in words)
            }
        else:
            self._variables[words[0]] = self._expanded(" ".join(words[1:]))

    def _run(self, rest: str) -> None:
        if rest.startswith(("[", "--mount")):
            raise self._refused()
        for command in re.split(r"&&|;|\n", rest):
            words = shlex.split(command)
            if words[:3] in (["python", "-m", "pip"], ["python3", "-m", "pip"]):
                words = ["pip", *words[3:]]
            match words:
                case []:
                    continue
                case ["pip" | "pip3", "install", *arguments]:
                    self._pip(arguments)
                case ["conda" | "mamba", "env", "create" | "update", *arguments]:
                    self._conda_file(arguments)
                case ["conda" | "mamba", "install", *arguments] if not any(
                    each.startswith("-") and each not in _CONDA_FLAGS for each in arguments
                ):
                    lines = [f"- {each}" for each in arguments if not each.startswith("-")]
                    self._conda("dependencies:\n" + "\n".join(lines))
                case ["pip" | "conda" | "mamba", "cache" | "clean", *_]:
                    continue
                case [program, *_] if program in _HARMLESS:
                    continue
                case _:
                    raise self._refused()

    def _pip(self, arguments: list[str]) -> None:
        left = iter(arguments)
        for argument in left:
            if argument in ("-r", "--requirement"):
                self._packages += _lines(self._file(next(left, "")))
            elif argument.startswith("--requirement="):
                self._packages += _lines(self._file(argument.partition("=")[2]))
            elif argument in _PIP_FLAGS:
                continue
            elif argument.startswith("-") or argument.endswith(".whl") or argument.startswith((".", "/")):
                raise self._refused()
            elif requirements.name_of(argument) not in ("pip", "setuptools", "wheel"):
                self._packages.append(argument)

    def _conda_file(self, arguments: list[str]) -> None:
        left = iter(arguments)
        for argument in left:
            if argument in ("-f", "--file"):
                self._conda(self._file(next(left, "")).read_text())
            elif argument.startswith("--file="):
                self._conda(self._file(argument.partition("=")[2]).read_text())
            elif argument in ("-n", "--name", "-p", "--prefix"):
                next(left, None)
            elif argument not in _CONDA_FLAGS:
                raise self._refused()

    def _conda(self, content: str) -> None:
        found = requirements.read({"condaFile": content})
        if found is not None:
            self._python = found.python or self._python
            self._packages += found.packages
            self._conda_only += found.conda_only

    def _file(self, name: str) -> Path:
        """A file that was copied into the image: the one of the context by that name."""
        wanted = Path(name)
        inside = [self._context / wanted, *sorted(self._context.rglob(wanted.name))]
        for path in inside:
            if path.is_file() and path.resolve().is_relative_to(self._context.resolve()):
                return path
        raise NotImplementedOperation(f"An environment whose build context lacks the file {name} ({self._where})")

    def _expanded(self, text: str) -> str:
        known = self._arguments | self._variables
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: known.get(match[1] or match[2], match[0]), text)

    def _refused(self) -> NotImplementedOperation:
        return NotImplementedOperation(
            "An environment with a Docker build context that does more than install Python packages, "
            + requirements.without_password(self._where)
        )


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, instruction, the rest), with continued lines joined and comments left out."""
    parts: list[str] = []
    begun = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        begun = begun or number
        parts.append(line.rstrip().removesuffix("\\"))
        if line.rstrip().endswith("\\"):
            continue
        instruction, _, rest = " ".join(parts).strip().partition(" ")
        yield begun, instruction.upper(), rest.strip()
        parts, begun = [], 0


def _lines(file: Path) -> list[str]:
    lines = (line.partition(" #")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]
