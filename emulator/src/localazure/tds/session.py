"""What the server needs from a SQL engine: the protocol that ``localazure.sql.pool`` fulfils and tests stand in for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from localazure.sql.principals import Identity
from localazure.sql.results import Column, Parameter, Result

if TYPE_CHECKING:
    import pyarrow as pa


class Session(Protocol):
    """One client's session. Synchronous; used by one thread, but for ``cancel``. Every method may raise SqlError."""

    spid: int
    on_disconnect: Callable[[], None] | None

    @property
    def database(self) -> str:
        """DB_NAME()."""

    @property
    def transaction_count(self) -> int:
        """@@TRANCOUNT."""

    def execute(self, batch: str, parameters: Sequence[Parameter] = ()) -> Iterator[Result]:
        """Run a batch; results come lazily, in order."""

    def describe(self, batch: str, parameters: Sequence[Parameter] = ()) -> tuple[Column, ...]:
        """Columns of the batch's first result set; nothing is executed."""

    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """Commit it."""

    def rollback(self) -> None:
        """Roll it back."""

    def cancel(self) -> None:
        """From any thread: the running statement ends with SqlError 3617."""

    def bulk_load(self, table: str, columns: list[str], data: pa.Table) -> int:
        """Append rows; the number of rows."""

    def close(self) -> None:
        """Roll back and end."""


OpenDatabase = Callable[[Identity, str, str, str], Session]
"""(who, application, host, database or "") -> Session; SqlError when they can't have that database."""

SignIn = Callable[[str, str, bool], Identity | None]
"""(name, password, whether at the serverless pool) -> whose they are; None when they are nobody's."""
