"""model.yml: the shipped one is valid, a wrong one names file and key; and what a night is."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from azflow.errors import ConfigurationError, SpecError
from azflow.prepare_steps import NotebookStep, SqlStep
from azflow.specs import INCLUDE, Approve, ModelSpec, Night, TableArrival, find_specs

SHIPPED = INCLUDE / "models" / "flight_delay" / "model.yml"


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """A project's include folder with the shipped model and an empty file for each file it names."""
    root = tmp_path / "include"
    spec = root / "models" / "flight_delay" / "model.yml"
    spec.parent.mkdir(parents=True)
    shutil.copy(SHIPPED, spec)
    for name in [
        *(f"sql/staging/{table}.sql" for table in ("flights", "weather", "planes", "airports")),
        "sql/decisions/model_decisions.sql",
        "sql/export/flight_delay.sql",
        "sql/export/flight_delay_range.sql",
        "sql/features/flight_features.sql",
        "sql/writeback/flight_predictions.sql",
        "expectations/flight_features.json",
        "ml/jobs/flight_delay_automl.yml",
        "ml/jobs/evaluate.yml",
        "ml/jobs/score_partition.yml",
        "ml/endpoints/flight_delay/endpoint.yml",
        "sql/monitoring/flight_delay_window.sql",
        "sql/monitoring/readings.sql",
        "sql/rescoring/flight_versions.sql",
        "ml/jobs/flight_delay_monitor.yml",
    ]:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    # A notebook says which parameters it has.
    shutil.copytree(INCLUDE / "spark/notebooks", root / "spark/notebooks")
    return root


def load(include: Path, old: str = "", new: str = "") -> ModelSpec:
    path = include / "models" / "flight_delay" / "model.yml"
    text = path.read_text()
    assert old in text, f"the shipped spec has no {old!r} any more"
    path.write_text(text.replace(old, new, 1))
    return ModelSpec.load(path)


def test_every_shipped_spec_is_valid() -> None:
    assert SHIPPED in find_specs()
    for path in find_specs():
        ModelSpec.load(path)


def test_steps_keep_their_order_and_kind(include: Path) -> None:
    spec = load(include)
    assert [step.name for step in spec.prepare][:2] == ["stage_flights", "stage_weather"]
    kinds = {step.name: type(step) for step in spec.prepare}
    assert kinds["airport_congestion"] is NotebookStep and kinds["build_features"] is SqlStep


def test_a_spec_cannot_be_changed(include: Path) -> None:
    with pytest.raises(Exception, match="frozen"):
        load(include).train.timeout_minutes = 1.0  # type: ignore[misc]


WRONG = [
    ("  job: jobs/flight_delay_automl.yml\n", "", "train.job", "field required"),
    ("floor: 0.60", "floor: high", "evaluate.gate.floor", "valid number"),
    ("max_loss: 0.01 ", "max_loss: -1 ", "evaluate.gate.max_loss", "greater than or equal"),
    (
        "metric: roc_auc",
        "metric: auc",
        "evaluate.gate",
        "no metric is called 'auc'; where higher is better: AUC_macro, ",
    ),
    ("metric: roc_auc", "metric: mean_absolute_error", "evaluate.gate", "better when lower: give a ceiling"),
    ("floor: 0.60", "ceiling: 0.60", "evaluate.gate", "better when higher: give a floor"),
    ("    floor: 0.60\n", "", "evaluate.gate", "roc_auc needs a floor"),
    ("floor: 0.60", "min_skill: 0.1", "evaluate.gate", "min_skill is a share of an error"),
    ("  blob: landing", "  table: landing", "arrival.table", "should match pattern"),
    ("  blob: landing", "  file: landing", "arrival.blob", "field required"),
    ("approve: automatic", "spend: {max_node_hours_per_job: 0}\napprove: automatic", "spend", "greater than 0"),
    ("approve: automatic", "compare: {last: 0}\napprove: automatic", "compare.last", "greater than or equal to 1"),
    ("[10, 50, 100]", "[50, 10, 100]", "deploy.stages", "must grow"),
    ("[10, 50, 100]", "[10, 50]", "deploy.stages", "last stage must be 100"),
    ("[10, 50, 100]", "[0, 100]", "deploy.stages", "between 1 and 100"),
    ("name: stage_weather", "nme: stage_weather", "prepare.1.name", "prepare.1.nme"),
    ("staging/weather.sql", "staging/wether.sql", "prepare.1.sql", "include/sql/staging/wether.sql doesn't exist"),
    ("staging/weather.sql", "../../secrets.sql", "prepare.1.sql", "relative to include/sql"),
    ("notebook: airport_congestion.ipynb", "notebok: x", "prepare.4", "notebok"),
    ("approve: automatic", "approve: sometimes", "approve", "'automatic'"),
    ("approve: automatic", "approve: {person: {on_timeout: shrug}}", "approve", "approve.person.on_timeout"),
    ("name: flight_delay\n", "name: other\n", "name", "must be the folder's name, 'flight_delay'"),
    ("owner: azflow", "owner: azflow\nowner: me", "line 7", "'owner' is given twice"),
    ("owner: azflow", "owner: [azflow", "line", "is no YAML"),
    ("timezone: UTC", "timezone: Mars/Olympus", "timezone", "no such time zone"),
    ('"0 2 * * *"', '"at two"', "schedule", "five fields"),
    ("name: stage_planes", "name: stage_flights", "", "stage_flights is used twice"),
    ("after: [stage_flights]", "after: [stage_fligths]", "", "comes after stage_fligths"),
    (
        "sql: staging/planes.sql",
        "sql: staging/planes.sql, max_data_processed_mb: 50",
        "prepare.2",
        "sql_pool: serverless",
    ),
    (
        "sql: staging/planes.sql",
        "sql: staging/planes.sql, sql_pool: serverless, check_tables: true",
        "prepare.2",
        "are for a dedicated pool",
    ),
    (
        "sql: staging/planes.sql",
        "sql: staging/planes.sql, deferrable: true, check_tables: true",
        "prepare.2",
        "deferrable is for a dedicated pool",
    ),
    ("deploy:\n", "monitoring: {}\n\ndeploy:\n", "monitoring", "extra inputs are not permitted"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), WRONG)
def test_a_wrong_spec_names_file_and_key(include: Path, old: str, new: str, key: str, message: str) -> None:
    with pytest.raises(SpecError) as wrong:
        load(include, old, new)
    text = str(wrong.value)
    assert text.startswith("include/models/flight_delay/model.yml")
    assert wrong.value.key.startswith(key) and message in text


@pytest.mark.parametrize("content", ["", "[]", "just text"])
def test_a_spec_must_be_a_mapping(include: Path, content: str) -> None:
    path = include / "models" / "flight_delay" / "model.yml"
    path.write_text(content)
    with pytest.raises(SpecError, match="must be a mapping"):
        ModelSpec.load(path)


def test_a_missing_spec_is_named(include: Path) -> None:
    with pytest.raises(SpecError, match=r"models/ghost/model\.yml: can't be read"):
        ModelSpec.load(include / "models" / "ghost" / "model.yml")


def test_where_lower_is_better_the_gate_has_a_ceiling(include: Path) -> None:
    gate = load(include, "metric: roc_auc\n    max_loss: 0.01     # on the same rows as the champion\n    floor: 0.60",
                "metric: mean_absolute_error\n    ceiling: 40\n    min_skill: 0.05").evaluate.gate  # fmt: skip
    assert (gate.ceiling, gate.min_skill, gate.floor) == (40, 0.05, None)


def test_a_partition_may_arrive_in_a_table_and_a_model_do_without_an_endpoint(include: Path) -> None:
    path = include / "models" / "flight_delay" / "model.yml"
    content = yaml.safe_load(path.read_text())
    del content["deploy"]
    content["arrival"] = {"table": "ml.flight_features", "column": "flight_date", "min_rows": 500}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SpecError, match=r"watch.signals: without an endpoint \(deploy\) nothing is captured"):
        ModelSpec.load(path)
    del content["watch"]["azure_monitor"]
    signals = content["watch"]["signals"]
    content["watch"]["signals"] = [each for each in signals if each.get("data") != "captured"]
    path.write_text(yaml.safe_dump(content))
    spec = ModelSpec.load(path)
    assert spec.deploy is None
    assert isinstance(spec.arrival, TableArrival) and spec.arrival.min_rows == 500


def test_a_persons_approval(include: Path) -> None:
    spec = load(include, "approve: automatic", "approve: {person: {timeout_minutes: 5, assigned: [kim]}}")
    assert isinstance(spec.approve, Approve)
    assert spec.approve.person.assigned == ("kim",) and spec.approve.person.on_timeout == "reject"


def test_a_hundred_specs_are_read_in_no_time(include: Path) -> None:
    path = include / "models" / "flight_delay" / "model.yml"
    started = time.process_time()
    for _ in range(100):
        ModelSpec.load(path)
    assert time.process_time() - started < 1.0


# -- night -----------------------------------------------------------------------------------------------------------


def context(*, partition_key: str | None = None, logical: datetime | None = None, **params: Any) -> dict[str, Any]:
    run = SimpleNamespace(
        dag_id="d", run_id="r", logical_date=logical, run_after=datetime(2013, 3, 9, 2, tzinfo=UTC), partition_key=None
    )
    return {"dag_run": run, "params": params, "partition_key": partition_key}


def test_the_first_night_builds_67_days() -> None:
    night = Night.of("d", "r", date(2013, 3, 8), date(2013, 1, 1))
    assert len(night.days) == 67 and night.days[0] == night.first_day == "2013-01-01" and night.days[-1] == "2013-03-08"
    assert night.months == ["2013-01-01", "2013-02-01", "2013-03-01"]
    assert night.window(60, 7) == ("2013-01-01", "2013-03-01", "2013-03-02", "2013-03-08")


def test_a_later_night_builds_one_day() -> None:
    night = Night.of("d", "r", date(2013, 3, 9))
    assert night.days == ["2013-03-09"] and night.months == ["2013-03-01"]


def test_months_over_a_years_end() -> None:
    assert Night.of("d", "r", date(2014, 1, 1), date(2013, 12, 31)).months == ["2013-12-01", "2014-01-01"]


def test_a_key_belongs_to_one_run() -> None:
    day = date(2013, 3, 8)
    assert Night.of("d", "r", day).key == Night.of("d", "r", date(2013, 3, 9)).key
    keys = {Night.of(dag, run, day).key for dag, run in (("d", "r"), ("d", "r2"), ("d2", "r"), ("dr", ""))}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (context(partition="2013-03-08", partition_key="2013-01-01"), "2013-03-08"),
        (context(partition_key="2013-01-05"), "2013-01-05"),
        (context(partition_key="2013-01-05T02:00:00"), "2013-01-05"),
        (context(), "2013-03-08"),
        (context(logical=datetime(2013, 1, 2, 2, tzinfo=UTC)), "2013-01-01"),
    ],
)
def test_where_the_partition_comes_from(given: dict[str, Any], expected: str) -> None:
    night = Night.from_context(given)
    assert night.partition.isoformat() == expected and night.backfill_from is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"partition": "8.3.2013"}, "params.partition is '8.3.2013'"),
        ({"partition": "2013-03-08", "backfill_from": "2013-03-09"}, "lies after the partition"),
    ],
)
def test_a_night_that_cannot_be_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Night.from_context(context(**params))
