"""What an environment asks for, as pip writes it: conda files read requirement by requirement.

https://docs.conda.io/projects/conda/en/latest/user-guide/tasks/manage-environments.html#creating-an-environment-file-manually
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from localazure.core.errors import BadRequest

# What a conda environment needs and a virtual environment doesn't have, or brings itself.
_CONDA_OWN = frozenset({"pip", "setuptools", "wheel", "libgcc", "libgomp", "openssl", "ca-certificates", "nomkl"})
# Programs and libraries that conda has and the Python package index hasn't (or has as something else).
_CONDA_ONLY = frozenset(
    {
        "gcc", "gxx", "gfortran", "compilers", "cxx-compiler", "c-compiler", "make", "git", "git-lfs", "curl", "wget",
        "nodejs", "openjdk", "java-jdk", "maven", "ffmpeg", "graphviz", "gdal", "pandoc", "libgdal", "openmpi", "mpich",
        "nccl", "cudatoolkit", "cudnn", "cuda", "pytorch-cuda", "mkl", "blas", "libblas", "liblapack", "openblas",
        "libopenblas", "conda", "mamba", "r-base", "zlib", "libiconv", "libxml2", "geos", "proj", "hdf5", "sqlite",
    }
)  # fmt: skip
_CONDA_ONLY_PREFIXES = ("r-", "cuda-", "gcc_", "gxx_", "bioconductor-", "lib")
_CONDA_NAMES = {"pytorch": "torch", "py-xgboost": "xgboost", "msgpack-python": "msgpack", "python-graphviz": "graphviz"}
_PYTHON_PACKAGES_CALLED_LIB = frozenset({"libcst", "librosa", "libsass", "libclang", "libtorrent", "libarchive-c"})
_CONDA = re.compile(r"(?P<name>[A-Za-z0-9_.\-]+)\s*(?P<spec>[=<>!~].*)?")

_USER = re.compile(r"//[^/@\s]*@")  # a name and password in an address


@dataclass(frozen=True)
class Requirements:
    """`python` is a specifier ("" for any), `packages` are pip's lines, `conda_only` is what pip can't have,
    `variables` are environment variables that an image would set.
    """

    python: str
    packages: tuple[str, ...]
    conda_only: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def read(environment: dict[str, Any]) -> Requirements | None:
    """What an environment version (its ARM resource, or the properties) asks for; None if it is an image alone."""
    conda_file = environment.get("properties", environment).get("condaFile")
    return _read(conda_file) if conda_file else None


def _read(conda_file: str) -> Requirements:
    try:
        content = yaml.safe_load(conda_file)
    except yaml.YAMLError as error:
        raise BadRequest(f"The environment's conda file is not YAML: {error}", "condaFile", "UserError") from error
    entries = content.get("dependencies", []) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise BadRequest("The environment's conda file has no list 'dependencies'.", "condaFile", "UserError")
    python = ""
    packages: list[str] = []
    conda_only: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            packages += [str(line).partition(" #")[0].strip() for line in entry.get("pip") or []]
            continue
        text = str(entry).rpartition("::")[2].strip()  # channel::package
        match = _CONDA.fullmatch(text)
        if match is None:
            packages.append(text)
            continue
        name, specifier = match["name"].lower(), _pip_specifier(match["spec"] or "")
        if name == "python":
            python = specifier
        elif _only_conda_has(name):
            conda_only.append(text)
        elif name not in _CONDA_OWN:
            packages.append(_CONDA_NAMES.get(name, name) + specifier)
    return Requirements(
        python, tuple(line for line in packages if line and not line.startswith("#")), tuple(conda_only)
    )


def _only_conda_has(name: str) -> bool:
    if name in _CONDA_OWN or name in _PYTHON_PACKAGES_CALLED_LIB:
        return False
    return name in _CONDA_ONLY or name.startswith(_CONDA_ONLY_PREFIXES)


def _pip_specifier(conda: str) -> str:
    """`=1.2` -> `==1.2.*`, `=1.2=py_0` -> `==1.2.*`; comparisons are the same in both."""
    text = conda.replace(" ", "")
    if text.startswith("=") and not text.startswith("=="):
        version = text.lstrip("=").partition("=")[0]
        return "==" + (version if version.endswith("*") else f"{version}.*")
    return text


def refused(line: str) -> str | None:
    """Why localazure installs no such requirement, None if it may be tried."""
    shown = without_password(line)
    if line.startswith("-"):
        return f"{shown} (pip options are not supported)"
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return f"{shown} (not a requirement localazure can check)"
    if requirement.url:
        return f"{shown} (installed from an address; localazure takes packages from the package index only)"
    return None


def without_password(text: str) -> str:
    """The text with names and passwords left out of addresses."""
    return _USER.sub("//", text)


def name_of(line: str) -> str:
    """The canonical name of whatever a line asks for; the line itself if that can't be told."""
    try:
        return canonical(line)
    except InvalidRequirement:
        return line


def canonical(line: str) -> str:
    """The canonical name of a requirement that isn't refused."""
    return canonicalize_name(Requirement(line).name)
