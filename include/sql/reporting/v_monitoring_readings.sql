-- reporting.v_monitoring_readings: a monitor's readings wide, one row a watched column; feature is empty for the whole.
{%- from "macros/reporting.jinja" import replace_view %}
{%- set metrics = [
    "jensen_shannon_distance", "normalized_wasserstein_distance", "population_stability_index",
    "two_sample_kolmogorov_smirnov_test", "pearsons_chi_squared_test", "null_value_rate", "data_type_error_rate",
    "out_of_bounds_rate", "roc_auc", "accuracy", "mean_absolute_error", "root_mean_squared_error", "overdue_outcome_rate",
] %}
{% call replace_view("v_monitoring_readings") %}
SELECT
    model_name,
    model_version,
    window_start,
    window_end,
    COALESCE(data, 'scored') AS data,
    feature,
    MAX([rows]) AS [rows],
    {%- for metric in metrics %}
    MAX(CASE WHEN metric = '{{ metric }}' THEN value END) AS [{{ metric }}],
    {%- endfor %}
    CASE MAX(CASE level WHEN 'alarm' THEN 3 WHEN 'warn' THEN 2 WHEN 'ok' THEN 1 ELSE 0 END)
        WHEN 3 THEN 'alarm' WHEN 2 THEN 'warn' WHEN 1 THEN 'ok' ELSE 'undefined'
    END AS level,
    run_id
FROM ml.monitoring_readings
GROUP BY model_name, model_version, window_start, window_end, COALESCE(data, 'scored'), feature, run_id;
{% endcall %}
