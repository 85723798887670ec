-- What flight_delay said of the flights of the last seven days, what was known of them, and how they turned out.
{%- from "macros/flights.jinja" import known_before_departure %}
{%- from "macros/lake.jinja" import export, external_lake with context %}
{%- set _, _, first_day, last_day = night.window(1, 7) %}
{{ external_lake() }}
{% call export("flight_delay_window", "monitoring/flight_delay/" ~ night.partition ~ "/" ~ night.key ~ "/window") %}
SELECT
    {%- for column in known_before_departure %}
    f.[{{ column }}],
    {%- endfor %}
    p.probability,
    f.late
FROM ml.flight_predictions AS p
INNER JOIN ml.flight_features AS f ON f.flight_id = p.flight_id
WHERE p.flight_date BETWEEN '{{ first_day }}' AND '{{ last_day }}';
{% endcall %}
