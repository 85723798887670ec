"""What an AutoML job asks for, as the search's plan; what isn't there is refused by name.

https://learn.microsoft.com/rest/api/azureml/jobs/create-or-update#automljob and
https://learn.microsoft.com/azure/machine-learning/reference-automated-ml-schema

Classification and regression have no split by time in the service's schema. Two properties of the job ask for one here:
`split_type: time` and `time_column_name: <column>` (tags of the same names do as well): the newest rows are the
validation data. On Azure, which ignores them, give `validation_data` instead.
"""

from __future__ import annotations

from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.durations import seconds

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
_METRICS = {
    "Classification": CLASSIFICATION_METRICS,
    "Regression": REGRESSION_METRICS,
    "Forecasting": REGRESSION_METRICS,
}
_DEFAULT_METRIC = {
    "Classification": "Accuracy",
    "Regression": "NormalizedRootMeanSquaredError",
    "Forecasting": "NormalizedRootMeanSquaredError",
}
_REGRESSORS = (
    "LightGBM", "ElasticNet", "ExtremeRandomTrees", "XGBoostRegressor", "RandomForest", "GradientBoosting",
    "DecisionTree", "LassoLars", "SGD", "KNN",
)  # fmt: skip
# In the order in which they get their first trial: the strong and the quick ones first.
_RUN = {
    "Classification": (
        "LightGBM", "LogisticRegression", "ExtremeRandomTrees", "XGBoostClassifier", "RandomForest",
        "GradientBoosting", "DecisionTree", "SGD", "LinearSVM", "BernoulliNaiveBayes", "MultinomialNaiveBayes", "KNN",
        "SVM",
    ),
    "Regression": _REGRESSORS,
    "Forecasting": (
        "SeasonalNaive", "LightGBM", "ElasticNet", "ExtremeRandomTrees", "RandomForest", "XGBoostRegressor",
        "SeasonalAverage", "ExponentialSmoothing", "GradientBoosting", "Naive", "Average", "DecisionTree", "LassoLars",
        "SGD", "KNN", "AutoArima", "Arimax",
    ),
}  # fmt: skip
# Known to the service, not run here.
_KNOWN = {"Classification": (), "Regression": (), "Forecasting": ("Prophet", "TCNForecaster")}
_REFUSED_TASKS = (
    "ImageClassification", "ImageClassificationMultilabel", "ImageObjectDetection", "ImageInstanceSegmentation",
    "TextClassification", "TextClassificationMultilabel", "TextNER",
)  # fmt: skip
_META_LEARNERS = {
    "Classification": ("LogisticRegression", "LogisticRegressionCV", "LightGBMClassifier"),
    "Regression": ("ElasticNet", "ElasticNetCV", "LightGBMRegressor", "LinearRegression"),
}
_PURPOSES = ("Numeric", "Categorical", "CategoricalHash", "DateTime", "Text", "Ignore")
_TRANSFORMERS = (
    "TextTargetEncoder", "OneHotEncoder", "CatTargetEncoder", "TfIdf", "WoETargetEncoder", "LabelEncoder",
    "WordEmbedding", "NaiveBayes", "CountVectorizer", "HashOneHotEncoder",
)  # fmt: skip
_TRANSFORMER_PARAMETERS = {
    "Imputer": ("strategy", "fill_value"),
    "HashOneHotEncoder": ("number_of_bits",),
    "TfIdf": (),
}
_IMPUTERS = ("mean", "median", "most_frequent", "constant", "ffill")
# The calendar that pandas has: federal holidays of the United States.
_HOLIDAYS = ("us", "usa", "united states")
# The service's defaults.
_TIMEOUT = 6 * 3600.0
_TRIAL_TIMEOUT = 30 * 60.0
_MAX_TRIALS = 1000
_MIN_FOLDS = 2
_META_SHARE = 0.2


def plan(properties: dict[str, Any]) -> dict[str, Any]:
    """The search's plan from the job's ARM properties, everything but where the data is."""
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
    split, time_column = _split(properties)
    training = details.get("trainingSettings") or {}
    return {
        "task": task,
        "target": details["targetColumnName"],
        "primary_metric": _metric(task, details),
        "algorithms": _algorithms(task, training),
        "algorithms_named": bool(training.get("allowedTrainingAlgorithms")),
        **_limits(details.get("limitSettings") or {}),
        **_validation(task, details),
        "weight": details.get("weightColumnName") or None,
        "positive_label": details.get("positiveLabel") if task == "Classification" else None,
        **_ensembles(task, training),
        # On unless it is turned off, as in the service.
        "explain": training.get("enableModelExplainability") is not False,
        "split_type": split,
        "time_column_name": time_column,
        "featurization": _featurization(details.get("featurizationSettings") or {}),
        "forecasting": _forecasting(details) if task == "Forecasting" else None,
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
    # light_gbm, lightgbm and LightGBM are one.
    spelled = {_plain(name): name for name in (*run, *known)}
    named: dict[str, list[str]] = {}
    for key in ("allowedTrainingAlgorithms", "blockedTrainingAlgorithms"):
        named[key] = [spelled.get(_plain(name), "") for name in settings.get(key) or []]
        if "" in named[key]:
            there = ", ".join(sorted((*run, *known)))
            name = settings[key][named[key].index("")]
            message = f"The algorithm '{name}' is unknown for {task}; there are {there}."
            raise BadRequest(message, "trainingSettings", "UserError")
    allowed, blocked = named.values()
    if foreign := [name for name in allowed if name not in run]:
        what = (
            f"Jobs_CreateOrUpdate of an AutoML job with the algorithm(s) {', '.join(foreign)} (here: {', '.join(run)})"
        )
        raise NotImplementedOperation(what)
    for name in ("enableDnnTraining", "enableOnnxCompatibleModels"):
        if settings.get(name):
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of an AutoML job with {name}")
    if str(settings.get("trainingMode") or "").lower() == "distributed":
        raise NotImplementedOperation("Jobs_CreateOrUpdate of an AutoML job with trainingMode Distributed")
    chosen = [name for name in run if (not allowed or name in allowed) and name not in blocked]
    if not chosen:
        raise BadRequest("allowed and blocked training algorithms leave none to try.", "trainingSettings", "UserError")
    return chosen


def _ensembles(task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Which ensembles end the search: both unless turned off; for forecasting, stacking only when asked for.

    https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-train#ensemble
    """
    vote, stack = settings.get("enableVoteEnsemble"), settings.get("enableStackEnsemble")
    if task == "Forecasting" and stack:
        raise NotImplementedOperation("Jobs_CreateOrUpdate of an AutoML forecasting job with enableStackEnsemble")
    given = settings.get("stackEnsembleSettings") or {}
    wanted = _plain(given.get("stackMetaLearnerType") or "none")
    known = _META_LEARNERS.get(task, ())
    learner = next((name for name in known if _plain(name) == wanted), None)
    if learner is None and wanted != "none":
        raise BadRequest(
            f"stack_meta_learner_type for {task} is one of {', '.join(known)}, not '{given['stackMetaLearnerType']}'.",
            "trainingSettings.stackEnsembleSettings",
            "UserError",
        )
    return {
        "vote": vote is not False,
        "stack": stack is not False and task != "Forecasting",
        "meta_learner": learner,
        "meta_arguments": given.get("stackMetaLearnerKWargs") or {},
        "meta_share": float(given.get("stackMetaLearnerTrainPercentage") or _META_SHARE),
    }


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
    cores, nodes = limits.get("maxCoresPerTrial"), limits.get("maxNodes")
    if cores is not None and int(cores) != -1 and int(cores) < 1:
        raise BadRequest(f"max_cores_per_trial is a number of cores or -1, not {cores}.", "limits", "UserError")
    if nodes is not None and int(nodes) < 1:
        raise BadRequest(f"max_nodes is a number of nodes, not {nodes}.", "limits", "UserError")
    early = limits.get("enableEarlyTermination")
    return {
        "timeout_seconds": timeout,
        "trial_timeout_seconds": trial,
        "max_trials": int(trials),
        # A trial runs on one node in the service: fewer nodes, fewer trials at once.
        "max_concurrent_trials": min(int(concurrent), int(nodes or concurrent)),
        "cores_per_trial": None if cores is None or int(cores) == -1 else int(cores),
        "early_termination": True if early is None else bool(early),
        "exit_score": limits.get("exitScore"),
    }


def _validation(task: str, details: dict[str, Any]) -> dict[str, Any]:
    """https://learn.microsoft.com/azure/machine-learning/how-to-configure-cross-validation-data-splits"""
    folds = details.get("nCrossValidations") or {}
    size, test_size = details.get("validationDataSize"), details.get("testDataSize")
    for name, value in (("validation_data_size", size), ("test_data_size", test_size)):
        if value is not None and not 0 < float(value) < 1:
            raise BadRequest(f"{name} must lie between 0 and 1, not {value}.", name, "UserError")
    custom = str(folds.get("mode") or "").lower() == "custom"
    number = int(folds["value"]) if custom else None
    if number is not None and number < _MIN_FOLDS:
        raise BadRequest(f"n_cross_validations must be 2 or more, not {number}.", "nCrossValidations", "UserError")
    columns = list(details.get("cvSplitColumnNames") or [])
    if details.get("validationData") and (size is not None or number is not None or columns):
        raise BadRequest(
            "validation_data stands alone: validation_data_size, n_cross_validations and cv_split_column_names split "
            "the training data.",
            "validationData",
            "UserError",
        )
    if columns and (size is not None or number is not None):
        raise BadRequest(
            "cv_split_column_names stands alone: it says which rows are in which fold.",
            "cvSplitColumnNames",
            "UserError",
        )
    if details.get("testData") and test_size is not None:
        raise BadRequest("Give test_data or test_data_size, not both.", "testData", "UserError")
    if task == "Forecasting":
        for name, value in (("validation_data_size", size), ("cv_split_column_names", columns or None)):
            if value is not None:
                raise BadRequest(
                    f"{name} is not supported for forecasting: its folds follow the time (n_cross_validations).",
                    name,
                    "UserError",
                )
        if details.get("weightColumnName"):
            raise NotImplementedOperation("Jobs_CreateOrUpdate of an AutoML forecasting job with weightColumnName")
    return {
        "validation_size": None if size is None else float(size),
        "folds": number,
        "cv_split_columns": columns,
        "test_size": None if test_size is None else float(test_size),
    }


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
    """https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-features"""
    mode = str(settings.get("mode") or "auto").lower()
    if mode not in ("auto", "custom", "off"):
        raise BadRequest(f"featurization.mode is auto, custom or off, not '{mode}'.", "featurization", "UserError")
    language = settings.get("datasetLanguage")
    if language and str(language).lower() not in ("eng", "en", "english"):
        raise NotImplementedOperation(
            f"Jobs_CreateOrUpdate of an AutoML job with featurization.datasetLanguage {language}"
        )
    if settings.get("enableDnnFeaturization"):
        raise NotImplementedOperation("Jobs_CreateOrUpdate of an AutoML job with featurization.enableDnnFeaturization")
    kinds = dict(settings.get("columnNameAndTypes") or {})
    for column, kind in kinds.items():
        if kind not in _PURPOSES:
            raise BadRequest(
                f"The column purpose '{kind}' (column {column}) is unknown; there are {', '.join(_PURPOSES)}.",
                "featurization",
                "UserError",
            )
    blocked = [
        _named(name, _TRANSFORMERS, "blocked_transformers") for name in settings.get("blockedTransformers") or []
    ]
    parameters = {
        _named(name, tuple(_TRANSFORMER_PARAMETERS), "transformer_params"): list(entries or [])
        for name, entries in (settings.get("transformerParams") or {}).items()
    }
    for name, entries in parameters.items():
        for entry in entries:
            _check_parameters(name, entry)
    if mode == "off" and (kinds or blocked or parameters):
        raise BadRequest("featurization.mode off leaves nothing to customize.", "featurization", "UserError")
    return {"mode": mode, "columns": kinds, "blocked": blocked, "parameters": parameters}


def _named(name: str, known: tuple[str, ...], where: str) -> str:
    for each in known:
        if _plain(each) == _plain(name):
            return each
    raise BadRequest(
        f"featurization.{where}: '{name}' is unknown; there are {', '.join(known)}.", "featurization", "UserError"
    )


def _check_parameters(name: str, entry: dict[str, Any]) -> None:
    given = entry.get("parameters") or {}
    if unknown := sorted(set(given) - set(_TRANSFORMER_PARAMETERS[name])):
        raise NotImplementedOperation(
            f"Jobs_CreateOrUpdate of an AutoML job with featurization.transformerParams {name}: {', '.join(unknown)}"
        )
    strategy = given.get("strategy")
    if name == "Imputer" and strategy not in _IMPUTERS:
        raise BadRequest(
            f"featurization.transformer_params: the Imputer's strategy is one of {', '.join(_IMPUTERS)}, not "
            f"'{strategy}'.",
            "featurization",
            "UserError",
        )


def _forecasting(details: dict[str, Any]) -> dict[str, Any]:
    """https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-forecast#configuration-settings

    A number is what was asked for; "auto" is left to the search; None means without.
    """
    given = details.get("forecastingSettings") or {}
    if not given.get("timeColumnName"):
        raise BadRequest("Forecasting needs time_column_name.", "forecastingSettings", "UserError")
    country = given.get("countryOrRegionForHolidays")
    if country and str(country).lower() not in _HOLIDAYS:
        raise NotImplementedOperation(
            f"Jobs_CreateOrUpdate of an AutoML job with countryOrRegionForHolidays {country} (there is a calendar of "
            "US holidays alone; give a column that says which days are holidays)"
        )
    horizon = _auto(given.get("forecastHorizon"), "value")
    lags = _auto(given.get("targetLags"), "values")
    window = _auto(given.get("targetRollingWindowSize"), "value")
    season = _auto(given.get("seasonality"), "value")
    for name, value, least in (
        ("forecast_horizon", horizon, 1),
        ("target_rolling_window_size", window, 2),
        ("seasonality", season, 1),
        ("cv_step_size", given.get("cvStepSize"), 1),
    ):
        if isinstance(value, int) and value < least:
            raise BadRequest(f"{name} must be {least} or more, not {value}.", "forecastingSettings", "UserError")
    if isinstance(lags, list) and (not lags or min(lags) < 1):
        raise BadRequest(f"target_lags are 1 or more, not {lags}.", "forecastingSettings", "UserError")
    aggregation = str(given.get("targetAggregateFunction") or "None").lower()
    if aggregation != "none" and not given.get("frequency"):
        raise BadRequest(
            "target_aggregate_function needs frequency: what is aggregated to?", "forecastingSettings", "UserError"
        )
    return {
        "time": given["timeColumnName"],
        "ids": list(given.get("timeSeriesIdColumnNames") or []),
        "horizon": horizon if horizon is not None else 1,
        "frequency": given.get("frequency") or None,
        "lags": lags,
        "window": window,
        "feature_lags": str(given.get("featureLags") or "None").lower() == "auto",
        "stl": {"season": "season", "seasontrend": "season_trend"}.get(_plain(given.get("useStl") or "")),
        "season": season if season is not None else "auto",
        "short": str(given.get("shortSeriesHandlingConfig") or "Auto").lower(),
        "aggregation": None if aggregation == "none" else aggregation,
        "cv_step": given.get("cvStepSize"),
        "holidays": bool(country),
        "unknown_ahead": list(given.get("featuresUnknownAtForecastTime") or []),
    }


def _plain(name: Any) -> str:
    return str(name).replace("_", "").lower()


def _auto(setting: dict[str, Any] | None, key: str) -> Any:
    """A setting with the modes Auto and Custom: "auto", its value, or None where there is none."""
    if not setting:
        return None
    return "auto" if str(setting.get("mode", "Custom")).lower() == "auto" else setting.get(key)
