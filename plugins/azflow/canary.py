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
import uuid
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
#: How the id of a request begins that azflow sends itself. The endpoint's data collector keeps ids: what is captured of
#: these requests is nobody's wish, see `is_probe`.
PROBE_MARK = "azflow-probe-"
#: The id that the inference server gives a request, and the one that is the caller's own business; at most 100
#: characters: https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http
_ID_HEADERS = ("x-request-id", "x-ms-client-request-id")
#: Floats of two answers agree if they differ by at most this much of the larger one.
RELATIVE_TOLERANCE = 0.1
_READABLE = (".parquet", ".jsonl", ".json", ".csv")
#: How long an answer is waited for, in seconds: from the request to the answer's last byte.
ANSWER_SECONDS = 60.0
_MOST_ANSWER_BYTES = 64 * 1024 * 1024
_CHUNK = 64 * 1024
_OK, _TOO_MANY = 200, 429


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
    """An endpoint's scoring URI with its key, over one connection. Nothing is tried twice: a failure is evidence.

    :param timeout: seconds for a whole answer, however slowly it drips.
    """

    def __init__(self, uri: str, key: str, *, verify: str | bool = True, timeout: float = ANSWER_SECONDS) -> None:
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
        return self.send(json.dumps({"data": list(rows)}), len(rows), deployment)

    def send(self, body: str, rows: int | None, deployment: str | None = None) -> Answer:
        """As `score`, for a body as it stands; `rows`: how many predictions it asks for, None if nobody knows."""
        import requests
        import urllib3

        headers = {"Content-Type": "application/json", **dict.fromkeys(_ID_HEADERS, f"{PROBE_MARK}{uuid.uuid4()}")}
        if deployment:
            headers[DEPLOYMENT_HEADER] = deployment
        begun = time.perf_counter()
        try:
            response = self._session.post(
                self.uri, data=body.encode(), headers=headers, timeout=self._timeout, stream=True
            )
            text = self._read(response, begun)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            return Answer(deployment or "", _elapsed(begun), [], self._too_slow())
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return Answer(deployment or "", _elapsed(begun), [], f"no answer: {first_line(error)}")
        milliseconds = _elapsed(begun)
        who = response.headers.get(DEPLOYMENT_HEADER, "") or deployment or ""
        if text is None:
            return Answer(who, milliseconds, [], self._too_slow())
        if deployment and who != deployment:
            return Answer(who, milliseconds, [], f"{deployment} was asked, {who} answered")
        if response.status_code != _OK:
            return Answer(who, milliseconds, [], _refusal(response.status_code, text))
        predictions, problem = predictions_of(text, rows)
        return Answer(who, milliseconds, predictions, problem)

    def _read(self, response: requests.Response, begun: float) -> str | None:
        """The answer's text; None if it takes too long or has no end."""
        content = bytearray()
        # What has come so far, not a full chunk: else an answer that drips is waited for without end.
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            content += chunk
            if time.perf_counter() - begun > self._timeout or len(content) > _MOST_ANSWER_BYTES:
                response.close()
                return None
        response.raw.release_conn()  # for the next request
        return content.decode("utf-8", errors="replace")

    def _too_slow(self) -> str:
        return f"no whole answer within {self._timeout:g} s"


def _refusal(status: int, text: str) -> str:
    """An answer that isn't one, for people who have to do something about it."""
    said = " ".join(text.split())[:300]
    if status == _TOO_MANY:
        said = (
            f"{said} (turned away: more requests at once than its instances take; raise instance_count or "
            "max_concurrent_requests_per_instance in deployment.yml)"
        )
    return f"HTTP {status}: {said}"


def is_probe(event: Mapping[str, Any]) -> bool:
    """Whether a captured event is of a request that azflow sent itself: by its ids (``xrequestid``, ``correlationid``),
    or by a header that the deployment captures (``request_logging.capture_headers``), wherever that is kept."""

    def marked(value: Any) -> bool:
        if isinstance(value, Mapping | list):
            return any(marked(each) for each in (value.values() if isinstance(value, Mapping) else value))
        return isinstance(value, str) and value.startswith(PROBE_MARK)

    return any(marked(value) for name, value in event.items() if name != "data")


def predictions_of(text: str, rows: int | None) -> tuple[list[Any], str]:
    """The predictions in an answer, and what is wrong with them (empty: nothing).

    ``{"predictions": [...]}`` or a bare list, one element a row; no element is null or holds a number that isn't
    finite, at any depth; what is called ``probability`` is a number between 0 and 1.

    :param rows: how many there must be; None: any number but none.
    """
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return [], f"the answer isn't JSON: {text[:200]!r}"
    if isinstance(answer, str):
        return (
            [],
            f"the answer is a text, not an object: run() must return the value, not json.dumps of it: {text[:200]}",
        )
    predictions = answer.get("predictions") if isinstance(answer, Mapping) else answer
    if not isinstance(predictions, list):
        return [], f"the answer has no list of predictions: {text[:200]}"
    if rows is not None and len(predictions) != rows:
        return [], f"{len(predictions)} predictions for {rows} rows"
    if not predictions:
        return [], "the answer has no predictions"
    for position, prediction in enumerate(predictions):
        fields = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
        for name, value in fields.items():
            if (odd := _odd(value)) is not None:
                return [], f"prediction {position}: {name} is {odd}"
            if name == "probability" and (not _is_number(value) or not 0 <= value <= 1):
                return [], f"prediction {position}: probability is {value!r}, not a number between 0 and 1"
    return predictions, ""


def _odd(value: Any) -> str | None:
    """What is no prediction in a value, at any depth: nothing, or a number that isn't finite."""
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping | list):
        inside = value.values() if isinstance(value, Mapping) else value
        return next((found for each in inside if (found := _odd(each)) is not None), None)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
