"""What the pool ran: the rows of sys.dm_pdw_exec_requests, the newest 10,000 as in the vendor's.

https://learn.microsoft.com/en-us/sql/relational-databases/system-dynamic-management-views/sys-dm-pdw-exec-requests-transact-sql
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

_KEPT = 10_000
_COMMAND_LENGTH = 4000
_SECRET = re.compile(r"((?:SECRET|PASSWORD)\s*=\s*)N?'(?:[^']|'')*'", re.IGNORECASE)


@dataclass
class Request:
    """One statement; times are naive UTC."""

    request_id: str
    session_id: str
    status: str
    submitted: datetime
    label: str | None
    command: str
    ended: datetime | None = None
    error: str | None = None
    rows: int | None = None


class RequestLog:
    """Thread-safe ring of requests."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=_KEPT)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    @contextmanager
    def running(self, spid: int, command: str, label: str | None) -> Iterator[Request]:
        """Log a statement while it runs and how it ended."""
        shown = _SECRET.sub(r"\1'***'", command)[:_COMMAND_LENGTH]
        request = Request(f"QID{next(self._ids)}", f"SID{spid}", "Running", _now(), label, shown)
        with self._lock:
            self._requests.append(request)
        try:
            yield request
        except BaseException as error:
            request.status = "Cancelled" if getattr(error, "number", 0) == 3617 else "Failed"  # noqa: PLR2004
            request.error = str(error)
            raise
        else:
            request.status = "Completed"
        finally:
            request.ended = _now()

    def rows(self) -> list[Request]:
        with self._lock:
            return list(self._requests)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
