from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localazure.__main__ import settings_table
from localazure.settings import LOCAL_SECRET_PREFIX, SETTINGS, Settings


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    first, second = Settings.load(tmp_path), Settings.load(tmp_path)
    assert first == second
    for secret in (first.client_secret, first.sql_password):
        assert secret.startswith(LOCAL_SECRET_PREFIX)
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o600
    assert first.client_secret not in repr(first)


def test_of_several_processes_the_first_makes_the_secrets(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: Settings.load(tmp_path / "home"), range(16)))
    assert len({settings.client_secret for settings in loaded}) == 1
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["settings.json"]


def test_overrides_are_kept_and_variables_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Settings.load(tmp_path, port_base=21500)
    assert Settings.load(tmp_path).api_url == "https://localhost:21500"
    monkeypatch.setenv("LOCALAZURE_PORT_BASE", "21700")
    assert Settings.load(tmp_path).tds_port == 21701
    monkeypatch.delenv("LOCALAZURE_PORT_BASE")
    assert Settings.load(tmp_path).blob_url == "https://localhost:21502/azflowlake"


def test_urls_have_the_public_host_and_what_has_no_login_stays_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.load(tmp_path).bind_host == "127.0.0.1"
    monkeypatch.setenv("LOCALAZURE_PUBLIC_HOST", "localazure")
    settings = Settings.load(tmp_path)
    assert settings.api_url == "https://localazure:18400"
    assert settings.blob_url == "https://localazure:18402/azflowlake"
    assert settings.router_url == "https://localazure:18403"
    assert settings.sql_server == "localazure,18401"
    assert (settings.mlflow_url, settings.admin_url) == ("http://127.0.0.1:18404", "http://127.0.0.1:18405")
    monkeypatch.setenv("LOCALAZURE_PUBLIC_HOST", "azure.example.com")
    with pytest.raises(ValueError, match="public_host must be one lower-case label"):
        Settings.load(tmp_path)


def test_a_published_connection_names_the_bundle_beside_it(certified: Settings, tmp_path: Path) -> None:
    path = certified.write_connection(tmp_path / "published")
    bundle = Path(json.loads(path.read_text())["ca_bundle"])
    assert bundle.parent == path.parent
    assert bundle.read_bytes() == certified.ca_bundle.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no setting color"):
        Settings.load(tmp_path, color="red")
    with pytest.raises(ValueError, match="port_base must be between"):
        Settings.load(tmp_path, port_base=80)
    for name in ("kv", "1-vault", "key--vault", "vault-", "key_vault", "x" * 25):
        with pytest.raises(ValueError, match="key_vault must be 3 to 24 letters"):
            Settings.load(tmp_path / name, key_vault=name)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json isn't JSON"):
        Settings.load(tmp_path)


def test_the_connection_file_holds_what_a_client_needs_and_is_private(settings: Settings) -> None:
    path = settings.write_connection()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    assert content["sql_server"] == "localhost,18401"
    assert content["storage_account_url"] == "https://localhost:18402/azflowlake"
    assert all(content.values())


def test_the_readme_has_the_settings_as_they_are() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.partition("--markdown` -->\n")[2].partition("\n<!-- end of settings")[0]
    assert table == settings_table(), "put the output of `localazure settings --markdown` there"


def test_every_setting_has_a_help_line() -> None:
    assert all(row.help for row in SETTINGS)
    assert len({row.name for row in SETTINGS}) == len(SETTINGS)
