-- The flights of a range of days, to be scored again: what was known before departure, and the same with the outcome, which
-- is NULL where a flight never arrived or isn't known yet.
{%- from "macros/flights.jinja" import known_before_departure %}
{%- from "macros/lake.jinja" import export, external_lake with context %}
{{ external_lake() }}
{%- for set, columns in [("score", known_before_departure), ("holdout", known_before_departure + ["late"])] %}
{% call export("flight_delay_range_" ~ set, "export/flight_delay/" ~ night.partition ~ "/" ~ night.key ~ "/" ~ set) %}
SELECT [{{ columns | join("], [") }}]
FROM ml.flight_features
WHERE flight_date BETWEEN '{{ night.first_day }}' AND '{{ night.partition }}';
{% endcall %}
{%- endfor %}
