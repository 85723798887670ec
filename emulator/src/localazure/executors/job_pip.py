"""`pip install` inside a job's command: into a folder of the job's own.

Many jobs begin with `pip install`. In a container that changes the container and nothing else; here the interpreter is
shared, so a program `pip` (and a module, for `python -m pip`) stands in the job's path that installs below the job's
folder, by uv, ahead of everything else on the job's path.
"""

from __future__ import annotations

import shlex
from pathlib import Path

_PROGRAM = """#!/bin/sh
# pip of this job: packages go to a folder of its own.
# The package index is trusted by the machine's certificates; the job's own are for localazure.
{certificates}
command=$1
[ $# -gt 0 ] && shift
case "$command" in
install)
    for argument in "$@"; do
        shift
        case "$argument" in
        --user | --disable-pip-version-check | --no-warn-script-location | --root-user-action=* | --no-input) ;;
        *) set -- "$@" "$argument" ;;
        esac
    done
    exec {uv} pip install --python {python} --target {packages} "$@"
    ;;
list | freeze | show | check) exec {uv} pip "$command" --python {python} "$@" ;;
--version | -V) exec {uv} --version ;;
*)
    echo "pip $command is not available in a job of localazure; install, list, freeze, show and check are" >&2
    exit 1
    ;;
esac
"""
_MODULE = """import os
import sys

os.execv({program!r}, [{program!r}, *sys.argv[1:]])
"""


def provide(folder: Path, python: Path, uv: str, certificates: str | None) -> tuple[Path, Path]:
    """The job's `pip` below `folder`: (a folder of programs, a folder of packages), both for the front of its paths.

    `certificates` is the file of certificates that uv is to trust besides the machine's, if any.
    """
    packages, programs = folder / "packages", folder / "programs"
    (packages / "pip").mkdir(parents=True, exist_ok=True)
    programs.mkdir(exist_ok=True)
    quoted = {"uv": uv, "python": str(python), "packages": str(packages)}
    program = programs / "pip"
    trusted = f"export SSL_CERT_FILE={shlex.quote(certificates)}" if certificates else "unset SSL_CERT_FILE"
    values = {name: shlex.quote(value) for name, value in quoted.items()}
    program.write_text(_PROGRAM.format(certificates=trusted, **values))
    program.chmod(0o755)
    for name in ("pip3", f"pip3.{python.resolve().name.rpartition('.')[2]}"):
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to("pip")
    (packages / "pip" / "__init__.py").touch()
    (packages / "pip" / "__main__.py").write_text(_MODULE.format(program=str(program)))
    return programs, packages
