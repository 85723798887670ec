"""The vault's rules, and what is on disk: what the SDK's own tests can't see."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from localazure.core.store import Store
from localazure.keyvault.errors import VaultError
from localazure.keyvault.sealing import Seal, SealBroken
from localazure.keyvault.secrets import RETENTION_DAYS, Change, Secrets
from localazure.settings import Settings

VALUE = "a value that no file holds"


class Calendar:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def seal(tmp_path: Path) -> Seal:
    return Seal(tmp_path / "keys" / "keyvault.key")


@pytest.fixture
def secrets(store: Store, seal: Seal, calendar: Calendar) -> Secrets:
    return Secrets(store, seal, calendar)


def test_a_sealed_text_opens_for_its_purpose_alone(seal: Seal, tmp_path: Path) -> None:
    sealed = seal.close(VALUE.encode(), "name/1")
    assert seal.open(sealed, "name/1") == VALUE.encode()
    assert seal.close(VALUE.encode(), "name/1") != sealed
    changed = ("B" if sealed[0] == "A" else "A") + sealed[1:]
    for text, about in ((sealed, "name/2"), (changed, "name/1"), (sealed[:-4], "name/1"), ("", "name/1"), ("ö", "n")):
        with pytest.raises(SealBroken):
            seal.open(text, about)
    with pytest.raises(SealBroken):
        Seal(tmp_path / "another.key").open(sealed, "name/1")


def test_the_key_is_private_and_stays(seal: Seal, tmp_path: Path) -> None:
    sealed = seal.close(VALUE.encode(), "name/1")
    path = tmp_path / "keys" / "keyvault.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Seal(path).open(sealed, "name/1") == VALUE.encode()
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="isn't a key of 256 bits"):
        Seal(path).open(sealed, "name/1")


def test_values_are_encrypted_on_disk_and_outlive_a_restart(
    secrets: Secrets, store: Store, settings: Settings, seal: Seal
) -> None:
    secrets.set("name", VALUE, Change())
    backup = secrets.backup("name")
    store.close()
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert files and not [path for path in files if VALUE.encode() in path.read_bytes()]
    assert VALUE not in backup
    again = Secrets(Store(settings.store_file), seal)
    assert again.get("NAME")[1] == VALUE


def test_a_vault_whose_key_is_gone_says_so_and_shows_nothing(secrets: Secrets, store: Store, tmp_path: Path) -> None:
    secrets.set("name", VALUE, Change())
    with pytest.raises(VaultError, match=r"name can't be decrypted: .*other\.key") as refused:
        Secrets(store, Seal(tmp_path / "other.key")).get("name")
    assert refused.value.status == 500
    assert VALUE not in str(refused.value)


def test_a_deleted_secret_goes_for_good_after_its_retention(secrets: Secrets, calendar: Calendar) -> None:
    secrets.set("name", VALUE, Change())
    secrets.set("other", VALUE, Change())
    secrets.delete("name")
    secrets.delete("other")
    calendar.time += timedelta(days=RETENTION_DAYS, seconds=-1)
    assert [each.current.name for each in secrets.deleted()] == ["name", "other"]
    assert secrets.recover("other").name == "other"
    calendar.time += timedelta(seconds=1)
    assert secrets.deleted() == []
    with pytest.raises(VaultError, match="Deleted Secret not found: name"):
        secrets.recover("name")
    secrets.set("name", "another", Change())
    assert len(secrets.versions("name")) == 1
    assert secrets.get("other")[1] == VALUE


def test_what_a_change_leaves_out_stays(secrets: Secrets, calendar: Calendar) -> None:
    made = secrets.set("name", VALUE, Change(nbf=1, exp=2, content_type="text", tags={"a": "b"}))
    calendar.time += timedelta(hours=1)
    changed = secrets.update("name", made.version, Change(enabled=False, tags={}))
    assert (changed.nbf, changed.exp, changed.content_type, changed.tags, changed.enabled) == (1, 2, "text", {}, False)
    assert (changed.created, changed.updated - changed.created) == (made.created, 3600)
    with pytest.raises(VaultError, match="not allowed on a disabled secret"):
        secrets.get("name")
    secrets.delete("name")
    with pytest.raises(VaultError, match="not allowed on a disabled secret"):
        secrets.get_deleted("name")


def test_a_secret_shows_its_value_in_no_text_about_it(secrets: Secrets) -> None:
    made = secrets.set("name", VALUE, Change())
    assert VALUE not in repr(made) and made.sealed not in repr(made)
