-- ml.flight_features, the days to build replaced: the touched months are built anew beside the table and switched in,
-- so that a reader sees a month before or after, never in between, and a re-run changes nothing.
{%- set boundaries = ["2013-01-01", "2013-02-01", "2013-03-01", "2013-04-01", "2013-05-01", "2013-06-01", "2013-07-01",
                      "2013-08-01", "2013-09-01", "2013-10-01", "2013-11-01", "2013-12-01", "2014-01-01"] %}
{%- set columns = ["flight_id", "flight_date", "carrier", "flight", "origin", "dest", "sched_dep_hour", "sched_dep_minute",
                   "sched_arr_hour", "month", "weekday", "distance", "dest_lat", "dest_lon", "plane_age", "seats", "engines",
                   "manufacturer", "temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib",
                   "origin_departures_1h", "origin_departures_3h", "dest_arrivals_1h", "late"] %}
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
        late                  bit          NULL   -- arrived more than 15 minutes late; NULL: it never arrived
    )
    WITH (
        DISTRIBUTION = HASH(flight_id),
        CLUSTERED COLUMNSTORE INDEX,
        PARTITION (flight_date RANGE RIGHT FOR VALUES ('{{ boundaries | join("', '") }}'))
    );

{%- if night.months[0] not in boundaries[:-1] or night.months[-1] not in boundaries[:-1] %}
-- A month without a boundary would share a partition with others, and they would be lost in the switch.
THROW 100001, 'ml.flight_features has no partition for {{ night.months[0] }} to {{ night.months[-1] }}: add the boundaries to features/flight_features.sql and split the table', 1;
{%- endif %}

IF OBJECT_ID('ml.flight_features_new') IS NOT NULL DROP TABLE ml.flight_features_new;
GO

CREATE TABLE ml.flight_features_new
WITH (
    DISTRIBUTION = HASH(flight_id),
    CLUSTERED COLUMNSTORE INDEX,
    PARTITION (flight_date RANGE RIGHT FOR VALUES ('{{ boundaries | join("', '") }}'))
)
AS
-- The other days of the touched months, as they are.
SELECT [{{ columns | join("], [") }}]
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
    CAST(CASE WHEN f.arr_delay > 15 THEN 1 WHEN f.arr_delay <= 15 THEN 0 END AS bit)
FROM stg.flights AS f
LEFT JOIN stg.congestion AS c ON c.flight_id = f.flight_id
LEFT JOIN stg.weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
LEFT JOIN stg.planes AS p ON p.tailnum = f.tailnum
LEFT JOIN stg.airports AS a ON a.faa = f.dest;
GO

-- Partition 1 lies before the first boundary; the month at boundary i is partition i + 1.
{%- for month in night.months if month in boundaries[:-1] %}
ALTER TABLE ml.flight_features_new SWITCH PARTITION {{ boundaries.index(month) + 2 }}
    TO ml.flight_features PARTITION {{ boundaries.index(month) + 2 }} WITH (TRUNCATE_TARGET = ON);
{%- endfor %}
DROP TABLE ml.flight_features_new;
GO

-- The optimiser plans by statistics, and Synapse doesn't refresh them after a switch.
{%- for column in ["flight_id", "flight_date", "origin", "carrier", "late"] %}
IF NOT EXISTS (SELECT * FROM sys.stats WHERE name = 'flight_features_{{ column }}' AND object_id = OBJECT_ID('ml.flight_features'))
    CREATE STATISTICS flight_features_{{ column }} ON ml.flight_features ({{ column }});
ELSE
    UPDATE STATISTICS ml.flight_features (flight_features_{{ column }});
{%- endfor %}
