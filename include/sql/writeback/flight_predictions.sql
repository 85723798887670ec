-- ml.flight_predictions, the scored days replaced: a night's one, or the range of days that are scored again. The rows join
-- the months' other days beside the table and are switched in. A re-run never doubles them.
{%- from "macros/lake.jinja" import copy_parquet with context %}
{%- from "macros/months.jinja" import by_month, refuse_other_months, statistics, switch_in %}
{%- set columns = ["flight_id", "flight_date", "probability", "late", "model_name", "model_version", "run_id", "deployment",
                   "scored_at"] %}
{%- set scored = "scored/flight_delay/" ~ night.partition ~ "/" ~ night.key %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'ml') EXEC('CREATE SCHEMA ml');

IF OBJECT_ID('ml.flight_predictions') IS NULL
    CREATE TABLE ml.flight_predictions
    (
        flight_id      bigint         NULL,
        flight_date    date           NULL,
        probability    float          NULL,  -- of arriving more than 15 minutes late
        late           bit            NULL,
        model_name     nvarchar(200)  NULL,
        model_version  nvarchar(50)   NULL,
        run_id         nvarchar(250)  NULL,  -- the orchestrator's
        deployment     nvarchar(100)  NULL,
        scored_at      datetime2(6)   NULL   -- UTC
    )
    {{ by_month("flight_date") | indent }};

{{ refuse_other_months("ml.flight_predictions", night.months) }}

IF OBJECT_ID('stg.flight_predictions') IS NOT NULL DROP TABLE stg.flight_predictions;
CREATE TABLE stg.flight_predictions
(
    flight_id      bigint         NULL,
    flight_date    date           NULL,
    probability    float          NULL,
    late           smallint       NULL,
    model_name     nvarchar(200)  NULL,
    model_version  nvarchar(50)   NULL,
    run_id         nvarchar(250)  NULL,
    deployment     nvarchar(100)  NULL,
    scored_at      datetime2(6)   NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_parquet("stg.flight_predictions", scored) }}

-- The scored rows replace those of their days: they have to be of the days asked for, each flight once.
IF NOT EXISTS (SELECT flight_id FROM stg.flight_predictions)
    THROW 100002, '{{ scored }}/ holds no predictions', 1;
IF EXISTS (
    SELECT flight_id FROM stg.flight_predictions
    WHERE flight_date IS NULL OR flight_date < '{{ night.first_day }}' OR flight_date > '{{ night.partition }}'
)
    THROW 100003, '{{ scored }}/ holds predictions of other days', 1;
IF EXISTS (SELECT flight_id FROM stg.flight_predictions GROUP BY flight_id HAVING COUNT(*) > 1)
    THROW 100004, '{{ scored }}/ holds a flight more than once', 1;

IF OBJECT_ID('ml.flight_predictions_new') IS NOT NULL DROP TABLE ml.flight_predictions_new;
GO

CREATE TABLE ml.flight_predictions_new
{{ by_month("flight_date") }}
AS
SELECT [{{ columns | join("], [") }}]
FROM ml.flight_predictions
WHERE flight_date >= '{{ night.months[0] }}'
    AND flight_date < DATEADD(MONTH, 1, CAST('{{ night.months[-1] }}' AS date))
    AND flight_date NOT IN (SELECT flight_date FROM stg.flight_predictions)
UNION ALL
SELECT
    flight_id,
    flight_date,
    probability,
    CAST(late AS bit),
    model_name,
    model_version,
    run_id,
    deployment,
    scored_at
FROM stg.flight_predictions;
GO

{{ switch_in("ml.flight_predictions", night.months) }}
GO

{{ statistics("ml.flight_predictions", ["flight_id", "flight_date", "model_version"]) }}

-- What people and reports read.
{% include "reporting/v_flight_predictions.sql" %}

{% include "reporting/v_flight_performance_daily.sql" %}

-- The night's report shows how much was written, and by which model.
SELECT COUNT(*) AS [rows], model_name, model_version
FROM ml.flight_predictions
WHERE flight_date IN (SELECT flight_date FROM stg.flight_predictions)
GROUP BY model_name, model_version;
GO

DROP TABLE stg.flight_predictions;
