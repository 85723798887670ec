-- The register of planes: reference data, loaded whole.
{%- from "macros/lake.jinja" import copy_csv with context %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');

IF OBJECT_ID('stg.planes') IS NOT NULL DROP TABLE stg.planes;
CREATE TABLE stg.planes
(
    tailnum       varchar(10)  NULL,
    [year]        varchar(10)  NULL,  -- of manufacture; may be 'NA'
    [type]        varchar(40)  NULL,
    manufacturer  varchar(40)  NULL,
    model         varchar(40)  NULL,
    engines       int          NULL,
    seats         int          NULL,
    speed         varchar(10)  NULL,  -- 'NA' for nearly all
    engine        varchar(40)  NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_csv("stg.planes", "landing/reference/planes.csv") }}

-- A fresh table has no statistics, and the joins that follow are planned by them.
CREATE STATISTICS planes_tailnum ON stg.planes (tailnum);
