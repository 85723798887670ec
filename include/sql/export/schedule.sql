-- The schedule of the days to build, for Spark: when each flight leaves and arrives, in the airports' own time.
{%- from "macros/lake.jinja" import export, external_lake with context %}
{{ external_lake() }}
{% call export("schedule_export", "curated/schedule/" ~ night.partition ~ "/" ~ night.key) %}
SELECT
    flight_id,
    flight_date,
    origin,
    dest,
    DATEADD(MINUTE, (sched_dep_time / 100) * 60 + sched_dep_time % 100, CAST(flight_date AS datetime2(0))) AS sched_dep_at,
    DATEADD(
        MINUTE,
        (sched_arr_time / 100) * 60 + sched_arr_time % 100
            + CASE WHEN sched_arr_time < sched_dep_time THEN 1440 ELSE 0 END,  -- arrives the next day
        CAST(flight_date AS datetime2(0))
    ) AS sched_arr_at
FROM stg.flights;
{% endcall %}
