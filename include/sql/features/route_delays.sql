-- How late each carrier's flights arrived on each route on the last 28 days it flew there, before each day of the night's sets.
-- For the serverless pool: read from the Delta table that spark/jobs/route_history.py keeps, written to the lake as Parquet.
-- The dedicated pool can't read Delta, and needn't run for this.
{%- set train_from, train_to, holdout_from, holdout_to = night.window(60, 7) %}
IF DB_ID('lake') IS NULL CREATE DATABASE lake COLLATE Latin1_General_100_BIN2_UTF8;
GO
USE lake;
GO

IF NOT EXISTS (SELECT * FROM sys.external_data_sources WHERE name = 'lake')
    CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = '{{ azure.lake_abfss_url }}');
IF NOT EXISTS (SELECT * FROM sys.external_file_formats WHERE name = 'parquet')
    CREATE EXTERNAL FILE FORMAT parquet
    WITH (FORMAT_TYPE = PARQUET, DATA_COMPRESSION = 'org.apache.hadoop.io.compress.SnappyCodec');
IF EXISTS (SELECT * FROM sys.external_tables WHERE name = 'route_delays') DROP EXTERNAL TABLE dbo.route_delays;
GO

CREATE EXTERNAL TABLE dbo.route_delays
WITH (
    LOCATION = 'curated/route_delays/{{ night.partition }}/{{ night.key }}/',
    DATA_SOURCE = lake,
    FILE_FORMAT = parquet
)
AS
SELECT flight_date, carrier, origin, dest, route_flights_28d, CAST(minutes_28d AS float) / route_flights_28d AS route_delay_28d
FROM (
    SELECT
        flight_date,
        carrier,
        origin,
        dest,
        CAST(SUM(flights) OVER (
            PARTITION BY carrier, origin, dest ORDER BY flight_date ROWS BETWEEN 28 PRECEDING AND 1 PRECEDING
        ) AS int) AS route_flights_28d,
        SUM(minutes_late) OVER (
            PARTITION BY carrier, origin, dest ORDER BY flight_date ROWS BETWEEN 28 PRECEDING AND 1 PRECEDING
        ) AS minutes_28d
    FROM OPENROWSET(BULK 'curated/route_history/', DATA_SOURCE = 'lake', FORMAT = 'DELTA')
    WITH (
        flight_date   date,
        carrier       varchar(2),
        origin        char(3),
        dest          char(3),
        flights       int,
        minutes_late  bigint
    ) AS flown
) AS history
WHERE route_flights_28d > 0 AND flight_date BETWEEN '{{ train_from }}' AND '{{ night.partition }}';
GO

-- The night's log says what the features are made of.
SELECT COUNT(*) AS [rows], MIN(flight_date) AS first_day, MAX(flight_date) AS last_day, AVG(route_delay_28d) AS mean_delay
FROM dbo.route_delays;
