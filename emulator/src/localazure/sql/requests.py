"""What the pool ran: the rows of sys.dm_pdw_exec_requests, the newest 10,000 as in the vendor's.

https://learn.microsoft.com/en-us/sql/relational-databases/system-dynamic-management-views/sys-dm-pdw-exec-requests-transact-sql
"""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

_KEPT = 10_000
_CANCELLED = 3617
_COMMAND_LENGTH = 4000
_SECRET = re.compile(r"((?:SECRET|PASSWORD)\s*=\s*)N?'(?:[^']|'')*'", re.IGNORECASE)


@dataclass
class Request:
    """One statement; times are naive UTC. processed: megabytes that a serverless pool charged for it."""

    request_id: str
    session_id: str
    status: str
    submitted: datetime
    label: str | None
    command: str
    login: str = ""
    compiled: datetime | None = None
    ended: datetime | None = None
    error: str | None = None
    error_number: int = 0
    rows: int | None = None
    kind: str = ""
    processed: int | None = None
    group: str = "smallrc"
    classifier: str | None = None
    importance: str = "normal"
    percent: float = 3.0
    cache: int = 0
    error_id: str | None = None
    statement_id: str = field(default_factory=lambda: f"{{{str(uuid.uuid4()).upper()}}}")

    @property
    def query_hash(self) -> str:
        """The same for the same text."""
        return "0x" + hashlib.sha256(self.command.encode()).hexdigest()[:16].upper()


class RequestLog:
    """Thread-safe ring of requests."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=_KEPT)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    @contextmanager
    def running(self, spid: int, command: str, label: str | None, login: str = "", kind: str = "") -> Iterator[Request]:
        """Log a statement while it runs and how it ended. ``kind``: the statement's class."""
        shown = _SECRET.sub(r"\1'***'", command)[:_COMMAND_LENGTH]
        request = Request(
            f"QID{next(self._ids)}", f"SID{spid}", "Running", _now(), label, shown, login=login, kind=kind
        )
        with self._lock:
            self._requests.append(request)
        try:
            yield request
        except BaseException as error:
            request.error_number = getattr(error, "number", 0)
            request.status = "Cancelled" if request.error_number == _CANCELLED else "Failed"
            request.error = getattr(error, "message", str(error))
            request.error_id = str(uuid.uuid4())
            raise
        else:
            request.status = "Completed"
        finally:
            request.ended = _now()

    def active(self) -> int:
        """How many run now."""
        with self._lock:
            return sum(request.ended is None for request in self._requests)

    def rows(self) -> list[Request]:
        with self._lock:
            return list(self._requests)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
