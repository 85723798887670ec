"""MLflow models without a scoring script: the generated one, in the compute environment."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from localazure.settings import Settings

# Two models: one of a table (text, whole and broken numbers, a date) with a parameter, one of a tensor.
PROGRAM = """
import json, os, sys
import mlflow.pyfunc, numpy as np, pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

class Table(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        factor = (params or {}).get("factor", 1.0)
        late = model_input["hour"] * factor + model_input["temp"]
        return pd.DataFrame({"late": late, "day": model_input["day"].dt.dayofweek, "carrier": model_input["carrier"]})

class Tensor(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input.sum(axis=1)

rows = pd.DataFrame({"carrier": ["UA"], "hour": [7], "temp": [1.5], "day": [pd.Timestamp("2013-01-01")]})
outputs = pd.DataFrame({"late": [8.5], "day": [1], "carrier": ["UA"]})
signature = infer_signature(rows, outputs, params={"factor": 1.0})
folder = sys.argv[1]
mlflow.pyfunc.save_model(folder + "/table/1/model", python_model=Table(), signature=signature, pip_requirements=[])
tensor = lambda *shape: Schema([TensorSpec(np.dtype("float32"), shape)])
schema = ModelSignature(tensor(-1, 2), tensor(-1))
mlflow.pyfunc.save_model(folder + "/tensor/1/model", python_model=Tensor(), signature=schema, pip_requirements=[])

from localazure_compute import online_mlflow
answers = []
for name, text in json.loads(sys.argv[2]):
    os.environ["AZUREML_MODEL_DIR"] = f"{folder}/{name}/1"
    online_mlflow.init()
    answer = online_mlflow.run(text)
    answers.append([answer.status_code, answer.mimetype, json.loads(answer.get_data())])
print("ANSWERS" + json.dumps(answers))
"""

ROW = {"carrier": "UA", "hour": 7, "temp": 1.5, "day": "2013-01-02T00:00:00"}
LATE = {"late": 8.5, "day": 2, "carrier": "UA"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, certified: Settings) -> list[list[Any]]:
    if not certified.compute_python.exists():
        pytest.skip("the compute environment isn't built")
    asked = [(name, body if isinstance(body, str) else json.dumps(body)) for name, body, *_ in CASES]
    folder = tmp_path_factory.mktemp("models")
    command = [certified.compute_python, "-c", PROGRAM, str(folder), json.dumps(asked)]
    environment = {"PYTHONPATH": str(certified.compute_source), "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: list[list[Any]] = json.loads(ended.stdout.rpartition("ANSWERS")[2])
    return found


def split(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"input_data": {"columns": list(ROW), "data": [list(row.values()) for row in rows], **more}}


CASES: list[tuple[str, Any, int, Any]] = [
    ("table", split(ROW, ROW, index=[4, 9]), 200, [LATE, LATE]),
    ("table", split(ROW) | {"params": {"factor": 2.0}}, 200, [LATE | {"late": 15.5}]),
    ("table", {"input_data": [ROW]}, 200, [LATE]),
    ("table", {"input_data": [list(ROW.values())]}, 200, [LATE]),
    ("table", {"input_data": {name: [value] for name, value in ROW.items()}}, 200, [LATE]),
    # A whole number where the signature has a broken one; a value that is missing.
    ("table", {"input_data": [ROW | {"temp": 2}]}, 200, [LATE | {"late": 9.0}]),
    ("table", {"input_data": [ROW | {"temp": None}]}, 200, [LATE | {"late": None}]),
    ("tensor", {"input_data": [[1, 2], [3, 4]]}, 200, [3.0, 7.0]),
    ("table", {"data": [ROW]}, 400, "must be a JSON object with the key 'input_data'"),
    ("table", "no json", 400, "Expecting value"),
    ("table", {"input_data": [{"carrier": "UA"}]}, 400, "hour"),
    ("table", {"input_data": [["UA", 7]]}, 400, "A row has 2 values; the model's signature has 4"),
    ("table", split(ROW) | {"params": [1]}, 400, "'params' must be an object"),
    ("table", {"input_data": "UA"}, 400, "must be a list or an object"),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_requests_as_azure_documents_them(answers: list[list[Any]], number: int) -> None:
    _, body, status, expected = CASES[number]
    found_status, kind, content = answers[number]
    assert (found_status, kind) == (status, "application/json"), (body, content)
    if status == 200:
        assert content == expected
    else:
        assert expected in content["error"]["message"]
