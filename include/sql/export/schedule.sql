-- The schedule of the days to build, for Spark: when each flight leaves and arrives, in the airports' own time.
-- The lake, as external tables reach it: once a database.
IF NOT EXISTS (SELECT * FROM sys.symmetric_keys WHERE name = '##MS_DatabaseMasterKey##') CREATE MASTER KEY;
IF NOT EXISTS (SELECT * FROM sys.database_scoped_credentials WHERE name = 'lake_identity')
    CREATE DATABASE SCOPED CREDENTIAL lake_identity WITH IDENTITY = 'Managed Service Identity';
IF NOT EXISTS (SELECT * FROM sys.external_data_sources WHERE name = 'lake')
    CREATE EXTERNAL DATA SOURCE lake
    WITH (TYPE = HADOOP, LOCATION = '{{ azure.lake_abfss_url }}', CREDENTIAL = lake_identity);
IF NOT EXISTS (SELECT * FROM sys.external_file_formats WHERE name = 'parquet')
    CREATE EXTERNAL FILE FORMAT parquet
    WITH (FORMAT_TYPE = PARQUET, DATA_COMPRESSION = 'org.apache.hadoop.io.compress.SnappyCodec');
GO

IF EXISTS (SELECT * FROM sys.external_tables WHERE name = 'schedule_export' AND schema_id = SCHEMA_ID('stg'))
    DROP EXTERNAL TABLE stg.schedule_export;
GO

CREATE EXTERNAL TABLE stg.schedule_export
WITH (
    LOCATION = '/curated/schedule/{{ night.partition }}/{{ night.key }}/',
    DATA_SOURCE = lake,
    FILE_FORMAT = parquet
)
AS
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
