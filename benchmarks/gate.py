"""What the gate does with challengers whose truth is known: 20 seeded trials each, on the evaluation job's evidence.

    var/env/compute/bin/python benchmarks/gate.py

A champion's scores of 6,000 flights are drawn with an AUC of 0.74; challengers see the same flights and are worse by
0.03, equal (the same quality, other errors), or better by 0.03. Exits with 1 unless the worse one is rejected in at
least 19 of 20 trials by either rule, `better` promotes an equal one in at most one of 20 and the better one in at least
19, and `not_worse` promotes the better one in all.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from types import ModuleType

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "include/ml/code/evaluate"))

import classification

ROOT = Path(__file__).resolve().parents[1]


def _load(name: str) -> ModuleType:
    """A pure module of azflow, in an environment that has no Airflow."""
    spec = importlib.util.spec_from_file_location(f"azflow.{name}", ROOT / f"plugins/azflow/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"azflow.{name}"] = module
    spec.loader.exec_module(module)
    return module


sys.modules["azflow"] = ModuleType("azflow")
_load("errors")
_load("metrics")
guardrails = _load("guardrails")

TRIALS, ROWS, LATE = 20, 6_000, 0.22
CHAMPION = 0.74
#: What the errors of two models of the same flights share.
SHARED = 0.8
CHALLENGERS = {"worse by 0.03": -0.03, "equal": 0.0, "better by 0.03": 0.03}
RULES = {
    rule: guardrails.PromotionRules(max_loss=0.01, floor=0.60, min_rows=1000, promote_if=rule)
    for rule in ("not_worse", "better")
}


def scores(auc: float, positive: np.ndarray, shared: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Probabilities whose expected AUC is `auc`: two normal distributions, their distance by AUC = Phi(d / sqrt 2)."""
    distance = NormalDist().inv_cdf(auc) * np.sqrt(2)
    noise = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * random.normal(size=len(positive))
    found: np.ndarray = 1 / (1 + np.exp(-(distance * positive + noise)))
    return found


def main() -> int:
    promoted: Counter[tuple[str, str]] = Counter()
    for seed in range(TRIALS):
        for name, gain in CHALLENGERS.items():
            random = np.random.default_rng(seed)
            positive = random.random(ROWS) < LATE
            shared = random.normal(size=ROWS)
            champion = scores(CHAMPION, positive, shared, random)
            challenger = scores(CHAMPION + gain, positive, shared, random)
            found = classification.evidence(
                pd.DataFrame({"late": positive.astype(int)}), "late", challenger, champion, slices=[], resamples=1000
            )
            for rule, rules in RULES.items():
                verdict = guardrails.judge_challenger(found | {"champion_version": "1"}, rules)
                promoted[rule, name] += verdict.promote
    print(f"{'promote_if':<12}" + "".join(f"{name:>18}" for name in CHALLENGERS))
    for rule in RULES:
        print(f"{rule:<12}" + "".join(f"{promoted[rule, name]:>11} of {TRIALS}" for name in CHALLENGERS))
    good = (
        all(promoted[rule, "worse by 0.03"] <= 1 for rule in RULES)
        and promoted["better", "equal"] <= 1
        and promoted["better", "better by 0.03"] >= TRIALS - 1
        and promoted["not_worse", "better by 0.03"] == TRIALS
    )
    print("as it should be" if good else "NOT as it should be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
