"""Faults: asked for by one process, taken by another, once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from localazure.core.faults import Faults


def test_a_fault_is_taken_once_by_whoever_can(tmp_path: Path) -> None:
    asking, taking = Faults(tmp_path / "faults"), Faults(tmp_path / "faults")
    assert not taking.take("preempt", "a/job")

    def take() -> None:
        while not taking.wanted("preempt", "a/job"):
            time.sleep(0.01)
        assert taking.take("preempt", "a/job")

    thread = threading.Thread(target=take)
    thread.start()
    assert asking.ask("preempt", "a/job")
    thread.join()
    assert not taking.take("preempt", "a/job")


def test_what_nobody_takes_does_not_stay(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults")
    assert not faults.ask("preempt", "job", seconds=0.2)
    assert not faults.wanted("preempt", "job")
    with pytest.raises(ValueError, match="there are preempt"):
        faults.ask("flood", "job")
