"""The Python of an environment: the prepared compute environment where it will do, else one built for it and kept.

localazure pulls no images. An environment's conda file is read requirement by requirement (`executors.requirements`);
what the compute environment doesn't have is installed into a virtual environment of its own by uv
(https://docs.astral.sh/uv), once: `<home>/environments/<digest>/` holds it with its requirements and the build's log.
Nothing runs with something else than it asked for: what can't be had is named, and fails the job or deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from localazure.core.errors import AzureError, NotImplementedOperation
from localazure.executors import dockerfile, processes
from localazure.executors.requirements import Requirements, canonical, read, refused
from localazure.settings import Settings

# The job's log of a build, under the name that Azure ML gives it.
BUILD_LOG = "azureml-logs/20_image_build_log.txt"
# Azure's glue, and what stands for it in an environment that is built: tracking goes to an https address that plain
# MLflow reads; the module mltable is localazure's own, on every job's path, and needs these two.
_GLUE = {
    "azureml-mlflow": ("mlflow-skinny",),
    "azureml-defaults": ("mlflow-skinny",),
    "mltable": ("pandas", "pyarrow"),
}
# The same import package under another distribution's name.
_EQUIVALENT = {"xgboost": "xgboost-cpu", "mlflow-skinny": "mlflow", "opencv-python": "opencv-python-headless"}
_BUILD_SECONDS = 30 * 60
_LOG_LINES = 15
_POLL_SECONDS = 0.2
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY",
              "ALL_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")  # fmt: skip

_LIST = """
import importlib.metadata, json, sys
names = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "packages": names}))
"""


class EnvironmentFailed(AzureError):
    """An environment that can't be had: 400 with code ImageBuildFailure, every reason in the message."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "ImageBuildFailure", message, "environmentId")


async def ready(
    environment: dict[str, Any] | Requirements,
    settings: Settings,
    log: Callable[[], Path],
    more: Sequence[str] = (),
) -> Path:
    """The interpreter of an environment that has everything `environment` (an ARM resource, or what it was read to)
    asks for.

    The compute environment's if that does; otherwise one that is built now or was before. `log` gives the file for the
    build's log and is called only then. `more` are requirements that the caller has. Cancelled, it ends the build.
    Raises EnvironmentFailed naming what can't be had, with the resolver's last lines; NotImplementedOperation for a
    Docker build context.
    """
    missing = await asyncio.to_thread(check, environment, settings)
    if not missing:
        return settings.compute_python
    asked = environment if isinstance(environment, Requirements) else read(environment)
    assert asked is not None
    if reasons := [*_conda_only(asked), *(reason for line in asked.packages if (reason := refused(line)))]:
        raise EnvironmentFailed("The environment can't be built:\n" + "\n".join(f"  - {each}" for each in reasons))
    wanted = await asyncio.to_thread(_wanted, asked, more, settings)
    python = _suits(asked.python, settings)
    key = hashlib.sha256("\n".join((python, *wanted)).encode()).hexdigest()[:16]
    folder = settings.home / "environments" / key
    async with _alone(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            await _build(folder, python, wanted, log())
        else:
            shutil.copyfile(folder / "build.log", log())
    return folder / "bin" / "python"


def ready_blocking(
    environment: dict[str, Any] | Requirements, settings: Settings, log: Callable[[], Path], more: Sequence[str] = ()
) -> Path:
    """`ready`, for a thread without an event loop."""
    return asyncio.run(ready(environment, settings, log, more))


def asked_for(environment: dict[str, Any], resolve: Callable[[str], Path]) -> dict[str, Any] | Requirements:
    """What to give to `ready` and `check`: the environment, or what its Docker build context installs.

    `resolve` brings an address near. Raises NotImplementedOperation if an image would hold more than Python packages.
    """
    build = environment.get("properties", environment).get("build")
    if not build:
        return environment
    return dockerfile.read(resolve(build["contextUri"]), build.get("dockerfilePath") or "Dockerfile")


def check(environment: dict[str, Any] | Requirements, settings: Settings) -> list[str]:
    """The requirements that the compute environment doesn't meet, each as text; empty if that may run it.

    `environment` is an environment version's ARM resource (or its properties), or what it was read to. A build context
    can't be looked into here (`asked_for` does): 501.
    """
    if isinstance(environment, Requirements):
        asked: Requirements | None = environment
    elif environment.get("properties", environment).get("build"):
        raise NotImplementedOperation("An environment with a Docker build context")
    else:
        asked = read(environment)
    if asked is None:
        return []
    python, packages = installed(settings.compute_python, _changed(settings.compute_python))
    missing = _conda_only(asked)
    if asked.python and not SpecifierSet(asked.python).contains(python):
        missing.append(f"python{asked.python} (installed: {python})")
    return missing + [problem for line in asked.packages if (problem := _unmet(line, packages))]


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


def _conda_only(asked: Requirements) -> list[str]:
    return [f"{text} (only conda has it)" for text in asked.conda_only]


def _unmet(line: str, packages: dict[str, str]) -> str | None:
    """Why one requirement isn't met, None if it is."""
    if problem := refused(line):
        return problem
    requirement = Requirement(line)
    name = canonicalize_name(requirement.name)
    if (requirement.marker is not None and not requirement.marker.evaluate()) or name in _GLUE:
        return None
    version = packages.get(name) or packages.get(_EQUIVALENT.get(name, ""))
    if version is None:
        return f"{line} (not installed)"
    if not requirement.specifier.contains(Version(version), prereleases=True):
        return f"{line} (installed: {version})"
    return None


def _wanted(asked: Requirements, more: Sequence[str], settings: Settings) -> list[str]:
    """The lines to install. Azure's glue becomes the MLflow it stands for, of our server's version unless one is
    named.
    """
    names = {canonical(line) for line in asked.packages}
    lines = {line for line in asked.packages if canonical(line) not in _GLUE}
    ours, packages = installed(settings.compute_python, _changed(settings.compute_python))
    for name in {stand_in for glue in names & _GLUE.keys() for stand_in in _GLUE[glue]} - names:
        if name != "mlflow-skinny":
            lines.add(name)
        elif "mlflow" not in names:
            # An older Python has no MLflow as new as our server, and an older one will do.
            version = packages.get("mlflow") if SpecifierSet(asked.python).contains(ours) else None
            lines.add("mlflow-skinny" + (f"=={version}" if version else ""))
    return sorted({*lines, *more})


def _suits(specifier: str, settings: Settings) -> str:
    """What uv is asked for: the compute environment's interpreter if its version will do, else a version."""
    python, _ = installed(settings.compute_python, _changed(settings.compute_python))
    return str(settings.compute_python) if SpecifierSet(specifier).contains(python) else specifier


async def _build(folder: Path, python: str, wanted: Sequence[str], log: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = folder.parent / f"{folder.name}.log"
    own.write_text("requirements:\n" + "".join(f"  {line}\n" for line in wanted))
    following = asyncio.get_running_loop().create_task(_follow(own, log))
    tool = uv_program()
    wish = f"Python {python}" if python[:1] in "<>=!~" else python
    try:
        await _step(
            [tool, "venv", "--no-python-downloads", "--python", python, str(folder)],
            own,
            f"needs {wish}, which isn't here",
        )
        (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in wanted))
        install = [
            tool,
            "pip",
            "install",
            "--python",
            str(folder / "bin/python"),
            "-r",
            str(folder / "requirements.txt"),
        ]
        await _step(install, own, "couldn't be built")
        shutil.copyfile(own, folder / "build.log")
        (folder / "ready").touch()
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        shutil.copyfile(own, log)
        own.unlink()
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)


async def _step(argv: list[str], log: Path, what: str) -> None:
    process = processes.start(argv, env=uv_environment(), cwd=log.parent, log=log)
    try:
        async with asyncio.timeout(_BUILD_SECONDS):
            code = await process.wait()
    except TimeoutError:
        raise EnvironmentFailed(f"The environment wasn't built within {_BUILD_SECONDS // 60} minutes.") from None
    finally:
        if process.poll() is None:
            process.kill()
    if code != 0:
        lines = "\n".join(processes.tail(log, _LOG_LINES))
        raise EnvironmentFailed(f"The environment {what}: uv ended with code {code}. Last lines of its log:\n{lines}")


async def _follow(source: Path, target: Path) -> None:
    """Keeps the job's log up with the build's."""
    while True:
        with contextlib.suppress(OSError):
            shutil.copyfile(source, target)
        await asyncio.sleep(1)


def uv_environment() -> dict[str, str]:
    """The environment variables uv runs with."""
    found = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("UV_")}
    # Behind a proxy that re-signs TLS, the system's certificates are the ones that count; uv has its own by default.
    found.setdefault("UV_SYSTEM_CERTS", "true")
    found |= {"NO_COLOR": "1", "UV_NO_PROGRESS": "true"}
    # pyenv's shims answer for versions that they then refuse to run; its versions are looked at directly.
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    versions = [str(folder) for folder in sorted(root.glob("versions/*/bin"))]
    parts = [part for part in found.get("PATH", os.defpath).split(os.pathsep) if Path(part) != root / "shims"]
    return found | {"PATH": os.pathsep.join([*parts, *versions])}


def uv_program() -> str:
    """The program uv of this process' environment."""
    from uv import find_uv_bin

    return os.fsdecode(find_uv_bin())


@contextlib.asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[None]:
    """One build of an environment at a time, over threads and processes; who waits can be cancelled."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_SECONDS)
        yield
