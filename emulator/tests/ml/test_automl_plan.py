"""AutoML: what a job asks for becomes a plan or is refused; and the form that a pipeline's step has."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import AzureError
from localazure.executors.automl import AutoMLRunner
from localazure.executors.automl_plan import plan
from localazure.executors.automl_wire import from_pipeline_node
from localazure.settings import Settings


def job(details: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    task = {
        "taskType": "Classification",
        "targetColumnName": "late",
        "trainingData": {"uri": "azureml:t:1", "jobInputType": "mltable"},
        **(details or {}),
    }
    return {"jobType": "AutoML", "taskDetails": task, **more}


def forecast(**settings: Any) -> dict[str, Any]:
    return {"taskType": "Forecasting", "forecastingSettings": {"timeColumnName": "hour", **settings}}


def test_the_plan_has_the_services_defaults() -> None:
    found = plan(job())
    assert found["primary_metric"] == "accuracy"
    assert (found["timeout_seconds"], found["trial_timeout_seconds"]) == (6 * 3600, 1800)
    assert (found["max_trials"], found["max_concurrent_trials"], found["early_termination"]) == (1000, 1, True)
    assert found["algorithms"][0] == "LightGBM"
    assert {"SVM", "KNN", "MultinomialNaiveBayes", "SGD"} <= set(found["algorithms"])
    assert (found["vote"], found["stack"], found["explain"], found["split_type"]) == (True, True, True, None)
    later = plan(job(forecast()))
    assert (later["vote"], later["stack"]) == (True, False)
    assert later["forecasting"]["horizon"] == 1
    assert later["forecasting"]["lags"] is None
    assert later["forecasting"]["season"] == "auto"


def test_limits_metrics_algorithms_and_the_time_split_are_taken_over() -> None:
    limits = {"timeout": "PT4M", "trialTimeout": "PT1M", "maxTrials": 8, "enableEarlyTermination": False,
              "maxConcurrentTrials": 4, "maxNodes": 2, "maxCoresPerTrial": -1}  # fmt: skip
    training = {
        "allowedTrainingAlgorithms": ["light_gbm", "RandomForest"],
        "blockedTrainingAlgorithms": ["RandomForest"],
        "enableStackEnsemble": False,
        "stackEnsembleSettings": {"stackMetaLearnerType": "LogisticRegressionCV"},
    }
    details = {"primaryMetric": "AUCWeighted", "limitSettings": limits, "trainingSettings": training}
    own = {"split_type": "time", "time_column_name": "flight_date"}
    for place in ("properties", "tags"):
        found = plan(job(details, **{place: own}))
        assert found["primary_metric"] == "AUC_weighted"
        assert (found["timeout_seconds"], found["max_trials"], found["early_termination"]) == (240, 8, False)
        assert (found["max_concurrent_trials"], found["cores_per_trial"]) == (2, None)
        assert (found["algorithms"], found["algorithms_named"]) == (["LightGBM"], True)
        assert (found["stack"], found["meta_learner"]) == (False, "LogisticRegressionCV")
        assert (found["split_type"], found["time_column_name"]) == ("time", "flight_date")


@pytest.mark.parametrize(
    ("details", "status", "message"),
    [
        ({"primaryMetric": "auc"}, 400, "there are AUC_weighted, accuracy, norm_macro_recall"),
        ({"taskType": "TextNER"}, 501, "taskType TextNER"),
        ({"taskType": "Guess"}, 400, "not 'Guess'"),
        ({"targetColumnName": ""}, 400, "target_column_name"),
        ({"trainingSettings": {"blockedTrainingAlgorithms": ["Magic"]}}, 400, "'Magic' is unknown"),
        ({"trainingSettings": {"enableDnnTraining": True}}, 501, "enableDnnTraining"),
        ({"trainingSettings": {"enableOnnxCompatibleModels": True}}, 501, "enableOnnxCompatibleModels"),
        ({"trainingSettings": {"trainingMode": "Distributed"}}, 501, "trainingMode Distributed"),
        ({"trainingSettings": {"stackEnsembleSettings": {"stackMetaLearnerType": "ElasticNet"}}}, 400, "not 'Elas"),
        ({"limitSettings": {"timeout": "PT1M", "trialTimeout": "PT2M"}}, 400, "must not be longer"),
        ({"limitSettings": {"maxTrials": 1, "maxConcurrentTrials": 2}}, 400, "more than max_trials"),
        ({"nCrossValidations": {"mode": "Custom", "value": 1}}, 400, "2 or more"),
        ({"validationDataSize": 1.5}, 400, "between 0 and 1"),
        ({"validationData": {"uri": "azureml:v:1"}, "validationDataSize": 0.2}, 400, "stands alone"),
        ({"cvSplitColumnNames": ["f"], "nCrossValidations": {"mode": "Custom", "value": 3}}, 400, "stands alone"),
        ({"testData": {"uri": "azureml:t:1"}, "testDataSize": 0.2}, 400, "not both"),
        ({"featurizationSettings": {"mode": "some"}}, 400, "auto, custom or off"),
        ({"featurizationSettings": {"columnNameAndTypes": {"a": "Image"}}}, 400, "purpose 'Image'"),
        ({"featurizationSettings": {"datasetLanguage": "deu"}}, 501, "datasetLanguage deu"),
        ({"featurizationSettings": {"blockedTransformers": ["Magic"]}}, 400, "'Magic' is unknown"),
        ({"featurizationSettings": {"transformerParams": {"Imputer": [{"parameters": {"strategy": "guess"}}]}}},
         400, "not 'guess'"),
        ({"featurizationSettings": {"transformerParams": {"TfIdf": [{"parameters": {"norm": "l1"}}]}}}, 501, "norm"),
        ({"taskType": "Forecasting"}, 400, "time_column_name"),
        ({**forecast(), "trainingSettings": {"allowedTrainingAlgorithms": ["Prophet"]}}, 501, "Prophet"),
        ({**forecast(), "trainingSettings": {"allowedTrainingAlgorithms": ["TCNForecaster"]}}, 501, "TCNForecaster"),
        ({**forecast(), "trainingSettings": {"enableStackEnsemble": True}}, 501, "enableStackEnsemble"),
        ({**forecast(), "validationDataSize": 0.2}, 400, "folds follow the time"),
        (forecast(countryOrRegionForHolidays="FR"), 501, "countryOrRegionForHolidays FR"),
        (forecast(targetAggregateFunction="Sum"), 400, "needs frequency"),
        (forecast(forecastHorizon={"mode": "Custom", "value": 0}), 400, "1 or more, not 0"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_by_name(details: dict[str, Any], status: int, message: str) -> None:
    with pytest.raises(AzureError) as caught:
        plan(job(details))
    assert caught.value.status == status
    assert message in caught.value.message


def test_other_outputs_than_the_model_are_refused(home: Settings) -> None:
    runner = AutoMLRunner(home, None)  # type: ignore[arg-type]
    with pytest.raises(AzureError, match="best_model, not 'table'"):
        runner.validate(job(outputs={"table": {"jobOutputType": "uri_folder"}}))
    assert runner.seconds(job({"limitSettings": {"timeout": "PT1M"}})) == pytest.approx(66)


# As azure-ai-ml 1.35.2 sends it inside a pipeline, the list of identifiers included.
NODE = {
    "name": "train", "type": "automl", "task": "forecasting", "tags": {}, "properties": {}, "log_verbosity": "info",
    "training_data": "${{parent.inputs.train}}", "target_column_name": "y", "primary_metric": "r2_score",
    "n_cross_validations": 3, "limits": {"max_trials": 4, "timeout_minutes": 3},
    "training": {"enable_stack_ensemble": False, "allowed_training_algorithms": ["naive", "light_gbm"]},
    "forecasting": {"forecast_horizon": 24, "target_lags": [1, 2], "time_column_name": "t", "frequency": "H",
                    "time_series_id_column_names": "['a', 'b']", "use_stl": "season_trend", "seasonality": "auto"},
    "featurization": {"mode": "custom", "blocked_transformers": ["label_encoder"],
                      "transformer_params": {"imputer": [{"fields": ["x"], "parameters": {"strategy": "median"}}]}},
    "outputs": {"best_model": {"job_output_type": "mlflow_model"}},
}  # fmt: skip


def test_a_step_of_a_pipeline_becomes_a_job() -> None:
    made = from_pipeline_node(NODE, {"training_data": {"uri": "azureml:t:1", "jobInputType": "mltable"}})
    assert made["jobType"] == "AutoML"
    assert made["outputs"] == {"best_model": {"jobOutputType": "mlflow_model"}}
    found = plan(made)
    assert (found["task"], found["primary_metric"], found["folds"]) == ("Forecasting", "r2_score", 3)
    assert (found["max_trials"], found["timeout_seconds"], found["stack"]) == (4, 180, False)
    assert found["algorithms"] == ["LightGBM", "Naive"]
    assert found["forecasting"] | {"lags": [1, 2], "horizon": 24, "stl": "season_trend"} == found["forecasting"]
    assert found["forecasting"]["ids"] == ["a", "b"]
    assert found["featurization"]["parameters"]["Imputer"][0]["fields"] == ["x"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {"max_time": 3}}, "limits.max_time"),
        ({"guess": 1}, "no guess"),
        ({"validation_data": "${{parent.inputs.valid}}"}, "validation_data leads nowhere"),
    ],
)
def test_a_step_with_something_unknown_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AzureError, match=message):
        from_pipeline_node({**NODE, **change}, {"training_data": {"uri": "azureml:t:1"}})
