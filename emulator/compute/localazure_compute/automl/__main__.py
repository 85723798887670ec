"""One AutoML job: read, split, search, fit the best on everything, save. Events go to a file, words to the log."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline

from localazure_compute.automl import features, tables
from localazure_compute.automl.errors import SearchError

if TYPE_CHECKING:
    from localazure_compute.automl.search import Part, Search, Trial

# The service's rules when nothing is said about validation.
_HOLDOUT_FROM_ROWS = 20_000
_HOLDOUT_SHARE = 0.1
_TIME_SHARE = 0.15  # of the newest rows
_FEW_ROWS = 1_000
_BINARY = 2
_MIN_ROWS = 50  # the service refuses fewer
_PREPROCESSOR = "ImputeTargetEncode"
_FINAL_SECONDS = 120.0


class Job:
    """The steps, with what they share."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.task: str = plan["task"]
        self.events = Path(plan["events"])
        self.folder = self.events.parent / "trials"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.classes: np.ndarray | None = None
        self.began = time.monotonic()

    def run(self) -> None:
        """Everything. SearchError if it can't be done."""
        plan = self.plan
        frame, target = self._load(Path(plan["training_data"]))
        validation = self._load(Path(plan["validation_data"])) if plan.get("validation_data") else None
        columns = self._inspect(frame)
        codes = self._encode(target)
        # Not before: FLAML and MLflow take seconds to import, and data that can't be used should be told of at once.
        from localazure_compute.automl import model
        from localazure_compute.automl.search import Budget, Search
        from localazure_compute.automl.tracking import Runs

        parts, how = self._split(frame, codes, columns, validation)
        algorithms = self._algorithms()
        spread = float(np.ptp(codes)) if self.task == "Regression" else 0.0
        timeout = plan["timeout_seconds"] - (time.monotonic() - self.began)
        budget = Budget(
            timeout, plan["trial_timeout_seconds"], plan["max_trials"], plan["max_concurrent_trials"],
            plan["early_termination"], plan["exit_score"],
        )  # fmt: skip
        count = 0 if self.classes is None else len(self.classes)
        runs = Runs(plan["name"], plan["experiment_id"])
        metric = plan["primary_metric"]

        def ended(trial: Trial) -> None:
            child = self._child(trial)
            score = trial.metrics.get(metric)
            words = trial.error or f"{metric} {score:.4f}" if score is not None else trial.error
            self._say(f"{child}  {trial.algorithm:20}  {trial.seconds:6.1f} s  {words}")
            runs.trial(child, trial, _PREPROCESSOR)
            self._tell(
                "trial",
                number=trial.number,
                child=child,
                algorithm=trial.algorithm,
                preprocessor=_PREPROCESSOR,
                hyperparameters=trial.config,
                metrics=trial.metrics,
                primary_metric=metric,
                score=score,
                state=trial.state,
                error=trial.error,
                start=trial.start,
                end=trial.end,
                validation=how,
            )

        search = Search(
            task=self.task,
            metric=metric,
            algorithms=algorithms,
            parts=parts,
            classes=count,
            spread=spread,
            budget=budget,
            folder=self.folder,
            ended=ended,
        )
        self._say(f"searching: {', '.join(algorithms)}; {metric}; {how}; {search.n_jobs} thread(s) a trial")
        best = search.run()
        if plan.get("explanations_wanted"):
            self._say("enable_model_explainability: localazure computes no explanations")
        self._say(f"best: {self._child(best)} ({best.algorithm}), {metric} {best.metrics[metric]:.4f}")
        pipeline = self._final(search, best, frame, target, columns)
        facts = {
            "algorithm": best.algorithm,
            "primary_metric": metric,
            "score": best.metrics[metric],
            "validation": how,
            "job": plan["name"],
            "child": self._child(best),
            "target": plan["target"],
        }
        model.save(Path(plan["model"]), pipeline, frame[columns.used], target, facts)
        runs.best(
            best, self._child(best), {"validation": how, "rows": str(len(frame)), "features": ", ".join(columns.used)}
        )
        self._tell(
            "best",
            child=self._child(best),
            algorithm=best.algorithm,
            score=best.metrics[metric],
            primary_metric=metric,
            metrics=best.metrics,
        )
        self._say(f"model saved ({time.monotonic() - self.began:.1f} s in all)")

    def _load(self, folder: Path) -> tuple[pd.DataFrame, pd.Series]:
        frame = tables.read(folder)
        target = self.plan["target"]
        if target not in frame:
            raise SearchError(f"The data has no target column '{target}'; it has {', '.join(map(str, frame.columns))}.")
        known = frame[target].notna()
        if not known.all():
            self._say(f"{(~known).sum()} rows without a value of {target} are left out")
            frame = frame[known].reset_index(drop=True)
        self._say(f"{len(frame)} rows, {frame.shape[1]} columns")
        return frame, frame[target]

    def _inspect(self, frame: pd.DataFrame) -> features.Columns:
        plan = self.plan
        if len(frame) < _MIN_ROWS:
            raise SearchError(f"{len(frame)} rows are too few: AutoML needs {_MIN_ROWS}.")
        left_out = {plan["target"]: "target"}
        time_column = plan["time_column_name"]
        if time_column:
            if time_column not in frame:
                raise SearchError(
                    f"time_column_name '{time_column}' is not in the data ({', '.join(map(str, frame.columns))})."
                )
            left_out[time_column] = "the time rows are split by"
        columns = features.inspect(frame, plan["featurization"]["columns"], left_out)
        for name, why in columns.dropped.items():
            self._say(f"not a feature: {name} ({why})")
        self._say(
            f"{len(columns.numeric)} numeric, {len(columns.categorical)} categorical, {len(columns.dates)} date "
            f"column(s)"
        )
        return columns

    def _encode(self, target: pd.Series) -> np.ndarray:
        """The target as numbers: codes of the sorted classes, or itself."""
        if self.task == "Regression":
            numbers = pd.to_numeric(target, errors="coerce")
            if numbers.isna().any():
                raise SearchError(
                    f"The target '{target.name}' of a regression must be numeric; it has "
                    f"{target[numbers.isna()].iloc[0]!r}."
                )
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
        return codes

    def _split(
        self, frame: pd.DataFrame, codes: np.ndarray, columns: features.Columns,
        validation: tuple[pd.DataFrame, pd.Series] | None,
    ) -> tuple[list[Part], str]:  # fmt: skip
        plan = self.plan
        rows = len(frame)
        if validation is not None:
            valid, labels = validation
            if missing := [name for name in columns.used if name not in valid]:
                raise SearchError(f"The validation data lacks the column(s) {', '.join(missing)}.")
            return [
                self._part(frame, codes, valid, self._codes_of(labels), columns)
            ], f"validation data of {len(valid)} rows"
        size = plan["validation_size"]
        if plan["split_type"] == "time":
            return self._split_by_time(frame, codes, columns, size or _TIME_SHARE)
        folds = plan["folds"]
        if folds is None and size is None:
            # https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-train#training-validation-and-test-data
            if rows >= _HOLDOUT_FROM_ROWS:
                size = _HOLDOUT_SHARE
            else:
                folds = 10 if rows < _FEW_ROWS else 3
        if folds is not None:
            kind = KFold if self.task == "Regression" else StratifiedKFold
            splits = kind(folds, shuffle=True, random_state=0).split(frame, codes)
            parts = [self._part_of(frame, codes, train, valid, columns) for train, valid in splits]
            return parts, f"{folds}-fold cross-validation"
        stratify = None if self.task == "Regression" or np.bincount(codes.astype(int)).min() < _BINARY else codes
        train, valid = train_test_split(np.arange(rows), test_size=size, random_state=0, stratify=stratify)
        return [self._part_of(frame, codes, train, valid, columns)], f"random hold-out of {len(valid)} rows"

    def _split_by_time(
        self, frame: pd.DataFrame, codes: np.ndarray, columns: features.Columns, share: float
    ) -> tuple[list[Part], str]:
        """The newest rows, at least `share` of all, whole values of the time column: a day is on one side only."""
        times = frame[self.plan["time_column_name"]]
        if times.isna().any():
            raise SearchError(f"time_column_name '{times.name}' has {int(times.isna().sum())} empty values.")
        order = np.sort(times.to_numpy())
        border = order[int(len(order) * (1 - share))]
        newest = (times >= border).to_numpy()
        if newest.all():
            raise SearchError(f"A split by time needs more than one value in '{times.name}'.")
        valid = np.flatnonzero(newest)
        part = self._part_of(frame, codes, np.flatnonzero(~newest), valid, columns)
        return [part], f"the newest {len(valid)} rows, {times.name} from {str(border)[:10]} on"

    def _part_of(
        self, frame: pd.DataFrame, codes: np.ndarray, train: np.ndarray, valid: np.ndarray, columns: features.Columns
    ) -> Part:
        return self._part(frame.iloc[train], codes[train], frame.iloc[valid], codes[valid], columns)

    def _part(
        self,
        train: pd.DataFrame,
        codes: np.ndarray,
        valid: pd.DataFrame,
        valid_codes: np.ndarray,
        columns: features.Columns,
    ) -> Part:
        from localazure_compute.automl.search import Part

        prepare = self._transformer(columns)
        matrix = prepare.fit_transform(train[columns.used], codes).astype(np.float32)
        return Part(matrix, codes, prepare.transform(valid[columns.used]).astype(np.float32), valid_codes)

    def _transformer(self, columns: features.Columns) -> Any:
        kind = "continuous" if self.classes is None else "binary" if len(self.classes) == _BINARY else "multiclass"
        return features.transformer(columns, kind)

    def _codes_of(self, labels: pd.Series) -> np.ndarray:
        if self.classes is None:
            return pd.to_numeric(labels).to_numpy(dtype=float)
        values = labels.to_numpy()
        known = np.isin(values, self.classes)
        if not known.all():
            raise SearchError(
                f"The validation data has the class {values[~known][0]!r}, which the training data doesn't have."
            )
        return np.searchsorted(self.classes, values)

    def _algorithms(self) -> list[str]:
        names: list[str] = list(self.plan["algorithms"])
        if self.classes is not None and not _counts_from_zero(self.classes) and "XGBoostClassifier" in names:
            names.remove("XGBoostClassifier")
            self._say("XGBoostClassifier is left out: it needs the classes 0, 1, ...")
            if not names:
                raise SearchError(
                    "XGBoostClassifier, the only algorithm allowed, needs a target with the classes 0, 1, ..."
                )
        return names

    def _final(
        self, search: Search, best: Trial, frame: pd.DataFrame, target: pd.Series, columns: features.Columns
    ) -> Pipeline:
        """The best configuration on all rows; what was validation for the search is the newest knowledge for the model.

        Validation data of its own stays out, as in the service.
        """
        prepare = self._transformer(columns)
        matrix = prepare.fit_transform(frame[columns.used], self._encode(target)).astype(np.float32)
        # With the original labels: scikit-learn and LightGBM keep them, and predict() answers with them.
        labels = self._encode(target) if self.task == "Regression" else target.to_numpy()
        estimator = search.fit_final(best, matrix, labels, max(_FINAL_SECONDS, 5 * best.seconds))
        as_float = features.as_float32()
        return Pipeline([("features", prepare), ("dtype", as_float), ("model", estimator)])

    def _child(self, trial: Trial) -> str:
        return f"{self.plan['name']}_{trial.number}"

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f}] {text}", flush=True)

    def _tell(self, event: str, **facts: Any) -> None:
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")


def _counts_from_zero(classes: np.ndarray) -> bool:
    return classes.dtype.kind in "biu" and list(map(int, classes)) == list(range(len(classes)))


def main() -> int:
    """The exit code: 0, or 1 after an event `failed`."""
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    job = Job(json.loads(Path(sys.argv[1]).read_text()))
    try:
        job.run()
    except SearchError as error:
        job._say(str(error))
        job._tell("failed", message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
