"""Whether the compute environment satisfies what a job's or deployment's environment asks for.

localazure builds no images: everything runs in one prepared environment. A conda file is read requirement by
requirement, and
what that environment doesn't have is named; nothing runs with something else than it asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.settings import Settings

# Azure's glue, without a job of its own here: tracking goes to an https address that plain MLflow reads.
_PROVIDED = frozenset({"azureml-mlflow", "azureml-defaults", "azureml-core"})
# What a conda environment needs and a virtual environment doesn't have.
_CONDA_ONLY = frozenset(
    {"pip", "setuptools", "wheel", "gcc", "gxx", "libgcc", "libgomp", "openssl", "ca-certificates", "nomkl"}
)
_CONDA_NAMES = {"pytorch": "torch", "py-xgboost": "xgboost", "msgpack-python": "msgpack"}
# The same import package under another distribution's name.
_EQUIVALENT = {"xgboost": "xgboost-cpu", "mlflow-skinny": "mlflow", "opencv-python": "opencv-python-headless"}

_LIST = """
import importlib.metadata, json, sys
names = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "packages": names}))
"""
_CONDA = re.compile(r"(?P<name>[A-Za-z0-9_.\-]+)\s*(?P<spec>[=<>!~].*)?")


def check(environment: dict[str, Any], settings: Settings) -> list[str]:
    """The requirements that the compute environment doesn't meet, each as text; empty if the job may run.

    `environment` is an environment version's ARM resource (or its properties). A build context can't be looked
    into: 501.
    """
    properties = environment.get("properties", environment)
    if properties.get("build"):
        raise NotImplementedOperation("An environment with a Docker build context")
    conda_file = properties.get("condaFile")
    if not conda_file:
        return []
    python, packages = installed(settings.compute_python, _changed(settings.compute_python))
    missing: list[str] = []
    for requirement in _requirements(conda_file):
        problem = _unmet(requirement, python, packages)
        if problem is not None:
            missing.append(problem)
    return missing


@lru_cache(maxsize=4)
def installed(python: Path, changed: float = 0.0) -> tuple[str, dict[str, str]]:
    """The interpreter's version and its packages: canonical name -> version. Asked again when `changed` is another."""
    answer = json.loads(
        subprocess.run([python, "-c", _LIST], check=True, capture_output=True, text=True, timeout=120).stdout
    )
    return answer["python"], {canonicalize_name(name): version for name, version in answer["packages"].items()}


def _changed(python: Path) -> float:
    """When packages were last installed or removed there; 0 if that can't be seen."""
    folders = python.parent.parent.glob("lib/python3*/site-packages")
    return max((folder.stat().st_mtime for folder in folders), default=0.0)


def _requirements(conda_file: str) -> list[str]:
    """Every requirement of a conda file, conda's own rewritten as pip's."""
    try:
        content = yaml.safe_load(conda_file)
    except yaml.YAMLError as error:
        raise BadRequest(f"The environment's conda file is not YAML: {error}", "condaFile", "UserError") from error
    if not isinstance(content, dict) or not isinstance(content.get("dependencies", []), list):
        raise BadRequest("The environment's conda file has no list 'dependencies'.", "condaFile", "UserError")
    found: list[str] = []
    for entry in content.get("dependencies", []):
        if isinstance(entry, dict):
            found += [str(line).strip() for line in entry.get("pip") or []]
            continue
        text = str(entry).rpartition("::")[2].strip()  # channel::package
        match = _CONDA.fullmatch(text)
        if match is None:
            found.append(text)
            continue
        name = match["name"].lower()
        if name not in _CONDA_ONLY:
            found.append(_CONDA_NAMES.get(name, name) + _pip_specifier(match["spec"] or ""))
    return [line for line in found if line and not line.startswith("#")]


def _pip_specifier(conda: str) -> str:
    """`=1.2` -> `==1.2.*`, `=1.2=py_0` -> `==1.2.*`; comparisons are the same in both."""
    text = conda.replace(" ", "")
    if text.startswith("=") and not text.startswith("=="):
        version = text.lstrip("=").partition("=")[0]
        return "==" + (version if version.endswith("*") else f"{version}.*")
    return text


def _unmet(line: str, python: str, packages: dict[str, str]) -> str | None:
    """Why one requirement isn't met, None if it is."""
    if line.startswith("-"):
        return f"{line} (pip options are not supported)"
    try:
        requirement = Requirement(line.partition(" #")[0].strip())
    except InvalidRequirement:
        return f"{line} (not a requirement localazure can check)"
    name = canonicalize_name(requirement.name)
    if requirement.url:
        return f"{line} (installed from an address; localazure installs nothing)"
    if (requirement.marker is not None and not requirement.marker.evaluate()) or name in _PROVIDED:
        return None
    version = python if name == "python" else packages.get(name) or packages.get(_EQUIVALENT.get(name, ""))
    if version is None:
        return f"{line} (not installed)"
    if not requirement.specifier.contains(Version(version), prereleases=True):
        return f"{line} (installed: {version})"
    return None
