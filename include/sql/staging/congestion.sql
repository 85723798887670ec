-- What the notebook airport_congestion counted for this run's schedule.
{%- from "macros/lake.jinja" import copy_parquet with context %}
IF OBJECT_ID('stg.congestion') IS NOT NULL DROP TABLE stg.congestion;
CREATE TABLE stg.congestion
(
    flight_id             bigint  NULL,
    flight_date           date    NULL,
    origin_departures_1h  int     NULL,
    origin_departures_3h  int     NULL,
    dest_arrivals_1h      int     NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_parquet("stg.congestion", "curated/congestion/" ~ night.partition ~ "/" ~ night.key) }}

-- A fresh table has no statistics, and the joins that follow are planned by them.
CREATE STATISTICS congestion_flight_id ON stg.congestion (flight_id);
