-- reporting.v_model_decisions: what was decided each night and by hand (no night), and which version served after it.
{%- from "macros/reporting.jinja" import replace_view %}
{% call replace_view("v_model_decisions") %}
SELECT
    model_name,
    night,
    decision,
    decided_by,
    forced,
    outcome,
    metric,
    challenger,
    champion,
    difference,
    difference_low,
    difference_high,
    CASE WHEN outcome = 'serves' THEN model_version ELSE champion_version END AS serving_version,
    model_version AS challenger_version,
    reasons,
    holdout_rows,
    data_version,
    training_job,
    decided_at
FROM ml.model_decisions;
{% endcall %}
