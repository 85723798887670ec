-- ml.monitoring_readings: one row a number that a monitor read. A day that is watched again replaces its rows.
{%- from "macros/lake.jinja" import copy_parquet with context %}
{%- set columns = [
    ("model_name", "nvarchar(200)"), ("model_version", "nvarchar(50)"), ("window_start", "varchar(10)"),
    ("window_end", "varchar(10)"), ("run_id", "nvarchar(250)"), ("signal", "varchar(50)"), ("feature", "nvarchar(128)"),
    ("metric", "varchar(100)"), ("value", "float"), ("reference", "float"), ("threshold", "float"), ("level", "varchar(20)"),
    ("rows", "bigint"), ("says", "nvarchar(1000)"), ("data", "varchar(20)"),
] %}
{%- set staged = "stg.monitoring_readings_" ~ model %}
{%- macro table(name) %}
CREATE TABLE {{ name }}
(
{%- for column, type in columns %}
    [{{ column }}] {{ type }} NULL{{ "," if not loop.last }}
{%- endfor %}
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);
{%- endmacro %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'ml') EXEC('CREATE SCHEMA ml');

IF OBJECT_ID('ml.monitoring_readings') IS NULL
{{ table("ml.monitoring_readings") }}

-- Tables of before captured requests were watched.
IF COL_LENGTH('ml.monitoring_readings', 'data') IS NULL ALTER TABLE ml.monitoring_readings ADD data varchar(20) NULL;
GO

IF OBJECT_ID('{{ staged }}') IS NOT NULL DROP TABLE {{ staged }};
{{ table(staged) }}

{{ copy_parquet(staged, "monitoring/" ~ model ~ "/" ~ night.partition ~ "/" ~ night.key ~ "/readings") }}
GO

DELETE FROM ml.monitoring_readings
WHERE model_name = '{{ model }}' AND window_end = '{{ night.partition }}';

INSERT INTO ml.monitoring_readings
    ([{% for column, _ in columns %}{{ column }}{{ "], [" if not loop.last }}{% endfor %}])
SELECT [{% for column, _ in columns %}{{ column }}{{ "], [" if not loop.last }}{% endfor %}]
FROM {{ staged }};

DROP TABLE {{ staged }};
UPDATE STATISTICS ml.monitoring_readings;
GO

{% include "reporting/v_monitoring_readings.sql" %}

SELECT COUNT(*) AS [rows], SUM(CASE WHEN level = 'alarm' THEN 1 ELSE 0 END) AS alarms
FROM ml.monitoring_readings
WHERE model_name = '{{ model }}' AND window_end = '{{ night.partition }}';
