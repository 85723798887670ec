"""Data guardrails: what was looked for in the data, what was found, what was done about it.

https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-features#data-guardrails
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from localazure_compute.automl import features

State = Literal["Passed", "Done", "Alerted"]
# The service's threshold: the smallest class has less than a fifth of the largest one's rows.
_IMBALANCE = 0.2


@dataclass
class Guardrails:
    """The checks of one job, in the order made."""

    checks: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, state: State, description: str, **parameters: Any) -> None:
        self.checks.append({"name": name, "state": state, "description": description, "parameters": parameters})

    def data(self, frame: pd.DataFrame, columns: features.Columns) -> None:
        """Missing values and columns with too many values."""
        missing = {name: int(frame[name].isna().sum()) for name in columns.used if frame[name].isna().any()}
        if missing:
            self.add("Missing feature values imputation", "Done", "Missing feature values were imputed.", **missing)
        else:
            self.add("Missing feature values imputation", "Passed", "No missing feature values were detected.")
        name = "High cardinality feature detection"
        if columns.many_valued:
            why = {column: columns.dropped[column] for column in columns.many_valued}
            self.add(name, "Done", "High-cardinality features were left out.", **why)
        else:
            self.add(name, "Passed", "No high-cardinality features were detected.")

    def classes(self, classes: np.ndarray, codes: np.ndarray) -> None:
        """Whether each class has enough rows."""
        counts = np.bincount(codes.astype(int), minlength=len(classes))
        told = {str(label): int(count) for label, count in zip(classes, counts, strict=True)}
        name = "Class balancing detection"
        if counts.min() < _IMBALANCE * counts.max():
            smallest = classes[counts.argmin()]
            self.add(name, "Alerted", f"Imbalanced classes: {smallest!r} has {counts.min()} rows.", **told)
        else:
            self.add(name, "Passed", "All classes are balanced in the training data.", **told)

    def report(self) -> list[dict[str, Any]]:
        """As an artifact."""
        return self.checks
