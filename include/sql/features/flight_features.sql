-- ml.flight_features, the days to build replaced in the months they touch.
{%- from "macros/months.jinja" import by_month, refuse_other_months, statistics, switch_in %}
{%- from "macros/flights.jinja" import known_before_departure, outcomes %}
IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'ml') EXEC('CREATE SCHEMA ml');

IF OBJECT_ID('ml.flight_features') IS NULL
    CREATE TABLE ml.flight_features
    (
        flight_id             bigint       NULL,
        flight_date           date         NULL,
        carrier               varchar(2)   NULL,
        flight                int          NULL,
        origin                char(3)      NULL,
        dest                  char(3)      NULL,
        sched_dep_hour        int          NULL,
        sched_dep_minute      int          NULL,
        sched_arr_hour        int          NULL,
        [month]               int          NULL,
        [weekday]             int          NULL,  -- 1: Monday
        distance              int          NULL,  -- miles
        dest_lat              float        NULL,
        dest_lon              float        NULL,
        plane_age             int          NULL,  -- years
        seats                 int          NULL,
        engines               int          NULL,
        manufacturer          varchar(40)  NULL,
        temp                  float        NULL,  -- at the origin, in the hour of departure
        dewp                  float        NULL,
        humid                 float        NULL,
        wind_dir              float        NULL,
        wind_speed            float        NULL,
        precip                float        NULL,
        pressure              float        NULL,
        visib                 float        NULL,
        origin_departures_1h  int          NULL,
        origin_departures_3h  int          NULL,
        dest_arrivals_1h      int          NULL,
        late                  bit          NULL,  -- arrived more than 15 minutes late; NULL: it never arrived
        dep_delay             int          NULL,  -- minutes; NULL: it never left
        arr_delay             int          NULL   -- minutes; NULL: it never arrived
    )
    {{ by_month("flight_date") | indent }};

-- A pool that was built for an earlier version has the table without them.
{%- for column in ["dep_delay", "arr_delay"] %}
IF COL_LENGTH('ml.flight_features', '{{ column }}') IS NULL ALTER TABLE ml.flight_features ADD {{ column }} int NULL;
{%- endfor %}

{{ refuse_other_months("ml.flight_features", night.months) }}

-- Spark has just written the table: the join below is planned by its statistics.
IF NOT EXISTS (SELECT * FROM sys.stats WHERE name = 'congestion_flight_id' AND object_id = OBJECT_ID('stg.congestion'))
    CREATE STATISTICS congestion_flight_id ON stg.congestion (flight_id);

IF OBJECT_ID('ml.flight_features_new') IS NOT NULL DROP TABLE ml.flight_features_new;
GO

CREATE TABLE ml.flight_features_new
{{ by_month("flight_date") }}
AS
-- The other days of the touched months, as they are.
SELECT
    [{{ (known_before_departure + outcomes) | join("],\n    [") }}]
FROM ml.flight_features
WHERE flight_date >= '{{ night.months[0] }}'
    AND flight_date < DATEADD(MONTH, 1, CAST('{{ night.months[-1] }}' AS date))
    AND (flight_date < '{{ night.days[0] }}' OR flight_date > '{{ night.days[-1] }}')
UNION ALL
SELECT
    f.flight_id,
    f.flight_date,
    f.carrier,
    f.flight,
    f.origin,
    f.dest,
    f.sched_dep_time / 100,
    f.sched_dep_time % 100,
    f.sched_arr_time / 100,
    DATEPART(MONTH, f.flight_date),
    DATEDIFF(DAY, '1900-01-01', f.flight_date) % 7 + 1,  -- that day was a Monday; DATEFIRST doesn't matter
    f.distance,
    a.lat,
    a.lon,
    DATEPART(YEAR, f.flight_date) - TRY_CAST(p.[year] AS int),
    p.seats,
    p.engines,
    p.manufacturer,
    TRY_CAST(w.temp AS float),
    TRY_CAST(w.dewp AS float),
    TRY_CAST(w.humid AS float),
    TRY_CAST(w.wind_dir AS float),
    TRY_CAST(w.wind_speed AS float),
    TRY_CAST(w.precip AS float),
    TRY_CAST(w.pressure AS float),
    TRY_CAST(w.visib AS float),
    c.origin_departures_1h,
    c.origin_departures_3h,
    c.dest_arrivals_1h,
    CAST(CASE WHEN f.arr_delay > 15 THEN 1 WHEN f.arr_delay <= 15 THEN 0 END AS bit),
    f.dep_delay,
    f.arr_delay
FROM stg.flights AS f
LEFT JOIN stg.congestion AS c ON c.flight_id = f.flight_id
LEFT JOIN stg.weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
LEFT JOIN stg.planes AS p ON p.tailnum = f.tailnum
LEFT JOIN stg.airports AS a ON a.faa = f.dest;
GO

{{ switch_in("ml.flight_features", night.months) }}
GO

{{ statistics("ml.flight_features", ["flight_id", "flight_date", "origin", "carrier", "late"]) }}
