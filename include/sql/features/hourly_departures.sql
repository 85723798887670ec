-- ml.hourly_departures: how many flights really left each airport in each hour, zeros included, from ml.flight_features.
-- A year of it has 26,280 rows: it is built whole beside the table and renamed into place.
IF OBJECT_ID('ml.hourly_departures_new') IS NOT NULL DROP TABLE ml.hourly_departures_new;
IF OBJECT_ID('ml.hourly_departures_old') IS NOT NULL DROP TABLE ml.hourly_departures_old;
GO

CREATE TABLE ml.hourly_departures_new
WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)
AS
SELECT
    calendar.origin,
    calendar.departure_date,
    calendar.hour_start,  -- New York's
    COALESCE(counted.departures, 0) AS departures
FROM (
    SELECT
        airports.origin,
        days.flight_date AS departure_date,
        DATEADD(HOUR, hours.[hour], CAST(days.flight_date AS datetime2(0))) AS hour_start
    FROM (SELECT DISTINCT flight_date FROM ml.flight_features WHERE flight_date <= '{{ night.partition }}') AS days
    CROSS JOIN (SELECT DISTINCT origin FROM ml.flight_features) AS airports
    CROSS JOIN (
        {%- for hour in range(24) %}
        SELECT {{ hour }} AS [hour]{{ " UNION ALL" if not loop.last }}
        {%- endfor %}
    ) AS hours
) AS calendar
LEFT JOIN (
    SELECT origin, hour_start, COUNT(*) AS departures
    FROM (
        SELECT
            origin,
            DATEADD(
                HOUR,
                (sched_dep_hour * 60 + sched_dep_minute + dep_delay) / 60,  -- a flight may leave after midnight
                CAST(flight_date AS datetime2(0))
            ) AS hour_start
        FROM ml.flight_features
        WHERE dep_delay IS NOT NULL
    ) AS flights
    GROUP BY origin, hour_start
) AS counted ON counted.origin = calendar.origin AND counted.hour_start = calendar.hour_start;

IF OBJECT_ID('ml.hourly_departures') IS NOT NULL RENAME OBJECT ml.hourly_departures TO hourly_departures_old;
RENAME OBJECT ml.hourly_departures_new TO hourly_departures;
IF OBJECT_ID('ml.hourly_departures_old') IS NOT NULL DROP TABLE ml.hourly_departures_old;
GO

-- A fresh table has no statistics, and the exports that follow are planned by them.
CREATE STATISTICS hourly_departures_hour_start ON ml.hourly_departures (hour_start);
CREATE STATISTICS hourly_departures_departure_date ON ml.hourly_departures (departure_date);
