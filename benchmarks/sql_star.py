"""A Synapse star-schema load of Parquet files, beside the DuckDB script that somebody would write by hand.

Called by benchmarks/sql.py --star FOLDER. FOLDER has TPC-H's tables, a file or a folder of files each; `tpchgen-cli
parquet -s 3 --parts 4 --output-dir FOLDER` makes 1.1 GB of them. Each step is timed on both sides, every side in a
process of its own; what they leave in the tables is compared.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
from localazure.settings import Settings
from localazure.sql.pool import Pool
from localazure.sql.results import ResultSet
from localazure.storage.locations import Location

AIM = 1.5
STAGED = ("region", "nation", "supplier", "customer", "part", "orders", "lineitem")
YEARS = range(1993, 1999)

DIMENSIONS = {
    "dim_customer": (
        "HASH(c_custkey)",
        "SELECT ROW_NUMBER() OVER (ORDER BY c.c_custkey) AS customer_sk, c.c_custkey, c.c_name, c.c_mktsegment, "
        "c.c_acctbal, n.n_name AS nation, r.r_name AS region FROM stg.customer c "
        "JOIN stg.nation n ON n.n_nationkey = c.c_nationkey JOIN stg.region r ON r.r_regionkey = n.n_regionkey",
    ),
    "dim_part": (
        "REPLICATE",
        "SELECT ROW_NUMBER() OVER (ORDER BY p_partkey) AS part_sk, p_partkey, p_name, p_brand, p_type, p_size, "
        "CASE WHEN p_retailprice > 1500 THEN 'high' WHEN p_retailprice > 1000 THEN 'middle' ELSE 'low' END AS class "
        "FROM stg.part",
    ),
    "dim_supplier": (
        "REPLICATE",
        "SELECT ROW_NUMBER() OVER (ORDER BY s_suppkey) AS supplier_sk, s_suppkey, s_name, s_acctbal, n_name AS nation "
        "FROM stg.supplier JOIN stg.nation ON n_nationkey = s_nationkey",
    ),
    "dim_date": (
        "REPLICATE",
        "SELECT o_orderdate AS date_key, YEAR(o_orderdate) AS year, MONTH(o_orderdate) AS month, COUNT(*) AS orders "
        "FROM stg.orders GROUP BY o_orderdate",
    ),
}
FACT = """SELECT l.l_orderkey, l.l_linenumber, o.o_orderdate, c.customer_sk, p.part_sk, s.supplier_sk, l.l_shipmode,
    l.l_quantity, l.l_extendedprice, l.l_extendedprice * (1 - l.l_discount) AS net, l.l_returnflag
    FROM stg.lineitem l JOIN stg.orders o ON o.o_orderkey = l.l_orderkey
    JOIN dbo.dim_customer c ON c.c_custkey = o.o_custkey JOIN dbo.dim_part p ON p.p_partkey = l.l_partkey
    JOIN dbo.dim_supplier s ON s.s_suppkey = l.l_suppkey"""
CHANGED = """SELECT customer_sk + {new} AS customer_sk, c_custkey + {new} AS c_custkey, c_name,
    'CHANGED' AS c_mktsegment, c_acctbal * 2 AS c_acctbal, nation, region FROM dbo.dim_customer
    WHERE c_custkey % 5 = {rest}"""
MERGE = """MERGE INTO dbo.dim_customer AS t USING stg.changed AS s ON t.c_custkey = s.c_custkey
    WHEN MATCHED AND t.c_acctbal <> s.c_acctbal THEN UPDATE SET c_mktsegment = s.c_mktsegment, c_acctbal = s.c_acctbal
    WHEN NOT MATCHED THEN INSERT (customer_sk, c_custkey, c_name, c_mktsegment, c_acctbal, nation, region)
    VALUES (s.customer_sk, s.c_custkey, s.c_name, s.c_mktsegment, s.c_acctbal, s.nation, s.region)"""
MORE = 10_000_000
CHANGES = f"{CHANGED.format(new=0, rest=0)} UNION ALL {CHANGED.format(new=MORE, rest=1)}"
# A year of the fact anew: returned goods count nothing.
ANEW = """SELECT l_orderkey, l_linenumber, o_orderdate, customer_sk, part_sk, supplier_sk, l_shipmode, l_quantity,
    l_extendedprice, CASE WHEN l_returnflag = 'R' THEN 0 ELSE net END AS net, l_returnflag FROM dbo.fact_sales
    WHERE o_orderdate >= '1996-01-01' AND o_orderdate < '1997-01-01'"""
LEFT = (
    "SELECT COUNT(*), SUM(l_quantity), SUM(net), SUM(customer_sk), SUM(part_sk), SUM(supplier_sk) FROM dbo.fact_sales",
    "SELECT YEAR(o_orderdate), COUNT(*), SUM(net) FROM dbo.fact_sales GROUP BY YEAR(o_orderdate) ORDER BY 1",
    "SELECT c_mktsegment, COUNT(*), SUM(c_acctbal) FROM dbo.dim_customer GROUP BY c_mktsegment ORDER BY 1",
    "SELECT class, COUNT(*), SUM(p_size) FROM dbo.dim_part GROUP BY class ORDER BY 1",
    "SELECT year, SUM(orders) FROM dbo.dim_date GROUP BY year ORDER BY 1",
)
Step = tuple[str, Callable[[], None]]
Rows = list[tuple[Any, ...]]


class Folder:
    """The lake, on this disk: the container ``lake`` is the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def materialize(self, location: Location) -> Path:
        """The file or folder behind a location."""
        return self._root / location.path


def files(data: Path, table: str) -> str:
    """A table's file, or its folder's files, as DuckDB and COPY INTO name them."""
    return f"{table}/*.parquet" if (data / table).is_dir() else f"{table}.parquet"


def pool_steps(data: Path, folder: Path, columns: dict[str, str]) -> tuple[list[Step], Callable[[str], Rows]]:
    """The load in T-SQL on a dedicated pool, and how to ask it."""
    settings = Settings.load(folder / "home", sql_database="star", storage_account="acct", container="lake")
    lake: Any = Folder(data)
    session = Pool(settings, lake).session("benchmark")

    def run(*batches: str) -> None:
        for batch in batches:
            for _ in session.execute(batch):
                pass

    def ask(sql: str) -> Rows:
        found = next(result for result in session.execute(sql) if isinstance(result, ResultSet))
        return list(zip(*[column.to_pylist() for column in found.table.columns], strict=True))

    def copy() -> None:
        run("CREATE SCHEMA stg")
        for table in STAGED:
            url = f"https://acct.dfs.core.windows.net/lake/{files(data, table).removesuffix('*.parquet')}"
            run(
                f"CREATE TABLE stg.{table} ({columns[table]}) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)",
                f"COPY INTO stg.{table} FROM '{url}' WITH (FILE_TYPE = 'PARQUET')",
            )

    def dimensions() -> None:
        for name, (distribution, query) in DIMENSIONS.items():
            run(f"CREATE TABLE dbo.{name} WITH (DISTRIBUTION = {distribution}, HEAP) AS {query}")

    bounds = ", ".join(f"'{year}-01-01'" for year in YEARS)
    shape = f"DISTRIBUTION = HASH(l_orderkey), PARTITION (o_orderdate RANGE RIGHT FOR VALUES ({bounds}))"

    def fact() -> None:
        run(f"CREATE TABLE dbo.fact_sales WITH ({shape}, CLUSTERED COLUMNSTORE INDEX) AS {FACT}")

    def merge() -> None:
        run(f"CREATE TABLE stg.changed WITH (DISTRIBUTION = HASH(c_custkey), HEAP) AS {CHANGES}", MERGE)

    def switch() -> None:
        number = YEARS.index(1996) + 2
        run(
            f"CREATE TABLE stg.fact_anew WITH ({shape}, CLUSTERED COLUMNSTORE INDEX) AS {ANEW}",
            f"ALTER TABLE stg.fact_anew SWITCH PARTITION {number} TO dbo.fact_sales PARTITION {number} "
            "WITH (TRUNCATE_TARGET = ON)",
        )

    return [("COPY INTO", copy), ("CTAS dims", dimensions), ("CTAS fact", fact), ("MERGE", merge),
            ("SWITCH", switch)], ask  # fmt: skip


def script_steps(data: Path, folder: Path, columns: dict[str, str]) -> tuple[list[Step], Callable[[str], Rows]]:
    """The same load as a script for DuckDB, and how to ask it."""
    connection = duckdb.connect(str(folder / "plain.duckdb"))
    connection.execute("SET enable_progress_bar = false")

    def run(*statements: str) -> None:
        for statement in statements:
            connection.execute(statement)

    def copy() -> None:
        run("CREATE SCHEMA stg", "CREATE SCHEMA dbo")
        for table in STAGED:
            run(
                f"CREATE TABLE stg.{table} ({columns[table]})",
                f"INSERT INTO stg.{table} SELECT * FROM read_parquet('{data}/{files(data, table)}')",
            )

    def dimensions() -> None:
        run(*(f"CREATE TABLE dbo.{name} AS {query}" for name, (_, query) in DIMENSIONS.items()))

    def fact() -> None:
        run(f"CREATE TABLE dbo.fact_sales AS {FACT}")

    def merge() -> None:
        run(f"CREATE TABLE stg.changed AS {CHANGES}", MERGE)

    def switch() -> None:
        run(
            f"CREATE TABLE stg.fact_anew AS {ANEW}",
            "BEGIN",
            "DELETE FROM dbo.fact_sales WHERE o_orderdate >= '1996-01-01' AND o_orderdate < '1997-01-01'",
            "INSERT INTO dbo.fact_sales SELECT * FROM stg.fact_anew",
            "DROP TABLE stg.fact_anew",
            "COMMIT",
        )

    steps = [("COPY INTO", copy), ("CTAS dims", dimensions), ("CTAS fact", fact), ("MERGE", merge), ("SWITCH", switch)]
    return steps, lambda sql: connection.execute(sql).fetchall()


SIDES = {"T-SQL": pool_steps, "DuckDB": script_steps}


def _side(name: str, data: Path, columns: dict[str, str], folder: str, pipe: Any) -> None:
    """One side, in a process of its own: sends (step, seconds, CPU seconds) and at the end what is in the tables."""
    steps, ask = SIDES[name](data, Path(folder), columns)
    for step, run in steps:
        clock, cpu = time.perf_counter(), time.process_time()
        run()
        pipe.send((step, time.perf_counter() - clock, time.process_time() - cpu))
    pipe.send(([ask(sql) for sql in LEFT], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))


def measured(name: str, data: Path, columns: dict[str, str]) -> tuple[dict[str, tuple[float, float]], list[Rows], int]:
    """({step: (seconds, CPU seconds)}, what is in the tables, most resident bytes) of a side."""
    with tempfile.TemporaryDirectory(prefix="star-") as folder:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_side, args=(name, data, columns, folder, theirs), daemon=True)
        process.start()
        theirs.close()
        times: dict[str, tuple[float, float]] = {}
        while isinstance((got := ours.recv())[0], str):
            times[got[0]] = got[1:]
        process.join()
        return times, *got


def star(data: Path, columns: dict[str, str], rounds: int, same: Callable[[Rows, Rows], bool]) -> bool:
    """Print both sides' steps; whether the results agree and the ratio is at the aim."""
    size = sum(file.stat().st_size for table in STAGED for file in data.glob(f"{table}*/*.parquet"))
    size += sum((data / f"{table}.parquet").stat().st_size for table in STAGED if (data / f"{table}.parquet").exists())
    best: dict[str, dict[str, tuple[float, float]]] = {}
    left: dict[str, list[Rows]] = {}
    most: dict[str, int] = {}
    for _ in range(rounds):
        for name in SIDES:
            times, left[name], most[name] = measured(name, data, columns)
            kept = best.get(name, times)
            best[name] = {step: (min(kept[step][0], now[0]), min(kept[step][1], now[1])) for step, now in times.items()}
    print(f"\nstar schema from {size / 1e9:.2f} GB of Parquet")
    print("step         T-SQL s   DuckDB s   ratio   T-SQL CPU s   DuckDB CPU s")
    lines: Iterable[str] = [*best["T-SQL"], "all"]
    totals = {name: (sum(t[0] for t in best[name].values()), sum(t[1] for t in best[name].values())) for name in SIDES}
    for step in lines:
        ours, theirs = (totals[name] if step == "all" else best[name][step] for name in SIDES)
        print(
            f"{step:10} {ours[0]:9.2f} {theirs[0]:10.2f} {ours[0] / theirs[0]:7.2f} {ours[1]:13.2f} {theirs[1]:14.2f}"
        )
    agree = all(same(a, b) for a, b in zip(left["T-SQL"], left["DuckDB"], strict=True))
    ratio = totals["T-SQL"][0] / totals["DuckDB"][0]
    memory = "most memory " + ", ".join(f"{name} {most[name] / 1e9:.1f} GB" for name in SIDES)
    cpu = totals["T-SQL"][1] / totals["DuckDB"][1]
    print(f"results {'agree' if agree else 'DIFFER'}; ratio {ratio:.2f} (aim {AIM}), of CPU time {cpu:.2f}; {memory}")
    return agree and ratio <= AIM
