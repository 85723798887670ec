"""TPC-H's 22 queries in T-SQL on the SQL pool's engine, beside the same on DuckDB alone: results, and CPU time.

    var/env/localazure/bin/python benchmarks/sql.py --data FOLDER [--queries 1,6] [--rounds 3] [--star FOLDER]

FOLDER has the eight tables as Parquet (lineitem.parquet, ...), as `tpchgen-cli parquet -s 1 --output-dir FOLDER`
(from PyPI) makes them. Nothing goes over the network: what is measured is the T-SQL compiler and what
it costs DuckDB (comparisons without case and trailing blanks, exact decimals). CPU time is that of all threads, the
least of the rounds; results are compared row by row, numbers to six digits. --star adds the load of a star schema
(benchmarks/sql_star.py). The exit code is 1 if a result differs or a ratio is above its aim.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "emulator/src"))

from localazure.settings import Settings  # noqa: E402 - from the checkout
from localazure.sql.pool import Pool  # noqa: E402
from localazure.sql.results import ResultSet  # noqa: E402
from sql_star import star  # noqa: E402 - beside this file

AIM = 1.4
# The types of TPC-H, 1.4.1, with the distribution a Synapse star schema would have.
TABLES = {
    "region": "r_regionkey int NOT NULL, r_name char(25) NOT NULL, r_comment varchar(152)",
    "nation": "n_nationkey int NOT NULL, n_name char(25) NOT NULL, n_regionkey int NOT NULL, n_comment varchar(152)",
    "supplier": "s_suppkey bigint NOT NULL, s_name char(25) NOT NULL, s_address varchar(40) NOT NULL, "
    "s_nationkey int NOT NULL, s_phone char(15) NOT NULL, s_acctbal decimal(15,2) NOT NULL, s_comment varchar(101)",
    "customer": "c_custkey bigint NOT NULL, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL, "
    "c_nationkey int NOT NULL, c_phone char(15) NOT NULL, c_acctbal decimal(15,2) NOT NULL, "
    "c_mktsegment char(10) NOT NULL, c_comment varchar(117)",
    "part": "p_partkey bigint NOT NULL, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL, "
    "p_brand char(10) NOT NULL, p_type varchar(25) NOT NULL, p_size int NOT NULL, p_container char(10) NOT NULL, "
    "p_retailprice decimal(15,2) NOT NULL, p_comment varchar(23)",
    "partsupp": "ps_partkey bigint NOT NULL, ps_suppkey bigint NOT NULL, ps_availqty int NOT NULL, "
    "ps_supplycost decimal(15,2) NOT NULL, ps_comment varchar(199)",
    "orders": "o_orderkey bigint NOT NULL, o_custkey bigint NOT NULL, o_orderstatus char(1) NOT NULL, "
    "o_totalprice decimal(15,2) NOT NULL, o_orderdate date NOT NULL, o_orderpriority char(15) NOT NULL, "
    "o_clerk char(15) NOT NULL, o_shippriority int NOT NULL, o_comment varchar(79)",
    "lineitem": "l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, "
    "l_linenumber int NOT NULL, l_quantity decimal(15,2) NOT NULL, l_extendedprice decimal(15,2) NOT NULL, "
    "l_discount decimal(15,2) NOT NULL, l_tax decimal(15,2) NOT NULL, l_returnflag char(1) NOT NULL, "
    "l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL, "
    "l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, l_comment varchar(44)",
}
# TPC-H 2.4 with its validation parameters. {top} and {limit} are the two dialects' words for the first rows; the rest
# is the same text for both.
QUERIES: dict[int, tuple[str, int]] = {
    1: ("""SELECT l_returnflag, l_linestatus, SUM(l_quantity) AS sum_qty, SUM(l_extendedprice) AS sum_base_price,
        SUM(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
        SUM(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge, AVG(l_quantity) AS avg_qty,
        AVG(l_extendedprice) AS avg_price, AVG(l_discount) AS avg_disc, COUNT(*) AS count_order
        FROM lineitem WHERE l_shipdate <= CAST('1998-09-02' AS date)
        GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus""", 0),
    2: ("""SELECT {top} s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
        FROM part, supplier, partsupp, nation, region
        WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND p_size = 15 AND p_type LIKE '%BRASS'
        AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'EUROPE'
        AND ps_supplycost = (SELECT MIN(ps_supplycost) FROM partsupp, supplier, nation, region
            WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND s_nationkey = n_nationkey
            AND n_regionkey = r_regionkey AND r_name = 'EUROPE')
        ORDER BY s_acctbal DESC, n_name, s_name, p_partkey {limit}""", 100),
    3: ("""SELECT {top} l_orderkey, SUM(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority
        FROM customer, orders, lineitem
        WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey
        AND o_orderdate < CAST('1995-03-15' AS date) AND l_shipdate > CAST('1995-03-15' AS date)
        GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate {limit}""", 10),
    4: ("""SELECT o_orderpriority, COUNT(*) AS order_count FROM orders
        WHERE o_orderdate >= CAST('1993-07-01' AS date) AND o_orderdate < CAST('1993-10-01' AS date)
        AND EXISTS (SELECT * FROM lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate)
        GROUP BY o_orderpriority ORDER BY o_orderpriority""", 0),
    5: ("""SELECT n_name, SUM(l_extendedprice * (1 - l_discount)) AS revenue
        FROM customer, orders, lineitem, supplier, nation, region
        WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey
        AND c_nationkey = s_nationkey AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'ASIA'
        AND o_orderdate >= CAST('1994-01-01' AS date) AND o_orderdate < CAST('1995-01-01' AS date)
        GROUP BY n_name ORDER BY revenue DESC""", 0),
    6: ("""SELECT SUM(l_extendedprice * l_discount) AS revenue FROM lineitem
        WHERE l_shipdate >= CAST('1994-01-01' AS date) AND l_shipdate < CAST('1995-01-01' AS date)
        AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24""", 0),
    7: ("""SELECT supp_nation, cust_nation, l_year, SUM(volume) AS revenue FROM (
        SELECT n1.n_name AS supp_nation, n2.n_name AS cust_nation, YEAR(l_shipdate) AS l_year,
        l_extendedprice * (1 - l_discount) AS volume
        FROM supplier, lineitem, orders, customer, nation n1, nation n2
        WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey
        AND s_nationkey = n1.n_nationkey AND c_nationkey = n2.n_nationkey
        AND ((n1.n_name = 'FRANCE' AND n2.n_name = 'GERMANY') OR (n1.n_name = 'GERMANY' AND n2.n_name = 'FRANCE'))
        AND l_shipdate BETWEEN CAST('1995-01-01' AS date) AND CAST('1996-12-31' AS date)) AS shipping
        GROUP BY supp_nation, cust_nation, l_year ORDER BY supp_nation, cust_nation, l_year""", 0),
    8: ("""SELECT o_year, SUM(CASE WHEN nation = 'BRAZIL' THEN volume ELSE 0 END) / SUM(volume) AS mkt_share FROM (
        SELECT YEAR(o_orderdate) AS o_year, l_extendedprice * (1 - l_discount) AS volume, n2.n_name AS nation
        FROM part, supplier, lineitem, orders, customer, nation n1, nation n2, region
        WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey AND o_custkey = c_custkey
        AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey AND r_name = 'AMERICA'
        AND s_nationkey = n2.n_nationkey AND o_orderdate BETWEEN CAST('1995-01-01' AS date) AND
        CAST('1996-12-31' AS date) AND p_type = 'ECONOMY ANODIZED STEEL') AS all_nations
        GROUP BY o_year ORDER BY o_year""", 0),
    9: ("""SELECT nation, o_year, SUM(amount) AS sum_profit FROM (
        SELECT n_name AS nation, YEAR(o_orderdate) AS o_year,
        l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount
        FROM part, supplier, lineitem, partsupp, orders, nation
        WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey AND p_partkey = l_partkey
        AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey AND p_name LIKE '%green%') AS profit
        GROUP BY nation, o_year ORDER BY nation, o_year DESC""", 0),
    10: ("""SELECT {top} c_custkey, c_name, SUM(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name,
        c_address, c_phone, c_comment FROM customer, orders, lineitem, nation
        WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate >= CAST('1993-10-01' AS date)
        AND o_orderdate < CAST('1994-01-01' AS date) AND l_returnflag = 'R' AND c_nationkey = n_nationkey
        GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment
        ORDER BY revenue DESC, c_custkey {limit}""", 20),
    11: ("""SELECT ps_partkey, SUM(ps_supplycost * ps_availqty) AS value FROM partsupp, supplier, nation
        WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY' GROUP BY ps_partkey
        HAVING SUM(ps_supplycost * ps_availqty) > (SELECT SUM(ps_supplycost * ps_availqty) * 0.0001
            FROM partsupp, supplier, nation
            WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY')
        ORDER BY value DESC, ps_partkey""", 0),
    12: ("""SELECT l_shipmode,
        SUM(CASE WHEN o_orderpriority = '1-URGENT' OR o_orderpriority = '2-HIGH' THEN 1 ELSE 0 END) AS high_line_count,
        SUM(CASE WHEN o_orderpriority <> '1-URGENT' AND o_orderpriority <> '2-HIGH' THEN 1 ELSE 0 END) AS low_line_count
        FROM orders, lineitem WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP')
        AND l_commitdate < l_receiptdate AND l_shipdate < l_commitdate AND l_receiptdate >= CAST('1994-01-01' AS date)
        AND l_receiptdate < CAST('1995-01-01' AS date) GROUP BY l_shipmode ORDER BY l_shipmode""", 0),
    13: ("""SELECT c_count, COUNT(*) AS custdist FROM (
        SELECT c_custkey, COUNT(o_orderkey) AS c_count FROM customer LEFT OUTER JOIN orders
        ON c_custkey = o_custkey AND o_comment NOT LIKE '%special%requests%' GROUP BY c_custkey) AS c_orders
        GROUP BY c_count ORDER BY custdist DESC, c_count DESC""", 0),
    14: ("""SELECT 100.00 * SUM(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
        / SUM(l_extendedprice * (1 - l_discount)) AS promo_revenue FROM lineitem, part
        WHERE l_partkey = p_partkey AND l_shipdate >= CAST('1995-09-01' AS date)
        AND l_shipdate < CAST('1995-10-01' AS date)""", 0),
    15: ("""WITH revenue AS (SELECT l_suppkey AS supplier_no, SUM(l_extendedprice * (1 - l_discount)) AS total_revenue
        FROM lineitem WHERE l_shipdate >= CAST('1996-01-01' AS date) AND l_shipdate < CAST('1996-04-01' AS date)
        GROUP BY l_suppkey)
        SELECT s_suppkey, s_name, s_address, s_phone, total_revenue FROM supplier, revenue
        WHERE s_suppkey = supplier_no AND total_revenue = (SELECT MAX(total_revenue) FROM revenue)
        ORDER BY s_suppkey""", 0),
    16: ("""SELECT p_brand, p_type, p_size, COUNT(DISTINCT ps_suppkey) AS supplier_cnt FROM partsupp, part
        WHERE p_partkey = ps_partkey AND p_brand <> 'Brand#45' AND p_type NOT LIKE 'MEDIUM POLISHED%'
        AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9)
        AND ps_suppkey NOT IN (SELECT s_suppkey FROM supplier WHERE s_comment LIKE '%Customer%Complaints%')
        GROUP BY p_brand, p_type, p_size ORDER BY supplier_cnt DESC, p_brand, p_type, p_size""", 0),
    17: ("""SELECT SUM(l_extendedprice) / 7.0 AS avg_yearly FROM lineitem, part
        WHERE p_partkey = l_partkey AND p_brand = 'Brand#23' AND p_container = 'MED BOX'
        AND l_quantity < (SELECT 0.2 * AVG(l_quantity) FROM lineitem WHERE l_partkey = p_partkey)""", 0),
    18: ("""SELECT {top} c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, SUM(l_quantity) AS quantity
        FROM customer, orders, lineitem
        WHERE o_orderkey IN (SELECT l_orderkey FROM lineitem GROUP BY l_orderkey HAVING SUM(l_quantity) > 300)
        AND c_custkey = o_custkey AND o_orderkey = l_orderkey
        GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice
        ORDER BY o_totalprice DESC, o_orderdate {limit}""", 100),
    19: ("""SELECT SUM(l_extendedprice * (1 - l_discount)) AS revenue FROM lineitem, part WHERE
        (p_partkey = l_partkey AND p_brand = 'Brand#12' AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG')
        AND l_quantity >= 1 AND l_quantity <= 11 AND p_size BETWEEN 1 AND 5
        AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON')
        OR (p_partkey = l_partkey AND p_brand = 'Brand#23'
        AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK')
        AND l_quantity >= 10 AND l_quantity <= 20 AND p_size BETWEEN 1 AND 10
        AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON')
        OR (p_partkey = l_partkey AND p_brand = 'Brand#34' AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG')
        AND l_quantity >= 20 AND l_quantity <= 30 AND p_size BETWEEN 1 AND 15
        AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON')""", 0),
    20: ("""SELECT s_name, s_address FROM supplier, nation
        WHERE s_suppkey IN (SELECT ps_suppkey FROM partsupp
            WHERE ps_partkey IN (SELECT p_partkey FROM part WHERE p_name LIKE 'forest%')
            AND ps_availqty > (SELECT 0.5 * SUM(l_quantity) FROM lineitem
                WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey AND l_shipdate >= CAST('1994-01-01' AS date)
                AND l_shipdate < CAST('1995-01-01' AS date)))
        AND s_nationkey = n_nationkey AND n_name = 'CANADA' ORDER BY s_name""", 0),
    21: ("""SELECT {top} s_name, COUNT(*) AS numwait FROM supplier, lineitem l1, orders, nation
        WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F'
        AND l1.l_receiptdate > l1.l_commitdate
        AND EXISTS (SELECT * FROM lineitem l2 WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey)
        AND NOT EXISTS (SELECT * FROM lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey
            AND l3.l_suppkey <> l1.l_suppkey AND l3.l_receiptdate > l3.l_commitdate)
        AND s_nationkey = n_nationkey AND n_name = 'SAUDI ARABIA'
        GROUP BY s_name ORDER BY numwait DESC, s_name {limit}""", 100),
    22: ("""SELECT cntrycode, COUNT(*) AS numcust, SUM(c_acctbal) AS totacctbal FROM (
        SELECT SUBSTRING(c_phone, 1, 2) AS cntrycode, c_acctbal FROM customer
        WHERE SUBSTRING(c_phone, 1, 2) IN ('13', '31', '23', '29', '30', '18', '17')
        AND c_acctbal > (SELECT AVG(c_acctbal) FROM customer WHERE c_acctbal > 0.00
            AND SUBSTRING(c_phone, 1, 2) IN ('13', '31', '23', '29', '30', '18', '17'))
        AND NOT EXISTS (SELECT * FROM orders WHERE o_custkey = c_custkey)) AS custsale
        GROUP BY cntrycode ORDER BY cntrycode""", 0),
}  # fmt: skip


def text_of(number: int, tsql: bool) -> str:
    """A query in one of the two dialects."""
    text, first = QUERIES[number]
    return text.format(
        top=f"TOP {first}" if tsql and first else "", limit=f"LIMIT {first}" if first and not tsql else ""
    )


def measured(run: Callable[[], Any], rounds: int) -> tuple[Any, float, float]:
    """(the result, least CPU seconds of all threads, least seconds)."""
    least, wall, result = float("inf"), float("inf"), None
    for _ in range(rounds):
        cpu, clock = time.process_time(), time.perf_counter()
        result = run()
        least, wall = min(least, time.process_time() - cpu), min(wall, time.perf_counter() - clock)
    return result, least, wall


def same(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> bool:
    """Row by row; numbers to six digits, since T-SQL cuts averages and quotients to a scale of its own."""
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            if isinstance(a, int | float | Decimal) and isinstance(b, int | float | Decimal):
                if abs(float(a) - float(b)) > 1e-6 * max(1.0, abs(float(b))):
                    return False
            elif (a.rstrip() if isinstance(a, str) else a) != (b.rstrip() if isinstance(b, str) else b):
                return False
    return True


def queries(data: Path, numbers: list[int], rounds: int) -> bool:
    """Load, run and compare TPC-H's queries, and print them; whether all are right and the ratio is at the aim."""
    with tempfile.TemporaryDirectory(prefix="tpch-") as folder:
        plain = duckdb.connect(str(Path(folder) / "plain.duckdb"))
        pool = Pool(Settings.load(Path(folder) / "home", sql_database="tpch"), None)
        session = pool.session("benchmark")
        for name, columns in TABLES.items():
            file = data / f"{name}.parquet"
            plain.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{file}')")
            list(session.execute(f"CREATE TABLE dbo.{name} ({columns}) WITH (HEAP)"))
            rows = pyarrow.parquet.read_table(file)
            session.bulk_load(f"dbo.{name}", rows.column_names, rows)
        print(f"{os.cpu_count()} cores; the tables are loaded", file=sys.stderr)

        def tsql(number: int) -> list[tuple[Any, ...]]:
            text = text_of(number, True)
            found = next(r for r in session.execute(text) if isinstance(r, ResultSet))
            return list(zip(*[column.to_pylist() for column in found.table.columns], strict=True))

        def native(number: int) -> list[tuple[Any, ...]]:
            found = plain.sql(text_of(number, False)).to_arrow_table()
            return list(zip(*[column.to_pylist() for column in found.columns], strict=True))

        wrong, totals = [], [0.0, 0.0, 0.0, 0.0]
        print("query   T-SQL CPU s   DuckDB CPU s   ratio   T-SQL s   DuckDB s   rows")
        for number in numbers:
            ours, cpu, wall = measured(lambda number=number: tsql(number), rounds)  # type: ignore[misc]
            theirs, plain_cpu, plain_wall = measured(lambda number=number: native(number), rounds)  # type: ignore[misc]
            if not same(ours, theirs):
                wrong.append(number)
            for index, value in enumerate((cpu, plain_cpu, wall, plain_wall)):
                totals[index] += value
            mark = "" if number not in wrong else "  DIFFERS"
            figures = f"{cpu:13.3f} {plain_cpu:14.3f} {cpu / plain_cpu:7.2f} {wall:9.3f} {plain_wall:10.3f}"
            print(f"{number:5} {figures} {len(ours):6}{mark}")
        ratio = totals[0] / totals[1]
        print(f"  all {totals[0]:13.3f} {totals[1]:14.3f} {ratio:7.2f} {totals[2]:9.3f} {totals[3]:10.3f}")
        print(f"{len(numbers) - len(wrong)} of {len(numbers)} right; CPU ratio {ratio:.2f} (aim {AIM})")
        session.close()
        pool.close()
    return not wrong and ratio <= AIM


def main() -> int:
    """The two measurements, those that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder of the eight Parquet files: TPC-H's queries")
    parser.add_argument("--queries", default="", help="numbers, separated by commas; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--star", type=Path, help="folder of Parquet files: the load of a star schema")
    options = parser.parse_args()
    if not (options.data or options.star):
        parser.error("--data or --star is needed")
    met = []
    if options.data:
        numbers = [int(text) for text in options.queries.split(",") if text] or list(QUERIES)
        met.append(queries(options.data, numbers, options.rounds))
    if options.star:
        met.append(star(options.star, TABLES, options.rounds, same))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
