"""tools/environments.py: when an environment is built anew, and what a failure says. Nothing is installed here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import environments
from environments import Environment, SetUpError, build, digest

LOCKED = Environment("part", ("lock.txt",), ("lock-dev.txt",))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "ENV", tmp_path / "var" / "env")
    (tmp_path / "lock.txt").write_text("a==1\n")
    (tmp_path / "lock-dev.txt").write_text("b==1\n")
    return tmp_path


@pytest.fixture
def commands(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; `uv venv` leaves a Python."""
    ran: list[list[str]] = []

    def run(command: Sequence[str | Path], **options: Any) -> None:
        ran.append([str(part) for part in command])
        if "venv" in ran[-1]:
            python = Path(ran[-1][-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()

    monkeypatch.setattr(environments, "run", run)
    monkeypatch.setattr(environments, "uv", lambda: Path("uv"))
    return ran


def test_a_digest_changes_with_lock_files_python_and_what_else_counts(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(("lock.txt",))
    assert digest(("lock.txt",)) == before
    others = {digest(()), digest(("lock.txt", "lock-dev.txt")), digest(("lock.txt",), "linux")}
    (checkout / "lock.txt").write_text("a==2\n")
    others.add(digest(("lock.txt",)))
    (checkout / "lock.txt").write_text("a==1\n")
    monkeypatch.setattr(sys, "version", "3.99")
    others.add(digest(("lock.txt",)))
    assert len(others | {before}) == 6


def test_an_environment_is_built_once(commands: list[list[str]]) -> None:
    assert build(LOCKED)
    assert [command[1] for command in commands] == ["venv", "pip"]
    assert commands[1][-2:] == ["-r", str(environments.ROOT / "lock.txt")]
    assert not build(LOCKED)
    assert len(commands) == 2


def test_development_packages_come_on_top_and_stay(commands: list[list[str]]) -> None:
    build(LOCKED)
    assert build(LOCKED, development=True)
    assert [command[1] for command in commands] == ["venv", "pip", "pip"]
    assert not build(LOCKED)
    assert not build(LOCKED, development=True)


def test_a_changed_lock_file_installs_into_what_is_there(commands: list[list[str]], checkout: Path) -> None:
    build(LOCKED)
    (checkout / "lock.txt").write_text("a==2\n")
    assert build(LOCKED)
    assert [command[1] for command in commands] == ["venv", "pip", "pip"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / ".installed").unlink(),
        lambda folder: (folder / ".installed").write_text(""),
        lambda folder: (folder / ".installed").write_text("another-python lock dev"),
        lambda folder: (folder / "bin" / "python").unlink(),
    ],
    ids=["cut off", "empty stamp", "another Python", "no Python"],
)
def test_what_is_half_there_is_built_anew(commands: list[list[str]], spoil: Callable[[Path], object]) -> None:
    build(LOCKED)
    spoil(LOCKED.folder)
    if (LOCKED.folder / ".installed").exists():
        # The stamp's digests still name the lock file: only what the environment is has changed.
        (environments.ROOT / "lock.txt").write_text("a==2\n")
    build(LOCKED)
    assert [command[1] for command in commands] == ["venv", "pip", "venv", "pip"]


def test_a_failed_command_shows_its_last_lines(checkout: Path) -> None:
    script = "import sys; print(*range(30), sep='\\n'); sys.exit(7)"
    with pytest.raises(SetUpError) as caught:
        environments.run([sys.executable, "-c", script], log=checkout / "logs" / "part.log")
    message = str(caught.value)
    assert "failed (exit 7)" in message and str(checkout / "logs" / "part.log") in message
    assert message.splitlines()[-12:] == [f"    {number}" for number in range(18, 30)]


def test_everything_that_failed_is_told_at_once(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(environment: Environment, *, development: bool = False) -> bool:
        if environment.name == "localazure":
            return True
        raise SetUpError(f"{environment.name} lacks a compiler")

    monkeypatch.setattr(environments, "build", fail)
    monkeypatch.setattr(environments, "uv", lambda: Path("uv"))
    monkeypatch.setattr(environments, "azurite", list)
    said: list[str] = []
    with pytest.raises(SetUpError) as caught:
        environments.prepare(say=said.append)
    assert "airflow lacks a compiler" in str(caught.value) and "compute lacks a compiler" in str(caught.value)
    assert len(said) == 1 and "installed the localazure environment" in said[0]


def test_the_lock_files_are_there() -> None:
    for environment in (environments.AIRFLOW, environments.LOCALAZURE, environments.COMPUTE):
        for name in environment.locks + environment.development:
            assert (environments.ROOT / name).is_file(), name
