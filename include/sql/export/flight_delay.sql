-- Three sets for Azure ML, as Parquet: 60 days to train on, the 7 days after them to judge on, and the night's flights to
-- score. Flights that never arrived have no label: they are scored, not learned from.
{%- set train_from, train_to, holdout_from, holdout_to = night.window(60, 7) %}
{%- set features = ["flight_id", "flight_date", "carrier", "flight", "origin", "dest", "sched_dep_hour", "sched_dep_minute",
                    "sched_arr_hour", "month", "weekday", "distance", "dest_lat", "dest_lon", "plane_age", "seats", "engines",
                    "manufacturer", "temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib",
                    "origin_departures_1h", "origin_departures_3h", "dest_arrivals_1h"] %}
{%- set sets = [
    ("train", features + ["late"], "flight_date BETWEEN '" ~ train_from ~ "' AND '" ~ train_to ~ "' AND late IS NOT NULL"),
    ("holdout", features + ["late"], "flight_date BETWEEN '" ~ holdout_from ~ "' AND '" ~ holdout_to ~ "' AND late IS NOT NULL"),
    ("score", features, "flight_date = '" ~ night.partition ~ "'"),
] %}
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

{%- for name, columns, rows in sets %}

IF EXISTS (SELECT * FROM sys.external_tables WHERE name = 'flight_delay_{{ name }}' AND schema_id = SCHEMA_ID('stg'))
    DROP EXTERNAL TABLE stg.flight_delay_{{ name }};
GO

CREATE EXTERNAL TABLE stg.flight_delay_{{ name }}
WITH (
    LOCATION = '/export/flight_delay/{{ night.partition }}/{{ night.key }}/{{ name }}/',
    DATA_SOURCE = lake,
    FILE_FORMAT = parquet
)
AS
SELECT [{{ columns | join("], [") }}]
FROM ml.flight_features
WHERE {{ rows }};
GO
{%- endfor %}
