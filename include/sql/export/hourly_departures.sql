-- Three sets for Azure ML, as Parquet: 60 days to train on, the 7 days after them to judge on, and what a forecast of the day
-- after the partition starts from: three weeks of what was, and that day's hours, whose departures nobody knows yet.
{%- from "macros/lake.jinja" import export, external_lake with context %}
{%- set train_from, train_to, holdout_from, holdout_to = night.window(60, 7) %}
{%- set folder = "export/hourly_departures/" ~ night.partition ~ "/" ~ night.key %}
{{ external_lake() }}
{%- for name, first, last in [("train", train_from, train_to), ("holdout", holdout_from, holdout_to)] %}
{% call export("hourly_departures_" ~ name, folder ~ "/" ~ name) %}
SELECT origin, hour_start, departures
FROM ml.hourly_departures
WHERE departure_date BETWEEN '{{ first }}' AND '{{ last }}';
{% endcall %}
{%- endfor %}
{% call export("hourly_departures_score", folder ~ "/score") %}
SELECT origin, hour_start, departures
FROM ml.hourly_departures
WHERE departure_date > DATEADD(DAY, -21, CAST('{{ night.partition }}' AS date)) AND departure_date <= '{{ night.partition }}'
UNION ALL
SELECT origin, DATEADD(DAY, 1, hour_start), CAST(NULL AS int)
FROM ml.hourly_departures
WHERE departure_date = '{{ night.partition }}';
{% endcall %}
