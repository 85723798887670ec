"""Key files of a home: private, and written once whoever comes first."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_once(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, unless it is there: of several processes the first one's wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    # A link fails if the file is there by now.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
