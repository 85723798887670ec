"""A task that a person ends before its trigger has begun: its remote run is handed to the triggerer, and cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.callback import Callback
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.triggers.callback import CallbackTrigger
from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session

import azflow.watch
import memory_runs
from azflow import listener
from azflow.watch import RUN_XCOM, cancel_left_run

PLACE = ("d", "r", "t", -1)
STORED = {
    "id": "one",
    "name": "one",
    "url": "https://service/runs/one",
    "service": "Memory run",
    "factory": "memory_runs.MemoryRuns",
    "arguments": {"shard": "a"},
    "conn_id": "azure_default",
}


@pytest.fixture
def session() -> Iterator[Session]:
    """Airflow's tables that matter, in memory."""
    import_all_models()
    engine = create_engine("sqlite://")
    tables = [model.__table__ for model in (XComModel, Callback, Trigger)]
    Base.metadata.create_all(engine, tables=tables)  # type: ignore[arg-type]
    with Session(engine) as opened:
        yield opened


def store(session: Session, stored: Any, **place: Any) -> None:
    where = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, **place}
    session.execute(insert(XComModel).values(dag_run_id=1, key=RUN_XCOM, value=json.dumps(stored), **where))


def handed_over(session: Session) -> list[dict[str, Any]]:
    """The keyword arguments of the callbacks that a triggerer would run."""
    session.flush()
    columns = select(Trigger.classpath, Trigger.encrypted_kwargs).join(Callback, Callback.trigger_id == Trigger.id)
    found = session.execute(columns).all()
    assert all(path.endswith("CallbackTrigger") for path, _ in found)
    return [Trigger._decrypt_kwargs(kwargs)["callback_kwargs"] for _, kwargs in found]


@pytest.fixture
def told(session: Session, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tell the listener what Airflow's API server does."""

    def tell(previous: Any = None) -> None:
        ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, _sa_instance_state=None)
        monkeypatch.setattr("sqlalchemy.orm.object_session", lambda row: session)
        listener.on_task_instance_failed(previous_state=previous, task_instance=ti)

    return tell


def test_a_run_is_handed_to_the_triggerer(session: Session, told: Any) -> None:
    store(session, STORED)
    store(session, STORED | {"id": "another"}, map_index=3)
    told()
    (asked,) = handed_over(session)
    assert asked == {
        **{name: STORED[name] for name in ("factory", "arguments", "conn_id", "service")},
        "run_id": "one",
        "place": list(PLACE),
    }


@pytest.mark.parametrize("stored", [None, {"id": "from an older version"}])
def test_a_task_without_a_remote_run_is_nobodys_business(session: Session, told: Any, stored: Any) -> None:
    if stored is not None:
        store(session, stored)
    told()
    assert handed_over(session) == []


def test_what_a_worker_says_is_not_listened_to(session: Session, told: Any) -> None:
    store(session, STORED)
    told(previous="running")
    listener.on_task_instance_success(previous_state=None, task_instance=SimpleNamespace(dag_id="d"))
    assert handed_over(session) == []


async def test_the_triggerer_carries_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {name: STORED[name] for name in ("factory", "arguments", "conn_id", "service")} | {"place": list(PLACE)}

    async def carried_out(run_id: str) -> str:
        callback = CallbackTrigger("azflow.watch.cancel_left_run", asked | {"run_id": run_id})
        *_, last = [event async for event in callback.run()]
        assert last.payload["state"] == "success"
        return str(last.payload["body"])

    service = memory_runs.reset(polls_until_end=10**6)
    memory_runs.MemoryRuns(None).submit("one", {}, {})
    for state, said, cancels in (
        ("deferred", "still waits for it", 0),
        ("unknown", "can't be read", 0),
        ("failed", "was cancelled: its task was ended by a person", 1),
        ("failed", "is over: Canceled", 1),
    ):
        monkeypatch.setattr(azflow.watch, "task_state", lambda *place, state=state: state)
        monkeypatch.setattr(azflow.watch, "current_run", lambda *place: "one")
        assert said in await carried_out("one") and len(service.cancels) == cancels


async def test_one_failed_poll_loses_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    service = memory_runs.reset(polls_until_end=10**6, failing_polls=[ConnectionError("reset")])
    memory_runs.MemoryRuns(None).submit("one", {}, {})
    monkeypatch.setattr(azflow.watch, "task_state", lambda *_: "failed")
    monkeypatch.setattr(azflow.watch, "CANCEL_PAUSES", (0.0, 0.0))
    arguments: dict[str, Any] = {name: STORED[name] for name in ("factory", "arguments", "conn_id", "service")}
    assert "was cancelled" in await cancel_left_run(**arguments, run_id="one", place=list(PLACE))
    assert service.cancels == ["one"]


def test_airflow_finds_the_listener() -> None:
    from airflow._shared.listeners.listener import ListenerManager
    from airflow._shared.listeners.spec import taskinstance

    import azflow_plugin

    manager = ListenerManager()
    manager.add_hookspecs(taskinstance)
    for each in azflow_plugin.AzflowPlugin.listeners:
        manager.add_listener(each)
    manager.hook.on_task_instance_failed(previous_state="running", task_instance=None, error=None)
    assert manager.has_listeners
