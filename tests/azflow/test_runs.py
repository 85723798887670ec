"""The waiting loop: one submission whatever happens, cancellation only when meant, failures that say why."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

import azflow.remote
import azflow.runs
import azflow.watch
import memory_runs
from azflow.errors import AzflowError, ConfigurationError, ServiceUnavailable
from azflow.runs import (
    AZURE_ML_JOB,
    DIGEST_TAG,
    RUN_XCOM,
    RemoteRunOperator,
    RemoteRuns,
    RemoteRunTrigger,
    RunsReference,
    RunState,
    payload_digest,
    raise_for_airflow,
)

REFERENCE = RunsReference("memory_runs.MemoryRuns", {"shard": "a"})


class MemoryOperator(RemoteRunOperator):
    service = "Memory run"
    alphabet = AZURE_ML_JOB

    def __init__(self, *, x: Any = 42, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x = x

    def remote_runs(self) -> RunsReference:
        return REFERENCE

    def payload(self, context: Any) -> dict[str, Any]:
        return {"x": self.x}


class TaskInstance(SimpleNamespace):
    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


def a_try(
    *, max_tries: int = 2, map_index: int = -1, run_id: str = "r", **arguments: Any
) -> tuple[Any, dict[str, Any]]:
    """A fresh process's view of one try of the task: an operator and its context."""
    settings = {"grace_seconds": 60, "poll_seconds": 0.001, "retries": 2} | arguments
    operator = MemoryOperator(task_id="work", **settings)
    ti = TaskInstance(
        dag_id="d",
        run_id=run_id,
        task_id="train.work",
        map_index=map_index,
        max_tries=max_tries,
        task=operator,
        xcoms={},
    )
    return operator, {"ti": ti}


def run(**arguments: Any) -> Any:
    operator, context = a_try(**arguments)
    return operator.execute(context)


def trigger(run_id: str = "x", *, deadline: float | None = None, started: float | None = None) -> RemoteRunTrigger:
    return RemoteRunTrigger(
        factory=REFERENCE.factory,
        arguments=dict(REFERENCE.arguments),
        conn_id="azure_default",
        service="Memory run",
        run_id=run_id,
        started=started if started is not None else time.time(),
        deadline=deadline if deadline is not None else time.time() + 60,
    )


async def fire(waiting: RemoteRunTrigger) -> dict[str, Any]:
    async for event in waiting.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own pauses, a hundred times shorter."""
    monkeypatch.setattr(azflow.watch, "poll_interval", lambda age, failures=0: 0.002)
    monkeypatch.setattr(azflow.remote, "CANCEL_PAUSES", (0.0, 0.0, 0.0))


def test_memory_runs_are_remote_runs() -> None:
    memory_runs.reset()
    assert isinstance(memory_runs.MemoryRuns(None), RemoteRuns)


def test_a_subclass_without_an_alphabet_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="alphabet"):
        type("Bad", (RemoteRunOperator,), {"service": "x"})


# -- submit, attach, retry ---------------------------------------------------------------------------------------------


def test_a_run_is_submitted_waited_for_and_answered() -> None:
    service = memory_runs.reset(polls_until_end=3)
    operator, context = a_try()
    answer = operator.execute(context)
    (submitted,) = service.runs.values()
    assert answer == {"name": submitted.name, "answer": 42}
    assert submitted.tags[DIGEST_TAG] == payload_digest({"x": 42})
    assert submitted.tags["azflow.attempt"] == "0.0"
    assert context["ti"].xcoms[RUN_XCOM]["id"] == submitted.name
    assert context["ti"].xcoms["_link_RunLink"] == f"https://service/runs/{submitted.name}"
    assert service.opened == service.closed == 1


def test_a_second_try_takes_the_result_of_a_run_that_succeeded() -> None:
    service = memory_runs.reset()
    first = run()
    assert run() == first
    assert service.created == 1


def test_a_retry_after_a_failure_is_a_new_attempt() -> None:
    service = memory_runs.reset(end="Failed")
    with pytest.raises(AirflowException):
        run()
    service.end = "Completed"
    assert run()["answer"] == 42
    assert [one.tags["azflow.attempt"] for one in service.runs.values()] == ["0.0", "0.1"]


def test_a_cleared_task_runs_anew_even_after_success() -> None:
    service = memory_runs.reset()
    run(max_tries=2)
    run(max_tries=3)  # Airflow: max_tries = try_number + retries
    assert [one.tags["azflow.attempt"] for one in service.runs.values()] == ["0.0", "1.0"]


def test_mapped_task_instances_have_runs_of_their_own() -> None:
    service = memory_runs.reset()
    run(map_index=0)
    run(map_index=1)
    assert service.created == 2


@pytest.mark.parametrize("word", ["Completed", "Running", "Failed"])
def test_a_run_with_other_parameters_is_not_adopted(word: str) -> None:
    service = memory_runs.reset()
    run(x=1)
    (old,) = service.runs.values()
    old.word = word
    assert run(x=2)["answer"] == 2
    assert service.created == 2 and service.cancels == []


def test_a_lost_answer_leads_to_one_run() -> None:
    service = memory_runs.reset(lose_answers=1)
    assert run()["answer"] == 42
    assert service.created == 1


def test_a_submission_that_failed_for_good_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_runs.reset()

    def refuse(*_: object) -> str:
        raise ConfigurationError("no such compute: cpu-cluster")

    monkeypatch.setattr(memory_runs.MemoryRuns, "submit", refuse)
    with pytest.raises(AirflowFailException, match="no such compute"):
        run()


def test_two_workers_at_once_share_one_run() -> None:
    service = memory_runs.reset(polls_until_end=20)
    answers: list[Any] = []
    workers = [threading.Thread(target=lambda: answers.append(run())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert service.created == 1
    assert len(answers) == 8 and all(answer == answers[0] for answer in answers)


class Killed(BaseException):
    """SIGKILL: nothing below may catch it."""


LOOP = {azflow.runs.__file__, azflow.remote.__file__, memory_runs.__file__}


def killed_at(step: int, **arguments: Any) -> bool:
    """Runs a try and kills it at the `step`-th line inside the loop or the service; whether it got that far."""
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in LOOP:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Killed
        return trace

    operator, context = a_try(**arguments)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        operator.execute(context)
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_crash_at_any_line_leads_to_one_run() -> None:
    step = 0
    while True:
        step += 1
        service = memory_runs.reset(polls_until_end=2)
        killed = killed_at(step)
        assert run() == {"name": next(iter(service.runs)), "answer": 42}
        assert service.created == 1, f"killed at line {step}"
        assert service.cancels == []
        if not killed:
            break
    assert step > 100  # it really went through the loop, line by line


def test_a_crash_at_any_line_after_a_failed_run_leads_to_one_more() -> None:
    for step in range(1, 400, 3):
        service = memory_runs.reset(end="Failed")
        with pytest.raises(AirflowException):
            run()
        service.end = "Completed"
        killed = killed_at(step)
        run()
        assert service.created == 2, f"killed at line {step}"
        if not killed:
            break


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_failure_carries_id_url_cause_and_log() -> None:
    memory_runs.reset(end="Failed")
    with pytest.raises(AirflowException) as raised:
        run()
    message = str(raised.value)
    name = next(iter(memory_runs.SERVICE.runs))
    for part in ("Memory run", name, f"https://service/runs/{name}", "Failed", "out of memory", "epoch 1", "Killed"):
        assert part in message
    assert not isinstance(raised.value, AirflowFailException)


def test_a_failure_whose_cause_cannot_be_read_is_still_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_runs.reset(end="Failed")

    def broken(*_: object) -> Any:
        raise ServiceUnavailable("no logs today")

    monkeypatch.setattr(memory_runs.MemoryRuns, "failure", broken)
    with pytest.raises(AirflowException, match=r"ended as Failed: \(its cause can't be read: no logs today\)"):
        run()


def test_a_run_cancelled_by_somebody_is_not_retried() -> None:
    memory_runs.reset(end="Canceled")
    with pytest.raises(AirflowFailException, match="Canceled"):
        run()


def test_failed_polls_are_tried_again() -> None:
    service = memory_runs.reset(failing_polls=[ConnectionError("reset"), ServiceUnavailable("503"), TimeoutError()])
    assert run()["answer"] == 42
    assert service.created == 1


def test_an_unknown_state_is_raised_not_waited_out() -> None:
    memory_runs.reset(end="Hibernating")
    with pytest.raises(AirflowException, match="Hibernating"):
        run()


@pytest.mark.parametrize(("helps", "kind"), [(True, AirflowException), (False, AirflowFailException)])
def test_the_edge_tells_airflow_whether_to_retry(helps: bool, kind: type) -> None:
    with pytest.raises(kind) as raised:
        raise_for_airflow(AzflowError("m", retry_helps=helps))
    assert type(raised.value) is kind


def test_a_deadline_in_the_worker_cancels() -> None:
    service = memory_runs.reset(polls_until_end=10**6)
    with pytest.raises(AirflowFailException, match=r"passed its deadline .* was cancelled"):
        run(timeout_minutes=0.0005, grace_seconds=5)
    assert service.cancels == list(service.runs)


# -- kill ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "cancels"),
    [("running", 0), ("unknown", 0), ("failed", 1), ("success", 1), ("", 1), ("restarting", 1), ("removed", 1)],
)
def test_a_worker_cancels_only_if_the_task_was_taken_from_it(
    state: str, cancels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = memory_runs.reset(polls_until_end=10**6)
    monkeypatch.setattr(azflow.runs, "task_state", lambda *_: state)
    operator, context = a_try()
    asked = memory_runs.MemoryRuns.state

    def term_during_a_poll(runs: Any, id: str) -> RunState:
        operator.on_kill()
        return asked(runs, id)

    monkeypatch.setattr(memory_runs.MemoryRuns, "state", term_during_a_poll)
    with pytest.raises(AirflowException) as raised:
        operator.execute(context)
    (submitted,) = service.runs.values()
    assert submitted.polls == 1
    assert len(service.cancels) == cancels
    assert isinstance(raised.value, AirflowFailException) == bool(cancels)


def test_a_task_that_was_ended_is_not_deferred_but_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Until its next heartbeat the worker doesn't know, and after the deferral nobody would.
    service = memory_runs.reset(polls_until_end=10**6)
    monkeypatch.setattr(azflow.runs, "task_state", lambda *_: "failed")
    with pytest.raises(AirflowFailException, match=r"The task was stopped \(it is failed now\); .* was cancelled"):
        run(grace_seconds=0.01)
    assert service.cancels == list(service.runs)


def test_a_worker_stopped_before_submission_submits_nothing() -> None:
    service = memory_runs.reset()
    operator, context = a_try()
    operator.on_kill()
    with pytest.raises(AirflowException, match="before its Memory run was submitted"):
        operator.execute(context)
    assert service.created == 0


# -- deferral and the trigger ------------------------------------------------------------------------------------------


def test_a_long_run_is_deferred_and_finished_by_another_process() -> None:
    service = memory_runs.reset(polls_until_end=10**6)
    operator, context = a_try(grace_seconds=0.01)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    path, arguments = deferred.value.trigger.serialize()
    service.polls_until_end = 0
    module, _, name = path.rpartition(".")
    again = getattr(sys.modules[module], name)(**arguments)
    event = asyncio.run(fire(again))
    assert event["outcome"] == "over" and event["state"] == "Completed"
    resumed, context = a_try()
    assert getattr(resumed, deferred.value.method_name)(context, event)["answer"] == 42
    assert resumed.operator_extra_links[0].get_link(resumed, ti_key=None).endswith(event["run_id"])
    assert service.created == 1 and service.opened == service.closed


def test_what_was_shown_of_a_run_is_known_to_the_process_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    def follow(self: Any, runs: Any, run_id: str) -> None:
        self.progress["lines"] = self.progress.get("lines", 0) + 1
        shown.append(self.progress["lines"])
        raise ValueError("a log that can't be read fails nothing")

    memory_runs.reset(polls_until_end=10**6)
    operator, context = a_try(grace_seconds=0.01)
    monkeypatch.setattr(type(operator), "follow", follow)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    kwargs = deferred.value.kwargs
    assert json.loads(json.dumps(kwargs)) == {"progress": {"lines": len(shown)}}
    memory_runs.SERVICE.polls_until_end = 0
    event = {"outcome": "over", "run_id": next(iter(memory_runs.SERVICE.runs)), "deadline": time.time() + 60}
    resumed, context = a_try()
    assert resumed.resume(context, event, **kwargs)["answer"] == 42
    assert shown == list(range(1, len(shown) + 1))


def test_the_trigger_survives_airflows_serialization() -> None:
    from airflow.sdk.serde import deserialize, serialize

    path, arguments = trigger("x").serialize()
    assert path == "azflow.watch.RemoteRunTrigger"
    again = RemoteRunTrigger(**deserialize(serialize(arguments)))
    assert again.serialize() == (path, arguments)


def submitted(**settings: Any) -> tuple[memory_runs.Service, str]:
    service = memory_runs.reset(**settings)
    name = memory_runs.MemoryRuns(None).submit("one", {"x": 1}, {})
    return service, name


async def test_failed_polls_in_the_triggerer_change_nothing() -> None:
    service, name = submitted(failing_polls=[ConnectionError("x")] * 5)
    assert (await fire(trigger(name)))["outcome"] == "over"
    assert service.cancels == []


async def test_the_deadline_is_the_triggers_own() -> None:
    service, name = submitted(polls_until_end=10**6)
    event = await fire(trigger(name, deadline=time.time() + 0.05))
    assert event["outcome"] == "timed_out" and event["problem"] == ""
    assert service.cancels == [name]
    operator, context = a_try()
    with pytest.raises(AirflowFailException, match="passed its deadline"):
        operator.resume(context, event)


async def test_a_deadline_whose_cancellation_fails_says_so() -> None:
    service, name = submitted(polls_until_end=10**6, failing_cancels=99)
    event = await fire(trigger(name, deadline=time.time() + 0.02))
    assert event["problem"] == "busy" and service.cancels == []
    operator, context = a_try()
    with pytest.raises(AirflowFailException, match="COULD NOT BE CANCELLED"):
        operator.resume(context, event)


async def test_a_run_that_succeeds_at_its_deadline_has_succeeded() -> None:
    service, name = submitted()
    service.runs[name].word = "Completed"
    operator, context = a_try()
    event = {"outcome": "timed_out", "run_id": name, "deadline": time.time(), "problem": ""}
    assert operator.resume(context, event)["answer"] == 1


async def test_an_unknown_state_in_the_triggerer_wakes_the_worker() -> None:
    service, name = submitted(end="Hibernating")
    event = await fire(trigger(name))
    assert event["outcome"] == "unknown" and event["state"] == "Hibernating"
    assert service.cancels == []


async def test_a_thousand_waiting_tasks_share_one_client_and_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azflow.watch._Poller, "polls_a_second", 10**6)
    service = memory_runs.reset(polls_until_end=2)
    runs = memory_runs.MemoryRuns(None)
    names = [runs.submit(f"run-{index}", {"x": index}, {}) for index in range(1000)]
    service.opened = 0
    events = await asyncio.gather(*(fire(trigger(name)) for name in names))
    assert {event["run_id"] for event in events} == set(names)
    assert service.opened == service.closed == 1
    assert 1 < service.most_concurrent <= azflow.watch._Poller.concurrency
    assert azflow.watch._Poller._open_pollers == {}


async def test_polls_a_second_are_bounded_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azflow.watch._Poller, "polls_a_second", 200.0)
    memory_runs.reset(polls_until_end=2)
    runs = memory_runs.MemoryRuns(None)
    names = [runs.submit(f"run-{index}", {"x": index}, {}) for index in range(50)]
    asked: list[float] = []
    astate = memory_runs.MemoryRuns.astate

    async def counted(self: Any, id: str) -> Any:
        asked.append(time.monotonic())
        return await astate(self, id)

    monkeypatch.setattr(memory_runs.MemoryRuns, "astate", counted)
    await asyncio.gather(*(fire(trigger(name)) for name in names))
    assert len(asked) >= 100
    # A burst of 20, then one every 5 ms.
    assert asked[99] - asked[0] >= 0.9 * (100 - 21) / 200.0


async def test_a_deadline_does_not_wait_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azflow.watch._Poller, "polls_a_second", 0.001)
    monkeypatch.setattr(azflow.watch, "_BURST", 0)
    monkeypatch.setattr(azflow.watch, "_LAST_TURN", 0.01)
    service, name = submitted(polls_until_end=10**6)
    begun = time.monotonic()
    event = await fire(trigger(name, deadline=time.time() + 0.3))
    assert (event["outcome"], service.cancels) == ("timed_out", [name])
    assert time.monotonic() - begun < 5


async def test_retry_after_holds_all_polls_of_the_service() -> None:
    _, name = submitted(failing_polls=[ServiceUnavailable("429", retry_after=0.2)])
    started = time.monotonic()
    await fire(trigger(name))
    assert time.monotonic() - started >= 0.2


def test_intervals_grow_with_age_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 0.8 <= azflow.watch.poll_interval(0) <= 1.2
    assert 8 <= azflow.watch.poll_interval(300) <= 12
    assert azflow.watch.poll_interval(10**6) <= 70
    assert azflow.watch.poll_interval(0, failures=4) >= 13
    assert azflow.watch.poll_interval(0, failures=400) <= 70


@pytest.mark.parametrize(
    ("state", "current", "cancels"),
    [
        ("deferred", "one", 0),  # another triggerer took the trigger over
        ("deferred", None, 0),  # cannot be told: leave it alone
        ("deferred", "another", 1),  # cleared, and waiting for a new run already
        ("unknown", "one", 0),
        ("failed", "one", 1),
        ("success", "one", 1),
        ("", "one", 1),
    ],
)
async def test_the_trigger_cancels_only_what_nobody_waits_for(
    state: str, current: str | None, cancels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, name = submitted(polls_until_end=10**6)
    monkeypatch.setattr(azflow.watch, "task_state", lambda *_: state)
    monkeypatch.setattr(azflow.watch, "current_run", lambda *_: current)
    waiting = trigger(name)
    waiting.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)  # type: ignore[assignment]
    await waiting.on_kill()
    assert len(service.cancels) == cancels


async def test_a_cancellation_under_way_survives_being_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow 3.3.2 cancels a trigger again about every second until it has ended, on_kill included.
    service, name = submitted(polls_until_end=10**6)

    def slow(*_: object) -> str:
        time.sleep(0.05)
        return "failed"

    monkeypatch.setattr(azflow.watch, "task_state", slow)
    waiting = trigger(name)
    waiting.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)  # type: ignore[assignment]
    killing = asyncio.create_task(waiting.on_kill())
    await asyncio.sleep(0.01)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    await asyncio.gather(*azflow.watch._UNDER_WAY)
    assert service.cancels == [name]


async def test_a_trigger_that_is_moved_or_cleaned_up_cancels_nothing() -> None:
    service, name = submitted(polls_until_end=10**6)
    waiting = trigger(name)
    polling = asyncio.create_task(fire(waiting))
    await asyncio.sleep(0.05)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    await waiting.cleanup()
    assert service.cancels == [] and azflow.watch._Poller._open_pollers == {}
