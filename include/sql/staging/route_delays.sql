-- What the serverless pool counted for this run: stg.route_delays.
{%- from "macros/lake.jinja" import copy_parquet with context %}
IF OBJECT_ID('stg.route_delays') IS NOT NULL DROP TABLE stg.route_delays;
CREATE TABLE stg.route_delays
(
    flight_date        date        NULL,
    carrier            varchar(2)  NULL,
    origin             char(3)     NULL,
    dest               char(3)     NULL,
    route_flights_28d  int         NULL,
    route_delay_28d    float       NULL  -- minutes; negative: early
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_parquet("stg.route_delays", "curated/route_delays/" ~ night.partition ~ "/" ~ night.key) }}

-- A fresh table has no statistics, and the joins that follow are planned by them.
CREATE STATISTICS route_delays_flight_date ON stg.route_delays (flight_date);
