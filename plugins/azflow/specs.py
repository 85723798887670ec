"""The files a user writes -> frozen values. ``include/models/<model>/model.yml`` says what to prepare, check, train,
gate, ship, and when.

Pure: no Airflow, no SDK. Unknown keys are errors, and every error names the file and the key (`SpecError`).
`Night` is the one unit of work: which partition, and what else must be built on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from azflow import spec_files
from azflow.errors import ConfigurationError, SpecError
from azflow.metrics import check_bounds
from azflow.prepare_steps import Step
from azflow.spec_parts import Column, Minutes, Name, ParameterValue, Part, TableName, Text, as_tuple, below_include
from azflow.watch_parts import AzureMonitor, Captured, Outcomes, Signal

#: The folder of the user's assets: next to ``plugins``.
INCLUDE = Path(__file__).resolve().parents[2] / "include"

Probability = Annotated[float, Field(ge=0, le=1)]


class _Arrival(Part):
    timeout_minutes: Minutes = 360
    poke_seconds: Annotated[float, Field(ge=1, le=3600)] = 30


class BlobArrival(_Arrival):
    """The blob whose presence says that a partition is complete."""

    container: Text | None = None  # None: the connection's lake container
    blob: Text


class TableArrival(_Arrival):
    """A table of the SQL pool that somebody else fills: the partition is complete when its rows are there.

    :ivar column: the one that holds the partition's day.
    :ivar min_rows: fewer are an empty or a half-filled partition.
    """

    table: TableName
    column: Column
    min_rows: Annotated[int, Field(ge=1)] = 1


def _arrival_kind(value: object) -> str:
    keys = value if isinstance(value, Mapping) else vars(value)
    return "table_arrival" if "table" in keys and "blob" not in keys else "blob_arrival"


Arrival = Annotated[
    Annotated[BlobArrival, Tag("blob_arrival")] | Annotated[TableArrival, Tag("table_arrival")],
    Discriminator(_arrival_kind),
]


class SuiteQuarantine(Part):
    """Where rows go that break an expectation of severity ``quarantine``.

    :ivar key: columns that tell the checked table's rows apart.
    :ivar table: None: the checked one's name and ``_quarantine``.
    :ivar max_share: of the checked rows; if more would go, none does and the run stops.
    """

    key: Annotated[tuple[Column, ...], Field(min_length=1)]
    table: TableName | None = None
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.01

    _key = field_validator("key", mode="before")(as_tuple)


class Suite(Part):
    """A Great Expectations suite below include/expectations, pushed down to one table."""

    suite: Text
    table: TableName
    quarantine: SuiteQuarantine | None = None

    _suite = field_validator("suite")(below_include("expectations", ".json"))

    @property
    def name(self) -> str:
        """The suite's file name without its ending; the task's id."""
        return PurePosixPath(self.suite).stem


class Data(Part):
    """Lake folders of the exported sets, relative to the container; templates.

    :ivar sql: the file that exports them, run when the suites have passed; None: a step of `prepare` has.
    """

    sql: Text | None = None
    parameters: Mapping[str, ParameterValue] = {}
    train: Text
    holdout: Text
    type: Literal["uri_folder", "mltable"] = "mltable"
    timeout_minutes: Minutes = 120

    _sql = field_validator("sql")(below_include("sql", ".sql"))


class Job(Part):
    """An Azure ML job from its own YAML below include/ml, with the inputs and outputs this model gives it.

    A value ``azureml:<name>@night`` or any other text is a template.
    """

    job: Text
    inputs: Mapping[str, Text] = {}
    outputs: Mapping[str, Text] = {}
    timeout_minutes: Minutes = 360

    _job = field_validator("job")(below_include("ml", ".yml"))


class Compare(Part):
    """What the night's training is shown beside: the last trainings of the same model."""

    last: Annotated[int, Field(ge=1, le=200)] = 10


class Spend(Part):
    """What the night's Azure ML jobs may take, in hours of one node; None: no limit."""

    max_node_hours_per_job: Annotated[float, Field(gt=0)] | None = None
    max_node_hours_per_night: Annotated[float, Field(gt=0)] | None = None


class Gate(Part):
    """When a challenger may replace the champion, judged on the same hold-out rows, in the metric's own units.

    :ivar metric: the metric the evidence must be about.
    :ivar max_loss: how much worse than the champion it may be.
    :ivar floor: where higher is better, the least it must reach, champion or not.
    :ivar ceiling: where lower is better, the most it may be.
    :ivar min_skill: where lower is better, the share of the best baseline's error that it must take away at least.
    :ivar min_rows: the least hold-out rows for a verdict.
    :ivar promote_if: ``better`` by the whole interval of the paired difference, or ``not_worse``.
    :ivar max_slice_loss: how much worse it may be on a slice of at least `min_slice_rows` rows.
    :ivar max_calibration_error: how far predictions and outcomes may lie apart on average.
    :ivar max_microseconds_per_row: what scoring a row may take.
    """

    metric: Text = "roc_auc"
    max_loss: Annotated[float, Field(ge=0)] = 0.01
    floor: float | None = None
    ceiling: float | None = None
    min_skill: Annotated[float, Field(ge=0, lt=1)] | None = None
    min_rows: Annotated[int, Field(ge=1)] = 1000
    promote_if: Literal["better", "not_worse"] = "better"
    max_slice_loss: Annotated[float, Field(ge=0)] | None = None
    min_slice_rows: Annotated[int, Field(ge=1)] = 500
    max_calibration_error: Annotated[float, Field(gt=0)] | None = None
    max_microseconds_per_row: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        check_bounds(self.metric, self.floor, self.ceiling, self.min_skill)
        return self


class Evaluate(Job):
    """The job that scores champion and challenger on the hold-out, and the gate that judges its evidence."""

    gate: Gate


class Person(Part):
    """A person answers in Airflow's UI, with the verdict before their eyes."""

    timeout_minutes: Minutes = 720
    on_timeout: Literal["reject", "approve"] = "reject"
    assigned: tuple[Text, ...] = ()

    _assigned = field_validator("assigned", mode="before")(as_tuple)


class Approve(Part):
    """``approve: {person: {...}}``."""

    person: Person


class Register(Part):
    """The registered model."""

    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")]
    type: Literal["mlflow_model", "custom_model"] = "mlflow_model"


def check_stages(stages: tuple[int, ...]) -> tuple[int, ...]:
    """Percentages of traffic, growing, the last 100. Returns them; raises ValueError."""
    if not stages:
        raise ValueError("needs at least one stage")
    if any(stage <= 0 or stage > 100 for stage in stages):  # noqa: PLR2004 - percent
        raise ValueError("each stage must be between 1 and 100")
    if list(stages) != sorted(set(stages)):
        raise ValueError("stages must grow")
    if stages[-1] != 100:  # noqa: PLR2004 - percent
        raise ValueError("the last stage must be 100")
    return stages


class Shadow(Part):
    """Requests that the champion answered lately, replayed to the new deployment before it gets any traffic.

    :ivar requests: how many at most, the newest first.
    :ivar hours: how old they may be.
    """

    requests: Annotated[int, Field(ge=1, le=10_000)] = 200
    hours: Annotated[float, Field(gt=0, le=31 * 24)] = 24


class Deploy(Part):
    """The endpoint (a folder below include/ml/endpoints) and the canary's rules, judged per stage.

    :ivar name: the endpoint's name at Azure; None: the folder's, with hyphens for underscores, which Azure refuses.
    :ivar shadow: None: no shadow. It needs the collections ``request`` and ``response`` in the folder's deployment.yml.
    """

    endpoint: Text
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{2,31}$")] | None = None
    stages: tuple[int, ...] = (10, 50, 100)
    window_seconds: Annotated[float, Field(ge=1, le=24 * 3600)] = 300
    max_error_rate: Probability = 0.01
    max_p95_ms: Annotated[float, Field(gt=0)] = 1000
    min_agreement: Probability = 0.0
    sample_path: Text
    sample_rows: Annotated[int, Field(ge=1, le=100_000)] = 200
    shadow: Shadow | None = None

    _endpoint = field_validator("endpoint")(below_include("ml/endpoints", ""))
    _stages = field_validator("stages", mode="before")(as_tuple)
    _check = field_validator("stages")(check_stages)

    @property
    def endpoint_name(self) -> str:
        """The endpoint's name at Azure."""
        return self.name or self.endpoint.replace("_", "-")


class Decisions(Part):
    """Where each night's decision about its challenger is kept.

    :ivar sql: the T-SQL that replaces the night's row; its parameters are the keys of `azflow.decisions.decision`.
    """

    sql: Text

    _sql = field_validator("sql")(below_include("sql", ".sql"))


class WriteBack(Job):
    """The job that scores the partition, and the T-SQL that replaces the partition in the predictions table."""

    sql: Text
    parameters: Mapping[str, ParameterValue] = {}

    _sql = field_validator("sql")(below_include("sql", ".sql"))


class Rescore(Part):
    """How days are scored again (``dags/rescoring.py``): with the jobs of `write_back` and `evaluate`.

    :ivar sql: the T-SQL that exports the days from ``night.first_day`` to ``night.partition``: into ``score/`` what
        models know, into ``holdout/`` the same with the label.
    :ivar versions: the T-SQL that keeps both versions' predictions of a range and compares them; None: a second
        version is judged, and its predictions aren't kept.
    """

    sql: Text
    versions: Text | None = None
    timeout_minutes: Minutes = 120

    _sql = field_validator("sql", "versions")(below_include("sql", ".sql"))


class Watch(Job):
    """What is watched after the roll-out, and when an alarm retrains (``dags/endpoint_monitoring.py``).

    :ivar window: the T-SQL that exports the last `window_days` days: features, predictions, outcomes where known.
    :ivar table: the T-SQL that keeps the readings.
    :ivar min_rows: fewer rows in the window tell nothing: readings are then undefined.
    :ivar captured: which captured requests the signals with ``data: captured`` are about.
    :ivar outcomes: when outcomes are due; None: nobody is told that they don't come.
    :ivar azure_monitor: a monitor of Azure ML's own beside this one; None: there is none.
    :ivar cool_down_days: days of data after an alarm in which no other starts a retraining.
    """

    schedule: Text
    window: Text
    window_days: Annotated[int, Field(ge=1, le=90)] = 7
    table: Text
    min_rows: Annotated[int, Field(ge=1)] = 500
    cool_down_days: Annotated[int, Field(ge=1)] = 7
    signals: tuple[Signal, ...] = Field(min_length=1)
    captured: Captured = Captured()
    outcomes: Outcomes | None = None
    azure_monitor: AzureMonitor | None = None

    _signals = field_validator("signals", mode="before")(as_tuple)
    _files = field_validator("window", "table")(below_include("sql", ".sql"))

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str) -> str:
        return _cron_expression(value)

    @model_validator(mode="after")
    def _azure_monitors_can_say_it(self) -> Self:
        if self.azure_monitor is None:
            return self
        captured = {signal.type for signal in self.signals if signal.data == "captured"}
        if not captured & set(self.azure_monitor.signals):
            wanted = " or ".join(self.azure_monitor.signals)
            raise ValueError(f"azure_monitor is about captured requests: no {wanted} has data: captured")
        if self.schedule.split()[2:4] != ["*", "*"]:
            raise ValueError("azure_monitor: Azure ML's cron schedules know neither days nor months: both must be *")
        for signal in self.signals:
            several = [kind for kind in ("numerical", "categorical") if len(getattr(signal, kind)) > 1]
            if signal.data == "captured" and several:
                raise ValueError(f"azure_monitor: Azure ML takes one {several[0]} metric a signal of {signal.type}")
        return self

    def signals_json(self) -> str:
        """The signals as the monitoring job takes them."""
        return json.dumps([signal.model_dump(exclude_defaults=True) for signal in self.signals])

    def outcomes_json(self) -> str:
        """`outcomes` as the monitoring job takes it; ``{}`` without."""
        return json.dumps({} if self.outcomes is None else self.outcomes.model_dump())

    @property
    def looks_at_captured(self) -> bool:
        """Whether any signal is about captured requests."""
        return any(signal.data == "captured" for signal in self.signals)


def _cron_expression(value: str) -> str:
    if len(value.split()) != 5:  # noqa: PLR2004 - cron
        raise ValueError("must be a cron expression of five fields, e.g. '0 2 * * *'")
    return value


class ModelSpec(Part):
    """One model: ``include/models/<folder>/model.yml``."""

    name: Name
    description: Text
    owner: Text = "azflow"
    connection: Text = "azure_default"
    schedule: Text
    timezone: Text = "UTC"
    arrival: Arrival
    prepare: tuple[Step, ...] = ()
    quality: tuple[Suite, ...] = ()
    data: Data
    train: Job
    compare: Compare = Compare()
    evaluate: Evaluate
    spend: Spend = Spend()
    approve: Literal["automatic"] | Approve = "automatic"
    register_as: Register = Field(alias="register")
    deploy: Deploy | None = None
    decisions: Decisions | None = None
    write_back: WriteBack
    rescore: Rescore | None = None
    watch: Watch | None = None

    _lists = field_validator("prepare", "quality", mode="before")(as_tuple)

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"no such time zone: {value}") from None
        return value

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str) -> str:
        return _cron_expression(value)

    @model_validator(mode="after")
    def _captured_at_an_endpoint(self) -> Self:
        if self.watch is not None and self.watch.looks_at_captured and self.deploy is None:
            raise ValueError("watch.signals: without an endpoint (deploy) nothing is captured; use data: scored")
        return self

    @model_validator(mode="after")
    def _consistent_names(self) -> Self:
        for field, names in (
            ("prepare", [step.name for step in self.prepare]),
            ("quality", [suite.name for suite in self.quality]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{field}: the name {twice[0]} is used twice")
        before: set[str] = set()
        for step in self.prepare:
            if unknown := sorted(set(step.after or ()) - before):
                raise ValueError(f"prepare: {step.name} comes after {unknown[0]}, which no earlier step is called")
            before.add(step.name)
        return self

    @classmethod
    def load(cls, path: Path, include: Path | None = None) -> ModelSpec:
        """The spec in `path`.

        :param include: the project's include folder; files the spec names must exist there. Default: the folder
            three levels up (include/models/<model>/model.yml).
        :raises SpecError: it can't be read, isn't YAML, or a key is wrong; names file and key.
        """
        include = include or path.resolve().parents[2]
        shown = spec_files.shown(path, include)
        content = spec_files.read_mapping(path, shown)
        try:
            spec = cls.model_validate(content, context={"include": include})
        except ValidationError as problem:
            raise spec_files.error_of(problem, shown) from None
        if spec.name != path.parent.name:
            raise SpecError(shown, "name", f"must be the folder's name, {path.parent.name!r}, not {spec.name!r}")
        return spec


def find_specs(include: Path = INCLUDE) -> list[Path]:
    """Every model.yml below `include`, in order of the models' names."""
    return sorted(include.glob("models/*/model.yml"))


def readable_specs() -> list[ModelSpec]:
    """Every model whose model.yml can be read; ``dags/model_specs.py`` shows what is wrong with the others."""
    found = []
    for path in find_specs():
        with contextlib.suppress(SpecError):
            found.append(ModelSpec.load(path))
    return found


@dataclass(frozen=True)
class Night:
    """One nightly run's unit of work. Templates see it as ``night``.

    :param partition: the day whose data arrived; the last day of the hold-out and the day that is scored.
    :param backfill_from: also build the partitions from this day on; None: only `partition`.
    :param key: short and unique per (dag, run); names the run's own folders in the lake.
    :param dag_id: Airflow's.
    :param run_id: Airflow's.
    """

    partition: date
    backfill_from: date | None
    key: str
    dag_id: str
    run_id: str

    def __post_init__(self) -> None:
        if self.backfill_from is not None and self.backfill_from > self.partition:
            raise ConfigurationError(
                f"backfill_from {self.backfill_from} lies after the partition {self.partition}; it must not."
            )

    @classmethod
    def of(cls, dag_id: str, run_id: str, partition: date, backfill_from: date | None = None) -> Night:
        """A night with its key: the same for every try and every task of one run."""
        key = hashlib.sha256(f"{dag_id}\0{run_id}".encode()).hexdigest()[:10]
        return cls(partition, backfill_from, key, dag_id, run_id)

    @classmethod
    def from_context(cls, context: Mapping[str, Any]) -> Night:
        """The night of a task's run: the form's ``partition``, else the run's partition key, else the day before the
        run.

        :param context: Airflow's template context.
        :raises ConfigurationError: the partition is no date.
        """
        params = context.get("params") or {}
        run = context["dag_run"]
        partition = _day(params.get("partition"), "params.partition") or _day(
            context.get("partition_key") or getattr(run, "partition_key", None), "partition_key"
        )
        if partition is None:
            instant = getattr(run, "logical_date", None) or getattr(run, "run_after", None)
            if not isinstance(instant, datetime):
                raise ConfigurationError("The run has neither a partition nor a date; start it with a partition.")
            partition = instant.astimezone(UTC).date() - timedelta(days=1)
        return cls.of(run.dag_id, run.run_id, partition, _day(params.get("backfill_from"), "params.backfill_from"))

    @property
    def first_day(self) -> str:
        """The first day to build, ISO."""
        return (self.backfill_from or self.partition).isoformat()

    @property
    def days(self) -> list[str]:
        """Every day to build, ISO, oldest first; the last is `partition`."""
        start = self.backfill_from or self.partition
        return [(start + timedelta(days=index)).isoformat() for index in range((self.partition - start).days + 1)]

    @property
    def months(self) -> list[str]:
        """The first day of every month that `days` touches, ISO, oldest first."""
        return sorted({f"{day[:7]}-01" for day in self.days})

    def window(self, train_days: int, holdout_days: int) -> tuple[str, str, str, str]:
        """``(train_from, train_to, holdout_from, holdout_to)``, ISO, all inclusive.

        The hold-out are the last `holdout_days` up to `partition`; the training days end the day before.
        """
        holdout_from = self.partition - timedelta(days=holdout_days - 1)
        train_to = holdout_from - timedelta(days=1)
        train_from = train_to - timedelta(days=train_days - 1)
        return train_from.isoformat(), train_to.isoformat(), holdout_from.isoformat(), self.partition.isoformat()


def _day(value: object, where: str) -> date | None:
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        raise ConfigurationError(f"{where} is {value!r}; it must be a date like 2013-03-08.") from None
