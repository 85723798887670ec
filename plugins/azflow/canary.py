"""Real rows, sent to an endpoint: what came back, how fast, and whether two deployments say the same.

Requests go to the scoring URI itself. The SDK's `invoke` keeps the header `azureml-model-deployment` in a module-wide
dictionary: after one call to a named deployment, every later call of the process goes there.
"""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from azflow.errors import ConfigurationError, first_line

if TYPE_CHECKING:
    import requests

    from azflow.connection import AzureConnection

Row = dict[str, Any]

DEPLOYMENT_HEADER = "azureml-model-deployment"
#: Floats of two answers agree if they differ by at most this much of the larger one.
RELATIVE_TOLERANCE = 0.1
_READABLE = (".parquet", ".jsonl", ".json", ".csv")
_OK = 200


@dataclass(frozen=True)
class Answer:
    """What a request brought.

    :param deployment: the one that answered; "" if the answer names none.
    :param predictions: one a row; empty if there was a problem.
    :param problem: what was wrong; empty for a valid answer.
    """

    deployment: str
    milliseconds: float
    predictions: list[Any] = field(repr=False)
    problem: str = ""


class Scorer:
    """An endpoint's scoring URI with its key, over one connection. Nothing is tried twice: a failure is evidence."""

    def __init__(self, uri: str, key: str, *, verify: str | bool = True, timeout: float = 60) -> None:
        import requests

        self.uri = uri
        self._timeout = timeout
        self._session: requests.Session = requests.Session()
        self._session.verify = verify
        self._session.headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def score(self, rows: Sequence[Row], deployment: str | None = None) -> Answer:
        """The endpoint's predictions for `rows`: of `deployment` if it is named, else of whom the split picks."""
        import requests

        headers = {"Content-Type": "application/json"}
        if deployment:
            headers[DEPLOYMENT_HEADER] = deployment
        body = json.dumps({"data": list(rows)})
        begun = time.perf_counter()
        try:
            response = self._session.post(self.uri, data=body, headers=headers, timeout=self._timeout)
        except requests.RequestException as error:
            return Answer(deployment or "", _elapsed(begun), [], f"no answer: {first_line(error)}")
        milliseconds = _elapsed(begun)
        who = response.headers.get(DEPLOYMENT_HEADER, "") or deployment or ""
        if deployment and who != deployment:
            return Answer(who, milliseconds, [], f"{deployment} was asked, {who} answered")
        if response.status_code != _OK:
            return Answer(who, milliseconds, [], f"HTTP {response.status_code}: {response.text[:300].strip()}")
        predictions, problem = predictions_of(response.text, len(rows))
        return Answer(who, milliseconds, predictions, problem)


def predictions_of(text: str, rows: int) -> tuple[list[Any], str]:
    """The predictions in an answer, and what is wrong with them (empty: nothing).

    ``{"predictions": [...]}`` or a bare list, one element a row; no element is null or holds a number that isn't
    finite; what is called ``probability`` lies between 0 and 1.
    """
    try:
        answer = json.loads(text)
    except ValueError:
        return [], f"the answer isn't JSON: {text[:200]!r}"
    predictions = answer.get("predictions") if isinstance(answer, Mapping) else answer
    if not isinstance(predictions, list):
        return [], f"the answer has no list of predictions: {text[:200]}"
    if len(predictions) != rows:
        return [], f"{len(predictions)} predictions for {rows} rows"
    for position, prediction in enumerate(predictions):
        fields = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
        for name, value in fields.items():
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                return [], f"prediction {position}: {name} is {value}"
            if name == "probability" and not 0 <= value <= 1:
                return [], f"prediction {position}: probability is {value}"
    return predictions, ""


def agreement(ours: Sequence[Any], theirs: Sequence[Any]) -> tuple[int, int]:
    """(rows compared, rows on which both say the same).

    Decisions count (true or false, a class, a count); answers that are nothing but floats agree within
    `RELATIVE_TOLERANCE`.
    """
    pairs = list(zip(ours, theirs, strict=False))
    return len(pairs), sum(_same(one, other) for one, other in pairs)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return bool(one == other)
    if one.keys() != other.keys():
        return False
    decisions = [name for name, value in one.items() if not isinstance(value, float)]
    return all(_same(one[name], other[name]) for name in decisions or one)


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """`rows` in batches of `size`, over and over, without end. `rows` isn't empty."""
    while True:
        for start in range(0, len(rows), size):
            yield list(rows[start : start + size])


def sample_rows(connection: AzureConnection, path: str, count: int) -> list[Row]:
    """Up to `count` rows from the files below `path` in the lake's container (Parquet, JSON lines, JSON, CSV), spread
    evenly over each file, as plain JSON values.

    :param path: a folder; with ``*`` for whole segments, the newest folder that matches.
    :raises ConfigurationError: nothing readable is there; names the place.
    """
    prefix = path.strip("/")
    rows: list[Row] = []
    where = f"{connection.container}/{prefix}"
    with connection.blob_service() as service:
        container = service.get_container_client(connection.container)
        blobs = [
            blob
            for blob in container.list_blobs(name_starts_with=prefix.partition("*")[0])
            if blob.size and blob.name.endswith(_READABLE)
        ]
        if "*" in prefix:
            blobs = _newest_folder(blobs, prefix)
        for name in sorted(blob.name for blob in blobs):
            rows += _spread(_rows_of(container.download_blob(name).readall(), name), count - len(rows))
            if len(rows) >= count:
                break
    if not rows:
        raise ConfigurationError(
            f"There are no rows to probe the endpoint with: {where} holds no {', '.join(_READABLE)} file with rows. "
            f"Check deploy.sample_path in model.yml."
        )
    return rows


def _newest_folder(blobs: Sequence[Any], pattern: str) -> list[Any]:
    """Of the blobs below folders that match `pattern`, those of the folder that was written to last."""
    depth = pattern.count("/") + 1
    folders: dict[str, list[Any]] = {}
    for blob in blobs:
        segments = blob.name.split("/")
        if all(fnmatchcase(*pair) for pair in zip(segments[:depth], pattern.split("/"), strict=False)):
            folders.setdefault("/".join(segments[:depth]), []).append(blob)
    return max(folders.values(), key=lambda found: max(blob.last_modified for blob in found), default=[])


def _rows_of(content: bytes, name: str) -> list[Row]:
    if name.endswith(".parquet"):
        import pyarrow.parquet  # type: ignore[import-untyped]

        return [_plain(row) for row in pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()]
    text = content.decode("utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if name.endswith(".json"):
        found = json.loads(text)
        return list(found["data"] if isinstance(found, Mapping) else found)
    import pandas

    frame = pandas.read_csv(io.StringIO(text))
    return [_plain(row) for row in frame.to_dict(orient="records")]


def _spread(rows: list[Row], count: int) -> list[Row]:
    if len(rows) <= count:
        return rows
    return [rows[index * len(rows) // count] for index in range(count)]


def _plain(row: Mapping[str, Any]) -> Row:
    return {str(name): _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # pandas' and Parquet's missing number
    if hasattr(value, "item"):
        return _json_value(value.item())
    return value


def _elapsed(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
