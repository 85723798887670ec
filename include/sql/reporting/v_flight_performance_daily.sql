-- reporting.v_flight_performance_daily: how each version did, day by day, on the flights whose outcome is known.
{%- from "macros/reporting.jinja" import replace_view %}
{% call replace_view("v_flight_performance_daily") %}
SELECT
    ranked.flight_date,
    ranked.model_name,
    ranked.model_version,
    COUNT(*) AS flights,
    SUM(ranked.labelled) AS labelled,
    AVG(ranked.probability) AS mean_probability,
    AVG(CASE WHEN ranked.labelled = 1 THEN 1e0 * ranked.outcome END) AS share_late,
    AVG(CASE WHEN ranked.labelled = 1 THEN 1e0 - ABS(ranked.predicted - ranked.outcome) END) AS accuracy,
    AVG(
        CASE WHEN ranked.labelled = 1
            THEN (ranked.probability - ranked.outcome) * (ranked.probability - ranked.outcome) END
    ) AS brier_score,
    -- The share of pairs of a late and a punctual flight of which the late one has the higher probability: from ranks.
    CASE WHEN SUM(ranked.labelled * ranked.outcome) > 0 AND SUM(ranked.labelled * (1 - ranked.outcome)) > 0
        THEN (
            SUM(1e0 * ranked.labelled * ranked.outcome * ranked.place)
            - 5e-1 * SUM(ranked.labelled * ranked.outcome) * (SUM(ranked.labelled * ranked.outcome) + 1)
        ) / (1e0 * SUM(ranked.labelled * ranked.outcome) * SUM(ranked.labelled * (1 - ranked.outcome)))
    END AS roc_auc
FROM (
    SELECT
        p.flight_date,
        p.model_name,
        p.model_version,
        p.probability,
        CAST(p.late AS int) AS predicted,
        CAST(COALESCE(f.late, 0) AS int) AS outcome,
        CASE WHEN f.late IS NULL THEN 0 ELSE 1 END AS labelled,
        RANK() OVER (
            PARTITION BY p.flight_date, p.model_version, CASE WHEN f.late IS NULL THEN 0 ELSE 1 END
            ORDER BY p.probability
        ) + 0.5 * (COUNT(*) OVER (
            PARTITION BY p.flight_date, p.model_version, CASE WHEN f.late IS NULL THEN 0 ELSE 1 END, p.probability
        ) - 1) AS place
    FROM ml.flight_predictions AS p
    LEFT JOIN ml.flight_features AS f ON f.flight_id = p.flight_id
) AS ranked
GROUP BY ranked.flight_date, ranked.model_name, ranked.model_version;
{% endcall %}
