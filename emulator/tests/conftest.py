"""Settings in a temporary home, for every part's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localazure.core import certificates
from localazure.core.auth import Tokens
from localazure.core.store import Store
from localazure.settings import Settings

# Programs that tests start (the router's, say) are modules of the tree too.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(tmp_path / "home")


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_file)


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home with certificates and a signing key; shared, since making keys takes a second."""
    settings = Settings.load(tmp_path_factory.mktemp("certified"))
    certificates.ensure(settings)
    return settings


@pytest.fixture(scope="session")
def tokens(certified: Settings) -> Tokens:
    return Tokens(certified)
