"""Splits the training set by day: the last days are for validation. A random split would let a trial see the weather of
the days it is judged on."""

from __future__ import annotations

import argparse
from pathlib import Path

import mlflow
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("training-data", "label", "train", "validation"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--validation-days", type=int, required=True)
    arguments = parser.parse_args()

    rows = pd.read_parquet(arguments.training_data).dropna(subset=[arguments.label])
    days = pd.to_datetime(rows["flight_date"])
    first = days.max() - pd.Timedelta(days=arguments.validation_days - 1)
    parts = {"train": rows[days < first], "validation": rows[days >= first]}
    for name, part in parts.items():
        if part.empty:
            raise SystemExit(
                f"no rows are left to {'train on' if name == 'train' else 'validate with'}: the training set has "
                f"{days.nunique()} days, and {arguments.validation_days} of them are for validation"
            )
        folder = Path(getattr(arguments, name))
        folder.mkdir(parents=True, exist_ok=True)
        part.to_parquet(folder / "rows.parquet", index=False)
    mlflow.log_metrics({f"{name}_rows": float(len(part)) for name, part in parts.items()})
    print({name: f"{len(part)} rows" for name, part in parts.items()}, f"validation from {first:%Y-%m-%d}")


if __name__ == "__main__":
    main()
