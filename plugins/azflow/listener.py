"""What a person ends in the seconds between a task's deferral and its trigger's start.

Airflow calls ``on_kill`` of a trigger that runs. One that no triggerer has begun yet is deleted with its task's wait,
and nobody is told (Airflow 3.3.2, `Trigger.clean_unused`): its remote run would go on. But the API server tells
listeners when a person marks a task as failed, succeeded or skipped, before it commits the state; so the run is handed
to the triggerer as a callback, in the same transaction. Whether a trigger has begun can't be known here: the callback
may find a run that its trigger cancels at the same time, which does no harm.

A person who clears a task isn't told to listeners; `azflow.orphans` finds what that leaves.

https://airflow.apache.org/docs/apache-airflow/stable/administration-and-deployment/listeners.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_CANCEL = "azflow.watch.cancel_left_run"


@hookimpl
def on_task_instance_failed(previous_state: Any, task_instance: Any) -> None:
    """Marked as failed, if it is the API server that says so."""
    _ended(previous_state, task_instance)


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:
    """Marked as succeeded, likewise."""
    _ended(previous_state, task_instance)


@hookimpl
def on_task_instance_skipped(previous_state: Any, task_instance: Any) -> None:
    """Marked as skipped, likewise."""
    _ended(previous_state, task_instance)


def _ended(previous_state: Any, task_instance: Any) -> None:
    # A worker and the scheduler know the state before; the API server says none, and has a row of the database.
    if previous_state is not None or not hasattr(task_instance, "_sa_instance_state"):
        return
    from sqlalchemy.orm import object_session

    ti = task_instance
    if (session := object_session(ti)) is not None:
        hand_over(session, ti.dag_id, ti.run_id, ti.task_id, ti.map_index)


def hand_over(session: Session, dag_id: str, run_id: str, task_id: str, map_index: int) -> bool:
    """Let the triggerer cancel the remote run of a task instance, if it has one; whether it has.

    Nothing is committed: that is the caller's.
    """
    from airflow.models.callback import Callback
    from airflow.models.xcom import XComModel
    from airflow.sdk.definitions.callback import AsyncCallback
    from sqlalchemy import select

    from azflow.watch import RUN_XCOM

    stored = session.scalar(
        select(XComModel.value).where(
            XComModel.dag_id == dag_id,
            XComModel.run_id == run_id,
            XComModel.task_id == task_id,
            XComModel.map_index == map_index,
            XComModel.key == RUN_XCOM,
        )
    )
    found = json.loads(stored) if isinstance(stored, str) else stored
    if not isinstance(found, Mapping) or "factory" not in found:
        return False
    asked = {name: found[name] for name in ("factory", "arguments", "conn_id", "service")}
    asked |= {"run_id": found["id"], "place": [dag_id, run_id, task_id, map_index]}
    callback = Callback.create_from_sdk_def(AsyncCallback(_CANCEL, kwargs=asked), prefix="azflow")
    session.add(callback)
    callback.queue(session=session)
    return True
