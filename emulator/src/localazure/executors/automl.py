"""AutoML jobs: classification and regression over tables; each trial is a child job, the best one becomes the model.

The search itself runs in the compute environment (`localazure_compute.automl`), told by a plan and telling by one JSON
line an
event. https://learn.microsoft.com/azure/machine-learning/reference-automated-ml-schema and
.../rest/api/azureml/jobs/create-or-update

Classification and regression have no split by time in the service's schema. Two properties of the job ask for one here:
`split_type: time` and `time_column_name: <column>` (tags of the same names do as well): the newest rows are the
validation data.
On Azure, which ignores them, give `validation_data` instead.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors import bindings
from localazure.executors.durations import seconds
from localazure.executors.job import AssetSource, JobFailed, RunningJob
from localazure.settings import Settings
from localazure.storage.locations import Location

# Names as on the wire; values as metrics are logged.
CLASSIFICATION_METRICS = {
    "AUCWeighted": "AUC_weighted",
    "Accuracy": "accuracy",
    "NormMacroRecall": "norm_macro_recall",
    "AveragePrecisionScoreWeighted": "average_precision_score_weighted",
    "PrecisionScoreWeighted": "precision_score_weighted",
}
REGRESSION_METRICS = {
    "SpearmanCorrelation": "spearman_correlation",
    "NormalizedRootMeanSquaredError": "normalized_root_mean_squared_error",
    "R2Score": "r2_score",
    "NormalizedMeanAbsoluteError": "normalized_mean_absolute_error",
}
_METRICS = {"Classification": CLASSIFICATION_METRICS, "Regression": REGRESSION_METRICS}
_DEFAULT_METRIC = {"Classification": "Accuracy", "Regression": "NormalizedRootMeanSquaredError"}
# What the service knows; the first group runs here.
_RUN = {
    "Classification": ("LightGBM", "XGBoostClassifier", "RandomForest", "ExtremeRandomTrees", "LogisticRegression"),
    "Regression": ("LightGBM", "XGBoostRegressor", "RandomForest", "ExtremeRandomTrees", "ElasticNet"),
}
_KNOWN = {
    "Classification": ("SGD", "MultinomialNaiveBayes", "BernoulliNaiveBayes", "SVM", "LinearSVM", "KNN", "DecisionTree",
                       "GradientBoosting"),
    "Regression": ("GradientBoosting", "DecisionTree", "KNN", "LassoLars", "SGD"),
}  # fmt: skip
_REFUSED_TASKS = (
    "Forecasting", "ImageClassification", "ImageClassificationMultilabel", "ImageObjectDetection",
    "ImageInstanceSegmentation", "TextClassification", "TextClassificationMultilabel", "TextNER",
)  # fmt: skip
# The service's defaults.
_TIMEOUT = 6 * 3600.0
_TRIAL_TIMEOUT = 30 * 60.0
_MAX_TRIALS = 1000
_MIN_FOLDS = 2
# The search ends itself at its time-out and then saves the best model; this is what it has for that, and after it is
# ended.
_GRACE_SECONDS = 60.0
_POLL_SECONDS = 0.3


class AutoMLRunner:
    """Runs the search as one process and turns its events into child jobs."""

    def __init__(self, settings: Settings, assets: AssetSource) -> None:
        self._settings = settings
        self._assets = assets

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner."""
        _plan(properties)
        for name, output in (properties.get("outputs") or {}).items():
            if name not in ("best_model", "default"):
                raise BadRequest(
                    f"An AutoML job writes one output, best_model, not '{name}'.", f"outputs.{name}", "UserError"
                )
            if name == "best_model" and (output or {}).get("jobOutputType") not in ("mlflow_model", "uri_folder"):
                raise BadRequest("The output best_model is of type mlflow_model.", "outputs.best_model", "UserError")

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """The time-out enforced from outside: the job's own and what saving the model may take."""
        plan = _plan(properties)
        return float(plan["timeout_seconds"]) + _GRACE_SECONDS

    def nodes(self, properties: dict[str, Any]) -> int:
        """One: the whole search is one process."""
        return 1

    async def prepare(self, job: RunningJob) -> None:
        """Brings the tables."""
        plan = _plan(job.properties)
        details = job.properties["taskDetails"]
        for role in ("trainingData", "validationData"):
            entry = details.get(role)
            if entry:
                table = {**entry, "jobInputType": "mltable"}
                plan[_snake(role)] = await bindings.bring(job, _snake(role), table)
        job.working_directory.mkdir(parents=True, exist_ok=True)
        plan |= {
            "name": job.name,
            "experiment_id": job.experiment_id,
            "model": str(job.folder / "outputs" / "best_model"),
            "events": str(job.folder / "events.jsonl"),
        }
        (job.folder / "plan.json").write_text(json.dumps(plan, indent=2))

    async def execute(self, job: RunningJob) -> None:
        """Runs the search; JobFailed with its own words if it gives up."""
        events = job.folder / "events.jsonl"
        events.touch()
        reader = _Events(job, events)
        argv = [str(self._settings.compute_python), "-m", "localazure_compute.automl", str(job.folder / "plan.json")]
        running = asyncio.get_running_loop().create_task(job.run(argv, job.environment({})))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=_POLL_SECONDS)
                reader.read()
        finally:
            running.cancel()
            reader.read()
        code = running.result()
        if reader.failure:
            raise JobFailed(reader.failure)
        if code != 0 or reader.best is None:
            raise JobFailed(
                f"The search ended with code {code}. Last lines of its log:\n{job.last_lines()}", "SystemError"
            )
        best = reader.best
        job.found["best"] = best["child"]
        job.found["properties"] = {
            "best_child_run_id": best["child"],
            "score": repr(best["score"]),
            "primary_metric": best["primary_metric"],
            "run_algorithm": best["algorithm"],
            "num_iterations": str(reader.trials),
        }
        await job.tracking.set_tags(job.name, {"automl_best_child_run_id": best["child"]})

    async def finalize(self, job: RunningJob) -> None:
        """Uploads the model: to the output best_model, and to the best child's artifacts as the service keeps it."""
        model = job.folder / "outputs" / "best_model"
        artifacts = Location("azureml", f"ExperimentRun/dcid.{job.found['best']}/outputs/mlflow-model")
        await asyncio.to_thread(job.blobs.upload_tree, model, artifacts)
        await bindings.upload(job, Location("azureml", f"ExperimentRun/dcid.{job.name}"))
        await asyncio.to_thread(shutil.rmtree, job.folder / "trials", True)


class _Events:
    """Reads the search's events as they come and writes the children down."""

    def __init__(self, job: RunningJob, path: Path) -> None:
        self._job = job
        self._path = path
        self._offset = 0
        self.trials = 0
        self.best: dict[str, Any] | None = None
        self.failure: str | None = None

    def read(self) -> None:
        """Takes in what is new. An unfinished last line waits."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            match event.pop("event"):
                case "trial":
                    self._trial(event)
                case "best":
                    self.best = event
                case "failed":
                    self.failure = event["message"]

    def _trial(self, event: dict[str, Any]) -> None:
        self.trials += 1
        job = self._job
        state = event["state"]
        details = job.properties["taskDetails"]
        properties = {
            "jobType": "Command",
            "command": "automl_driver",
            "displayName": event["child"],
            "experimentName": job.properties["experimentName"],
            "computeId": job.properties.get("computeId"),
            "status": state,
            "tags": {},
            "properties": {
                "runTemplate": "automl_child",
                "iteration": str(event["number"]),
                "run_algorithm": event["algorithm"],
                "run_preprocessor": event["preprocessor"],
                "hyperparameters": json.dumps(event["hyperparameters"]),
                "primary_metric": event["primary_metric"],
                "score": "" if event.get("score") is None else repr(event["score"]),
                "training_type": event["validation"],
                "target_column": details.get("targetColumnName", ""),
            },
        }
        run = {
            "number": event["number"],
            "runType": "azureml.scriptrun",
            "experimentId": job.experiment_id,
            "startTimeUtc": event["start"],
            "endTimeUtc": event["end"],
            "error": {"code": "UserError", "message": event["error"]} if event.get("error") else None,
        }
        job.children.add(event["child"], properties, run)


def _plan(properties: dict[str, Any]) -> dict[str, Any]:
    """The search's plan from the job's properties, everything but where the data is. Refuses by name what isn't
    there.
    """
    details = properties.get("taskDetails") or {}
    task = details.get("taskType")
    if task in _REFUSED_TASKS:
        raise NotImplementedOperation(f"Jobs_CreateOrUpdate of an AutoML job with taskType {task}")
    if task not in _METRICS:
        raise BadRequest(f"taskType must be one of {', '.join(_METRICS)}, not '{task}'.", "taskType", "UserError")
    if not details.get("targetColumnName"):
        raise BadRequest("An AutoML job needs target_column_name.", "targetColumnName", "UserError")
    if not (details.get("trainingData") or {}).get("uri"):
        raise BadRequest("An AutoML job needs training_data.", "trainingData", "UserError")
    for name in ("cvSplitColumnNames", "weightColumnName", "testData", "testDataSize", "positiveLabel"):
        if details.get(name):
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of an AutoML job with {name}")
    split, time_column = _split(properties)
    return {
        "task": task,
        "target": details["targetColumnName"],
        "primary_metric": _metric(task, details),
        "algorithms": _algorithms(task, details.get("trainingSettings") or {}),
        **_limits(details.get("limitSettings") or {}),
        **_validation(details),
        "explanations_wanted": bool((details.get("trainingSettings") or {}).get("enableModelExplainability")),
        "split_type": split,
        "time_column_name": time_column,
        "featurization": _featurization(details.get("featurizationSettings") or {}),
    }


def _metric(task: str, details: dict[str, Any]) -> str:
    wanted = details.get("primaryMetric") or _DEFAULT_METRIC[task]
    metrics = _METRICS[task]
    # The wire has AUCWeighted, people and logs write AUC_weighted.
    for wire, logged in metrics.items():
        if wanted.replace("_", "").lower() in (wire.lower(), logged.replace("_", "").lower()):
            return logged
    known = ", ".join(metrics.values())
    raise BadRequest(
        f"primary_metric '{wanted}' is unknown for {task}; there are {known}.", "primaryMetric", "UserError"
    )


def _algorithms(task: str, settings: dict[str, Any]) -> list[str]:
    run, known = _RUN[task], _KNOWN[task]
    allowed = settings.get("allowedTrainingAlgorithms") or []
    blocked = settings.get("blockedTrainingAlgorithms") or []
    for name in [*allowed, *blocked]:
        if name not in (*run, *known):
            there = ", ".join(sorted((*run, *known)))
            message = f"The algorithm '{name}' is unknown for {task}; there are {there}."
            raise BadRequest(message, "trainingSettings", "UserError")
    if foreign := [name for name in allowed if name not in run]:
        what = (
            f"Jobs_CreateOrUpdate of an AutoML job with the algorithm(s) {', '.join(foreign)} (here: {', '.join(run)})"
        )
        raise NotImplementedOperation(what)
    for name in ("enableStackEnsemble", "enableVoteEnsemble", "enableDnnTraining", "enableOnnxCompatibleModels"):
        if settings.get(name):
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of an AutoML job with {name}")
    chosen = [name for name in run if (not allowed or name in allowed) and name not in blocked]
    if not chosen:
        raise BadRequest("allowed and blocked training algorithms leave none to try.", "trainingSettings", "UserError")
    return chosen


def _limits(limits: dict[str, Any]) -> dict[str, Any]:
    timeout = seconds(limits.get("timeout"), "limits.timeout") or _TIMEOUT
    trial = seconds(limits.get("trialTimeout"), "limits.trial_timeout") or min(_TRIAL_TIMEOUT, timeout)
    trials = limits.get("maxTrials") or _MAX_TRIALS
    concurrent = limits.get("maxConcurrentTrials") or 1
    if trial > timeout:
        raise BadRequest(
            f"trial_timeout ({trial:.0f} s) must not be longer than the job's timeout ({timeout:.0f} s).",
            "limits",
            "UserError",
        )
    if concurrent > trials:
        raise BadRequest(
            f"max_concurrent_trials ({concurrent}) is more than max_trials ({trials}).", "limits", "UserError"
        )
    early = limits.get("enableEarlyTermination")
    return {
        "timeout_seconds": timeout,
        "trial_timeout_seconds": trial,
        "max_trials": int(trials),
        "max_concurrent_trials": int(concurrent),
        "early_termination": True if early is None else bool(early),
        "exit_score": limits.get("exitScore"),
    }


def _validation(details: dict[str, Any]) -> dict[str, Any]:
    folds = details.get("nCrossValidations") or {}
    size = details.get("validationDataSize")
    if size is not None and not 0 < float(size) < 1:
        raise BadRequest(
            f"validation_data_size must lie between 0 and 1, not {size}.", "validationDataSize", "UserError"
        )
    number = folds.get("value") if folds.get("mode") == "Custom" else None
    if number is not None and int(number) < _MIN_FOLDS:
        raise BadRequest(f"n_cross_validations must be 2 or more, not {number}.", "nCrossValidations", "UserError")
    if details.get("validationData") and (size is not None or number is not None):
        raise BadRequest(
            "validation_data stands alone: validation_data_size and n_cross_validations split the training data.",
            "validationData",
            "UserError",
        )
    return {"validation_size": None if size is None else float(size), "folds": None if number is None else int(number)}


def _split(properties: dict[str, Any]) -> tuple[str | None, str | None]:
    own = {**(properties.get("tags") or {}), **(properties.get("properties") or {})}
    split, column = own.get("split_type"), own.get("time_column_name")
    if split not in (None, "", "random", "stratified", "time"):
        raise BadRequest(
            f"The property split_type must be random, stratified or time, not '{split}'.", "properties", "UserError"
        )
    if split == "time" and not column:
        raise BadRequest("The property split_type: time needs time_column_name as well.", "properties", "UserError")
    return split or None, column or None


def _featurization(settings: dict[str, Any]) -> dict[str, Any]:
    mode = str(settings.get("mode") or "auto").lower()
    if mode not in ("auto", "custom"):
        raise NotImplementedOperation(f"Jobs_CreateOrUpdate of an AutoML job with featurization.mode {mode}")
    for name in ("transformerParams", "blockedTransformers", "datasetLanguage"):
        if settings.get(name):
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of an AutoML job with featurization.{name}")
    kinds = settings.get("columnNameAndTypes") or {}
    for column, kind in kinds.items():
        if kind not in ("Numeric", "Categorical", "DateTime", "Ignore"):
            raise NotImplementedOperation(f"An AutoML job with the column purpose {kind} (column {column})")
    return {"columns": kinds}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
