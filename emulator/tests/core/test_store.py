from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localazure.core.store import Store


def test_documents_are_written_read_listed_and_deleted(store: Store) -> None:
    store.put("model", "b/1", {"n": 1})
    store.put("model", "a/2", {"n": 2})
    store.put("model", "a/1", {"n": 3})
    store.put("job", "a/1", {"n": 4})
    assert store.get("model", "a/1") == {"n": 3}
    assert store.get("model", "none") is None
    assert store.list("model") == [{"n": 3}, {"n": 2}, {"n": 1}]
    assert store.list("model", "a/") == [{"n": 3}, {"n": 2}]
    assert store.delete("model", "a/1")
    assert not store.delete("model", "a/1")
    assert store.get("job", "a/1") == {"n": 4}


def test_a_prefix_is_taken_literally(store: Store) -> None:
    for key in ("a_b", "axb", "a%b", "a"):
        store.put("k", key, {"key": key})
    assert store.list("k", "a_") == [{"key": "a_b"}]
    assert store.list("k", "a%") == [{"key": "a%b"}]


def test_insert_leaves_what_is_there(store: Store) -> None:
    assert store.insert("k", "x", {"n": 1})
    assert not store.insert("k", "x", {"n": 2})
    assert store.get("k", "x") == {"n": 1}


def test_updates_of_many_threads_are_atomic(store: Store) -> None:
    store.put("k", "counter", {"n": 0})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.update("k", "counter", lambda d: {"n": d["n"] + 1}), range(200)))
    assert store.get("k", "counter") == {"n": 200}


ADD = """
import sys
from pathlib import Path
from localazure.core.store import Store
store = Store(Path(sys.argv[1]))
for _ in range(50):
    store.update("k", "counter", lambda document: {"n": document["n"] + 1})
"""


def test_updates_of_many_processes_are_atomic(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(path)
    store.put("k", "counter", {"n": 0})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen([sys.executable, "-c", ADD, str(path)], env=environment) for _ in range(3)]
    assert [child.wait(30) for child in children] == [0, 0, 0]
    assert store.get("k", "counter") == {"n": 150}


def test_an_update_that_fails_changes_nothing(store: Store) -> None:
    store.put("k", "x", {"n": 1})
    with pytest.raises(ZeroDivisionError):
        store.update("k", "x", lambda d: {"n": 1 // 0})
    with pytest.raises(KeyError, match="there is no k 'y'"):
        store.update("k", "y", lambda d: d)
    assert store.update("k", "x", lambda d: {"n": d["n"] + 1}) == {"n": 2}


def test_documents_survive_a_restart_and_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put("k", "x", {"text": "ü"})
    store.close()
    with pytest.raises(RuntimeError, match="is closed"):
        store.get("k", "x")
    assert Store(tmp_path / "s.sqlite").get("k", "x") == {"text": "ü"}
