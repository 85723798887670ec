"""Writes docs/model_yml.md and docs/operators.md from the code. Run it in Airflow's environment:

    var/env/airflow/bin/python tools/reference.py

Types, limits and defaults are the code's; what a key is for stands in `MEANING`. A test fails when a page differs from
the code, or when a key has no meaning here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "plugins"))

#: What each key of a model.yml is for. `Class.key`, the class being the one of azflow.specs that has the key.
MEANING = {
    "ModelSpec.name": "the folder's name; the DAG is `nightly_retraining_<name>`",
    "ModelSpec.description": "one sentence; shown in Airflow",
    "ModelSpec.owner": "shown in Airflow",
    "ModelSpec.connection": "the Airflow connection that says which Azure",
    "ModelSpec.schedule": "cron, five fields; a night is for the day before",
    "ModelSpec.timezone": "of the schedule, a name of the IANA database",
    "ModelSpec.arrival": "what says that the partition is complete: a blob, or rows in a table of the pool",
    "ModelSpec.prepare": "the steps; each a SQL file, a notebook or a Spark job",
    "ModelSpec.quality": "the suites; without any, the stage doesn't exist",
    "ModelSpec.data": "the exported sets",
    "ModelSpec.train": "the job whose output `best_model` is the challenger",
    "ModelSpec.evaluate": "the job that writes `evidence.json`, and the gate",
    "ModelSpec.compare": "which earlier trainings the night's is shown beside",
    "ModelSpec.spend": "what the night's Azure ML jobs may take; without it there is no limit",
    "ModelSpec.approve": "`automatic`, or a person in Airflow's UI",
    "ModelSpec.register": "the registered model",
    "ModelSpec.deploy": "the online endpoint and the canary's rules; without it the champion is the version tagged so",
    "ModelSpec.decisions": "where each night's decision is kept; without it in the report, the tags and the run alone",
    "Decisions.sql": "the file, below `include/sql`, that replaces the night's row",
    "ModelSpec.write_back": "the job that scores the partition, and the SQL that swaps its rows in",
    "ModelSpec.rescore": "how any days are scored again, with any version; without it there is no DAG for that",
    "ModelSpec.watch": "what is watched after the roll-out, and when an alarm retrains; without it nothing is",
    "Watch.schedule": "cron of the DAG `endpoint_monitoring_<name>`; it is about the day before",
    "Watch.window": "SQL that exports the last days: features, predictions, outcomes where known",
    "Watch.window_days": "how many days the window is, for the readings; the SQL decides",
    "Watch.table": "SQL that keeps the readings",
    "Watch.min_rows": "fewer rows in the window tell nothing: its readings are undefined",
    "Watch.cool_down_days": "days of data after an alarm in which no other starts a retraining",
    "Watch.signals": "what is watched, at least one",
    "Watch.captured": "which captured requests the signals with `data: captured` are about",
    "Watch.outcomes": "when outcomes are due; without it nobody is told that they don't come",
    "Watch.azure_monitor": "Azure ML's own monitor beside this one, of the signals with `data: captured`",
    "AzureMonitor.runtime_version": "of serverless Spark",
    "AzureMonitor.instance_type": "of serverless Spark",
    "AzureMonitor.time_zone": "of `watch.schedule` there; a Windows name",
    "AzureMonitor.emails": "who is told of a run",
    "AzureMonitor.signals": "which of them; a drift of predictions is seen against those of the time before the window",
    "AzureMonitor.features": "columns, where a signal names none; empty: all, row identifiers among them",
    "AzureMonitor.task": "what the model does",
    "Captured.days": "so many days of them; Azure ML files them by the clock, not by partition",
    "Captured.until": "the last day; a template",
    "Outcomes.day": "the window's column with the day a row is of",
    "Outcomes.due_days": "so many days later its outcome is due",
    "Outcomes.max_missing": "the share of the due rows that may be without; more are a warning",
    "Signal.type": "Azure ML's monitoring signals",
    "Signal.data": "whose rows: the window's, or what the endpoint was asked and answered",
    "Signal.min_rows": "in place of the watch's",
    "Signal.numerical": "drift metrics of numerical columns with their limits",
    "Signal.categorical": "drift metrics of categorical columns with their limits",
    "Signal.thresholds": "rates with how much they may rise above training's; performance with how much it may lose",
    "Signal.features": "columns; empty: all that both sides have",
    "Signal.warn_only": "columns that never raise more than a warning; `*` are all",
    "BlobArrival.container": "empty: the connection's",
    "BlobArrival.blob": "the blob that is written last, a template",
    "BlobArrival.timeout_minutes": "then the task fails and says what is there",
    "BlobArrival.poke_seconds": "between two looks",
    "TableArrival.table": "`schema.table` that another DAG fills; it needn't exist yet",
    "TableArrival.column": "the column that holds the partition's day",
    "TableArrival.min_rows": "fewer rows are an empty or half-filled partition",
    "TableArrival.timeout_minutes": "then the task fails and says what is there",
    "TableArrival.poke_seconds": "between two looks",
    "SqlStep.name": "the task's id",
    "SqlStep.after": "steps it waits for; empty: the one before it in the file",
    "SqlStep.timeout_minutes": "for the file; then the statement is cancelled",
    "SqlStep.sql": "the file, below `include/sql`",
    "SqlStep.parameters": "values for `@name` in the file, bound by the driver; text is a template",
    "SqlStep.sql_pool": "which pool runs it; a serverless one has its own address and is paid by what queries process",
    "SqlStep.database": "empty: the connection's for that pool",
    "SqlStep.max_data_processed_mb": "serverless: what the file may process; a query that will read more isn't run",
    "SqlStep.workload_context": "the session's `wlm_context`, by which a workload classifier gives it resources",
    "SqlStep.deferrable": "a triggerer holds the connection while the file runs, and no worker: for long files",
    "SqlStep.check_tables": "look at row groups and statistics of the loaded tables; what is wrong is a warning",
    "NotebookStep.name": "the task's id",
    "NotebookStep.after": "steps it waits for; empty: the one before it in the file",
    "NotebookStep.timeout_minutes": "then the run is cancelled",
    "NotebookStep.notebook": "the file, below `include/spark/notebooks`",
    "NotebookStep.spark_pool": "empty: the connection's",
    "NotebookStep.executor_size": "of executors and driver; empty: the notebook's own, else the pool's",
    "NotebookStep.executors": "how many; empty: the notebook's own, else the pool's",
    "NotebookStep.conf": "Spark's configuration for the session",
    "NotebookStep.parameters": "values for names that its cell of parameters assigns, of the same type; a template's "
    "text is read as that type",
    "TypedParameter.type": "where the notebook's default doesn't tell it",
    "TypedParameter.value": "text is a template",
    "SparkJobStep.name": "the task's id",
    "SparkJobStep.after": "steps it waits for; empty: the one before it in the file",
    "SparkJobStep.timeout_minutes": "then the batch is cancelled",
    "SparkJobStep.spark_job": "the application, below `include/spark/jobs`: `.py`, or `.jar` with `class_name`",
    "SparkJobStep.arguments": "of the application; text is a template",
    "SparkJobStep.py_files": "modules and packages beside it: `.py`, `.zip`, or a folder",
    "SparkJobStep.files": "files put into the working directory of each executor",
    "SparkJobStep.class_name": "the class of a `.jar` to run",
    "SparkJobStep.spark_pool": "empty: the connection's",
    "SparkJobStep.executor_size": "of executors and driver; empty: the pool's",
    "SparkJobStep.executors": "how many; empty: the pool's",
    "SparkJobStep.conf": "Spark's configuration",
    "Suite.suite": "the file, below `include/expectations`",
    "Suite.table": "`schema.table`",
    "Suite.quarantine": "where rows go that break an expectation of severity `quarantine`",
    "SuiteQuarantine.key": "columns that tell the table's rows apart",
    "SuiteQuarantine.table": "empty: the checked table's name and `_quarantine`",
    "SuiteQuarantine.max_share": "of the checked rows; if more would go, none does and the run stops",
    "Data.sql": "the file below `include/sql` that exports the sets, once the suites have passed; empty: `prepare` did",
    "Data.parameters": "values for `@name` in the file",
    "Data.timeout_minutes": "for the file; then the statement is cancelled",
    "Data.train": "folder of Parquet files in the lake's container, a template",
    "Data.holdout": "the same for the hold-out",
    "Data.type": "`mltable` is what AutoML takes",
    "Job.job": "the job's YAML, below `include/ml`",
    "Job.inputs": "values for the YAML's template and its inputs; templates",
    "Job.outputs": "where its outputs are written (`azureml://datastores/...`); templates",
    "Job.timeout_minutes": "then the job is cancelled",
    "Evaluate.gate": "when the challenger may replace the champion",
    "Gate.metric": "must be the evidence's, and one that `azflow.metrics` knows: it says which way is better",
    "Gate.max_loss": "how much worse than the champion it may be on the same rows, in the metric's units",
    "Gate.floor": "where higher is better: the least value worth serving; required there",
    "Gate.ceiling": "where lower is better: the most it may be; this or `min_skill` is required there",
    "Gate.min_skill": "where lower is better: the share of the best baseline's error that it must take away at least",
    "Gate.min_rows": "the fewest hold-out rows for a decision",
    "Gate.promote_if": "`better`: the whole interval of the paired difference must say so; equal models stay out",
    "Gate.max_slice_loss": "how much worse it may be on any slice; empty: slices are shown, not judged",
    "Gate.min_slice_rows": "smaller slices aren't judged",
    "Gate.max_calibration_error": "how far predictions and outcomes may lie apart, on average over the bins",
    "Gate.max_microseconds_per_row": "what scoring a row of the hold-out may take",
    "Compare.last": "so many trainings before this one",
    "Spend.max_node_hours_per_job": "hours of one node; a job that allows itself more isn't started, others end there",
    "Spend.max_node_hours_per_night": "the same for all jobs of a night together; each gets what is left",
    "Approve.person": "a person answers, with the verdict before their eyes",
    "Person.timeout_minutes": "how long to wait",
    "Person.on_timeout": "what silence means",
    "Person.assigned": "who may answer; empty: everybody who may act on the DAG",
    "Register.model": "its name in Azure ML",
    "Register.type": "of the training job's output",
    "Deploy.endpoint": "a folder below `include/ml/endpoints`",
    "Deploy.name": "the endpoint's name at Azure; empty: the folder's, `-` for `_`",
    "Deploy.stages": "percent of traffic, growing, the last 100; the form's default",
    "Deploy.window_seconds": "how long a stage is watched",
    "Deploy.max_error_rate": "share of its requests that may fail",
    "Deploy.max_p95_ms": "95 % of its answers must come within",
    "Deploy.min_agreement": "share of rows on which it must say what the champion says",
    "Deploy.sample_path": "folder of Parquet files in the lake whose rows are asked; a template",
    "Deploy.sample_rows": "how many of them are read",
    "Deploy.shadow": "what callers asked the champion lately is asked again, before any traffic; empty: it isn't",
    "Shadow.requests": "so many at most, the newest first",
    "Shadow.hours": "how old they may be",
    "WriteBack.sql": "the file, below `include/sql`, that replaces the partition's predictions",
    "WriteBack.parameters": "values for `@name` in the file",
    "Rescore.sql": "the file, below `include/sql`, that exports the days, with the label to `holdout/`",
    "Rescore.versions": "the file, below `include/sql`, that keeps two versions' predictions and compares them",
    "Rescore.timeout_minutes": "of the export, and of the comparison",
}

_SECTIONS = {
    "arrival, a blob": "BlobArrival",
    "arrival, a table": "TableArrival",
    "prepare, a SQL file": "SqlStep",
    "prepare, a notebook": "NotebookStep",
    "prepare, a notebook's parameter": "TypedParameter",
    "prepare, a Spark job": "SparkJobStep",
    "quality": "Suite",
    "quality.quarantine": "SuiteQuarantine",
    "data": "Data",
    "train": "Job",
    "compare": "Compare",
    "evaluate": "Evaluate",
    "evaluate.gate": "Gate",
    "spend": "Spend",
    "approve": "Approve",
    "approve.person": "Person",
    "register": "Register",
    "deploy": "Deploy",
    "deploy.shadow": "Shadow",
    "decisions": "Decisions",
    "write_back": "WriteBack",
    "rescore": "Rescore",
    "watch": "Watch",
    "watch.signals": "Signal",
    "watch.captured": "Captured",
    "watch.outcomes": "Outcomes",
    "watch.azure_monitor": "AzureMonitor",
}


def model_yml() -> str:
    """The page about model.yml."""
    from azflow.specs import ModelSpec

    schema = ModelSpec.model_json_schema(by_alias=True)
    lines = [
        "# model.yml",
        "",
        "Generated by `tools/reference.py` from `azflow.specs`; a test fails when this page and the code differ.",
        "",
        "A model is described in `include/models/<name>/model.yml`. A key that isn't listed here, a key given twice",
        "and a file that doesn't exist are errors; Airflow shows an import error that names file and key. What a",
        "template may use is in the [guide](guide.md#templates).",
        "",
        *_keys("ModelSpec", schema),
    ]
    for title, name in _SECTIONS.items():
        lines += ["", f"## {title}", "", *_keys(name, schema["$defs"][name])]
    return "\n".join(lines) + "\n"


def _keys(name: str, schema: Mapping[str, Any]) -> list[str]:
    rows = ["| Key | Type | Default | What it is |", "|---|---|---|---|"]
    for key, value in schema["properties"].items():
        default = "required" if key in schema.get("required", ()) else _default(value.get("default"))
        rows.append(f"| `{key}` | {_type(value)} | {default} | {meaning(name, key)} |")
    return rows


def meaning(name: str, key: str) -> str:
    """What the key of a class of azflow.specs is for; a class that has a job says only what is its own."""
    own_job = name in ("Evaluate", "WriteBack", "Watch")
    found = MEANING.get(f"{name}.{key}") or (MEANING.get(f"Job.{key}") if own_job else None)
    if found is None:
        raise KeyError(f"tools/reference.py doesn't say what {name}.{key} is for")
    return found


def _default(value: object) -> str:
    if value is None or value in ({}, [], ""):
        return "empty"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float | int) else f"`{value}`"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words, without what the sections say."""
    if "$ref" in schema:
        return "keys, see below"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        kinds = [_type(option) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items", {})
        if {"$ref", "oneOf", "anyOf"} & set(items):
            return "list, see below"
        return "list of names" if "pattern" in items else f"list of {_type(items)}s"
    if kind == "object":
        return "names with values"
    if kind == "boolean":
        return "`true` or `false`"
    if kind in ("number", "integer"):
        return {"number": "number", "integer": "whole number"}[kind] + _limits(schema)
    return "text" + (f" like `{schema['pattern']}`".replace("|", "\\|") if "pattern" in schema else "")


def _limits(schema: Mapping[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}
    said = [f"{word} {schema[key]:g}" for key, word in words.items() if key in schema]
    return " " + " ".join(said) if said else ""


def operators() -> str:
    """The page about operators."""
    rows = [
        f"| `{one.__name__}` | `{one.__module__}` | {', '.join(f'`{field}`' for field in one.template_fields) or '-'} "
        f"| {_summary(one)} |"
        for one in operator_classes()
    ]
    return "\n".join(
        [
            "# Operators",
            "",
            "Generated by `tools/reference.py` from `plugins/azflow`; a test fails when this page and the code differ.",
            "",
            "`azflow.lifecycle` builds the nightly DAG of these; they work in a DAG of one's own too. Each but",
            "`PersonalApproval`, which talks to Airflow only, takes `conn_id` (default `azure_default`); parameters",
            "and XCom are in the class's docstring.",
            "",
            "| Operator | Module | Template fields | What it does |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def operator_classes() -> list[Any]:
    """The operators of azflow that can be used as they are, by module and name."""
    return sorted(set(_operator_classes()), key=lambda one: (one.__module__, one.__name__))


def _operator_classes() -> Iterator[Any]:
    from airflow.sdk import BaseOperator

    import azflow
    from azflow.edge import AzflowOperator
    from azflow.runs import RemoteRunOperator

    for found in pkgutil.iter_modules(azflow.__path__):
        module = importlib.import_module(f"azflow.{found.name}")
        for _, one in inspect.getmembers(module, inspect.isclass):
            own = (
                not one.__name__.startswith("_") and issubclass(one, BaseOperator) and one.__module__ == module.__name__
            )
            if own and one not in (AzflowOperator, RemoteRunOperator) and not inspect.isabstract(one):
                yield one


def _summary(one: Any) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join((inspect.getdoc(one) or "").partition("\n\n")[0].split())
    return paragraph.partition(": ``{")[0].partition("; ")[0].rstrip(".").replace("``", "`")


def main() -> None:
    for name, page in {"model_yml.md": model_yml(), "operators.md": operators()}.items():
        (DOCS / name).write_text(page, encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
