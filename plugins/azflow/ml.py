"""Azure ML from Airflow: jobs, data assets, registered models, and the gate between them.

A job is whatever ``az ml job create --file`` takes (AutoML, command, sweep, pipeline, Spark), as a template below
include/ml. `azflow.ml_jobs` runs it, `azflow.registry` knows which model version serves.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from azflow import exports
from azflow.comparison import known_metrics
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, first_line
from azflow.guardrails import PromotionRules, calibration_error, judge_challenger
from azflow.job_files import content_digest, keep_expressions, origin, override, read_job, tag, truth
from azflow.lake_tables import LakeTable, inspect_table, write_table_pointer
from azflow.metrics import check_bounds
from azflow.ml_jobs import NIGHT_PROPERTY, SERVICE, children_table
from azflow.ml_workspace import Workspace
from azflow.registry import ModelRegistry
from azflow.runs import (
    AZURE_ML_JOB,
    SPEND_XCOM,
    Alphabet,
    AzflowOperator,
    RemoteRunOperator,
    RunLink,
    RunsReference,
    airflow_edge,
)
from azflow.specs import INCLUDE
from azflow.spend import SpendLimits, allow, declared, hours, measured
from azflow.verdicts import verdict_lines

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from azflow.remote import RunIdentity

#: Of what a job prints, a task's log holds no more; the rest is in the workspace.
_LOG_LINES = 1000


@attrs.define(init=False)
class TrackingLink(RunLink):
    """The run in MLflow, on the task's page in Airflow."""

    attribute: ClassVar[str] = "tracking_url"

    def __init__(self, name: str = "MLflow") -> None:
        super().__init__(name)


class AzureMLJobOperator(RemoteRunOperator):
    """Runs any Azure ML job, exactly once a night, and returns what came out.

    XCom: ``{"name", "type", "status", "url", "tracking_url", "experiment", "seconds", "outputs": {name: uri},
    "model_uri", "metrics": {name: value}, "parameters": {name: value}, "data": {input: address}, "children": [...],
    "best_child", "primary_metric", "goal", "compute_seconds", "node_seconds"}``. A child (a trial, a step) is
    ``{"name", "title", "kind", "status", "algorithm", "metrics", "parameters", "seconds", "nodes", "reused"}``, of a
    step that is a search also ``children``, ``best_child``, ``primary_metric``, ``goal``. Metrics and parameters of a
    search are its best trial's, those of a pipeline its steps' (``<step>.<metric>``). ``compute_seconds`` are those of
    all runs that held nodes, ``node_seconds`` those times their nodes; with limits also ``spend``: ``{"limits",
    "night_node_seconds", "over": [line]}``. ``model_uri`` is empty if there is no model.

    The YAML's template sees ``inputs`` and ``outputs`` (as given here), ``night``, ``azure``, ``model``, ``params`` and
    ``dag_run``. What the job prints appears in the task's log while the worker waits, and the rest when it is over.

    :param job: the YAML, relative to include/ml: command, sweep, AutoML, pipeline or Spark.
    :param inputs: values for the template, and for the inputs of the same name that the YAML declares.
    :param outputs: where outputs of the YAML are written (``azureml://datastores/...``).
    :param settings: other keys of the YAML to replace, e.g. ``{"compute": "azureml:gpu", "limits": {"timeout": 60}}``.
    :param spend: ``{"max_node_hours_per_job", "max_node_hours_per_night"}``, see `azflow.spend`: a job that asks for
        more isn't submitted, one that doesn't say is cancelled when it has used them up.
    """

    service = SERVICE
    alphabet: ClassVar[Alphabet] = AZURE_ML_JOB
    template_fields: Sequence[str] = ("job", "inputs", "outputs", "settings")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "outputs": "json", "settings": "json"}
    operator_extra_links = (RunLink("Azure ML studio"), TrackingLink())
    ui_color = "#e3f5e7"
    #: The project's include folder; tests have their own.
    include: ClassVar[Path] = INCLUDE

    def __init__(
        self,
        *,
        job: str,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        spend: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.inputs = dict(inputs or {})
        self.outputs = dict(outputs or {})
        self.settings = dict(settings or {})
        self.spend = SpendLimits.of(spend)
        #: The run in MLflow, for `TrackingLink`.
        self.tracking_url = ""
        self._stamp: dict[str, str] = {}
        self._lines_left = _LOG_LINES

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """As the base class; Azure ML's own expressions (``${{inputs.x}}``) are no templates of Airflow's."""
        self.inputs, self.outputs = keep_expressions(self.inputs), keep_expressions(self.outputs)
        self.settings = keep_expressions(self.settings)
        super().render_template_fields(context, jinja_env)

    def remote_runs(self) -> RunsReference:
        """The workspace's jobs."""
        own = {} if self.include == INCLUDE else {"include": str(self.include)}
        return RunsReference("azflow.ml_jobs.AzureMLJobs", own)

    def payload(self, context: Context) -> dict[str, Any]:
        """The rendered job, and a digest of the code it names."""
        names = ("night", "azure", "model", "params", "dag_run", "partition_key")
        seen: Mapping[str, Any] = context
        known = {name: seen[name] for name in names if name in seen}
        known |= {"inputs": self.inputs, "outputs": self.outputs}
        rendered = read_job(self.job, known, self.include)
        content = override(rendered, self.inputs, self.outputs, self.settings)
        self.stamp(context, self.inputs)
        return {"file": self.job, "content": content, "code": content_digest(content, self.job, self.include)}

    def stamp(self, context: Context, inputs: Mapping[str, Any]) -> None:
        """Keep where this job comes from, for its tags."""
        night = context["night"]  # type: ignore[typeddict-item]
        given = {name: value for name, value in inputs.items() if isinstance(value, str) and value}
        self._stamp = origin(night) | {f"azflow.input.{name}": tag(value) for name, value in given.items()}
        self._stamp[NIGHT_PROPERTY] = night.key

    def _tags(self, identity: RunIdentity, digest: str) -> dict[str, str]:
        """As the base class, and where the job comes from: commit, partition, data and models it was given.

        Tags aren't part of the payload's digest: a new commit that changes neither job nor code is the same work.
        """
        return {**self._stamp, **super()._tags(identity, digest)}

    # -- around the run ----------------------------------------------------------------------------------------------

    def before_submit(self, context: Context, runs: Any, payload: Mapping[str, Any]) -> None:
        """Ask the spend limits. See `azflow.spend.allow`."""
        if not self.spend:
            return
        night = context["night"]  # type: ignore[typeddict-item]
        spent = runs.night_seconds(night.key) if self.spend.max_node_hours_per_night is not None else 0.0
        job = declared(payload["content"])
        allowed = allow(job, self.spend, spent)
        if allowed.refused:
            raise ConfigurationError(f"{runs.shown(payload)} isn't submitted: {allowed.refused}.")
        if allowed.seconds is not None and allowed.seconds < self.timeout_minutes * 60:
            minutes = allowed.seconds / 60
            self.lower_deadline(minutes, allowed.reason)
            self.log.info("The job may run for %.1f minutes on %d node(s): %s.", minutes, job.nodes, allowed.reason)

    def find_links(self, runs: Any, run_id: str) -> None:
        """The studio's page, and MLflow's."""
        super().find_links(runs, run_id)
        try:
            self.tracking_url = runs.tracking_url(run_id)
        except Exception as problem:
            self.tracking_url = self.run_url
            self.log.warning("MLflow's page of %s isn't known: %s", run_id, first_line(problem))

    def follow(self, runs: Any, run_id: str) -> None:
        """What the job printed since the last look, and which of its children changed."""
        lines = runs.follow(run_id, self.progress)
        shown = lines[-self._lines_left :] if self._lines_left else []
        if (hidden := len(lines) - len(shown)) and self._lines_left:
            self.log.info("(%d lines are left out here; all of them: %s)", hidden, self.run_url)
        self._lines_left -= len(shown)
        for line in shown:
            self.log.info("| %s", line)

    def outcome(self, context: Context, result: dict[str, Any]) -> Any:
        """Show trials or steps, and say what it cost."""
        self.tracking_url = result.get("tracking_url") or self.tracking_url
        if result.get("children"):
            tried = {name for child in result["children"] for name in child["metrics"]}
            shared = [name for name in result["metrics"] if name in tried]
            searched = [result["primary_metric"]] if result["primary_metric"] in shared else []
            metric = next(iter([*searched, *known_metrics(shared), *shared]), "")
            for line in children_table(result["children"], result["best_child"], metric):
                self.log.info("%s", line)
        self.log.info("It took %s.", hours(result["node_seconds"]))
        if self.spend:
            with self._service() as runs:
                result["spend"] = self._judge_spending(context, runs, result["name"], result["node_seconds"])
        return result

    def after_failure(self, context: Context, runs: Any, run_id: str) -> None:
        """A job that failed was paid for, too: its node seconds stay in the XCom ``spend``."""
        _, node_seconds = runs.cost(run_id)
        spend = self._judge_spending(context, runs, run_id, node_seconds) if self.spend else None
        context["ti"].xcom_push(SPEND_XCOM, {"name": run_id, "node_seconds": node_seconds, "spend": spend})

    def _judge_spending(self, context: Context, runs: Any, run_id: str, node_seconds: float) -> dict[str, Any]:
        """What the job and its night took against the limits; says what passed them."""
        night = None
        if self.spend.max_node_hours_per_night is not None:
            night = runs.night_seconds(context["night"].key)  # type: ignore[typeddict-item]
        over = measured(node_seconds, self.spend, night)
        for line in over:
            self.log.warning("%s %s: %s.", SERVICE, run_id, line)
        return {"limits": asdict(self.spend), "night_node_seconds": night, "over": over}


class DataAssetOperator(AzflowOperator):
    """Registers an exported folder or a table of the lake as a data asset: a pointer and what it points at, no copy.

    The asset's version is the partition and the night's key, so that doing it again registers the same. Its tags:
    row_count, schema_hash, watermark, suite_result, git_commit, dag, run; of a Delta table also table_version, and the
    pointer stays with that version whatever is written later. An ``mltable`` is a small file in a folder beside the
    data, which other readers of it then don't trip over.

    XCom: ``{"id": "azureml:<name>:<version>", "name", "version", "type", "path", "rows", "columns", "schema_hash",
    "watermark", "table_version"}``; ``table_version`` is None but for a Delta table.

    :param name: the asset's name.
    :param path: the folder of Parquet files, or of the Delta table, relative to the lake's container.
    :param type: ``mltable`` (AutoML needs it) or ``uri_folder``.
    :param format: ``parquet`` or ``delta``; a Delta table is an ``mltable``: only that can name a version.
    :param tags: more tags.
    :param datastore: Azure ML's name for the lake's container.
    """

    template_fields = ("name", "path", "tags", "datastore")
    template_fields_renderers: ClassVar[dict[str, str]] = {"tags": "json"}
    ui_color = "#e3f5e7"

    def __init__(
        self,
        *,
        name: str,
        path: str,
        type: str = "mltable",
        format: str = "parquet",
        tags: Mapping[str, str] | None = None,
        datastore: str = "lake",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.path = path
        self.type = type
        self.format = format
        self.tags = dict(tags or {})
        self.datastore = datastore

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at the data, write the MLTable file, register."""
        with airflow_edge(self.conn_id):
            allowed = {"parquet": ("mltable", "uri_folder"), "delta": ("mltable",)}
            if self.format not in allowed:
                raise ConfigurationError(f"Data asset {self.name}: format is {self.format!r}; use parquet or delta.")
            if self.type not in allowed[self.format]:
                raise ConfigurationError(
                    f"Data asset {self.name}: type is {self.type!r}; use {' or '.join(allowed[self.format])}."
                )
            connection = AzureConnection.load(self.conn_id)
            night = context["night"]  # type: ignore[typeddict-item]
            version = f"{night.partition}-{night.key}"
            with contextlib.closing(Workspace(connection)) as workspace:
                found, path, data = self._look(connection, workspace, version)
                tags = {
                    **origin(night),
                    "row_count": "unknown" if found.rows is None else str(found.rows),
                    "schema_hash": found.schema_hash,
                    "watermark": str(night.partition),
                    "suite_result": _suite_result(context),
                    **({"table_version": str(found.version)} if isinstance(found, LakeTable) else {}),
                    **{key: tag(value) for key, value in self.tags.items()},
                }
                workspace.register_data(self.name, version, path, data_type=self.type, tags=tags, referenced=[data])
        rows = "an unknown number of" if found.rows is None else found.rows
        self.log.info("azureml:%s:%s points at %s: %s rows.", self.name, version, found.folder, rows)
        return {
            "id": f"azureml:{self.name}:{version}",
            "name": self.name,
            "version": version,
            "type": self.type,
            "path": path,
            "rows": found.rows,
            "columns": found.columns,
            "schema_hash": found.schema_hash,
            "watermark": str(night.partition),
            "table_version": found.version if isinstance(found, LakeTable) else None,
        }

    def _look(
        self, connection: AzureConnection, workspace: Workspace, version: str
    ) -> tuple[exports.Export | LakeTable, str, str]:
        """What is there, the asset's address, and the data's."""
        root = f"{self._datastore_url(connection)}/paths"
        if self.format == "delta":
            # An earlier try's pointer stays: the table may have been written to since.
            known = workspace.version("data", self.name, version)
            kept = ((known or {}).get("properties", {}).get("tags") or {}).get("table_version")
            table = inspect_table(connection, self.path, int(kept) if kept else None)
            data = f"{root}/{table.folder}/"
            return table, f"{root}/{write_table_pointer(connection, table, data)}/", data
        export = exports.inspect(connection, self.path)
        data = f"{root}/{export.folder}/"
        if self.type == "uri_folder":
            return export, data, data
        return export, f"{root}/{exports.write_mltable(connection, export, data)}/", data

    def _datastore_url(self, connection: AzureConnection) -> str:
        # The long form: MLTable files don't know in which workspace they are read.
        return (
            f"azureml://subscriptions/{connection.subscription_id}/resourcegroups/{connection.resource_group}"
            f"/workspaces/{connection.workspace}/datastores/{self.datastore}"
        )


class EvaluationGate(AzflowOperator):
    """Judges the evidence an evaluation job wrote, and writes the verdict down beside it (``verdict.json``).

    XCom: the verdict (`azflow.guardrails.Verdict` as a mapping), ``evidence`` (its address), and what a report shows
    beside it: ``slices``, ``positives``, ``confidence``, ``unit``, ``baselines``, ``microseconds_per_row``,
    ``unlabelled``, ``calibration_error``, ``challenger_calibration``, ``champion_calibration``.

    :param evaluation: task id of the job whose output ``evidence`` is a folder with ``evidence.json``.
    :param metric: the metric the evidence must be about.
    :param max_loss: how much worse than the champion the challenger may be.
    :param floor: where higher is better, the least it must reach.
    :param ceiling: where lower is better, the most it may be.
    :param min_skill: where lower is better, the least share of the best baseline's error that it must take away.
    :param min_rows: the least hold-out rows.
    :param promote_if: ``better`` by the whole interval of the paired difference, or ``not_worse``.
    :param max_slice_loss: how much worse it may be on a slice of at least `min_slice_rows` rows.
    :param max_calibration_error: how far predictions and outcomes may lie apart on average.
    :param max_microseconds_per_row: what scoring a row may take.
    :param force: promote against the rules (the form's choice); text or bool.
    """

    template_fields = ("evaluation", "force")
    ui_color = "#fdf3d6"

    def __init__(
        self,
        *,
        evaluation: str,
        metric: str,
        max_loss: float,
        min_rows: int,
        floor: float | None = None,
        ceiling: float | None = None,
        min_skill: float | None = None,
        promote_if: Literal["better", "not_worse"] = "better",
        max_slice_loss: float | None = None,
        min_slice_rows: int = 500,
        max_calibration_error: float | None = None,
        max_microseconds_per_row: float | None = None,
        force: str | bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.evaluation = evaluation
        self.metric = metric
        check_bounds(metric, floor, ceiling, min_skill)
        self.rules = PromotionRules(
            max_loss=max_loss,
            min_rows=min_rows,
            floor=floor,
            ceiling=ceiling,
            min_skill=min_skill,
            promote_if=promote_if,
            max_slice_loss=max_slice_loss,
            min_slice_rows=min_slice_rows,
            max_calibration_error=max_calibration_error,
            max_microseconds_per_row=max_microseconds_per_row,
        )
        self.force = force

    def execute(self, context: Context) -> dict[str, Any]:
        """Read, judge, write down."""
        with airflow_edge(self.conn_id):
            job = context["ti"].xcom_pull(task_ids=self.evaluation)
            uri = job.get("outputs", {}).get("evidence") if isinstance(job, Mapping) else None
            if not uri:
                raise ConfigurationError(f"The task {self.evaluation} left no output 'evidence'; clear it.")
            folder = lake_folder(AzureConnection.load(self.conn_id), uri)
            evidence = folder.read_json("evidence.json")
            if evidence.get("metric") != self.metric:
                raise ConfigurationError(
                    f"The gate judges {self.metric!r}, but the evidence at {uri} is about {evidence.get('metric')!r}. "
                    "Correct evaluate.gate.metric in model.yml, or the evaluation job."
                )
            try:
                verdict = judge_challenger(evidence, self.rules, force=truth(self.force, "force"))
            except (KeyError, TypeError, ValueError) as problem:
                raise ConfigurationError(f"The evidence at {uri} can't be judged: {problem!r}.") from problem
            answer = {**asdict(verdict), "reasons": list(verdict.reasons), "evidence": uri, **_shown(evidence)}
            folder.write_json("verdict.json", answer)
        for line in verdict_lines(answer):
            self.log.info("%s", line)
        return answer


class RegisterModelOperator(AzflowOperator):
    """Registers a job's output as a version of a model, as the challenger; one version a job, however often it runs.

    The version's tags are its lineage: job, best trial, data and its schema, metrics, commit, DAG, run, partition.

    XCom: ``{"id": "azureml:<name>:<version>", "name", "version", "path", "job", "role", "deployment"}``.

    :param name: the registered model's name.
    :param path: the output's address; text, or a template that reads it from the training task.
    :param type: ``mlflow_model`` or ``custom_model``.
    :param training: task id of the job that made it.
    :param data: task id of the data asset it was trained on.
    """

    template_fields = ("name", "path", "training", "data")
    ui_color = "#e3f5e7"

    def __init__(
        self,
        *,
        name: str,
        path: str,
        type: str = "mlflow_model",
        training: str = "train.job",
        data: str = "data.train",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.path = path
        self.type = type
        self.training = training
        self.data = data

    def execute(self, context: Context) -> dict[str, Any]:
        """Register, or find what an earlier try registered."""
        with airflow_edge(self.conn_id):
            job = context["ti"].xcom_pull(task_ids=self.training)
            if not isinstance(job, Mapping) or not job.get("name"):
                raise ConfigurationError(f"The task {self.training} left no job; clear it and what follows.")
            data = context["ti"].xcom_pull(task_ids=self.data)
            night = context["night"]  # type: ignore[typeddict-item]
            tags: dict[str, object] = {**origin(night), "best_child": job.get("best_child") or ""}
            if isinstance(data, Mapping):
                tags |= {"data": data.get("id", ""), "schema_hash": data.get("schema_hash", "")}
            tags |= {f"data.{name}": address for name, address in sorted((job.get("data") or {}).items())[:10]}
            tags |= {f"metric.{name}": value for name, value in sorted((job.get("metrics") or {}).items())[:20]}
            registry = ModelRegistry(AzureConnection.load(self.conn_id), self.name)
            found = registry.register(
                job["name"], self.path, self.type, {key: value for key, value in tags.items() if value != ""}
            )
        self.log.info("%s is the output of job %s (%s).", found.id, found.job, found.role)
        return found.as_dict()


class _LakeFolder:
    """A folder of a datastore that is in the connection's storage account."""

    def __init__(self, connection: AzureConnection, container: str, path: str) -> None:
        self._connection = connection
        self._container = container
        self._path = path.strip("/")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object below the folder. Raises ConfigurationError if it is missing or none."""
        from azure.core.exceptions import ResourceNotFoundError

        where = f"{self._container}/{self._path}/{name}"
        with self._connection.blob_service() as service:
            blob = service.get_blob_client(self._container, f"{self._path}/{name}")
            try:
                content = json.loads(blob.download_blob().readall())
            except ResourceNotFoundError:
                raise ConfigurationError(f"{where} doesn't exist; did the job write it?") from None
            except ValueError as problem:
                raise ConfigurationError(f"{where} is no JSON: {problem}") from None
        if not isinstance(content, dict):
            raise ConfigurationError(f"{where} must hold a JSON object.")
        return content

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON object below the folder, in place of the one that may be there."""
        from azure.storage.blob import ContentSettings

        with self._connection.blob_service() as service:
            blob = service.get_blob_client(self._container, f"{self._path}/{name}")
            settings = ContentSettings(content_type="application/json")
            blob.upload_blob(json.dumps(content, indent=1), overwrite=True, content_settings=settings)


def lake_folder(connection: AzureConnection, uri: str) -> _LakeFolder:
    """The folder behind ``azureml://[subscriptions/.../]datastores/<name>/paths/<path>``.

    :raises ConfigurationError: it is no such address, or it is in another storage account than the connection's.
    """
    before, found, after = uri.partition("datastores/")
    name, separator, path = after.partition("/paths/")
    if not uri.startswith("azureml://") or not found or not separator:
        raise ConfigurationError(f"{uri} isn't the address of a folder in a datastore ({before or uri}).")
    workspace = Workspace(connection)
    try:
        datastore = workspace.datastore(name)
    finally:
        workspace.close()
    account, container = str(datastore.get("accountName", "")), str(datastore.get("containerName") or "")
    if not container or account not in connection.storage_account_url:
        raise ConfigurationError(
            f"{uri} is in the storage account {account!r}, which isn't that of connection {connection.id!r} "
            f"({connection.storage_account_url})."
        )
    return _LakeFolder(connection, container, path)


def _suite_result(context: Context) -> str:
    """What the quality gates before this task said: ``passed``, ``warned``, ``failed``; ``none`` without gates."""
    ti = context["ti"]
    tasks = [task_id for task_id in ti.task.dag.task_ids if task_id.startswith("quality.")]
    results = [ti.xcom_pull(task_ids=task_id) for task_id in tasks]
    found = [result for result in results if isinstance(result, Mapping)]
    if not found:
        return "none"
    if not all(result.get("success") for result in found):
        return "failed"
    return "warned" if any(result.get("warned") for result in found) else "passed"


def _shown(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What a report shows beside a verdict, where the evidence has it."""
    kept = ("slices", "positives", "confidence", "unit", "baselines", "microseconds_per_row", "unlabelled")
    shown = {key: evidence[key] for key in kept if key in evidence}
    bins = (evidence.get("challenger") or {}).get("calibration") or ()
    calibration = [each for each in bins if "rows" in each]
    if (error := calibration_error(calibration)) is not None:
        shown["calibration_error"] = error
    for name in ("challenger", "champion"):
        if isinstance(found := evidence.get(name), Mapping) and found.get("calibration"):
            shown[f"{name}_calibration"] = found["calibration"]
    return shown
