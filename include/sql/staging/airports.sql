-- Airports: reference data, loaded whole.
{%- from "macros/lake.jinja" import copy_csv with context %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');

IF OBJECT_ID('stg.airports') IS NOT NULL DROP TABLE stg.airports;
CREATE TABLE stg.airports
(
    faa    char(3)        NULL,
    name   nvarchar(100)  NULL,
    lat    float          NULL,
    lon    float          NULL,
    alt    int            NULL,  -- feet
    tz     int            NULL,  -- hours from UTC
    dst    char(1)        NULL,
    tzone  varchar(40)    NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_csv("stg.airports", "landing/reference/airports.csv") }}

-- A fresh table has no statistics, and the joins that follow are planned by them.
CREATE STATISTICS airports_faa ON stg.airports (faa);
