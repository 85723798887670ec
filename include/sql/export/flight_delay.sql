-- Train, hold-out and score set of flight_delay.
{%- from "macros/flights.jinja" import export_sets with context %}
{{ export_sets("flight_delay", "late") }}
