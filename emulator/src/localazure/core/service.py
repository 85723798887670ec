"""What a service of localazure is, and what it is given.

A service package (`localazure.ml`, `localazure.serving`, ...) exposes one function:

    def build(context: ServiceContext) -> Service

`localazure.stack` calls it once for every package, in the order of its SERVICES. `build` only wires objects:
nothing is started, opened on the network or written before `start()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from localazure.core.auth import Tokens
    from localazure.core.operations import LongRunning
    from localazure.core.registry import Operation
    from localazure.core.store import Store
    from localazure.settings import Settings
    from localazure.storage.blobs import BlobStore


@runtime_checkable
class Service(Protocol):
    """One of localazure's services: the operations it answers, and its life."""

    def operations(self) -> list[Operation]:
        """Every operation the service answers. Called once, before `start()`."""
        ...

    async def start(self) -> None:
        """Bring back what should be running (called when the API starts; Azurite answers by then)."""
        ...

    async def stop(self) -> None:
        """End everything the service started: tasks, jobs, servers. Called once, also after a failed start."""
        ...


@dataclass(frozen=True)
class ServiceContext:
    """What `build` is given. One per API process."""

    settings: Settings
    store: Store
    blobs: BlobStore
    tokens: Tokens
    long_running: LongRunning
    _provided: dict[str, Any] = field(default_factory=dict, repr=False)

    def provide(self, name: str, thing: Any) -> None:
        """Offer `thing` to the services built later, for example `provide("ml.assets", Assets(...))`."""
        if name in self._provided:
            raise ValueError(f"{name!r} is provided twice; every name has one owner")
        self._provided[name] = thing

    def require(self, name: str) -> Any:
        """What an earlier service provided under `name`."""
        try:
            return self._provided[name]
        except KeyError:
            known = ", ".join(sorted(self._provided)) or "nothing"
            raise LookupError(f"no service built before this one provides {name!r} (provided: {known})") from None
