"""What was decided about a night's challenger, kept where people look for it.

The gate's verdict, the approval and what became of the roll-out make one `decision`: a row in the SQL pool
(include/sql/decisions), replaced by night, and tags on the training job's run and on the registered version. A
challenger that was turned down has no version, so that its run is the place where every decision can be found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import first_line
from azflow.guardrails import Measured
from azflow.job_files import tag
from azflow.ml_history import RunHistory
from azflow.ml_workspace import Workspace
from azflow.registry import ModelRegistry
from azflow.specs import Night
from azflow.synapse import SynapseSqlOperator

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

#: What a reason may take of the row, in characters; the verdict's file has all of it.
_REASONS = 1000
#: The key under which a roll-out leaves what it did, also if it failed.
EVIDENCE_XCOM = "evidence"


def decision(
    night: Night,
    model: str,
    *,
    verdict: Mapping[str, Any],
    approval: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    registered: Mapping[str, Any] | None = None,
    serving: Mapping[str, Any] | None = None,
    attempted: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The decision as plain values, one a column of the table; times in UTC. Pure but for the clock.

    ``decision`` is ``promoted``, ``rejected`` or ``open`` (nobody answered and nobody's time was up: the approval
    failed); ``decided_by`` is ``gate``, a person's name or ``timeout``; ``outcome`` is ``serves``, ``rolled back``,
    ``not shipped`` (promoted, but registration or deployment failed), or None for a challenger that wasn't promoted.

    :param verdict: the gate's XCom; `approval`, `training`, `data`, `registered` those of their tasks, if they ran.
    :param serving: what the last task of the roll-out left: it serves.
    :param attempted: a roll-out's evidence, also of one that was rolled back.
    """
    asked, decided_by, at = approval or {}, "gate", ""
    if not verdict["promote"]:
        word = "rejected"
    elif not asked:
        word, decided_by = "open", ""
    else:
        word = "promoted" if asked.get("approved") else "rejected"
        decided_by, at = str(asked.get("by") or "gate"), str(asked.get("at") or "")
    outcome = None
    if word == "promoted":
        outcome = "serves" if serving else "rolled back" if attempted else "not shipped"
    row: dict[str, Any] = {
        "model_name": model,
        "night": night.partition.isoformat(),
        "decision": word,
        "decided_by": decided_by or None,
        "decided_at": (datetime.fromisoformat(at) if at else datetime.now(UTC)).astimezone(UTC).strftime("%F %T"),
        "forced": int(bool(verdict.get("forced"))),
        "reasons": "; ".join(str(reason) for reason in verdict.get("reasons") or ())[:_REASONS],
        "outcome": outcome,
        "metric": verdict.get("metric"),
        "lower_is_better": int(bool(verdict.get("lower_is_better"))),
        "holdout_rows": verdict.get("rows"),
    }
    for name in ("challenger", "champion", "difference"):
        measured = verdict.get(name) or {}
        row |= {name: measured.get("value"), f"{name}_low": measured.get("low"), f"{name}_high": measured.get("high")}
    shipped = serving or attempted or {}
    return {
        **row,
        "champion_version": verdict.get("champion_version"),
        "model_version": (registered or {}).get("version"),
        "deployment": shipped.get("deployment") or None,
        "training_job": (training or {}).get("name"),
        "data_version": (data or {}).get("id"),
        "run_id": night.run_id,
    }


def decision_tags(row: Mapping[str, Any]) -> dict[str, str]:
    """A decision as tags, each ``decision.<what>``, for people who look at a run or a version in the studio. Pure."""

    def shown(name: str) -> str:
        found = Measured(row[name], row[f"{name}_low"], row[f"{name}_high"])
        return "" if found.value is None else str(found)

    tags = {
        "": row["decision"] if not row["forced"] else f"{row['decision']}, forced",
        ".by": row["decided_by"],
        ".at": row["decided_at"],
        ".reasons": row["reasons"],
        ".outcome": row["outcome"],
        ".metric": row["metric"],
        ".rows": row["holdout_rows"],
        ".challenger": shown("challenger"),
        ".champion": shown("champion"),
        ".champion_version": row["champion_version"],
        ".difference": shown("difference"),
        ".data": row["data_version"],
        ".night": row["night"],
        ".run": row["run_id"],
    }
    return {f"decision{name}": tag(value) for name, value in tags.items() if value not in (None, "")}


class RecordDecisionOperator(SynapseSqlOperator):
    """Writes down what was decided: a row in the SQL pool, tags on the training run and on the registered version.

    It runs whatever became of the tasks before it; without a verdict there is nothing to write and it is skipped.

    XCom: the `decision`, and ``"tagged"``: what bears the tags.

    :param sql: the file that replaces the night's row, see include/sql/decisions; empty: no row.
    :param verdict: task id of the gate; likewise `approval`, `training`, `data`, `registered`.
    :param shipped: task id of what makes a promoted version serve.
    """

    ui_color = "#fdf3d6"

    def __init__(
        self,
        *,
        sql: str = "",
        verdict: str = "evaluate.verdict",
        approval: str = "approve",
        training: str = "train.job",
        data: str = "data.train",
        registered: str = "register.model",
        shipped: str = "roll_out.traffic",
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, **kwargs)
        self.verdict = verdict
        self.approval = approval
        self.training = training
        self.data = data
        self.registered = registered
        self.shipped = shipped

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """As the base class; without a file there is nothing to render."""
        if self.sql:
            super().render_template_fields(context, jinja_env)
        else:
            AzflowOperator.render_template_fields(self, context, jinja_env)

    def execute(self, context: Context) -> dict[str, Any]:
        """Decide nothing: gather, write, tag."""
        ti: Any = context["ti"]

        def left(task: str, **key: str) -> Mapping[str, Any] | None:
            found = ti.xcom_pull(task_ids=task, **key)
            return found if isinstance(found, Mapping) else None

        verdict = left(self.verdict)
        if verdict is None:
            raise AirflowSkipException(f"{self.verdict} left no verdict: there is no decision to write down.")
        row = decision(
            context["night"],  # type: ignore[typeddict-item]
            self.model,
            verdict=verdict,
            approval=left(self.approval),
            training=left(self.training),
            data=left(self.data),
            registered=left(self.registered),
            serving=left(self.shipped),
            attempted=left(self.shipped, key=EVIDENCE_XCOM),
        )
        self.log.info("%s", " · ".join(str(row[name]) for name in ("decision", "decided_by", "outcome") if row[name]))
        if self.sql:
            self.parameters = row
            for seen in super().execute(context)["rows"]:
                self.log.info("%s", "  ".join("-" if value is None else str(value) for value in seen))
        with airflow_edge(self.conn_id):
            return {**row, "tagged": self._tag(AzureConnection.load(self.conn_id), row, left(self.registered))}

    def _tag(
        self, connection: AzureConnection, row: Mapping[str, Any], registered: Mapping[str, Any] | None
    ) -> list[str]:
        """What could be tagged. A label that can't be written fails nothing: there is the row."""
        tags, tagged = decision_tags(row), []
        with contextlib.closing(Workspace(connection)) as workspace:
            places: list[tuple[str, Any]] = []
            if row["training_job"]:
                places.append((str(row["training_job"]), RunHistory(workspace).tag))
            if registered and registered.get("version"):
                registry = ModelRegistry(connection, str(registered["name"]))
                places.append((str(registered["version"]), registry.annotate))
            for name, write in places:
                try:
                    write(name, tags)
                except Exception as problem:
                    self.log.warning("%s doesn't bear the decision's tags: %s", name, first_line(problem))
                else:
                    tagged.append(name)
        return tagged
