"""What a person types says how it is used, and does nothing else when asked for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ["check", "demo", "down", "lock", "test", "up"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)


def test_every_command_is_known() -> None:
    assert sorted(path.name for path in (ROOT / "bin").iterdir()) == sorted([*COMMANDS, "python3"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    done = run(ROOT / "bin" / command, "--help")
    assert done.returncode == 0
    assert f"usage: bin/{command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_is_not_there(command: str) -> None:
    done = run(ROOT / "bin" / command, "--everything")
    assert done.returncode
    assert f"usage: bin/{command} " in done.stdout + done.stderr


def test_asking_how_the_settings_of_the_containers_are_made_makes_none() -> None:
    there = (ROOT / ".env").exists()
    assert "usage:" in run(sys.executable, ROOT / "tools" / "container_environment.py", "--help").stdout
    assert (ROOT / ".env").exists() == there
