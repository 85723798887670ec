"""AutoML as a step of a pipeline: there the SDK sends a job as its YAML, in snake_case; a job alone has ARM's form.

Measured with azure-ai-ml 1.35.2: `PipelineJob._to_rest_object` dumps AutoML nodes with the YAML schema
(_schema/pipeline/automl_node.py), durations as minutes and names in snake_case.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from localazure.core.errors import BadRequest

DATA_ROLES = ("training_data", "validation_data", "test_data")
_TASK_DETAILS = {
    "target_column_name": "targetColumnName",
    "primary_metric": "primaryMetric",
    "log_verbosity": "logVerbosity",
    "validation_data_size": "validationDataSize",
    "test_data_size": "testDataSize",
    "cv_split_column_names": "cvSplitColumnNames",
    "weight_column_name": "weightColumnName",
    "positive_label": "positiveLabel",
}
_LIMITS = {
    "max_trials": "maxTrials",
    "max_concurrent_trials": "maxConcurrentTrials",
    "max_cores_per_trial": "maxCoresPerTrial",
    "max_nodes": "maxNodes",
    "enable_early_termination": "enableEarlyTermination",
    "exit_score": "exitScore",
}
_DURATIONS = {"timeout_minutes": "timeout", "trial_timeout_minutes": "trialTimeout"}
_FEATURIZATION = {
    "mode": "mode",
    "blocked_transformers": "blockedTransformers",
    "column_name_and_types": "columnNameAndTypes",
    "transformer_params": "transformerParams",
    "dataset_language": "datasetLanguage",
    "enable_dnn_featurization": "enableDnnFeaturization",
}
_TRAINING = {
    "enable_dnn_training": "enableDnnTraining",
    "enable_model_explainability": "enableModelExplainability",
    "enable_onnx_compatible_models": "enableOnnxCompatibleModels",
    "enable_stack_ensemble": "enableStackEnsemble",
    "enable_vote_ensemble": "enableVoteEnsemble",
    "ensemble_model_download_timeout_minutes": "ensembleModelDownloadTimeout",
    "allowed_training_algorithms": "allowedTrainingAlgorithms",
    "blocked_training_algorithms": "blockedTrainingAlgorithms",
    "training_mode": "trainingMode",
}
_STACKING = {
    "stack_meta_learner_type": "stackMetaLearnerType",
    "stack_meta_learner_train_percentage": "stackMetaLearnerTrainPercentage",
    "stack_meta_learner_kwargs": "stackMetaLearnerKWargs",
}
_FORECASTING = {
    "time_column_name": "timeColumnName",
    "frequency": "frequency",
    "feature_lags": "featureLags",
    "use_stl": "useStl",
    "short_series_handling_config": "shortSeriesHandlingConfig",
    "target_aggregate_function": "targetAggregateFunction",
    "country_or_region_for_holidays": "countryOrRegionForHolidays",
    "cv_step_size": "cvStepSize",
}
# The service takes a mode for these: Auto, or Custom with the value under this name.
_MODAL = {
    "forecast_horizon": ("forecastHorizon", "value"),
    "target_lags": ("targetLags", "values"),
    "target_rolling_window_size": ("targetRollingWindowSize", "value"),
    "seasonality": ("seasonality", "value"),
}
_LISTS = {
    "time_series_id_column_names": "timeSeriesIdColumnNames",
    "features_unknown_at_forecast_time": "featuresUnknownAtForecastTime",
}
_NODE = frozenset({
    "type", "task", "name", "display_name", "experiment_name", "description", "compute", "computeId", "tags",
    "properties", "outputs", "limits", "featurization", "training", "forecasting", "n_cross_validations",
    "environment_variables", "resources", "identity", "queue_settings", "services", "status", "creation_context",
    "id", "comment", "$schema",
})  # fmt: skip


def from_pipeline_node(node: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ARM properties of the AutoML job that a pipeline's node asks for. BadRequest names what isn't known.

    `data` has, for each of the roles training_data, validation_data and test_data that the node names, where the table
    is: {"uri": ...}.
    """
    if unknown := sorted(set(node) - _NODE - set(_TASK_DETAILS) - set(DATA_ROLES)):
        raise BadRequest(f"An AutoML step has no {', '.join(unknown)}.", "jobs", "UserError")
    task = str(node.get("task") or "").replace("_", "").lower()
    details: dict[str, Any] = {"taskType": task.capitalize()}
    details |= _renamed(node, _TASK_DETAILS)
    for role in DATA_ROLES:
        if node.get(role) is None:
            continue
        if role not in data:
            raise BadRequest(f"The AutoML step's {role} leads nowhere.", f"jobs.{role}", "UserError")
        details[_camel(role)] = {"uri": data[role]["uri"], "jobInputType": "mltable"}
    if (folds := node.get("n_cross_validations")) is not None:
        details["nCrossValidations"] = _modal(folds, "value")
    if limits := node.get("limits"):
        details["limitSettings"] = _renamed(limits, _LIMITS, "limits", *_DURATIONS) | {
            name: f"PT{limits[minutes]}M" for minutes, name in _DURATIONS.items() if limits.get(minutes) is not None
        }
    if featurization := node.get("featurization"):
        details["featurizationSettings"] = _renamed(featurization, _FEATURIZATION, "featurization")
    if training := node.get("training"):
        settings = _renamed(training, _TRAINING, "training", "stack_ensemble_settings")
        if stacking := training.get("stack_ensemble_settings"):
            settings["stackEnsembleSettings"] = _renamed(stacking, _STACKING, "training.stack_ensemble_settings")
        details["trainingSettings"] = settings
    if forecasting := node.get("forecasting"):
        settings = _renamed(forecasting, _FORECASTING, "forecasting", *_MODAL, *_LISTS)
        for name, (wire, key) in _MODAL.items():
            if forecasting.get(name) is not None:
                settings[wire] = _modal(forecasting[name], key)
        for name, wire in _LISTS.items():
            if forecasting.get(name) is not None:
                settings[wire] = _list(forecasting[name])
        details["forecastingSettings"] = settings
    properties = {
        "jobType": "AutoML",
        "displayName": node.get("display_name") or node.get("name"),
        "experimentName": node.get("experiment_name"),
        "description": node.get("description"),
        "computeId": node.get("computeId") or node.get("compute"),
        "environmentVariables": node.get("environment_variables"),
        "tags": dict(node.get("tags") or {}),
        "properties": dict(node.get("properties") or {}),
        "outputs": {name: _output(output or {}) for name, output in (node.get("outputs") or {}).items()},
        "taskDetails": details,
    }
    return {name: value for name, value in properties.items() if value is not None}


def _renamed(given: Mapping[str, Any], names: Mapping[str, str], where: str = "", *others: str) -> dict[str, Any]:
    if where and (unknown := sorted(set(given) - set(names) - set(others))):
        raise BadRequest(f"An AutoML step has no {where}.{', '.join(unknown)}.", f"jobs.{where}", "UserError")
    return {wire: given[name] for name, wire in names.items() if given.get(name) is not None}


def _modal(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, str) and value.lower() == "auto":
        return {"mode": "Auto"}
    if key == "values" and not isinstance(value, list):
        value = [value]
    return {"mode": "Custom", key: [int(each) for each in value] if isinstance(value, list) else int(value)}


def _list(value: Any) -> list[str]:
    """Column names: a list, one name, or what the SDK makes of a list inside pipelines: its Python text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return [str(each) for each in ast.literal_eval(value)]
        except (SyntaxError, ValueError):
            return [value]
    return [value] if isinstance(value, str) else list(value)


def _output(output: Mapping[str, Any]) -> dict[str, Any]:
    names = {"job_output_type": "jobOutputType", "type": "jobOutputType", "path": "uri", "name": "assetName"}
    return {names.get(name, name): value for name, value in output.items() if value is not None}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
