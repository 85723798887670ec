"""docker-compose.yaml and what makes its .env; the containers themselves are tried by hand (docs/operating.md)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

import container_environment

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text()
# They end; everything else stays up and says how it is.
ONE_SHOT = {"airflow-init", "azure-connection", "source"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return found


def settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def test_the_example_holds_no_secret_and_the_environment_all_of_them() -> None:
    assert not any(settings(EXAMPLE).values())
    made, again = (settings(container_environment.filled(EXAMPLE)) for _ in range(2))
    assert made.keys() == settings(EXAMPLE).keys()
    assert all(made.values())
    assert not set(made.values()) & set(again.values())
    Fernet(made["AIRFLOW__CORE__FERNET_KEY"])
    assert re.fullmatch(r"[A-Za-z0-9]{32,}", made["POSTGRES_PASSWORD"])


def test_an_environment_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    monkeypatch.setattr(container_environment, "ROOT", tmp_path)
    assert container_environment.main() == 0
    made = (tmp_path / ".env").read_bytes()
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert container_environment.main() == 1
    assert (tmp_path / ".env").read_bytes() == made


def test_every_secret_of_the_compose_file_comes_from_the_environment(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yaml").read_text()
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert required == settings(EXAMPLE).keys()


def test_services_restart_report_their_health_and_have_few_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert "privileged" not in service, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped"), name
        assert ("healthcheck" in service) == (name not in ONE_SHOT), name


def test_without_a_profile_nothing_is_local(compose: dict[str, Any]) -> None:
    always = {name for name, service in compose["services"].items() if not service.get("profiles")}
    assert always == {
        "postgres", "redis", "airflow-init", "api-server", "scheduler", "dag-processor", "triggerer", "worker"
    }  # fmt: skip
    for name in always:
        assert not set(compose["services"][name].get("depends_on", ())) - always, name


@pytest.mark.parametrize("file", ["Dockerfile", "emulator/Dockerfile"])
def test_images_run_as_a_user(file: str) -> None:
    users = re.findall(r"^USER (\S+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert users
    assert users[-1] != "root"
