"""Makes `.env` for docker-compose.yaml: `.env.example` with a secret of its own wherever a value is missing.

    python3 tools/container_environment.py

Refuses to replace an existing file: the database was made with its password. Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def filled(example: str) -> str:
    """The example with its empty values made up; comments and values stay."""
    return re.sub(r"^([A-Z_]+)=$", lambda found: found[0] + _secret(found[1]), example, flags=re.MULTILINE)


def _secret(name: str) -> str:
    # Fernet wants 32 bytes in URL-safe base64; the passwords stand in URLs.
    return base64.urlsafe_b64encode(os.urandom(32)).decode() if name.endswith("FERNET_KEY") else secrets.token_hex(24)


def main(arguments: Sequence[str] = ()) -> int:
    """Write `.env`; the exit code."""
    description = "Makes .env for docker-compose.yaml, with generated secrets."
    argparse.ArgumentParser(description=description).parse_args(arguments)
    target = ROOT / ".env"
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{target} is there already; to make new secrets, remove it and the volumes", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w") as file:
        file.write(filled((ROOT / ".env.example").read_text()))
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
