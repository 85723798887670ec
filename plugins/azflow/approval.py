"""Whether a challenger that passed the gate goes on: by itself, or after a person's word in Airflow's UI.

A challenger that failed the gate is stopped here, without a question: what follows directly (registration, and with it
the roll-out) is skipped, the rest of the night goes on with the champion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.bases.skipmixin import SkipMixin

from azflow.errors import ConfigurationError
from azflow.runs import AzflowOperator, airflow_edge
from azflow.verdicts import verdict_lines, verdict_markdown

if TYPE_CHECKING:
    from airflow.sdk import Context


def read_verdict(context: Context, task_id: str) -> Mapping[str, Any]:
    """The verdict the gate `task_id` left as its XCom: at least ``promote`` (bool) and ``reasons`` (texts).

    :raises ConfigurationError: it left none; promoting without a verdict isn't an option.
    """
    verdict = context["ti"].xcom_pull(task_ids=task_id)
    if not isinstance(verdict, Mapping) or not isinstance(verdict.get("promote"), bool):
        raise ConfigurationError(f"The task {task_id} left no verdict; clear it and what follows.")
    return verdict


class AutomaticApproval(AzflowOperator, SkipMixin):
    """Lets a promoted challenger pass; skips what follows directly if the gate said no.

    :param verdict: task id of the gate.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, verdict: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns ``{"approved": True, "by": "gate"}``, or skips."""
        with airflow_edge(self.conn_id):
            verdict = read_verdict(context, self.verdict)
        for line in verdict_lines(verdict):
            self.log.info("%s", line)
        answer = {"approved": verdict["promote"], "by": "gate"}
        if not verdict["promote"]:
            _reject(self, context, answer)
        return answer


class PersonalApproval(ApprovalOperator):
    """Asks a person, who sees the verdict; asks nobody about a challenger that the gate turned down.

    XCom: ``{"approved", "by", "at"}``: ``by`` is the person's name, ``timeout`` if nobody answered in time, ``gate`` if
    nobody was asked; ``at`` the answer's instant, ISO.

    :param verdict: task id of the gate.
    :param training: task id of the training job, whose pages are linked; likewise `evaluation`.
    :param timeout_minutes: how long to wait for the answer.
    :param on_timeout: what silence means.
    :param assigned: names of those who may answer; empty: everybody who may act on the DAG.
    """

    template_fields = ("subject", "body")

    def __init__(
        self,
        *,
        verdict: str,
        training: str = "train.job",
        evaluation: str = "evaluate.job",
        timeout_minutes: float,
        on_timeout: Literal["reject", "approve"],
        assigned: tuple[str, ...] = (),
        subject: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            subject=subject,
            body="",
            defaults=self.APPROVE if on_timeout == "approve" else self.REJECT,
            response_timeout=timedelta(minutes=timeout_minutes),
            assigned_users=[{"id": name, "name": name} for name in assigned] or None,
            **kwargs,
        )
        self.verdict = verdict
        self.training = training
        self.evaluation = evaluation

    def execute(self, context: Context) -> Any:
        """Shows the verdict and waits; or skips at once."""
        with airflow_edge():
            verdict = read_verdict(context, self.verdict)
        for line in verdict_lines(verdict):
            self.log.info("%s", line)
        if not verdict["promote"]:
            answer = {"approved": False, "by": "gate"}
            _reject(self, context, answer)
            return answer
        kept = "the champion stays" if verdict.get("champion") else "it isn't shipped"
        stamp = f"Verdict {_digest(verdict)}."
        self.body = "\n\n".join([verdict_markdown(verdict), *self._around(context, kept), stamp])
        with airflow_edge():
            if stamp not in stored_body(self, context["ti"].id):
                raise ConfigurationError(
                    f"Airflow goes on showing the evidence of this task's first try in {context['ti'].run_id}, "
                    "and the gate has judged anew since: nobody shall answer by it. Start the night anew (Trigger) "
                    "instead of clearing it."
                )
        return super().execute(context)

    def _around(self, context: Context, kept: str) -> list[str]:
        """What else whoever answers wants to know: where to look, and what silence means."""
        links = []
        for name, task_id in (("Training", self.training), ("Evaluation", self.evaluation)):
            job = context["ti"].xcom_pull(task_ids=task_id)
            if isinstance(job, Mapping) and job.get("url"):
                links.append(f"[{name}: {job.get('name') or task_id}]({job['url']})")
        assert self.response_timeout is not None and self.defaults is not None
        until = datetime.now(UTC) + self.response_timeout
        silence = kept if self.defaults == [self.REJECT] else "the challenger is promoted"
        said = f"Without an answer by {until:%Y-%m-%d %H:%M} UTC {silence}."
        return [" · ".join(links), said] if links else [said]

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """As the base class; the XCom tells who decided."""
        approved = event.get("chosen_options") == [self.APPROVE]
        user = event.get("responded_by_user") or {}
        at = event.get("responded_at")
        answer = {
            "approved": approved,
            "by": user.get("name") or user.get("id") or "timeout",
            "at": at.isoformat() if isinstance(at, datetime) else str(at or ""),
        }
        who = "Nobody answered in time" if answer["by"] == "timeout" else f"Answered by {answer['by']}"
        self.log.info("%s: %s.", who, "approved" if approved else "not approved")
        if not approved and "error" not in event:
            context["ti"].xcom_push("return_value", answer)
        super().execute_complete(context, event)
        return answer


def stored_body(operator: PersonalApproval, ti_id: Any) -> str:
    """Ask Airflow to show the operator's question; what it shows. It keeps the first text that a task instance gave,
    across retries and clears (Airflow 3.3.2, `upsert_hitl_detail` of the execution API)."""
    from airflow.sdk.api.datamodels._generated import HITLUser
    from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer: Any = SUPERVISOR_COMMS.send(
        CreateHITLDetailPayload(
            ti_id=ti_id,
            options=operator.options,
            subject=operator.subject,
            body=operator.body,
            defaults=operator.defaults,
            multiple=operator.multiple,
            params=operator.serialized_params,
            assigned_users=[HITLUser(**user) for user in operator.assigned_users or ()],
        )
    )
    return str(getattr(answer, "body", None) or operator.body)


def _digest(verdict: Mapping[str, Any]) -> str:
    """Short and the same for the same verdict."""
    return hashlib.sha256(json.dumps(verdict, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _reject(operator: SkipMixin, context: Context, answer: dict[str, Any]) -> None:
    """Skip the tasks that directly follow. Airflow ends this task as a success by way of an exception; without
    followers there is none to raise."""
    ti = context["ti"]
    ti.xcom_push("return_value", answer)
    followers = [task for task in context["task"].get_direct_relatives(upstream=False) if not task.is_teardown]
    operator.skip(ti, followers)
