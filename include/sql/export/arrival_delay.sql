-- Train, hold-out and score set of arrival_delay: the same flights as flight_delay's, labelled with minutes.
{%- from "macros/flights.jinja" import export_sets with context %}
{{ export_sets("arrival_delay", "arr_delay") }}
