"""The records of Livy's batches or sessions in the store, numbered from 0 in every pool."""

from __future__ import annotations

from collections.abc import Callable

from localazure.core.errors import NotFound
from localazure.core.store import Store
from localazure.synapse import livy_documents
from localazure.synapse.livy_documents import ENDED, Document

_COUNTER = "synapse.counter"
# Under this name because `Records.list` hides the built-in one inside the class.
Documents = list[Document]


class Records:
    """One kind of record. `noun` is what messages call one ("batch", "session")."""

    def __init__(self, store: Store, kind: str, noun: str) -> None:
        self._store = store
        self._kind = kind
        self._noun = noun

    def next_number(self, pool: str) -> int:
        """A number nobody has had in this pool."""
        counter = f"{self._noun}/{pool.lower()}"
        self._store.insert(_COUNTER, counter, {"value": -1})
        changed = self._store.update(_COUNTER, counter, lambda known: {"value": known["value"] + 1})
        return int(changed["value"])

    def add(self, document: Document) -> str:
        """Keep a new record; its key."""
        key = key_of(document)
        self._store.put(self._kind, key, document)
        return key

    def get(self, pool: str, number: str) -> Document:
        """A record. Raises NotFound, naming it."""
        document = self._store.get(self._kind, f"{pool.lower()}/{int(number):010d}") if number.isdecimal() else None
        if document is None:
            code = f"Livy{self._noun.capitalize()}NotFound"
            raise NotFound(f"There is no {self._noun} {number!r} in the Spark pool {pool!r}.", number, code)
        return document

    def list(self, pool: str = "") -> Documents:
        """The records of a pool, else of all, oldest first."""
        return self._store.list(self._kind, f"{pool.lower()}/" if pool else "")

    def active(self, pool: str = "") -> Documents:
        """Those that haven't ended."""
        return [document for document in self.list(pool) if document["state"] not in ENDED]

    def change(self, key: str, change: Callable[[Document], Document]) -> bool:
        """Change an active record; whether it was one (an ended one never changes)."""
        changed = False

        def apply(known: Document) -> Document:
            nonlocal changed
            changed = known["state"] not in ENDED
            return change(known) if changed else known

        self._store.update(self._kind, key, apply)
        return changed

    def end(self, key: str, state: str, errors: Documents | None = None) -> bool:
        """End an active record; whether it was one."""
        return self.change(key, lambda known: livy_documents.ended(known, state, errors))


def key_of(document: Document) -> str:
    """A record's key: its pool and number."""
    return f"{document['sparkPoolName'].lower()}/{document['id']:010d}"
