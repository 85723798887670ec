"""A session's results -> a token stream.

[MS-TDS] 2.2.7 and 3.2.5.2 (sending of results): every statement ends with a DONE of its kind; all but the last
say MORE.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from localazure.sql.results import (
    DatabaseChange,
    Message,
    Result,
    ResultSet,
    RowsAffected,
    SqlError,
    TransactionChange,
)
from localazure.tds.packets import ProtocolError
from localazure.tds.rows import encode_rows
from localazure.tds.tokens import (
    SELECT_COMMAND,
    DoneStatus,
    EnvChange,
    Token,
    make_column_metadata,
    make_done,
    make_env_change,
    make_message,
)

log = logging.getLogger(__name__)

FLUSH_BYTES: Final = 1 << 17
CANCELLED: Final = 3617


class Cancelled(Exception):
    """The client sent ATTENTION, or is gone: no more tokens are wanted."""


@dataclass
class Answer:
    """The token stream of one request, written by the connection's thread.

    ``send`` takes pieces as they grow (and blocks while the client doesn't read); what is left at the end stays in
    ``take()``. Once ``cancelled`` is set, the next write raises Cancelled: the stream ends between two tokens.
    """

    send: Callable[[bytes], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0

    def write(self, data: bytes) -> None:
        """Append tokens."""
        if self.cancelled.is_set():
            raise Cancelled
        self._parts.append(data)
        self._size += len(data)
        if self._size >= FLUSH_BYTES:
            self.send(self.take())

    def take(self) -> bytes:
        """What is not sent yet."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return data


class Transactions:
    """The transaction descriptor that ENVCHANGE tells the client: [MS-TDS] 2.2.7.9, types 8 to 10."""

    def __init__(self) -> None:
        self._last = 0
        self._current = 0

    @property
    def active(self) -> bool:
        """Whether the client has been told of a transaction that hasn't ended."""
        return self._current != 0

    def change(self, kind: str) -> bytes:
        """The token for "begin", "commit" or "rollback"."""
        if kind == "begin":
            self._last += 1
            self._current = self._last
            return make_env_change(EnvChange.BEGIN_TRANSACTION, self._current.to_bytes(8, "little"))
        old, self._current = self._current.to_bytes(8, "little"), 0
        ended = EnvChange.COMMIT_TRANSACTION if kind == "commit" else EnvChange.ROLLBACK_TRANSACTION
        return make_env_change(ended, b"", old)


class Statements:
    """Writes results of statements; holds back the last DONE, which only the end of the request can word."""

    def __init__(self, answer: Answer, transactions: Transactions, *, rpc: bool) -> None:
        self._answer = answer
        self._transactions = transactions
        self._rpc = rpc
        self._held: tuple[DoneStatus, int | None, int] | None = None
        self.failed = False

    def write_all(self, results: Iterable[Result]) -> None:
        """Write every result; an error of the session becomes an ERROR token and ends the request's statements."""
        try:
            for result in results:
                self._write(result)
        except Cancelled:
            raise
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Write ``error`` as an ERROR token. Raises Cancelled when it is only the answer to the client's ATTENTION."""
        if self._answer.cancelled.is_set():
            raise Cancelled from error
        self._release()
        self._answer.write(make_error(error))
        self.failed = True
        self._held = (DoneStatus.ERROR, None, 0)

    def _write(self, result: Result) -> None:
        self._release()
        match result:
            case ResultSet():
                self._answer.write(make_column_metadata(result.columns))
                for piece in encode_rows(result.columns, result.table):
                    self._answer.write(piece)
                self._held = (DoneStatus.FINAL, result.table.num_rows, SELECT_COMMAND)
            case RowsAffected():
                self._held = (DoneStatus.FINAL, result.count, 0)
            case Message():
                self._answer.write(make_info(result))
            case TransactionChange():
                self._answer.write(self._transactions.change(result.kind))
            case DatabaseChange():
                self._answer.write(make_env_change(EnvChange.DATABASE, result.name, result.old))
                text = f"Changed database context to '{result.name}'."
                self._answer.write(make_message(Token.INFO, 5701, 1, 0, text))

    def _release(self) -> None:
        if self._held is None:
            return
        status, count, command = self._held
        self._held = None
        token = Token.DONEINPROC if self._rpc else Token.DONE
        self._answer.write(
            make_done(
                status | DoneStatus.MORE | self._bits(),
                count,
                token=token,
                command=command,
            )
        )

    def _bits(self) -> DoneStatus:
        return DoneStatus.IN_TRANSACTION if self._transactions.active else DoneStatus.FINAL

    def finish_batch(self) -> None:
        """The last DONE of a batch."""
        status, count, command = self._held or (DoneStatus.FINAL, None, 0)
        self._held = None
        self._answer.write(make_done(status | self._bits(), count, command=command))

    def finish_statements(self) -> None:
        """End the statements of an RPC; its own DONEPROC is still to come."""
        self._release()

    def finish_rpc(self, *, last: bool) -> None:
        """DONEPROC; all but the last call of a message say MORE and RPCINBATCH."""
        self._release()
        status = DoneStatus.FINAL if last else DoneStatus.MORE | DoneStatus.RPC_IN_BATCH
        if self.failed:
            status |= DoneStatus.ERROR
        self._answer.write(make_done(status | self._bits(), token=Token.DONEPROC))


def make_error(error: Exception) -> bytes:
    """An ERROR token for anything a request can raise.

    A fault of the server itself is logged with its traceback and told as 40197, Azure's "encountered an error".
    """
    if isinstance(error, SqlError):
        return make_message(
            Token.ERROR,
            error.number,
            error.state,
            max(11, error.severity),
            error.message,
            line=error.line,
            procedure=error.procedure,
        )
    if isinstance(error, ProtocolError):
        # 8009: the incoming tabular data stream protocol stream is incorrect.
        return make_message(
            Token.ERROR,
            8009,
            3,
            16,
            f"The incoming TDS protocol stream is incorrect: {error}.",
        )
    log.error("a request failed inside the server", exc_info=error)
    return make_message(
        Token.ERROR,
        40197,
        1,
        16,
        f"The service has encountered an error processing your request ({type(error).__name__}: {error}). "
        "The server's log has the details.",
    )


def make_info(message: Message) -> bytes:
    """PRINT and warnings: [MS-TDS] 2.2.7.13; above severity 10 it is an error's token that has to be used."""
    token = Token.INFO if message.severity <= 10 else Token.ERROR
    return make_message(
        token,
        message.number,
        message.state,
        message.severity,
        message.text,
        line=message.line,
    )
