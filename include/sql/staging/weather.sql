-- Hourly weather at the three origins, for the days to build.
{%- from "macros/lake.jinja" import copy_csv with context %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');

IF OBJECT_ID('stg.weather') IS NOT NULL DROP TABLE stg.weather;
CREATE TABLE stg.weather
(
    origin      char(3)      NULL,
    [year]      int          NULL,
    [month]     int          NULL,
    [day]       int          NULL,
    [hour]      int          NULL,
    temp        varchar(20)  NULL,  -- measurements may be 'NA': typed where they are used
    dewp        varchar(20)  NULL,
    humid       varchar(20)  NULL,
    wind_dir    varchar(20)  NULL,
    wind_speed  varchar(20)  NULL,
    wind_gust   varchar(20)  NULL,
    precip      varchar(20)  NULL,
    pressure    varchar(20)  NULL,
    visib       varchar(20)  NULL,
    time_hour   varchar(20)  NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_csv("stg.weather", "landing/weather/{day}/weather.csv", night.days) }}

-- A fresh table has no statistics, and the joins that follow are planned by them.
CREATE STATISTICS weather_time_hour ON stg.weather (time_hour);
CREATE STATISTICS weather_origin ON stg.weather (origin);
