"""What was decided, of a night's challenger and by hand, kept where people look for it.

The gate's verdict, the approval and what became of the roll-out make one `decision`: a row in the SQL pool
(include/sql/decisions), replaced by night, and tags on the training job's run and on the registered version. A
challenger that was turned down has no version, so that its run is the place where every decision can be found. What a
person does to an endpoint's traffic (dags/rollout.py) is a row of the same table, without a night.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import first_line
from azflow.evaluation import name_and_version
from azflow.guardrails import Measured
from azflow.job_files import tag
from azflow.ml_history import RunHistory
from azflow.ml_workspace import Workspace
from azflow.online_endpoint import OnlineEndpoint
from azflow.registry import ModelRegistry
from azflow.rollout import champion_of, shares_text
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


def _left(ti: Any, task: str, **key: str) -> Mapping[str, Any] | None:
    """What a task left as its XCom; None if it left nothing."""
    found = ti.xcom_pull(task_ids=task, **key)
    return found if isinstance(found, Mapping) else None


class _RowOperator(SynapseSqlOperator):
    """A row of the SQL pool that a file of the user's own writes; without a file there is none."""

    ui_color = "#fdf3d6"

    def __init__(self, *, sql: str = "", **kwargs: Any) -> None:
        super().__init__(sql=sql, **kwargs)

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """As the base class; without a file there is no script to render."""
        if self.sql:
            super().render_template_fields(context, jinja_env)
        else:
            AzflowOperator.render_template_fields(self, context, jinja_env)

    def _write(self, context: Context, row: Mapping[str, Any]) -> None:
        """Run the file with the row as its parameters, and log what it selects."""
        if self.sql:
            self.parameters = dict(row)
            for seen in super().execute(context)["rows"]:
                self.log.info("%s", "  ".join("-" if value is None else str(value) for value in seen))


class RecordDecisionOperator(_RowOperator):
    """Writes down what was decided: a row in the SQL pool, tags on the training run and on the registered version.

    It runs whatever became of the tasks before it; without a verdict there is nothing to write and it is skipped.

    XCom: the `decision`, and ``"tagged"``: what bears the tags.

    :param sql: the file that replaces the night's row, see include/sql/decisions; empty: no row.
    :param verdict: task id of the gate; likewise `approval`, `training`, `data`, `registered`.
    :param shipped: task id of what makes a promoted version serve.
    """

    def __init__(
        self,
        *,
        verdict: str = "evaluate.verdict",
        approval: str = "approve",
        training: str = "train.job",
        data: str = "data.train",
        registered: str = "register.model",
        shipped: str = "roll_out.traffic",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.approval = approval
        self.training = training
        self.data = data
        self.registered = registered
        self.shipped = shipped

    def execute(self, context: Context) -> dict[str, Any]:
        """Decide nothing: gather, write, tag."""
        left = partial(_left, context["ti"])
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
        self._write(context, row)
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


# -- by hand ----------------------------------------------------------------------------------------------------------

_WORDS = {"shift": "shifted", "roll_back": "rolled back", "promote": "promoted"}


def hand_decision(
    model: str,
    action: str,
    *,
    by: str,
    reason: str = "",
    moved: Mapping[str, Any] | None = None,
    deployed: Mapping[str, Any] | None = None,
    attempted: Mapping[str, Any] | None = None,
    serving: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    run_id: str = "",
) -> dict[str, Any]:
    """What a person did to an endpoint, as a row of the same table as `decision`'s. Pure but for the clock.

    ``decision`` is ``shifted``, ``rolled back`` or ``promoted``; ``outcome`` is ``serves`` for who has the most of the
    traffic now, ``gets N %``, ``rolled back`` (a stage wasn't passed), ``not shipped`` or ``not done``; ``reasons`` are
    the person's, then the traffic before and after, then what the stages saw.

    :param action: ``shift``, ``roll_back`` or ``promote``.
    :param moved: XCom of the `TrafficOperator`; `deployed` of the `DeployOperator`, `serving` of the `RolloutOperator`,
        if they ended well.
    :param attempted: the roll-out's evidence, also of one that was taken back.
    :param versions: deployment -> version of its model.
    """
    found = moved or serving or attempted or {}
    traffic: Mapping[str, int] = found.get("traffic") or {}
    before: Mapping[str, int] = (moved or {}).get("before") or {}
    deployment = str(found.get("deployment") or (deployed or {}).get("deployment") or "")
    champion = champion_of(before, "") if moved else (attempted or serving or {}).get("champion")
    if action == "promote":
        outcome = "serves" if serving else "rolled back" if attempted else "not shipped"
    elif moved is None:
        outcome = "not done"
    else:
        outcome = "serves" if champion_of(traffic, "") == deployment else f"gets {traffic.get(deployment, 0)} %"
    known = versions or {}
    return {
        **dict.fromkeys(_COLUMNS),
        "model_name": model,
        "decision": _WORDS[action],
        "decided_by": by,
        "decided_at": datetime.now(UTC).strftime("%F %T"),
        "forced": 0,
        "reasons": "; ".join(each for each in (reason.strip(), *_seen(before, traffic, found)) if each)[:_REASONS],
        "outcome": outcome,
        "champion_version": known.get(champion or ""),
        "model_version": known.get(deployment),
        "deployment": deployment or None,
        "run_id": run_id,
    }


#: All that the table has; the figures of a gate are empty for what is decided by hand.
_COLUMNS = (
    *("model_name", "night", "decision", "decided_by", "decided_at", "forced", "reasons", "outcome", "metric"),
    *("lower_is_better", "holdout_rows", "challenger", "challenger_low", "challenger_high", "champion", "champion_low"),
    *("champion_high", "difference", "difference_low", "difference_high", "champion_version", "model_version"),
    *("deployment", "training_job", "data_version", "run_id"),
)


def _seen(before: Mapping[str, int], traffic: Mapping[str, int], found: Mapping[str, Any]) -> Iterator[str]:
    """The evidence, in a few words each."""
    if before and traffic:
        yield f"traffic {shares_text(traffic)}, before {shares_text(before)}"
    elif traffic:
        yield f"traffic {shares_text(traffic)}"
    yield str(found.get("problem") or "")
    for stage in found.get("stages") or ():
        yield f"{stage.get('name')}: {', '.join(str(reason) for reason in stage.get('reasons') or ())}"


class RecordHandDecisionOperator(_RowOperator):
    """Writes down what a person did to an endpoint's traffic: a row in the SQL pool.

    It runs whatever became of the tasks before it. XCom: `hand_decision`.

    :param sql: the file that writes the row, see include/sql/decisions; empty: no row.
    :param endpoint_name: the endpoint at Azure, for its deployments' versions.
    :param action: ``shift``, ``roll_back`` or ``promote``; a template.
    :param version: of the model that is promoted; a template.
    :param by: who started the run; a template.
    :param reason: why, in the person's words; a template.
    :param moved: task id of the `TrafficOperator`; likewise `deployed` and `stages`.
    """

    template_fields: Sequence[str] = (
        *SynapseSqlOperator.template_fields,
        *("endpoint_name", "action", "version", "by", "reason"),
    )

    def __init__(
        self,
        *,
        endpoint_name: str,
        action: str,
        version: str = "",
        by: str = "",
        reason: str = "",
        moved: str = "traffic",
        deployed: str = "deploy",
        stages: str = "stages",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint_name = endpoint_name
        self.action = action
        self.version = version
        self.by = by
        self.reason = reason
        self.moved = moved
        self.deployed = deployed
        self.stages = stages

    def execute(self, context: Context) -> dict[str, Any]:
        """Gather and write."""
        if self.action not in _WORDS or (self.action == "promote" and not self.version):
            raise AirflowSkipException("Nothing was decided: the form was incomplete.")
        found = partial(_left, context["ti"])
        row = hand_decision(
            self.model,
            self.action,
            by=self.by or "a person",
            reason=self.reason,
            moved=found(self.moved),
            deployed=found(self.deployed),
            attempted=found(self.stages, key=EVIDENCE_XCOM),
            serving=found(self.stages),
            versions=self._versions(),
            run_id=context["ti"].run_id,
        )
        if self.action == "promote":
            row["model_version"] = self.version
        said = (row["decision"], f"by {row['decided_by']}", row["outcome"], row["deployment"], row["reasons"])
        self.log.info("%s", " · ".join(str(each) for each in said if each))
        self._write(context, row)
        return row

    def _versions(self) -> dict[str, str]:
        """Deployment -> version of its model, as far as can be told: a row without them is better than none."""
        try:
            with (
                airflow_edge(self.conn_id),
                contextlib.closing(OnlineEndpoint(AzureConnection.load(self.conn_id), self.endpoint_name)) as endpoint,
            ):
                deployments = endpoint.deployments()
        except Exception as problem:
            self.log.warning("Which versions %s has can't be told: %s", self.endpoint_name, first_line(problem))
            return {}
        models = {name: str(each["properties"].get("model") or "") for name, each in deployments.items()}
        return {name: name_and_version(model)[1] for name, model in models.items() if model}
