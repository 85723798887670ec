-- ml.model_decisions: one row a night of a model: was its challenger promoted, by whom, on what figures, and does it
-- serve. A night that runs again replaces its row. What a person does by hand (the DAG rollout_<model>) is a row without
-- a night. The values come from azflow.decisions, bound by the driver.
{%- set columns = [
    ("model_name", "nvarchar(200)"), ("night", "date"), ("decision", "varchar(20)"), ("decided_by", "nvarchar(250)"),
    ("decided_at", "datetime2(0)"), ("forced", "bit"), ("reasons", "nvarchar(1000)"), ("outcome", "varchar(20)"),
    ("metric", "varchar(100)"), ("lower_is_better", "bit"), ("holdout_rows", "bigint"),
    ("challenger", "float"), ("challenger_low", "float"), ("challenger_high", "float"),
    ("champion", "float"), ("champion_low", "float"), ("champion_high", "float"),
    ("difference", "float"), ("difference_low", "float"), ("difference_high", "float"),
    ("champion_version", "nvarchar(50)"), ("model_version", "nvarchar(50)"), ("deployment", "nvarchar(100)"),
    ("training_job", "nvarchar(250)"), ("data_version", "nvarchar(250)"), ("run_id", "nvarchar(250)"),
] %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'ml') EXEC('CREATE SCHEMA ml');

IF OBJECT_ID('ml.model_decisions') IS NULL
    CREATE TABLE ml.model_decisions
    (
    {%- for column, type in columns %}
        [{{ column }}] {{ type }} NULL{{ "," if not loop.last }}
    {%- endfor %}
    )
    WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);
GO

BEGIN TRANSACTION;
DELETE FROM ml.model_decisions
WHERE model_name = @model_name AND (night = CAST(@night AS date) OR (night IS NULL AND run_id = @run_id));
INSERT INTO ml.model_decisions
    ([{% for column, _ in columns %}{{ column }}{{ "], [" if not loop.last }}{% endfor %}])
SELECT
{%- for column, type in columns %}
    CAST(@{{ column }} AS {{ type }}){{ "," if not loop.last }}
{%- endfor %};
COMMIT TRANSACTION;
GO

{% include "reporting/v_model_decisions.sql" %}

-- The task shows the model's last decisions.
SELECT TOP 10 decided_at, night, decision, decided_by, outcome, metric, challenger, champion, difference, champion_version, model_version
FROM ml.model_decisions
WHERE model_name = @model_name
ORDER BY decided_at DESC;
