"""Delta tables: what their log says of version, rows and columns, and the pointer to one version."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError
from azflow.lake_tables import inspect_table
from azflow.ml import DataAssetOperator
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE, context_of

__all__ = ["edge"]

SCHEMA = json.dumps(
    {"type": "struct", "fields": [{"name": "id", "type": "long"}, {"name": "at", "type": {"type": "array"}}]}
)
METADATA = {"metaData": {"id": "x", "schemaString": SCHEMA, "partitionColumns": []}}
PROTOCOL = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}


def add(path: str, rows: int | None, **more: Any) -> dict[str, Any]:
    stats = {} if rows is None else {"stats": json.dumps({"numRecords": rows})}
    return {"add": {"path": path, "size": 1, **stats, **more}}


def commit(edge: Edge, version: int, *actions: dict[str, Any], at: int = 0) -> None:
    lines = [json.dumps(action) for action in (*actions, {"commitInfo": {"timestamp": at}})]
    edge.blobs[f"lake/tables/t/_delta_log/{version:020}.json"] = "\n".join(lines).encode()


def table(version: int | None = None) -> Any:
    return inspect_table(AzureConnection.load("azure_default"), "/tables/t/", version)


@pytest.fixture
def written(edge: Edge) -> Edge:
    """Three versions: a file, another one, the first one compacted away by name with a space."""
    commit(edge, 0, PROTOCOL, METADATA, add("a%20b.parquet", 10), at=1_357_000_000_000)
    commit(edge, 1, add("c.parquet", 5), at=1_357_000_100_000)
    commit(edge, 2, {"remove": {"path": "a b.parquet"}}, add("d.parquet", 8), at=1_357_000_200_000)
    return edge


def test_a_table_is_known_by_its_log(written: Edge) -> None:
    found = table()
    assert (found.version, found.files, found.rows, found.columns) == (2, 2, 13, ("id", "at"))
    assert found.written == "2013-01-01T00:30:00+00:00"
    first = table(0)
    assert (first.version, first.rows, first.schema_hash) == (0, 10, found.schema_hash)


def test_a_log_begins_at_its_checkpoint(written: Edge) -> None:
    rows = [{**METADATA, "add": None}, {"add": add("c.parquet", 5)["add"]}, {"add": add("e.parquet", 1)["add"]}]
    columns = {
        "add": pa.array([row.get("add") for row in rows], pa.struct({"path": pa.string(), "stats": pa.string()})),
        "metaData": pa.array([row.get("metaData") for row in rows], pa.struct({"schemaString": pa.string()})),
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    written.blobs[f"lake/tables/t/_delta_log/{1:020}.checkpoint.parquet"] = buffer.getvalue()
    del written.blobs[f"lake/tables/t/_delta_log/{0:020}.json"]
    assert (table().rows, table(1).rows) == (14, 6)
    with pytest.raises(ConfigurationError, match="no version 0; its log reaches from 1 to 2"):
        table(0)


def test_deleted_rows_do_not_count_and_unknown_ones_are_unknown(written: Edge) -> None:
    commit(written, 3, add("c.parquet", 5, deletionVector={"cardinality": 2}))
    assert table().rows == 11
    commit(written, 4, add("f.parquet", None))
    assert table().rows is None


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (
            [{"protocol": {"minReaderVersion": 3, "readerFeatures": ["catalogManaged"]}}],
            "reader feature catalogManaged",
        ),
        ([{"protocol": {"minReaderVersion": 7}}], "reader version 7"),
        ([{"metaData": {"schemaString": "{"}}], "names no columns"),
    ],
)
def test_a_table_that_is_not_understood_is_refused(written: Edge, actions: list[Any], said: str) -> None:
    commit(written, 3, *actions)
    with pytest.raises(ConfigurationError, match=f"lake/tables/t.*{said}"):
        table()


def test_what_is_no_table_is_told(edge: Edge) -> None:
    edge.blobs = {"lake/tables/t/part.parquet": b"x"}
    with pytest.raises(ConfigurationError, match="lake/tables/t is no Delta table"):
        table()
    edge.blobs[f"lake/tables/t/_delta_log/{0:020}.json"] = b"{\nno"
    with pytest.raises(ConfigurationError, match=r"0\.json, line 1 is no JSON"):
        table()


def test_a_pointer_stays_with_its_version(written: Edge) -> None:
    known: dict[str, Any] = {}
    written.on("GET", f"{WORKSPACE}/data/m/versions/", lambda match, body: (200, known) if known else (404, {}))
    written.on("PUT", f"{WORKSPACE}/data/m/versions/", lambda match, body: (201, known.update(body) or body))

    def run(**arguments: Any) -> Any:
        operator = DataAssetOperator(task_id="data", name="m", path="tables/t", format="delta", **arguments)
        return operator.execute(context_of(operator))

    first = run()
    assert (first["rows"], first["table_version"], first["type"]) == (13, 2, "mltable")
    assert first["path"].endswith("/datastores/lake/paths/tables/t.mltable/2/")
    assert known["properties"]["tags"]["table_version"] == "2"
    assert known["properties"]["referencedUris"][0].endswith("/paths/tables/t/")
    pointer = yaml.safe_load(written.blobs["lake/tables/t.mltable/2/MLTable"])
    assert pointer["transformations"] == [{"read_delta_lake": {"version_as_of": 2}}]
    commit(written, 3, add("g.parquet", 100))
    assert run() == first
    with pytest.raises(AirflowFailException, match="type is 'uri_folder'; use mltable"):
        run(type="uri_folder")
