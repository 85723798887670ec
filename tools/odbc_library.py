"""Fetches libltdl7, which mssql-python's ODBC driver needs, where it isn't installed: Debian and Ubuntu, without root.

    bin/python3 tools/odbc_library.py

No package of PyPI brings the library. apt downloads Debian's (signatures are checked as always), and what is in it goes
into var/odbc, where the contract tests of mssql-python's ODBC provider look; without it they are skipped, and say so.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "var" / "odbc"
LIBRARY = "libltdl.so.7"


def main() -> int:
    """Download, unpack, keep the library."""
    if (TARGET / LIBRARY).exists():
        print(f"{TARGET / LIBRARY} is there")
        return 0
    with contextlib.suppress(OSError):
        ctypes.CDLL(LIBRARY)
        print(f"{LIBRARY} is installed")
        return 0
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        print(f"{', '.join(missing)} not found: install libltdl7 with this system's packages instead", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            subprocess.run(["apt-get", "--quiet=2", "download", "libltdl7"], cwd=folder, check=True, timeout=60)
            (package,) = folder.glob("libltdl7_*.deb")
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True, timeout=60)
        except subprocess.SubprocessError as error:
            print(f"libltdl7 can't be fetched ({error}); mssql-python's other provider works without", file=sys.stderr)
            return 1
        (found,) = (folder / "root").rglob(LIBRARY)
        TARGET.mkdir(parents=True, exist_ok=True)
        shutil.copy(found.resolve(), TARGET / LIBRARY)
    print(f"{TARGET / LIBRARY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
