"""The shipped T-SQL and the shipped notebook, end to end over TDS and the development endpoint.

Evidence: `sdk` (pymssql, azure-synapse-artifacts, azure-storage-blob, unmodified); the numbers are pandas' from the
same source files.
"""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from azure.storage.blob import ContainerClient
from azure.synapse.artifacts import ArtifactsClient
from azure.synapse.artifacts.models import NotebookResource
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import source_simulator
from azflow import tsql
from azflow.specs import Night

pymssql = pytest.importorskip("pymssql")

INCLUDE = Path(__file__).resolve().parents[2] / "include"
STAGES = (
    "staging/flights.sql",
    "staging/weather.sql",
    "staging/planes.sql",
    "staging/airports.sql",
)
TABLES = (
    *("ml.flight_features", "ml.flight_predictions", "ml.arrival_delay_predictions", "ml.hourly_departures"),
    *("ml.flight_rescores", "ml.flight_version_comparison"),
    "ml.hourly_departures_forecast",
)
# Two months, so that a switch has to leave the other one alone.
FIRST = Night.of("chain", f"first-{uuid.uuid4()}", date(2013, 2, 2), date(2013, 1, 25))
SECOND = Night.of("chain", f"second-{uuid.uuid4()}", date(2013, 2, 3))


class Chain:
    """Runs nights against one localazure."""

    def __init__(self, localazure: Any, connection: Any, lake: ContainerClient, artifacts: ArtifactsClient) -> None:
        self.pool = localazure["spark_pool"]
        self.database = localazure["sql_database"]
        self.connection = connection
        self.lake = lake
        self.artifacts = artifacts
        self.azure = {
            "lake_url": f"{localazure['storage_account_url']}/{localazure['container']}",
            "lake_abfss_url": f"abfss://{localazure['container']}@{localazure['storage_account']}.dfs.core.windows.net",
            "container": localazure["container"],
        }

    def sql(self, file: str, night: Night, **parameters: str) -> None:
        """Runs a file; a parameter `x` is its `@x`."""
        declared = "".join(f"DECLARE @{name} nvarchar(250) = N'{value}';\n" for name, value in parameters.items())
        loader = FileSystemLoader(INCLUDE / "sql")
        template = Environment(undefined=StrictUndefined, loader=loader).get_template(file)
        with self.connection.cursor() as cursor:
            for batch in tsql.batches(template.render(night=night, azure=self.azure)):
                cursor.execute(declared + batch.text)
                while cursor.nextset():
                    pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return [tuple(row) for row in cursor.fetchall()]

    def notebook(self, night: Night) -> dict[str, Any]:
        properties = json.loads((INCLUDE / "spark/notebooks/airport_congestion.ipynb").read_text())
        resource = NotebookResource.deserialize({"name": "chain-congestion", "properties": properties})
        self.artifacts.notebook.begin_create_or_update_notebook("chain-congestion", resource).result()
        tables = {"flights_table": "stg.flights", "congestion_table": "stg.congestion"}
        parameters = {name: f"{self.database}.{table}" for name, table in tables.items()}
        body = {
            "notebook": "chain-congestion",
            "sparkPool": self.pool,
            "parameters": {name: {"type": "string", "value": value} for name, value in parameters.items()},
        }
        run = str(uuid.uuid4())
        self.artifacts.run_notebook.begin_create_run(run, io.BytesIO(json.dumps(body).encode())).result()
        end = time.monotonic() + 120
        while (result := self.artifacts.run_notebook.get_status(run).result).run_status in ("Starting", "Running"):
            assert time.monotonic() < end
            time.sleep(0.2)
        assert result.error is None, (result.error.evalue, result.error.traceback)
        value: dict[str, Any] = json.loads(result.exit_value)
        return value

    def exported(self, night: Night, name: str, model: str = "flight_delay") -> pd.DataFrame:
        prefix = f"export/{model}/{night.partition}/{night.key}/{name}/"
        blobs = [blob.name for blob in self.lake.list_blobs(name_starts_with=prefix) if blob.name.endswith(".parquet")]
        assert blobs, f"nothing below {prefix}"
        return pd.concat([pd.read_parquet(io.BytesIO(self.lake.download_blob(name).readall())) for name in blobs])

    def prepare(self, night: Night) -> dict[str, Any]:
        for file in STAGES:
            self.sql(file, night)
        value = self.notebook(night)
        for file in ("features/flight_features.sql", "export/flight_delay.sql"):
            self.sql(file, night)
        return value

    def score(self, night: Night, version: str) -> None:
        """What the scoring job leaves in the lake."""
        scored = self.exported(night, "score")[["flight_id", "flight_date"]].assign(
            probability=0.25,
            late=pd.array([0] * len(self.exported(night, "score")), dtype="int8"),
        )
        self.leave(night, "flight_delay", scored, version, deployment="blue")

    def leave(self, night: Night, model: str, scored: pd.DataFrame, version: str, **more: str) -> None:
        """Scored rows in the lake, their columns in the table's order: COPY goes by it."""
        scored = scored.assign(
            model_name=model,
            model_version=version,
            run_id="run",
            **more,
            scored_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
        )
        buffer = io.BytesIO()
        scored.to_parquet(buffer, index=False, coerce_timestamps="us")
        where = f"scored/{model}/{night.partition}/{night.key}/predictions.parquet"
        self.lake.upload_blob(where, buffer.getvalue(), overwrite=True)


@pytest.fixture(scope="module")
def chain(localazure: Any) -> Iterator[Chain]:
    host, _, port = localazure["sql_server"].partition(",")
    connection = pymssql.connect(
        server=host,
        port=port,
        user=localazure["sql_login"],
        password=localazure["sql_password"],
        database=localazure["sql_database"],
        autocommit=True,
    )
    lake = source_simulator.container_client(dict(localazure))
    artifacts = ArtifactsClient(localazure.credential(), localazure["synapse_endpoint"])
    source_simulator.land([date.fromisoformat(day) for day in FIRST.days + SECOND.days], lake)
    with connection, artifacts:
        with connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f"SELECT OBJECT_ID('{table}')")
                if cursor.fetchone()[0] is None:
                    continue
                if os.environ.get("AZFLOW_LOCALAZURE_CONNECTION"):
                    pytest.skip(f"{table} is there already, and this localazure isn't the tests' own to drop it")
                cursor.execute(f"DROP TABLE {table}")
        yield Chain(localazure, connection, lake, artifacts)


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    lines = source_simulator.table("flights")
    frame = pd.read_csv(io.BytesIO(b"".join(lines)))
    frame["flight_date"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.date
    return frame[frame["flight_date"].between(date(2013, 1, 25), date(2013, 2, 3))]


def test_the_first_night_builds_features_and_exports(chain: Chain, source: pd.DataFrame) -> None:
    night = source[source["flight_date"] <= FIRST.partition]
    value = chain.prepare(FIRST)
    assert value["rows"] == len(night)
    assert value["airports"] == len(set(night["origin"]) | set(night["dest"]))
    late = int((night["arr_delay"] > 15).sum())
    arrived = int(night["arr_delay"].notna().sum())
    counted = chain.rows(
        "SELECT COUNT(*), COUNT(DISTINCT flight_id), SUM(CAST(late AS int)), COUNT(late), COUNT(origin_departures_1h),"
        " COUNT(DISTINCT flight_date), MIN([weekday]), MAX([weekday]) FROM ml.flight_features"
    )
    assert counted == [(len(night), len(night), late, arrived, len(night), 9, 1, 7)]
    friday = chain.rows("SELECT DISTINCT [weekday], [month] FROM ml.flight_features WHERE flight_date = '2013-01-25'")
    assert friday == [(5, 1)]

    train, holdout, score = (chain.exported(FIRST, name) for name in ("train", "holdout", "score"))
    days = {name: sorted({str(day)[:10] for day in frame["flight_date"]}) for name, frame in
            (("train", train), ("holdout", holdout), ("score", score))}  # fmt: skip
    assert days["train"] == ["2013-01-25", "2013-01-26"]
    assert days["holdout"] == FIRST.days[2:]
    assert days["score"] == ["2013-02-02"]
    assert len(train) + len(holdout) == arrived
    assert len(score) == int((night["flight_date"] == FIRST.partition).sum())
    assert "late" not in score.columns
    assert list(train.columns) == [*score.columns, "late"]
    for column in ("temp", "humid", "visib", "distance", "sched_dep_hour"):
        assert train[column].notna().mean() > 0.95, column
    for column in ("seats", "plane_age"):
        assert train[column].notna().mean() > 0.7, column


def test_features_agree_with_the_source(chain: Chain, source: pd.DataFrame) -> None:
    frame = chain.exported(FIRST, "holdout")
    merged = frame.assign(
        flight_date=pd.to_datetime(frame["flight_date"]).dt.date, origin=frame["origin"].str.strip()
    ).merge(source, on=["flight_date", "carrier", "flight", "origin"], suffixes=("", "_source"))
    same = merged[merged["sched_dep_time"] == merged["sched_dep_hour"] * 100 + merged["sched_dep_minute"]]
    assert len(same) == len(frame)
    assert (same["late"].astype(bool) == (same["arr_delay"] > 15)).all()
    assert (same["distance"] == same["distance_source"]).all()
    assert (same["sched_arr_hour"] == same["sched_arr_time"] // 100).all()
    # One flight's congestion, counted by hand.
    one = same.iloc[len(same) // 2]
    day = source[(source["flight_date"] == one["flight_date"]) & (source["origin"] == one["origin"])]
    minutes = day["sched_dep_time"] // 100 * 60 + day["sched_dep_time"] % 100
    own = one["sched_dep_hour"] * 60 + one["sched_dep_minute"]
    assert one["origin_departures_1h"] == int(((minutes >= own - 60) & (minutes < own)).sum())
    assert one["origin_departures_3h"] == int(((minutes >= own - 180) & (minutes < own)).sum())


def test_a_rerun_changes_nothing(chain: Chain) -> None:
    fingerprint = (
        "SELECT COUNT(*), SUM(flight_id % 1000003), SUM(origin_departures_3h), COUNT(late) FROM ml.flight_features"
    )
    before = chain.rows(fingerprint)
    chain.sql("features/flight_features.sql", FIRST)
    assert chain.rows(fingerprint) == before


def test_the_second_night_replaces_its_day_only(chain: Chain, source: pd.DataFrame) -> None:
    before = chain.rows(
        "SELECT COUNT(*), SUM(flight_id % 1000003) FROM ml.flight_features WHERE flight_date < '2013-02-03'"
    )
    value = chain.prepare(SECOND)
    assert value["rows"] == int((source["flight_date"] == SECOND.partition).sum())
    assert before == chain.rows(
        "SELECT COUNT(*), SUM(flight_id % 1000003) FROM ml.flight_features WHERE flight_date < '2013-02-03'"
    )
    assert chain.rows("SELECT COUNT(*) FROM ml.flight_features") == [(len(source),)]


def test_predictions_are_written_once_and_joined_with_outcomes(chain: Chain, source: pd.DataFrame) -> None:
    scored = {night: int((source["flight_date"] == night.partition).sum()) for night in (FIRST, SECOND)}
    for night, version in ((FIRST, "1"), (SECOND, "1"), (FIRST, "2"), (FIRST, "2")):
        chain.score(night, version)
        chain.sql("writeback/flight_predictions.sql", night)
    counts = (
        "SELECT flight_date, model_version, COUNT(*) FROM ml.flight_predictions GROUP BY flight_date, model_version"
    )
    assert sorted((str(day), version, count) for day, version, count in chain.rows(counts)) == [
        ("2013-02-02", "2", scored[FIRST]),
        ("2013-02-03", "1", scored[SECOND]),
    ]
    view = "SELECT COUNT(*), COUNT(carrier), COUNT(arrived_late) FROM reporting.v_flight_predictions"
    arrived = int(source[source["flight_date"] >= FIRST.partition]["arr_delay"].notna().sum())
    assert chain.rows(view) == [(sum(scored.values()), sum(scored.values()), arrived)]
    # The daily figures are those of the rows, by another way than ranks in SQL.
    rows = chain.rows(
        "SELECT flight_date, model_version, probability, arrived_late FROM reporting.v_flight_predictions "
        "WHERE arrived_late IS NOT NULL"
    )
    frame = pd.DataFrame(rows, columns=["flight_date", "model_version", "probability", "late"])
    daily = {
        (str(day), version): figures
        for day, version, *figures in chain.rows(
            "SELECT flight_date, model_version, labelled, roc_auc, brier_score "
            "FROM reporting.v_flight_performance_daily"
        )
    }
    assert len(daily) == len(scored)
    for (day, version), group in frame.groupby(["flight_date", "model_version"]):
        late, early = (group.loc[group["late"] == truth, "probability"].to_numpy() for truth in (True, False))
        auc = ((late[:, None] > early).mean() + (late[:, None] >= early).mean()) / 2
        brier = ((group["probability"] - group["late"].astype(float)) ** 2).mean()
        assert daily[str(day), version] == [len(group), pytest.approx(auc), pytest.approx(brier)]


def test_a_range_over_two_months_is_scored_again_and_the_rest_stays(chain: Chain, source: pd.DataFrame) -> None:
    again = Night.of("chain", f"again-{uuid.uuid4()}", FIRST.partition, date(2013, 1, 30))
    chain.sql("export/flight_delay_range.sql", again)
    days = source[source["flight_date"].between(date(2013, 1, 30), again.partition)]
    score, holdout = (chain.exported(again, name) for name in ("score", "holdout"))
    assert len(score) == len(holdout) == len(days)
    assert list(holdout.columns) == [*score.columns, "late"]
    # Flights that never arrived have no outcome; they are scored all the same.
    assert int(holdout["late"].isna().sum()) == int(days["arr_delay"].isna().sum()) > 0
    for _ in range(2):
        chain.score(again, "7")
        chain.sql("writeback/flight_predictions.sql", again)
    found = chain.rows(
        "SELECT flight_date, model_version, COUNT(*) FROM ml.flight_predictions GROUP BY flight_date, model_version"
    )
    counts = days.groupby("flight_date").size()
    assert {str(day): (version, count) for day, version, count in found} == {
        **{str(day): ("7", count) for day, count in counts.items()},
        "2013-02-03": ("1", int((source["flight_date"] == SECOND.partition).sum())),
    }


def test_two_versions_of_a_range_are_kept_and_compared(chain: Chain) -> None:
    again = Night.of("chain", f"versions-{uuid.uuid4()}", FIRST.partition, date(2013, 1, 31))
    chain.sql("export/flight_delay_range.sql", again)
    flights = chain.exported(again, "holdout").reset_index(drop=True)
    random = np.random.default_rng(3)
    said = {version: random.random(len(flights)).round(2) for version in ("7", "8")}
    for version, folder in (("7", again.key), ("8", f"{again.key}-against")):
        late = (said[version] >= 0.5).astype("int8")
        scored = flights[["flight_id", "flight_date"]].assign(probability=said[version], late=late)
        chain.leave(replace(again, key=folder), "flight_delay", scored, version, deployment="batch")
    for _ in range(2):
        chain.sql("rescoring/flight_versions.sql", again, version="7", against="8", run_id="run")
    assert chain.rows("SELECT model_version, COUNT(*) FROM ml.flight_rescores GROUP BY model_version") in (
        [("7", len(flights)), ("8", len(flights))],
        [("8", len(flights)), ("7", len(flights))],
    )
    found = chain.rows(
        "SELECT flight_date, flights, agreement, mean_absolute_difference, labelled, roc_auc, against_roc_auc "
        "FROM ml.flight_version_comparison"
    )
    days = sorted(set(flights["flight_date"]))
    assert sorted(str(day) for day, *_ in found) == sorted(["None", *map(str, days)])
    for day, count, agreement, difference, labelled, *aucs in found:
        own = np.ones(len(flights), dtype=bool) if day is None else (flights["flight_date"] == day).to_numpy()
        first, second = said["7"][own], said["8"][own]
        outcome = flights["late"][own]
        known = outcome.notna().to_numpy()
        truth = outcome[known].astype(bool).to_numpy()
        assert (count, labelled) == (own.sum(), known.sum())
        assert agreement == pytest.approx(((first >= 0.5) == (second >= 0.5)).mean())
        assert difference == pytest.approx(np.abs(first - second).mean())
        for auc, scores in zip(aucs, (first[known], second[known]), strict=True):
            late, early = scores[truth][:, None], scores[~truth]
            assert auc == pytest.approx(((late > early).mean() + (late >= early).mean()) / 2)


def test_predictions_of_another_day_are_refused_and_nothing_changes(chain: Chain) -> None:
    before = chain.rows("SELECT COUNT(*), MAX(model_version) FROM ml.flight_predictions")
    wrong = Night.of("chain", "wrong", date(2013, 2, 2))
    chain.lake.upload_blob(
        f"scored/flight_delay/{wrong.partition}/{wrong.key}/predictions.parquet",
        chain.lake.download_blob(f"scored/flight_delay/{SECOND.partition}/{SECOND.key}/predictions.parquet").readall(),
        overwrite=True,
    )
    with pytest.raises(pymssql.Error, match="predictions of other days"):
        chain.sql("writeback/flight_predictions.sql", wrong)
    assert chain.rows("SELECT COUNT(*), MAX(model_version) FROM ml.flight_predictions") == before


# the models that build on the features


def test_minutes_of_delay_are_exported_and_written_back(chain: Chain, source: pd.DataFrame) -> None:
    # What the serverless pool makes of Spark's Delta table (test_azflow_spark.py): of one route, here.
    flights = source[source["flight_date"] == SECOND.partition]
    route = flights.iloc[0][["flight_date", "carrier", "origin", "dest"]]
    delays = pd.DataFrame([route]).assign(route_flights_28d=pd.array([9], dtype="int32"), route_delay_28d=1.5)
    folder = f"curated/route_delays/{SECOND.partition}/{SECOND.key}"
    chain.lake.upload_blob(f"{folder}/part-0.parquet", delays.to_parquet(index=False), overwrite=True)
    chain.sql("staging/route_delays.sql", SECOND)
    chain.sql("export/arrival_delay.sql", SECOND)
    holdout, score = (chain.exported(SECOND, name, "arrival_delay") for name in ("holdout", "score"))
    flown = flights[(flights[["carrier", "origin", "dest"]] == route[["carrier", "origin", "dest"]]).all(axis=1)]
    known = score.dropna(subset=["route_delay_28d"])
    assert len(score) == len(flights) and len(known) == len(flown) > 0
    assert set(known["route_delay_28d"]) == {1.5} and set(known["origin"]) == {route["origin"]}
    arrived = source[source["flight_date"] >= date(2013, 1, 28)]["arr_delay"].dropna()
    assert (len(holdout), int(holdout["arr_delay"].sum())) == (len(arrived), int(arrived.sum()))
    assert not {"late", "arr_delay", "dep_delay"} & set(score.columns), "outcomes aren't known before departure"
    for version in ("1", "2"):
        scored = score[["flight_id", "flight_date"]].assign(predicted_delay=-3.5)
        chain.leave(SECOND, "arrival_delay", scored, version)
        chain.sql("writeback/arrival_delay_predictions.sql", SECOND)
    counted = "SELECT model_version, COUNT(*), COUNT(arr_delay), MIN(predicted_delay)"
    assert chain.rows(f"{counted} FROM reporting.v_arrival_delay_predictions GROUP BY model_version") == [
        ("2", len(flights), int(flights["arr_delay"].notna().sum()), -3.5)
    ]


def test_departures_are_counted_in_the_hour_in_which_they_happened(chain: Chain, source: pd.DataFrame) -> None:
    for _ in range(2):
        chain.sql("features/hourly_departures.sql", SECOND)
    left = source.dropna(subset=["dep_delay"])
    minutes = left["sched_dep_time"] // 100 * 60 + left["sched_dep_time"] % 100 + left["dep_delay"]
    at = pd.to_datetime(left["flight_date"]) + pd.to_timedelta(minutes, unit="m")
    expected = left.groupby([left["origin"], at.dt.floor("h")]).size()
    expected = expected[expected.index.get_level_values(1) < "2013-02-04"]
    found = chain.rows("SELECT origin, hour_start, departures FROM ml.hourly_departures")
    assert len(found) == 10 * 24 * 3
    counted = {(origin, pd.Timestamp(hour)): count for origin, hour, count in found if count}
    assert counted == expected.to_dict()


def test_a_forecast_starts_from_what_was_and_is_written_once(chain: Chain) -> None:
    chain.sql("export/hourly_departures.sql", SECOND)
    holdout, score = (chain.exported(SECOND, name, "hourly_departures") for name in ("holdout", "score"))
    assert sorted({str(hour)[:10] for hour in holdout["hour_start"]}) == [
        *(f"2013-01-{day}" for day in (28, 29, 30, 31)),
        *(f"2013-02-0{day}" for day in (1, 2, 3)),
    ]
    tomorrow = score[score["departures"].isna()]
    assert len(tomorrow) == 72 and {str(hour)[:10] for hour in tomorrow["hour_start"]} == {"2013-02-04"}
    for version in ("1", "2"):
        forecast = tomorrow[["hour_start", "origin"]].assign(departures=4.5, low=1.0, high=9.0)
        chain.leave(SECOND, "hourly_departures", forecast, version)
        chain.sql("writeback/hourly_departures_forecast.sql", SECOND)
    view = "SELECT model_version, COUNT(*), COUNT(departures), SUM(forecast) FROM reporting.v_hourly_departures"
    assert chain.rows(f"{view} GROUP BY model_version") == [("2", 72, 0, 324.0)]
