"""Classification and regression: split, search, fit the best on everything, test, explain, save."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import linear_model
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from localazure_compute.automl import ensembles, explain, features, learners, metrics, model, splits
from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.job import Job
from localazure_compute.automl.learners import LEARNERS, Suggestions
from localazure_compute.automl.search import Search, Trial, now

_BINARY = 2
_META_FOLDS = 5
_EXPLAIN_SECONDS = 20.0
_SAVE_SECONDS = 4.0


@dataclass
class Part:
    """One split: matrices to fit on and to judge by. Targets are codes of classes, or numbers."""

    train: np.ndarray
    train_target: np.ndarray
    valid: np.ndarray
    valid_target: np.ndarray
    train_weights: np.ndarray | None = None
    valid_weights: np.ndarray | None = None


class Judge:
    """What the search asks of the task (search.Work)."""

    def __init__(self, job: TabularJob, parts: list[Part], algorithms: list[str], rows: int) -> None:
        self._job = job
        self._parts = parts
        self.final_share = rows / sum(len(part.train) for part in parts)
        self.n_jobs = 1
        shape = parts[0].train.shape
        self.suggestions = {
            name: Suggestions(LEARNERS[name].first, LEARNERS[name].space, job.flaml_task, *shape) for name in algorithms
        }

    def preprocessor(self, algorithm: str) -> str:
        return LEARNERS[algorithm].scaler

    def build(self, trial: Trial) -> Any:
        return LEARNERS[trial.algorithm].build(trial.config, self._job.flaml_task, self.n_jobs)

    def predict(self, trial: Trial) -> list[np.ndarray]:
        found = []
        for part in self._parts:
            estimator = learners.fit(self.build(trial), part.train, part.train_target, part.train_weights)
            found.append(self._job.answer(estimator, part.valid))
        return found

    def score(self, predictions: list[np.ndarray], only: str | None = None) -> dict[str, float]:
        found = [
            self._job.score(part.valid_target, predicted, part.valid_weights, only)
            for part, predicted in zip(self._parts, predictions, strict=True)
        ]
        return {
            name: float(np.mean([each[name] for each in found]))
            for name in found[0]
            if all(name in each for each in found)
        }

    def stacked(self, members: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Each row's prediction by a meta learner that was fitted on the other rows."""
        below, target, weights = self._meta_rows(members)
        found: np.ndarray | None = None
        for train, valid in KFold(_META_FOLDS, shuffle=True, random_state=0).split(below):
            fitted = learners.fit(
                self._job.meta(), below[train], target[train], None if weights is None else weights[train]
            )
            predicted = self._job.answer(fitted, below[valid])
            if found is None:
                found = np.zeros((len(below), *predicted.shape[1:]))
            found[valid] = predicted
        assert found is not None
        return list(np.split(found, np.cumsum([len(part.valid) for part in self._parts])[:-1]))

    def meta(self, members: list[list[np.ndarray]]) -> Any:
        """The meta learner, fitted on all validation rows."""
        return learners.fit(self._job.meta(), *self._meta_rows(members))

    def _meta_rows(self, members: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        below = ensembles.meta_features([np.concatenate(member) for member in members])
        target = np.concatenate([part.valid_target for part in self._parts])
        weights = [part.valid_weights for part in self._parts if part.valid_weights is not None]
        return below, target, np.concatenate(weights) if weights else None


class TabularJob(Job):
    """The steps of a classification or regression."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__(plan)
        self.classes: np.ndarray | None = None
        self.spread = 0.0
        self.positive: int | None = None

    def run(self) -> None:
        """Everything. SearchError if it can't be done."""
        plan = self.plan
        frame = self.load("training_data")
        assert frame is not None
        validation, test = self.load("validation_data"), self.load("test_data")
        codes = self._encode(frame[self.target])
        if plan["test_size"] is not None:
            kept = splits.hold_out(frame, codes, self._count, plan)
            test = frame[kept].reset_index(drop=True)
            frame, codes = frame[~kept].reset_index(drop=True), codes[~kept]
            self.say(f"test_data_size: {len(test)} rows are kept for the test")
        columns = self._inspect(frame)
        parts = self._parts(frame, codes, columns, validation)
        judge = Judge(self, parts, self._algorithms(len(parts[0].train)), len(frame))
        search = self.search(judge)
        judge.n_jobs = search.n_jobs
        best = search.run()
        self.say(f"best: {self.child(best)} ({best.algorithm}), {self.metric} {best.metrics[self.metric]:.4f}")
        # The last rows' transformer is fitted on all of them; what was validation for the search is the newest
        # knowledge for the model. Validation data of its own stays out, as in the service.
        prepare = self._transformer(columns)
        matrix = prepare.fit_transform(frame[columns.used], codes).astype(np.float32)
        weights = self._weights(frame)
        everything = Part(matrix, codes, matrix, codes, weights)
        chosen, estimator = search.fit_final(lambda trial: self._fit(judge, search, trial, everything))
        if chosen is not best:
            self.say(f"the model is {self.child(chosen)} ({chosen.algorithm})")
        pipeline = Pipeline([("features", prepare), ("dtype", features.as_float32()), ("model", estimator)])
        model.save(
            Path(plan["model"]),
            pipeline,
            example=frame[columns.used],
            target=frame[self.target],
            facts=self.facts(chosen),
            algorithms={chosen.algorithm, *(member.algorithm for member in chosen.members), plan["meta_learner"] or ""},
        )
        self.report("featurization_summary.json", features.summary(columns, frame))
        self.report("verifier_results.json", self.guardrails.report())
        self.leaderboard(search)
        if test is not None:
            self._test(pipeline, columns, chosen, test)
        if plan["explain"]:
            self._explain(pipeline, columns, chosen, frame, codes)
        self.announce(chosen, {"rows": str(len(frame)), "features": ", ".join(columns.used)})

    @property
    def _count(self) -> int:
        return 0 if self.classes is None else len(self.classes)

    @property
    def flaml_task(self) -> str:
        return "regression" if self.classes is None else "binary" if self._count == _BINARY else "multiclass"

    def answer(self, estimator: Any, matrix: np.ndarray) -> np.ndarray:
        """Numbers, or a column of probabilities a class: 0 for one that a split lacks."""
        if self.classes is None:
            return np.asarray(estimator.predict(matrix), dtype=float)
        found = np.zeros((len(matrix), self._count))
        found[:, np.asarray(estimator.classes_, dtype=int)] = estimator.predict_proba(matrix)
        return found

    def score(
        self, actual: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, only: str | None = None
    ) -> dict[str, float]:
        """The task's metrics, or one of them."""
        if self.classes is None:
            return metrics.regression(metrics.Estimated(actual, predicted, self.spread, weights), only)
        return metrics.classification(metrics.Classified(actual, predicted, weights, self.positive), only)

    def meta(self) -> Any:
        """A stack's meta learner, not fitted: the job's, or the service's default."""
        given = self.plan["meta_arguments"]
        match self.plan["meta_learner"] or ("LogisticRegression" if self.classes is not None else "ElasticNet"):
            case "LogisticRegression":
                return make_pipeline(StandardScaler(), linear_model.LogisticRegression(**{"max_iter": 500, **given}))
            case "LogisticRegressionCV":
                return make_pipeline(StandardScaler(), linear_model.LogisticRegressionCV(**{"max_iter": 500, **given}))
            case "ElasticNet":
                return make_pipeline(StandardScaler(), linear_model.ElasticNet(**{"alpha": 0.001, **given}))
            case "ElasticNetCV":
                return make_pipeline(StandardScaler(), linear_model.ElasticNetCV(**given))
            case "LinearRegression":
                return make_pipeline(StandardScaler(), linear_model.LinearRegression(**given))
            case "LightGBMClassifier":
                from lightgbm import LGBMClassifier

                return LGBMClassifier(**{"n_jobs": 1, "verbose": -1, "n_estimators": 50, "num_leaves": 7, **given})
            case _:
                from lightgbm import LGBMRegressor

                return LGBMRegressor(**{"n_jobs": 1, "verbose": -1, "n_estimators": 50, "num_leaves": 7, **given})

    def _inspect(self, frame: pd.DataFrame) -> features.Columns:
        plan = self.plan
        left_out = {self.target: "target"}
        for key, reason in (("time_column_name", "the time rows are split by"), ("weight", "the weight of rows")):
            if name := plan[key]:
                if name not in frame:
                    raise SearchError(f"{key} '{name}' is not in the data ({', '.join(map(str, frame.columns))}).")
                left_out[name] = reason
        left_out |= {name: "says which fold a row is in" for name in plan["cv_split_columns"] if name in frame}
        columns = features.inspect(frame, plan["featurization"], left_out)
        for name, why in columns.dropped.items():
            self.say(f"not a feature: {name} ({why})")
        counts = [f"{len(columns.of(kind))} {kind}" for kind in features.KINDS if columns.of(kind)]
        self.say(f"columns: {', '.join(counts)}")
        if not columns.off:
            self.guardrails.data(frame, columns)
        return columns

    def _encode(self, target: pd.Series) -> np.ndarray:
        """The training target as numbers: codes of the sorted classes, or itself."""
        if self.plan["task"] == "Regression":
            numbers = pd.to_numeric(target, errors="coerce")
            if numbers.isna().any():
                raise SearchError(
                    f"The target '{target.name}' of a regression must be numeric; it has "
                    f"{target[numbers.isna()].iloc[0]!r}."
                )
            self.spread = float(np.ptp(numbers))
            return numbers.to_numpy(dtype=float)
        self.classes, codes = np.unique(target.to_numpy(), return_inverse=True)
        if len(self.classes) < _BINARY:
            raise SearchError(
                f"The target '{target.name}' has one value only ({self.classes[0]!r}): nothing can be learned."
            )
        if len(self.classes) > max(20, len(target) // 20):
            raise SearchError(
                f"The target '{target.name}' has {len(self.classes)} classes in {len(target)} rows; is this a "
                f"regression?"
            )
        if (label := self.plan["positive_label"]) is not None:
            spelled = [str(each).lower() for each in self.classes]
            if str(label).lower() not in spelled:
                raise SearchError(f"positive_label '{label}' is no class of '{target.name}' ({', '.join(spelled)}).")
            self.positive = spelled.index(str(label).lower())
        self.guardrails.classes(self.classes, codes)
        return codes

    def _codes_of(self, labels: pd.Series, role: str) -> np.ndarray:
        if self.classes is None:
            return pd.to_numeric(labels).to_numpy(dtype=float)
        values = labels.to_numpy()
        known = np.isin(values, self.classes)
        if not known.all():
            raise SearchError(f"The {role} has the class {values[~known][0]!r}, which the training data doesn't have.")
        return np.searchsorted(self.classes, values)

    def _parts(
        self, frame: pd.DataFrame, codes: np.ndarray, columns: features.Columns, validation: pd.DataFrame | None
    ) -> list[Part]:
        if validation is not None:
            if missing := [name for name in columns.used if name not in validation]:
                raise SearchError(f"The validation data lacks the column(s) {', '.join(missing)}.")
            self.validation = f"validation data of {len(validation)} rows"
            valid_codes = self._codes_of(validation[self.target], "validation data")
            return [self._part(frame, codes, validation, valid_codes, columns)]
        found = splits.split(frame, codes, self._count, self.plan)
        self.validation = found.words
        if found.automatic:
            self.guardrails.add("Validation split handling", "Done", f"By the number of rows: {found.words}.")
        return [
            self._part(frame.iloc[train], codes[train], frame.iloc[valid], codes[valid], columns)
            for train, valid in found.pairs
        ]

    def _part(
        self,
        train: pd.DataFrame,
        codes: np.ndarray,
        valid: pd.DataFrame,
        valid_codes: np.ndarray,
        columns: features.Columns,
    ) -> Part:
        prepare = self._transformer(columns)
        matrix = prepare.fit_transform(train[columns.used], codes).astype(np.float32)
        judged = prepare.transform(valid[columns.used]).astype(np.float32)
        return Part(matrix, codes, judged, valid_codes, self._weights(train), self._weights(valid))

    def _weights(self, frame: pd.DataFrame) -> np.ndarray | None:
        name = self.plan["weight"]
        if not name or name not in frame:
            return None
        weights = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise SearchError(f"The column {name} of weight_column_name must hold numbers of 0 and more.")
        return weights

    def _transformer(self, columns: features.Columns) -> Any:
        kind = {"regression": "continuous"}.get(self.flaml_task, self.flaml_task)
        return features.transformer(columns, kind)

    def _algorithms(self, rows: int) -> list[str]:
        left_out: dict[str, str] = {}
        for name in self.plan["algorithms"]:
            learner = LEARNERS[name]
            if learner.quadratic and rows > learners.MANY_ROWS and not self.plan["algorithms_named"]:
                left_out[name] = f"{rows} rows are too many unless it is named in allowed_training_algorithms"
            elif self.plan["weight"] and not learner.weighted:
                left_out[name] = "it has no weights of rows"
        for name, why in left_out.items():
            self.say(f"{name} is left out: {why}")
        names = [name for name in self.plan["algorithms"] if name not in left_out]
        if not names:
            raise SearchError(f"No algorithm is left: {'; '.join(f'{name}: {why}' for name, why in left_out.items())}.")
        return names

    def _fit(self, judge: Judge, search: Search, trial: Trial, rows: Part) -> Any:
        """The trial's model for all rows (in a child)."""

        def fitted(trial: Trial) -> Any:
            return learners.fit(judge.build(trial), rows.train, rows.train_target, rows.train_weights)

        classes = self.classes
        if not trial.members:
            estimator = fitted(trial)
            if classes is None or _counts_from_zero(classes):
                return estimator
            return ensembles.VotingClassifier([estimator], [1.0], classes)
        if trial.algorithm == ensembles.VOTING:
            pairs = [(member, weight) for member, weight in zip(trial.members, trial.weights, strict=True) if weight]
            parts, shares = [fitted(member) for member, _ in pairs], [weight for _, weight in pairs]
            if classes is None:
                return ensembles.VotingRegressor(parts, shares)
            return ensembles.VotingClassifier(parts, shares, classes)
        parts = [fitted(member) for member in trial.members]
        meta = judge.meta([search.predictions(member) for member in trial.members])
        if classes is None:
            return ensembles.StackRegressor(parts, meta)
        return ensembles.StackClassifier(parts, meta, classes)

    def _test(self, pipeline: Pipeline, columns: features.Columns, best: Trial, test: pd.DataFrame) -> None:
        if missing := [name for name in columns.used if name not in test]:
            raise SearchError(f"The test data lacks the column(s) {', '.join(missing)}.")
        start = now()
        actual = self._codes_of(test[self.target], "test data")
        told = pd.DataFrame({f"{self.target}_orig": test[self.target]})
        told[f"{self.target}_predicted"] = pipeline.predict(test[columns.used])
        if self.classes is None:
            predicted = told[f"{self.target}_predicted"].to_numpy(dtype=float)
        else:
            predicted = pipeline.predict_proba(test[columns.used])
            for place, label in enumerate(self.classes):
                told[f"{label}_predicted_proba"] = predicted[:, place]
        self.tested(best, self.score(actual, predicted, self._weights(test)), told, start)

    def _explain(
        self, pipeline: Pipeline, columns: features.Columns, best: Trial, frame: pd.DataFrame, codes: np.ndarray
    ) -> None:
        seconds = min(_EXPLAIN_SECONDS, self.deadline - time.monotonic() - _SAVE_SECONDS)
        if seconds <= 0:
            self.say("the model is not explained: no time is left")
            return
        used = frame[columns.used]

        def loss(rows: pd.DataFrame, numbers: np.ndarray) -> float:
            predicted = pipeline.predict(rows) if self.classes is None else pipeline.predict_proba(rows)
            found = self.score(codes[numbers], np.asarray(predicted), None, self.metric)
            return metrics.loss(self.metric, found.get(self.metric, 0.0))

        found = explain.importances(used, loss, seconds)
        self.report("explanation/feature_importances.json", explain.report(found, self.metric, best.algorithm))
        self.say(f"most important: {', '.join(list(found)[:5])}")


def _counts_from_zero(classes: np.ndarray) -> bool:
    return classes.dtype.kind in "iu" and list(map(int, classes)) == list(range(len(classes)))
