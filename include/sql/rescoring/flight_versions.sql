-- ml.flight_rescores: what two versions say of the days that were scored again, replaced by day and version, and
-- ml.flight_version_comparison: how far they agree, day by day and over all, and how each did where the outcome is known.
{%- from "macros/lake.jinja" import copy_parquet with context %}
{%- from "macros/months.jinja" import statistics %}
{%- set folder = "scored/flight_delay/" ~ night.partition ~ "/" ~ night.key %}
{%- set columns = [
    ("flight_id", "bigint"), ("flight_date", "date"), ("probability", "float"), ("late", "smallint"),
    ("model_name", "nvarchar(200)"), ("model_version", "nvarchar(50)"), ("run_id", "nvarchar(250)"),
    ("deployment", "nvarchar(100)"), ("scored_at", "datetime2(6)"),
] %}
{%- set figures = [
    ("flights", "bigint"), ("agreement", "float"), ("mean_difference", "float"), ("mean_absolute_difference", "float"),
    ("largest_difference", "float"), ("labelled", "bigint"), ("brier_score", "float"), ("against_brier_score", "float"),
    ("roc_auc", "float"), ("against_roc_auc", "float"),
] %}
{%- set about = [
    ("model_name", "nvarchar(200)"), ("model_version", "nvarchar(50)"), ("against", "nvarchar(50)"), ("first_day", "date"),
    ("last_day", "date"), ("flight_date", "date"), ("run_id", "nvarchar(250)"), ("compared_at", "datetime2(0)"),
] %}
{%- macro table(name, columns, distribution) %}
CREATE TABLE {{ name }}
(
{%- for column, type in columns %}
    [{{ column }}] {{ type }} NULL{{ "," if not loop.last }}
{%- endfor %}
)
WITH ({{ distribution }});
{%- endmacro %}
{%- macro names(columns) %}[{% for column, _ in columns %}{{ column }}{{ "], [" if not loop.last }}{% endfor %}]{% endmacro %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'stg') EXEC('CREATE SCHEMA stg');
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'ml') EXEC('CREATE SCHEMA ml');

IF OBJECT_ID('ml.flight_rescores') IS NULL
{{ table("ml.flight_rescores", columns, "DISTRIBUTION = HASH(flight_id), CLUSTERED COLUMNSTORE INDEX") }}

IF OBJECT_ID('ml.flight_version_comparison') IS NULL
{{ table("ml.flight_version_comparison", about + figures, "DISTRIBUTION = ROUND_ROBIN, HEAP") }}

IF OBJECT_ID('stg.flight_rescores') IS NOT NULL DROP TABLE stg.flight_rescores;
{{ table("stg.flight_rescores", columns, "DISTRIBUTION = ROUND_ROBIN, HEAP") }}

{{ copy_parquet("stg.flight_rescores", folder) }}
{{ copy_parquet("stg.flight_rescores", folder ~ "-against") }}
GO

IF EXISTS (
    SELECT flight_id FROM stg.flight_rescores
    WHERE flight_date IS NULL OR flight_date < '{{ night.first_day }}' OR flight_date > '{{ night.partition }}'
        OR model_version NOT IN (@version, @against)
)
    THROW 100005, '{{ folder }}/ holds predictions of other days or versions', 1;
IF (SELECT COUNT(DISTINCT model_version) FROM stg.flight_rescores) <> 2
    THROW 100006, '{{ folder }}/ and {{ folder }}-against/ don''t hold the predictions of two versions', 1;
GO

BEGIN TRANSACTION;
DELETE FROM ml.flight_rescores
WHERE flight_date BETWEEN '{{ night.first_day }}' AND '{{ night.partition }}' AND model_version IN (@version, @against);
INSERT INTO ml.flight_rescores ({{ names(columns) }})
SELECT {{ names(columns) }}
FROM stg.flight_rescores;
COMMIT TRANSACTION;
DROP TABLE stg.flight_rescores;
GO

{{ statistics("ml.flight_rescores", ["flight_date", "model_version"]) }}

IF OBJECT_ID('stg.flight_version_pairs') IS NOT NULL DROP TABLE stg.flight_version_pairs;
GO

CREATE TABLE stg.flight_version_pairs
WITH (DISTRIBUTION = HASH(flight_id), HEAP)
AS
SELECT
    a.flight_id,
    a.flight_date,
    a.model_name,
    a.probability,
    b.probability AS other,
    CASE WHEN a.late = b.late THEN 1e0 ELSE 0e0 END AS agree,
    CASE WHEN f.late IS NULL THEN 0 ELSE 1 END AS labelled,
    CAST(COALESCE(f.late, 0) AS float) AS outcome
FROM ml.flight_rescores AS a
INNER JOIN ml.flight_rescores AS b ON b.flight_id = a.flight_id
LEFT JOIN ml.flight_features AS f ON f.flight_id = a.flight_id
WHERE a.model_version = @version AND b.model_version = @against
    AND a.flight_date BETWEEN '{{ night.first_day }}' AND '{{ night.partition }}';
GO

{%- macro auc(place) %}
    -- From ranks: the share of pairs of a late and a punctual flight of which the late one has the higher probability.
    CASE WHEN SUM(r.labelled * r.outcome) > 0 AND SUM(r.labelled * (1 - r.outcome)) > 0
        THEN (
            SUM(r.labelled * r.outcome * r.{{ place }})
            - 5e-1 * SUM(r.labelled * r.outcome) * (SUM(r.labelled * r.outcome) + 1)
        ) / (SUM(r.labelled * r.outcome) * SUM(r.labelled * (1 - r.outcome)))
    END
{%- endmacro %}
{%- macro place(column, by_day) %}RANK() OVER (
            PARTITION BY {{ "flight_date, " if by_day }}labelled ORDER BY {{ column }}
        ) + 5e-1 * (COUNT(*) OVER (PARTITION BY {{ "flight_date, " if by_day }}labelled, {{ column }}) - 1)
{%- endmacro %}
{%- macro compare(by_day) %}
INSERT INTO ml.flight_version_comparison ({{ names(about + figures) }})
SELECT
    MAX(r.model_name),
    @version,
    @against,
    '{{ night.first_day }}',
    '{{ night.partition }}',
    {{ "r.flight_date" if by_day else "CAST(NULL AS date)" }},
    @run_id,
    SYSUTCDATETIME(),
    COUNT(*),
    AVG(r.agree),
    AVG(r.probability - r.other),
    AVG(ABS(r.probability - r.other)),
    MAX(ABS(r.probability - r.other)),
    SUM(r.labelled),
    AVG(CASE WHEN r.labelled = 1 THEN (r.probability - r.outcome) * (r.probability - r.outcome) END),
    AVG(CASE WHEN r.labelled = 1 THEN (r.other - r.outcome) * (r.other - r.outcome) END),
    {{- auc("place") }},
    {{- auc("other_place") }}
FROM (
    SELECT
        flight_date,
        model_name,
        probability,
        other,
        agree,
        labelled,
        outcome,
        {{ place("probability", by_day) }} AS place,
        {{ place("other", by_day) }} AS other_place
    FROM stg.flight_version_pairs
) AS r
{{- "\nGROUP BY r.flight_date" if by_day }};
{%- endmacro %}
BEGIN TRANSACTION;
DELETE FROM ml.flight_version_comparison
WHERE model_version = @version AND against = @against
    AND first_day = '{{ night.first_day }}' AND last_day = '{{ night.partition }}';
{{ compare(true) }}
{{ compare(false) }}
COMMIT TRANSACTION;
DROP TABLE stg.flight_version_pairs;
GO

-- The page is made of this: all days together first.
SELECT {{ names([("flight_date", "")] + figures) }}
FROM ml.flight_version_comparison
WHERE model_version = @version AND against = @against
    AND first_day = '{{ night.first_day }}' AND last_day = '{{ night.partition }}'
ORDER BY flight_date;
