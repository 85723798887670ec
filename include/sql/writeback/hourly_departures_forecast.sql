-- ml.hourly_departures_forecast, the forecast of the day after the partition replaced. 72 rows a day: small enough to be
-- deleted and inserted in one transaction.
{%- from "macros/lake.jinja" import copy_parquet with context %}
{%- set columns = ["hour_start", "origin", "departures", "low", "high", "model_name", "model_version", "run_id", "scored_at"] %}
{%- set scored = "scored/hourly_departures/" ~ night.partition ~ "/" ~ night.key %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'reporting') EXEC('CREATE SCHEMA reporting');

IF OBJECT_ID('ml.hourly_departures_forecast') IS NULL
    CREATE TABLE ml.hourly_departures_forecast
    (
        forecast_date  date           NULL,  -- the day the hours belong to
        hour_start     datetime2(0)   NULL,
        origin         char(3)        NULL,
        departures     float          NULL,
        low            float          NULL,  -- 10 % and 90 % quantile
        high           float          NULL,
        model_name     nvarchar(200)  NULL,
        model_version  nvarchar(50)   NULL,
        run_id         nvarchar(250)  NULL,  -- the orchestrator's
        scored_at      datetime2(6)   NULL   -- UTC
    )
    WITH (DISTRIBUTION = ROUND_ROBIN, CLUSTERED INDEX (forecast_date));

IF OBJECT_ID('stg.hourly_departures_forecast') IS NOT NULL DROP TABLE stg.hourly_departures_forecast;
CREATE TABLE stg.hourly_departures_forecast
(
    hour_start     datetime2(6)   NULL,
    origin         char(3)        NULL,
    departures     float          NULL,
    low            float          NULL,
    high           float          NULL,
    model_name     nvarchar(200)  NULL,
    model_version  nvarchar(50)   NULL,
    run_id         nvarchar(250)  NULL,
    scored_at      datetime2(6)   NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_parquet("stg.hourly_departures_forecast", scored) }}

IF NOT EXISTS (SELECT origin FROM stg.hourly_departures_forecast)
    THROW 100002, '{{ scored }}/ holds no forecast', 1;
IF EXISTS (
    SELECT origin FROM stg.hourly_departures_forecast
    WHERE hour_start IS NULL OR CAST(hour_start AS date) <> DATEADD(DAY, 1, CAST('{{ night.partition }}' AS date))
)
    THROW 100003, '{{ scored }}/ holds forecasts of other days', 1;
IF EXISTS (SELECT origin FROM stg.hourly_departures_forecast GROUP BY origin, hour_start HAVING COUNT(*) > 1)
    THROW 100004, '{{ scored }}/ holds an hour more than once', 1;
GO

BEGIN TRANSACTION;
DELETE FROM ml.hourly_departures_forecast
WHERE forecast_date = DATEADD(DAY, 1, CAST('{{ night.partition }}' AS date));
INSERT INTO ml.hourly_departures_forecast (forecast_date, [{{ columns | join("], [") }}])
SELECT CAST(hour_start AS date), [{{ columns | join("], [") }}]
FROM stg.hourly_departures_forecast;
COMMIT TRANSACTION;
GO

DROP TABLE stg.hourly_departures_forecast;

-- What people and reports read: each forecast with, once known, what came.
IF OBJECT_ID('reporting.v_hourly_departures') IS NULL
    EXEC('CREATE VIEW reporting.v_hourly_departures AS
    SELECT
        f.origin,
        f.hour_start,
        f.departures AS forecast,
        f.low,
        f.high,
        d.departures,
        f.model_name,
        f.model_version,
        f.run_id,
        f.scored_at
    FROM ml.hourly_departures_forecast AS f
    LEFT JOIN ml.hourly_departures AS d ON d.origin = f.origin AND d.hour_start = f.hour_start');

-- The night's report shows how much was written, and by which model.
SELECT COUNT(*) AS [rows], model_name, model_version
FROM ml.hourly_departures_forecast
WHERE forecast_date = DATEADD(DAY, 1, CAST('{{ night.partition }}' AS date))
GROUP BY model_name, model_version;
