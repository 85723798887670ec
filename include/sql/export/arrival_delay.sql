-- Train, hold-out and score set of arrival_delay: the same flights as flight_delay's, labelled with minutes, and how late
-- their carrier was on their route before.
{%- from "macros/flights.jinja" import export_sets, known_before_departure with context %}
{%- set flights %}(
    SELECT
        f.[{{ known_before_departure | join("],\n        f.[") }}],
        f.arr_delay,
        d.route_flights_28d,
        d.route_delay_28d
    FROM ml.flight_features AS f
    LEFT JOIN stg.route_delays AS d
        ON d.flight_date = f.flight_date AND d.carrier = f.carrier AND d.origin = f.origin AND d.dest = f.dest
) AS flights
{%- endset %}
{{ export_sets("arrival_delay", "arr_delay", flights, ["route_flights_28d", "route_delay_28d"]) }}
