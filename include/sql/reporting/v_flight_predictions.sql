-- reporting.v_flight_predictions: each flight's latest prediction, with the flight and, once known, what became of it.
{%- from "macros/reporting.jinja" import replace_view %}
{% call replace_view("v_flight_predictions") %}
SELECT
    p.flight_id,
    p.flight_date,
    f.carrier,
    f.flight,
    f.origin,
    f.dest,
    p.probability,
    p.late AS predicted_late,
    f.late AS arrived_late,
    p.model_name,
    p.model_version,
    p.run_id,
    p.deployment,
    p.scored_at
FROM ml.flight_predictions AS p
LEFT JOIN ml.flight_features AS f ON f.flight_id = p.flight_id;
{% endcall %}
