"""The vault's secrets: versions, soft delete, recovery, purge, backup.

https://learn.microsoft.com/azure/key-vault/secrets/about-secrets and
https://learn.microsoft.com/azure/key-vault/general/soft-delete-overview. `nbf` and `exp` are told and never keep
anybody from reading ("date-time controlled operations", same page); `enabled` does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from localazure.core.store import Document, Store
from localazure.keyvault.errors import (
    VaultError,
    bad_parameter,
    deleted_but_recoverable,
    deleted_not_found,
    disabled,
    not_found,
)
from localazure.keyvault.sealing import Seal, SealBroken

_SECRETS = "keyvault.secrets"
_VERSIONS = "keyvault.versions"
_BACKUP = "a backup"
RETENTION_DAYS = 90
_RETENTION_SECONDS = RETENTION_DAYS * 24 * 3600


@dataclass(frozen=True)
class Change:
    """What a request sets of a version; None leaves what is there. Times are seconds since 1970, UTC."""

    enabled: bool | None = None
    nbf: int | None = None
    exp: int | None = None
    content_type: str | None = None
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Version:
    """One version of a secret, without its value."""

    name: str
    version: str
    created: int
    updated: int
    enabled: bool = True
    nbf: int | None = None
    exp: int | None = None
    content_type: str | None = None
    tags: dict[str, str] | None = None
    sealed: str = field(default="", repr=False)

    def changed(self, change: Change, now: int) -> Version:
        """The version with what the request sets."""
        given = {name: value for name, value in vars(change).items() if value is not None}
        return replace(self, updated=now, **given)


@dataclass(frozen=True)
class Deleted:
    """A deleted secret: its last version, when it was deleted and when it goes for good."""

    current: Version
    deleted_date: int
    scheduled_purge_date: int


class Secrets:
    """The secrets of one vault in a store. Called from the API's event loop alone: nothing else writes in between.

    Names are compared without case and shown as they were first given. `now` tells the time.
    """

    def __init__(self, store: Store, seal: Seal, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._seal = seal
        self._clock = now

    def set(self, name: str, value: str, change: Change) -> Version:
        """A new version, which becomes the current one. Raises VaultError 409 while the name is a deleted secret's."""
        head = self._head(name)
        if head is not None and head["deleted"]:
            raise deleted_but_recoverable(head["name"])
        if head is None:
            # Versions are kept under the incarnation's id: what a purge may leave behind is nobody's.
            head = {"name": name, "id": uuid.uuid4().hex, "deleted": None}
        now = self._now()
        made = Version(head["name"], uuid.uuid4().hex, now, now).changed(change, now)
        made = replace(made, sealed=self._seal.close(value.encode(), _about(made)))
        self._keep(head, made)
        self._store.put(_SECRETS, name.lower(), head | {"current": made.version})
        return made

    def get(self, name: str, version: str = "") -> tuple[Version, str]:
        """A version (the current one without `version`) and its value. Raises VaultError 404, and 403 if disabled."""
        found = self._version(self._live(name), version)
        if not found.enabled:
            raise disabled()
        return found, self._value(found)

    def update(self, name: str, version: str, change: Change) -> Version:
        """Set attributes, content type or tags of a version, whether it is enabled or not. Raises VaultError 404."""
        head = self._live(name)
        made = self._version(head, version).changed(change, self._now())
        self._keep(head, made)
        return made

    def current(self) -> list[Version]:
        """Every secret's current version, by name."""
        return [self._version(head) for head in self._heads() if not head["deleted"]]

    def versions(self, name: str) -> list[Version]:
        """A secret's versions, by their ids; none of a secret that isn't there, as the service answers."""
        head = self._head(name)
        return [] if head is None or head["deleted"] else self._versions(head)

    def delete(self, name: str) -> Deleted:
        """Delete a secret with all versions, recoverably. Raises VaultError 404."""
        head = self._live(name)
        now = self._now()
        head = head | {"deleted": {"deletedDate": now, "scheduledPurgeDate": now + _RETENTION_SECONDS}}
        self._store.put(_SECRETS, name.lower(), head)
        return self._as_deleted(head)

    def deleted(self) -> list[Deleted]:
        """Every deleted secret, by name."""
        return [self._as_deleted(head) for head in self._heads() if head["deleted"]]

    def get_deleted(self, name: str) -> Deleted:
        """A deleted secret. Raises VaultError 404, and 403 if its last version is disabled, as the service does."""
        found = self._as_deleted(self._dead(name))
        if not found.current.enabled:
            raise disabled()
        return found

    def recover(self, name: str) -> Version:
        """Undo a deletion. Raises VaultError 404."""
        head = self._dead(name) | {"deleted": None}
        self._store.put(_SECRETS, name.lower(), head)
        return self._version(head)

    def purge(self, name: str) -> None:
        """Remove a deleted secret for good. Raises VaultError 404."""
        self._remove(self._dead(name))

    def backup(self, name: str) -> str:
        """All versions as one sealed text, in base64url, good where this home's key is. Raises VaultError 404."""
        head = self._live(name)
        content = {"head": head, "versions": [asdict(each) for each in self._versions(head)]}
        return self._seal.close(json.dumps(content).encode(), _BACKUP)

    def restore(self, backup: str) -> Version:
        """Bring back what `backup` made. Raises VaultError 400 for no backup of this home, 409 for a name in use."""
        try:
            content = json.loads(self._seal.open(backup, _BACKUP))
        except SealBroken:
            raise bad_parameter("Backup blob contains invalid or corrupt version.") from None
        head: Document = content["head"] | {"id": uuid.uuid4().hex}
        known = self._head(head["name"])
        if known is not None and known["deleted"]:
            raise deleted_but_recoverable(known["name"])
        if known is not None:
            raise VaultError(
                409, "Conflict", f"The secret {known['name']} already exists; a restore overwrites nothing."
            )
        for each in content["versions"]:
            self._keep(head, Version(**each))
        self._store.put(_SECRETS, head["name"].lower(), head)
        return self._version(head)

    def _value(self, version: Version) -> str:
        try:
            return self._seal.open(version.sealed, _about(version)).decode()
        except SealBroken as error:
            raise VaultError(
                500, "InternalServerError", f"The secret {version.name} can't be decrypted: it was {error}."
            ) from None

    def _live(self, name: str) -> Document:
        head = self._head(name)
        if head is None or head["deleted"]:
            raise not_found(name)
        return head

    def _dead(self, name: str) -> Document:
        head = self._head(name)
        if head is None or not head["deleted"]:
            raise deleted_not_found(name)
        return head

    def _head(self, name: str) -> Document | None:
        head = self._store.get(_SECRETS, name.lower())
        if head is not None and self._is_over(head):
            self._remove(head)
            return None
        return head

    def _heads(self) -> list[Document]:
        heads = self._store.list(_SECRETS)
        for head in heads:
            if self._is_over(head):
                self._remove(head)
        return [head for head in heads if not self._is_over(head)]

    def _is_over(self, head: Document) -> bool:
        """Whether a deleted secret's time of retention has passed."""
        return bool(head["deleted"]) and int(head["deleted"]["scheduledPurgeDate"]) <= self._now()

    def _remove(self, head: Document) -> None:
        self._store.delete(_SECRETS, head["name"].lower())
        for each in self._versions(head):
            self._store.delete(_VERSIONS, f"{head['id']}/{each.version}")

    def _keep(self, head: Document, version: Version) -> None:
        self._store.put(_VERSIONS, f"{head['id']}/{version.version}", asdict(version))

    def _version(self, head: Document, version: str = "") -> Version:
        document = self._store.get(_VERSIONS, f"{head['id']}/{version.lower() or head['current']}")
        if document is None:
            raise not_found(f"{head['name']}/{version}")
        return Version(**document)

    def _versions(self, head: Document) -> list[Version]:
        return [Version(**each) for each in self._store.list(_VERSIONS, f"{head['id']}/")]

    def _as_deleted(self, head: Document) -> Deleted:
        dates = head["deleted"]
        return Deleted(self._version(head), dates["deletedDate"], dates["scheduledPurgeDate"])

    def _now(self) -> int:
        return int(self._clock().timestamp())


def _about(version: Version) -> str:
    return f"{version.name.lower()}/{version.version}"


def attributes(version: Version) -> dict[str, Any]:
    """The `attributes` of a version on the wire."""
    times = {"nbf": version.nbf, "exp": version.exp}
    return {
        "enabled": version.enabled,
        **{name: time for name, time in times.items() if time is not None},
        "created": version.created,
        "updated": version.updated,
        "recoveryLevel": "Recoverable+Purgeable",
        "recoverableDays": RETENTION_DAYS,
    }
