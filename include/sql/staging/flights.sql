-- Flights of the days to build: the files as they are, then typed, each with an id that a re-run gives it again.
{%- from "macros/lake.jinja" import copy_csv with context %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');

IF OBJECT_ID('stg.flights_landed') IS NOT NULL DROP TABLE stg.flights_landed;
CREATE TABLE stg.flights_landed
(
    [year]          int          NULL,
    [month]         int          NULL,
    [day]           int          NULL,
    dep_time        varchar(10)  NULL,  -- 'NA' where the flight didn't leave or arrive
    sched_dep_time  int          NULL,  -- hhmm at the origin
    dep_delay       varchar(10)  NULL,
    arr_time        varchar(10)  NULL,
    sched_arr_time  int          NULL,  -- hhmm at the destination
    arr_delay       varchar(10)  NULL,
    carrier         varchar(2)   NULL,
    flight          int          NULL,
    tailnum         varchar(10)  NULL,
    origin          char(3)      NULL,
    dest            char(3)      NULL,
    air_time        varchar(10)  NULL,
    distance        int          NULL,
    [hour]          int          NULL,
    [minute]        int          NULL,
    time_hour       varchar(20)  NULL   -- UTC, 2013-01-01T10:00:00Z: the key of the weather
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_csv("stg.flights_landed", "landing/flights/{day}/flights.csv", night.days) }}
GO

IF OBJECT_ID('stg.flights') IS NOT NULL DROP TABLE stg.flights;
CREATE TABLE stg.flights
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)
AS
SELECT
    -- yyyymmdd and the position in the day's schedule
    CAST([year] AS bigint) * 100000000 + [month] * 1000000 + [day] * 10000
        + ROW_NUMBER() OVER (
            PARTITION BY [year], [month], [day]
            ORDER BY sched_dep_time, carrier, flight, origin, dest
        ) AS flight_id,
    DATEFROMPARTS([year], [month], [day]) AS flight_date,
    carrier,
    flight,
    tailnum,
    origin,
    dest,
    sched_dep_time,
    sched_arr_time,
    distance,
    time_hour,
    TRY_CAST(dep_delay AS int) AS dep_delay,  -- minutes; NULL: cancelled
    TRY_CAST(arr_delay AS int) AS arr_delay   -- minutes; NULL: cancelled or diverted
FROM stg.flights_landed;

DROP TABLE stg.flights_landed;

-- A fresh table has no statistics, and the joins that follow are planned by them.
CREATE STATISTICS flights_flight_id ON stg.flights (flight_id);
CREATE STATISTICS flights_tailnum ON stg.flights (tailnum);
CREATE STATISTICS flights_time_hour ON stg.flights (time_hour);
CREATE STATISTICS flights_dest ON stg.flights (dest);
