"""What a serverless pool's queries read: told from the text and the lake before, from the pool's messages after."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet
import pytest

from azflow import scans
from azflow.connection import AzureConnection
from azflow.scans import LEAST, Budget, Estimate, Processed, Scan
from azure_edge import Edge, edge

__all__ = ["edge"]

ACCOUNT = AzureConnection(id="c", storage_account_url="https://acct.blob.core.windows.net")
MESSAGE = (
    "Statement ID: {A} | Query hash: 0x1 | Distributed request ID: {B}. Total size of data scanned is %s megabytes, "
    "total size of data moved is %s megabytes, total size of data written is 0 megabytes."
)
FLIGHTS = "OPENROWSET(BULK 'flights/year=*/*.parquet', DATA_SOURCE = 'Lake', FORMAT = 'PARQUET') AS r"


def test_the_pools_messages_say_what_was_processed() -> None:
    found = scans.processed(["Changed database context to 'x'.", MESSAGE % (30, 2), MESSAGE % (1, 1)])
    assert found == Processed(scanned=31, moved=3, written=0, charged=32 + LEAST)
    assert found.view() == {"scanned_mb": 31, "moved_mb": 3, "written_mb": 0, "charged_mb": 42}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1 AS x", []),
        (
            f"SELECT COUNT(*) AS n FROM {FLIGHTS}\nWHERE r.filepath(1) = @year AND r.filepath(2) IN ('a', 'b')",
            [{"source": "lake", "pieces": {1: frozenset({"2013"}), 2: frozenset({"a", "b"})}}],
        ),
        (f"SELECT r.* FROM {FLIGHTS}", [{"names": None}]),
        (f"SELECT r.id FROM {FLIGHTS} WHERE r.filepath(1) = '1' OR r.id = 2", [{"pieces": {}}]),
        (f"SELECT r.id FROM {FLIGHTS} WHERE r.filepath(1) = other.x", [{"pieces": {}}]),
        (
            "SELECT a FROM OPENROWSET(BULK ('a/*.csv', 'b/*.csv'), FORMAT = 'CSV') WITH (a int 1) AS x",
            [{"paths": ("a/*.csv", "b/*.csv"), "format": "CSV", "source": ""}],
        ),
        (f"SELECT r.id FROM {FLIGHTS} JOIN {FLIGHTS.replace('AS r', 's')} ON r.id = s.id", [{}, {}]),
    ],
)
def test_what_a_batch_reads_is_in_its_text(text: str, expected: list[dict[str, object]]) -> None:
    found = scans.scans(text, {"year": 2013})
    assert [
        {name: getattr(scan, name) for name in want} for scan, want in zip(found, expected, strict=True)
    ] == expected


def test_external_tables_are_scans_too() -> None:
    tables = [["dbo.day", "/days/", "lake", "PARQUET"], ["raw.x", "x/*.csv", "lake", "DELIMITEDTEXT"]]
    found = scans.table_scans(
        "SELECT d.id FROM day AS d\nJOIN [db].[raw].[X] ON 1 = 1 WHERE EXISTS (SELECT 1 FROM z)", tables
    )
    assert [(scan.line, scan.paths, scan.source, scan.format) for scan in found] == [
        (1, ("/days/",), "lake", "PARQUET"),
        (2, ("x/*.csv",), "lake", "DELIMITEDTEXT"),
    ]


def parquet(megabytes: int) -> bytes:
    rows = megabytes * scans.MEGABYTE // 8
    table = pa.table({"id": pa.array(range(rows // 2), pa.int64()), "noise": pa.array(range(rows // 2), pa.int64())})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, compression="none", use_dictionary=False)
    return file.getvalue()


def test_an_estimate_is_of_the_files_and_columns_that_are_read(edge: Edge) -> None:
    content = parquet(24)
    edge.blobs = {f"lake/raw/flights/year={year}/a.parquet": content for year in (2013, 2014)}
    edge.blobs |= {"lake/raw/flights/year=2014/_SUCCESS": b"x" * len(content), "lake/raw/flights2/a": content}
    sources = {"lake": "abfss://lake@acct.dfs.core.windows.net/raw"}

    def charged(query: str) -> tuple[int, int]:
        found = scans.estimate(ACCOUNT, scans.scans(query, {}), sources)
        assert found.unknown == ()
        return found.charged, found.files

    assert charged(f"SELECT * FROM {FLIGHTS}") == (49, 2)
    assert charged(f"SELECT MAX(id) AS x FROM {FLIGHTS}") == (25, 2)
    assert charged(f"SELECT MAX(id) AS x FROM {FLIGHTS} WHERE r.filepath(1) = '2014'") == (13, 1)
    assert charged(f"SELECT MAX(id) AS x FROM {FLIGHTS} WHERE r.filepath(1) = '2015'") == (LEAST, 0)
    address = "https://acct.dfs.core.windows.net/lake/raw/flights"
    assert charged(f"SELECT * FROM OPENROWSET(BULK '{address}/**', FORMAT = 'PARQUET') AS r") == (49, 2)
    assert charged(f"SELECT * FROM OPENROWSET(BULK '{address}', FORMAT = 'CSV') AS r") == (49, 2)


def test_what_cannot_be_estimated_is_named() -> None:
    scan = Scan(1, ("https://open.blob.core.windows.net/x/*.parquet",), "", "PARQUET")
    found = scans.estimate(ACCOUNT, [scan], {})
    assert found == Estimate(LEAST, 0, (f"{scan.paths[0]}: it isn't in c's storage account",))


def test_a_budget_refuses_before_and_fails_after() -> None:
    budget = Budget(50)
    assert budget.before(Estimate(50, 3)) == "" == budget.after([MESSAGE % (29, 1)])
    assert "3 files are about 21 MB, and the task may process 50 MB" in budget.before(Estimate(21, 3))
    assert "30 MB were processed already" in budget.before(Estimate(21, 3))
    assert budget.after([MESSAGE % (21, 0)]).startswith("the pool processed 51 MB for this task (50 MB scanned, 1 MB")
    assert Budget(None).before(Estimate(10**9)) == ""


def test_the_pools_own_limit_is_explained() -> None:
    said = "Query is rejected because SQL Serverless budget limit for a period is exceeded. (Period = Daily: ...)"
    assert "EXEC sp_set_data_processed_limit @type = N'daily'" in scans.explained(said)
    assert scans.explained("Login failed.") == "Login failed."
