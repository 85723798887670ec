-- ml.arrival_delay_predictions, the night's day replaced: the scored rows join the month's other days beside the table and
-- are switched in. A re-run never doubles them.
{%- from "macros/lake.jinja" import copy_parquet with context %}
{%- from "macros/months.jinja" import by_month, refuse_other_months, statistics, switch_in %}
{%- set columns = ["flight_id", "flight_date", "predicted_delay", "model_name", "model_version", "run_id", "scored_at"] %}
{%- set month = night.months[-1] %}
{%- set scored = "scored/arrival_delay/" ~ night.partition ~ "/" ~ night.key %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'reporting') EXEC('CREATE SCHEMA reporting');

IF OBJECT_ID('ml.arrival_delay_predictions') IS NULL
    CREATE TABLE ml.arrival_delay_predictions
    (
        flight_id        bigint         NULL,
        flight_date      date           NULL,
        predicted_delay  float          NULL,  -- minutes; negative: early
        model_name       nvarchar(200)  NULL,
        model_version    nvarchar(50)   NULL,
        run_id           nvarchar(250)  NULL,  -- the orchestrator's
        scored_at        datetime2(6)   NULL   -- UTC
    )
    {{ by_month("flight_date") | indent }};

{{ refuse_other_months("ml.arrival_delay_predictions", [month]) }}

IF OBJECT_ID('stg.arrival_delay_predictions') IS NOT NULL DROP TABLE stg.arrival_delay_predictions;
CREATE TABLE stg.arrival_delay_predictions
(
    flight_id        bigint         NULL,
    flight_date      date           NULL,
    predicted_delay  float          NULL,
    model_name       nvarchar(200)  NULL,
    model_version    nvarchar(50)   NULL,
    run_id           nvarchar(250)  NULL,
    scored_at        datetime2(6)   NULL
)
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);

{{ copy_parquet("stg.arrival_delay_predictions", scored) }}

-- The scored rows replace the day's: they have to be that day's, each flight once.
IF NOT EXISTS (SELECT flight_id FROM stg.arrival_delay_predictions)
    THROW 100002, '{{ scored }}/ holds no predictions', 1;
IF EXISTS (
    SELECT flight_id FROM stg.arrival_delay_predictions WHERE flight_date IS NULL OR flight_date <> '{{ night.partition }}'
)
    THROW 100003, '{{ scored }}/ holds predictions of other days', 1;
IF EXISTS (SELECT flight_id FROM stg.arrival_delay_predictions GROUP BY flight_id HAVING COUNT(*) > 1)
    THROW 100004, '{{ scored }}/ holds a flight more than once', 1;

IF OBJECT_ID('ml.arrival_delay_predictions_new') IS NOT NULL DROP TABLE ml.arrival_delay_predictions_new;
GO

CREATE TABLE ml.arrival_delay_predictions_new
{{ by_month("flight_date") }}
AS
SELECT [{{ columns | join("], [") }}]
FROM ml.arrival_delay_predictions
WHERE flight_date >= '{{ month }}'
    AND flight_date < DATEADD(MONTH, 1, CAST('{{ month }}' AS date))
    AND flight_date <> '{{ night.partition }}'
UNION ALL
SELECT [{{ columns | join("], [") }}]
FROM stg.arrival_delay_predictions;
GO

{{ switch_in("ml.arrival_delay_predictions", [month]) }}
DROP TABLE stg.arrival_delay_predictions;
GO

{{ statistics("ml.arrival_delay_predictions", ["flight_id", "flight_date", "model_version"]) }}

-- What people and reports read: each prediction with its flight and, once known, the outcome.
IF OBJECT_ID('reporting.v_arrival_delay_predictions') IS NULL
    EXEC('CREATE VIEW reporting.v_arrival_delay_predictions AS
    SELECT
        p.flight_id,
        p.flight_date,
        f.carrier,
        f.flight,
        f.origin,
        f.dest,
        p.predicted_delay,
        f.arr_delay,
        p.model_name,
        p.model_version,
        p.run_id,
        p.scored_at
    FROM ml.arrival_delay_predictions AS p
    LEFT JOIN ml.flight_features AS f ON f.flight_id = p.flight_id');

-- The night's report shows how much was written, and by which model.
SELECT COUNT(*) AS [rows], model_name, model_version
FROM ml.arrival_delay_predictions
WHERE flight_date = '{{ night.partition }}'
GROUP BY model_name, model_version;
