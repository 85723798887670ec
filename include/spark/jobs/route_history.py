"""How late flights arrived, by day, carrier and route: a Delta table in the lake that grows by a day a night.

The days from --from to --to are built from the SQL pool's table of flights, and so is what the table lacks of the
--history-days up to --to. They are replaced as a whole: a re-run changes nothing, and nobody ever sees half a day.

    route_history.py --flights azflow.ml.flight_features --table abfss://... --to 2013-03-08 --history-days 95
"""

from __future__ import annotations

import argparse
from datetime import date, timedelta

import com.microsoft.spark.sqlanalytics  # noqa: F401 - gives DataFrames synapsesql
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import AnalysisException

KEYS = ("flight_date", "carrier", "origin", "dest")


def arguments() -> argparse.Namespace:
    """What to build. Raises SystemExit on dates that are none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", required=True, help="<database>.<schema>.<table> of the SQL pool")
    parser.add_argument("--table", required=True, help="folder of the Delta table")
    parser.add_argument("--to", required=True, type=date.fromisoformat, help="the last day")
    parser.add_argument("--from", dest="begin", type=date.fromisoformat, help="the first day that must be built anew")
    parser.add_argument("--history-days", type=int, default=95, help="days up to --to that the table has to have")
    found = parser.parse_args()
    found.begin = found.begin or found.to
    if found.begin > found.to:
        parser.error(f"--from {found.begin} lies after --to {found.to}")
    return found


def known_days(spark: SparkSession, table: str) -> set[date]:
    """The days that the Delta table has; none if there is no table yet."""
    try:
        found = spark.read.format("delta").load(table)
    except AnalysisException:
        return set()
    return {row.flight_date for row in found.select("flight_date").distinct().collect()}


def history(flights: DataFrame) -> DataFrame:
    """A row a day, carrier and route: flights that arrived, and the minutes they were late together."""
    arrived = flights.where(F.col("arr_delay").isNotNull())
    return arrived.groupBy(*KEYS).agg(
        F.count(F.lit(1)).cast("int").alias("flights"), F.sum("arr_delay").cast("long").alias("minutes_late")
    )


def main() -> None:
    asked = arguments()
    spark = SparkSession.builder.appName("route_history").getOrCreate()
    earliest = asked.to - timedelta(days=asked.history_days - 1)
    flights = (
        spark.read.synapsesql(asked.flights)
        .where(F.col("flight_date").between(F.lit(min(earliest, asked.begin)), F.lit(asked.to)))
        .select(*KEYS, "arr_delay")
        .cache()
    )
    there = {row.flight_date for row in flights.select("flight_date").distinct().collect()}
    if asked.to not in there:
        raise SystemExit(f"{asked.flights} has no flights of {asked.to}")
    first = min({day for day in there - known_days(spark, asked.table)} | {asked.begin})
    built = history(flights.where(F.col("flight_date") >= F.lit(first)))
    (
        built.coalesce(1)
        .write.format("delta")
        .mode("overwrite")
        .option("replaceWhere", f"flight_date >= '{first}' AND flight_date <= '{asked.to}'")
        .partitionBy("flight_date")
        .save(asked.table)
    )
    print(f"{asked.table}: the days from {first} to {asked.to} replaced, {flights.count()} flights", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
