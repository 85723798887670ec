"""Statements for a dedicated pool: (name, batch, what it answers), as in statements_serverless.

Sources: https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/ and the pages of Transact-SQL that
apply to it; dbt's are those of dbt-synapse and dbt-fabric, SQLAlchemy's those of its mssql dialect.
"""

from __future__ import annotations

from typing import Any

Statements = list[tuple[str, str, Any]]

# The fixture: dbo.f (id, k, v, d) of 4 rows, hash-distributed by id, three partitions by d.
DEDICATED: Statements = [
    # performance-tuning-materialized-views
    (
        "a materialised view",
        "CREATE MATERIALIZED VIEW dbo.m1 WITH (DISTRIBUTION = HASH(k)) AS SELECT k, COUNT_BIG(*) AS n, SUM(v) AS s FROM dbo.f GROUP BY k; SELECT k, n, s FROM dbo.m1 ORDER BY k",
        [("a", 2, "5.00"), ("b", 2, "4.50")],
    ),
    (
        "it is always fresh",
        "CREATE MATERIALIZED VIEW dbo.m2 WITH (DISTRIBUTION = ROUND_ROBIN) AS SELECT COUNT_BIG(*) AS n FROM dbo.g; INSERT INTO dbo.g VALUES (9); SELECT n FROM dbo.m2; DELETE FROM dbo.g WHERE a = 9",
        [(3,)],
    ),
    ("it needs a distribution", "CREATE MATERIALIZED VIEW dbo.m3 AS SELECT COUNT_BIG(*) AS n FROM dbo.f", 102),
    (
        "not a replicated one",
        "CREATE MATERIALIZED VIEW dbo.m4 WITH (DISTRIBUTION = REPLICATE) AS SELECT COUNT_BIG(*) AS n FROM dbo.f",
        103010,
    ),
    (
        "it needs an aggregate",
        "CREATE MATERIALIZED VIEW dbo.m5 WITH (DISTRIBUTION = HASH(k)) AS SELECT k FROM dbo.f",
        103010,
    ),
    (
        "its hash column is in the list",
        "CREATE MATERIALIZED VIEW dbo.m6 WITH (DISTRIBUTION = HASH(v)) AS SELECT k, COUNT_BIG(*) AS n FROM dbo.f GROUP BY k",
        207,
    ),
    (
        "no TOP in it",
        "CREATE MATERIALIZED VIEW dbo.m7 WITH (DISTRIBUTION = HASH(k)) AS SELECT TOP 1 k, COUNT_BIG(*) AS n FROM dbo.f GROUP BY k",
        103010,
    ),
    (
        "disabled and rebuilt",
        "CREATE MATERIALIZED VIEW dbo.m8 WITH (DISTRIBUTION = HASH(k)) AS SELECT k, COUNT_BIG(*) AS n FROM dbo.f GROUP BY k; ALTER MATERIALIZED VIEW dbo.m8 DISABLE; ALTER MATERIALIZED VIEW dbo.m8 REBUILD; SELECT COUNT(*) FROM dbo.m8",
        [(2,)],
    ),
    ("no such view to rebuild", "ALTER MATERIALIZED VIEW dbo.none REBUILD", 208),
    (
        "its overhead",
        "CREATE MATERIALIZED VIEW dbo.m9 WITH (DISTRIBUTION = HASH(k)) AS SELECT k, COUNT_BIG(*) AS n FROM dbo.f GROUP BY k; DBCC PDW_SHOWMATERIALIZEDVIEWOVERHEAD ('dbo.m9')",
        ("columns", 4),
    ),
    # sql-data-warehouse-tables-distribute
    (
        "a hash of two columns",
        "CREATE TABLE dbo.t1 WITH (DISTRIBUTION = HASH(id, k), HEAP) AS SELECT * FROM dbo.f; SELECT COUNT(*) FROM dbo.t1",
        [(4,)],
    ),
    (
        "a temporary table by hash",
        "CREATE TABLE #t2 WITH (DISTRIBUTION = HASH(id)) AS SELECT id FROM dbo.f; SELECT SUM(id) FROM #t2",
        [(10,)],
    ),
    (
        "ordered columnstore",
        "CREATE TABLE dbo.t3 (a int) WITH (DISTRIBUTION = HASH(a), CLUSTERED COLUMNSTORE INDEX ORDER (a)); SELECT column_store_order_ordinal FROM sys.index_columns WHERE object_id = OBJECT_ID('dbo.t3')",
        [(1,)],
    ),
    ("a hash by a column that isn't there", "CREATE TABLE dbo.t4 (a int) WITH (DISTRIBUTION = HASH(b))", 1911),
    # sql-data-warehouse-tables-partition
    (
        "split and merge",
        "CREATE TABLE dbo.t5 (a int) WITH (HEAP, PARTITION (a RANGE RIGHT FOR VALUES (10))); ALTER TABLE dbo.t5 SPLIT RANGE (20); ALTER TABLE dbo.t5 MERGE RANGE (10); SELECT COUNT(*) FROM sys.partitions WHERE object_id = OBJECT_ID('dbo.t5')",
        [(2,)],
    ),
    (
        "partition rows",
        "SELECT partition_number, rows FROM sys.partitions WHERE object_id = OBJECT_ID('dbo.f') ORDER BY 1",
        [(1, 1), (2, 2), (3, 1)],
    ),
    (
        "truncate a partition",
        "CREATE TABLE dbo.t6 WITH (DISTRIBUTION = HASH(id), PARTITION (d RANGE RIGHT FOR VALUES ('2020-01-01'))) AS SELECT id, d FROM dbo.f; TRUNCATE TABLE dbo.t6 WITH (PARTITIONS (1)); SELECT COUNT(*) FROM dbo.t6",
        [(3,)],
    ),
    # sql-data-warehouse-workload-classification
    (
        "a workload group",
        "CREATE WORKLOAD GROUP g1 WITH (MIN_PERCENTAGE_RESOURCE = 10, CAP_PERCENTAGE_RESOURCE = 50, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 5); SELECT min_percentage_resource, cap_percentage_resource FROM sys.workload_management_workload_groups WHERE name = 'g1'",
        [(10, 50)],
    ),
    (
        "altered",
        "CREATE WORKLOAD GROUP g2 WITH (MIN_PERCENTAGE_RESOURCE = 10, CAP_PERCENTAGE_RESOURCE = 50, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 5); ALTER WORKLOAD GROUP g2 WITH (CAP_PERCENTAGE_RESOURCE = 60); SELECT cap_percentage_resource FROM sys.workload_management_workload_groups WHERE name = 'g2'",
        [(60,)],
    ),
    (
        "more than there is",
        "CREATE WORKLOAD GROUP g3 WITH (MIN_PERCENTAGE_RESOURCE = 95, CAP_PERCENTAGE_RESOURCE = 100, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 5)",
        100000,
    ),
    (
        "least above most",
        "CREATE WORKLOAD GROUP g4 WITH (MIN_PERCENTAGE_RESOURCE = 20, CAP_PERCENTAGE_RESOURCE = 10, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 5)",
        100000,
    ),
    (
        "a group in use stays",
        "CREATE WORKLOAD GROUP g5 WITH (MIN_PERCENTAGE_RESOURCE = 0, CAP_PERCENTAGE_RESOURCE = 50, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 5); CREATE WORKLOAD CLASSIFIER c5 WITH (WORKLOAD_GROUP = 'g5', MEMBERNAME = 'nobody'); DROP WORKLOAD GROUP g5",
        100000,
    ),
    (
        "a label finds its group",
        "CREATE WORKLOAD GROUP g6 WITH (MIN_PERCENTAGE_RESOURCE = 0, CAP_PERCENTAGE_RESOURCE = 50, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 7); CREATE WORKLOAD CLASSIFIER c6 WITH (WORKLOAD_GROUP = 'g6', MEMBERNAME = 'tester', WLM_LABEL = 'L6', IMPORTANCE = HIGH); SELECT COUNT(*) FROM dbo.f OPTION (LABEL = 'L6'); SELECT group_name, classifier_name, importance, resource_allocation_percentage FROM sys.dm_pdw_exec_requests WHERE label = 'L6'",
        [("g6", "c6", "high", "7.00")],
    ),
    (
        "a context finds its group",
        "CREATE WORKLOAD CLASSIFIER c7 WITH (WORKLOAD_GROUP = 'largerc', MEMBERNAME = 'tester', WLM_CONTEXT = 'night'); EXEC sys.sp_set_session_context @key = 'wlm_context', @value = 'night'; SELECT 7 AS seven OPTION (LABEL = 'L7'); EXEC sys.sp_set_session_context @key = 'wlm_context', @value = null; SELECT group_name FROM sys.dm_pdw_exec_requests WHERE label = 'L7'",
        [("largerc",)],
    ),
    (
        "a group's time limit",
        "CREATE WORKLOAD GROUP g8 WITH (MIN_PERCENTAGE_RESOURCE = 0, CAP_PERCENTAGE_RESOURCE = 50, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 5, QUERY_EXECUTION_TIMEOUT_SEC = 1); CREATE WORKLOAD CLASSIFIER c8 WITH (WORKLOAD_GROUP = 'g8', MEMBERNAME = 'tester', WLM_LABEL = 'slow'); SELECT SUM(a.id * b.id) FROM "
        + ", ".join(f"dbo.f {letter}" for letter in "abcdefghijklmnopq")
        + " WHERE a.id + q.id * c.id > b.id OPTION (LABEL = 'slow')",
        3617,
    ),
    # performance-tuning-result-set-caching
    (
        "the result set cache",
        "ALTER DATABASE dw SET RESULT_SET_CACHING ON; SELECT SUM(v) FROM dbo.f OPTION (LABEL = 'R1'); SELECT SUM(v) FROM dbo.f OPTION (LABEL = 'R1'); SELECT result_cache_hit FROM sys.dm_pdw_exec_requests WHERE label = 'R1' ORDER BY submit_time, request_id",
        [(0,), (1,)],
    ),
    (
        "a change makes it miss",
        "SELECT SUM(a) FROM dbo.g OPTION (LABEL = 'R2'); INSERT INTO dbo.g VALUES (5); SELECT SUM(a) FROM dbo.g OPTION (LABEL = 'R2'); DELETE FROM dbo.g WHERE a = 5; SELECT MAX(result_cache_hit) FROM sys.dm_pdw_exec_requests WHERE label = 'R2'",
        [(0,)],
    ),
    (
        "not for functions of the moment",
        "SELECT MAX(id), MAX(GETDATE()) FROM dbo.f OPTION (LABEL = 'R3'); SELECT result_cache_hit FROM sys.dm_pdw_exec_requests WHERE label = 'R3'",
        [(-32,)],
    ),
    (
        "off for a session",
        "SET RESULT_SET_CACHING OFF; SELECT MAX(id) FROM dbo.f OPTION (LABEL = 'R4'); SET RESULT_SET_CACHING ON; SELECT result_cache_hit FROM sys.dm_pdw_exec_requests WHERE label = 'R4'",
        [(-2,)],
    ),
    ("its space", "DBCC SHOWRESULTCACHESPACEUSED", ("columns", 4)),
    ("emptied", "DBCC DROPRESULTSETCACHE; DBCC SHOWRESULTCACHESPACEUSED", [(0, 0, 0, 0)]),
    (
        "off again",
        "ALTER DATABASE dw SET RESULT_SET_CACHING OFF; SELECT is_result_set_caching_on FROM sys.databases WHERE name = 'dw'",
        [(False,)],
    ),
    # statistics
    (
        "histogram",
        'CREATE STATISTICS s1 ON dbo.f (k) WITH FULLSCAN; DBCC SHOW_STATISTICS ("dbo.f", s1) WITH HISTOGRAM',
        [("a", 0.0, 2.0, 0, 1.0), ("b", 0.0, 2.0, 0, 1.0)],
    ),
    (
        "density",
        'CREATE STATISTICS s2 ON dbo.f (k, id); DBCC SHOW_STATISTICS ("dbo.f", s2) WITH DENSITY_VECTOR',
        [(0.5, 0.0, "k"), (0.25, 0.0, "k, id")],
    ),
    ("no such statistics", 'DBCC SHOW_STATISTICS ("dbo.f", nothing)', 2767),
    # scale
    (
        "scaled by T-SQL",
        "ALTER DATABASE dw MODIFY (SERVICE_OBJECTIVE = 'DW1000c'); SELECT DATABASEPROPERTYEX('dw', 'ServiceObjective'); SELECT COUNT(*) FROM sys.dm_pdw_nodes WHERE type = 'COMPUTE'",
        [(2,)],
    ),
    ("to no size there is", "ALTER DATABASE dw MODIFY (SERVICE_OBJECTIVE = 'DW7c')", 40804),
    # functions
    (
        "json_modify",
        "SELECT JSON_MODIFY('{\"a\":1,\"b\":[1]}', '$.a', 'x'), JSON_MODIFY('{\"a\":1}', '$.a', NULL), JSON_MODIFY('{\"b\":[1]}', 'append $.b', 2)",
        [('{"a":"x","b":[1]}', "{}", '{"b":[1,2]}')],
    ),
    (
        "a product of thirty digits",
        "SELECT CAST(9999999999999.99 AS decimal(15,2)) * CAST(99999999999999.99 AS decimal(16,2))",
        [("999999999999998900000000000.0001",)],
    ),
    (
        "char columns grouped",
        "CREATE TABLE dbo.ch (c char(3), n int); INSERT INTO dbo.ch VALUES ('a', 1), ('A ', 2), ('b', 4); SELECT c + '.', SUM(n) FROM dbo.ch GROUP BY c ORDER BY 2",
        [("a  .", 3), ("b  .", 4)],
    ),
    ("explain", "EXPLAIN SELECT COUNT(*) FROM dbo.f", ("columns", 1)),
    ("no for json", "SELECT id FROM dbo.f FOR JSON PATH", 103010),
    ("no table sample", "SELECT * FROM dbo.f TABLESAMPLE (10 PERCENT)", 103010),
    # dbt-synapse, dbt-fabric
    ("dbt: which schemas", "USE [dw]; SELECT name AS [schema] FROM sys.schemas WHERE name = 'dbo'", [("dbo",)]),
    (
        "dbt: a schema",
        "IF NOT EXISTS (SELECT * FROM sys.schemas WHERE name = 'dbt_x') BEGIN EXEC('CREATE SCHEMA [dbt_x]') END; SELECT COUNT(*) AS schema_exist FROM sys.schemas WHERE name = 'dbt_x'",
        [(1,)],
    ),
    (
        "dbt: relations",
        "with base as (select DB_NAME() as [database], t.name as [name], SCHEMA_NAME(t.schema_id) as [schema], 'table' as table_type from sys.tables as t WITH (NOLOCK) union all select DB_NAME() as [database], v.name as [name], SCHEMA_NAME(v.schema_id) as [schema], 'view' as table_type from sys.views as v WITH (NOLOCK)) select * from base where [schema] like 'dbo' and [name] = 'f'",
        [("dw", "f", "dbo", "table")],
    ),
    (
        "dbt: a table by way of a view",
        "EXEC('create view dbo.[x__dbt_tmp_vw] as select 1 as id'); CREATE TABLE [dbo].[x] WITH (DISTRIBUTION = ROUND_ROBIN, CLUSTERED COLUMNSTORE INDEX) AS (SELECT * FROM [dbo].[x__dbt_tmp_vw]) OPTION (LABEL = 'dbt-synapse'); DROP VIEW IF EXISTS [dbo].[x__dbt_tmp_vw]; SELECT id FROM [dbo].[x]",
        [(1,)],
    ),
    (
        "dbt: renamed",
        "CREATE TABLE dbo.x__dbt_backup (a int); RENAME OBJECT [dbo].[x__dbt_backup] TO [x2]; SELECT COUNT(*) FROM dbo.x2",
        [(0,)],
    ),
    ("dbt: dropped", "IF OBJECT_ID('[dbo].[x9]', 'U') IS NOT NULL BEGIN DROP TABLE [dbo].[x9] END; SELECT 1", [(1,)]),
    (
        "dbt: columns",
        "select c.name, t.name as data_type, c.max_length, c.precision, c.scale from sys.columns as c join sys.types as t on c.user_type_id = t.user_type_id where c.object_id = object_id('[dw].[dbo].[f]') order by c.column_id",
        [("id", "int", 4, 10, 0), ("k", "varchar", 10, 0, 0), ("v", "decimal", 9, 10, 2), ("d", "date", 3, 10, 0)],
    ),
    # SQLAlchemy
    (
        "sqlalchemy: isolation",
        "SELECT CASE transaction_isolation_level WHEN 0 THEN NULL WHEN 1 THEN 'READ UNCOMMITTED' WHEN 2 THEN 'READ COMMITTED' END AS TRANSACTION_ISOLATION_LEVEL FROM sys.dm_exec_sessions WHERE session_id = @@SPID",
        [("READ COMMITTED",)],
    ),
    (
        "sqlalchemy: has a table",
        "SELECT 1 FROM [INFORMATION_SCHEMA].[TABLES] WHERE [TABLE_TYPE] IN ('BASE TABLE', 'VIEW') AND [TABLE_NAME] = CAST(N'f' AS NVARCHAR(max)) AND [TABLE_SCHEMA] = CAST(N'dbo' AS NVARCHAR(max))",
        [(1,)],
    ),
    # create-function-sql-data-warehouse
    (
        "a scalar function",
        "EXEC('CREATE FUNCTION dbo.fn2 (@x int, @y int) RETURNS int AS BEGIN DECLARE @z int = @x * 2; SET @z = @z + @y; RETURN @z + 1 END'); SELECT dbo.fn2(3, 4), dbo.fn2(NULL, 1)",
        [(11, None)],
    ),
    (
        "its result is cut to its type",
        "EXEC('CREATE FUNCTION dbo.fn3 (@x int) RETURNS varchar(3) AS BEGIN RETURN CONCAT(@x, ''-x'') END'); SELECT dbo.fn3(12)",
        [("12-",)],
    ),
    (
        "a function over rows",
        "EXEC('CREATE FUNCTION dbo.fn4 (@x int) RETURNS int AS BEGIN RETURN @x * @x END'); SELECT SUM(dbo.fn4(id)) FROM dbo.f WHERE dbo.fn4(id) > 1",
        [(29,)],
    ),
    (
        "an inline table",
        "EXEC('CREATE FUNCTION dbo.tv1 (@k varchar(10)) RETURNS TABLE AS RETURN (SELECT id, @k AS given FROM dbo.f WHERE k = @k)'); SELECT id, given FROM dbo.tv1('a') ORDER BY id",
        [(1, "a"), (3, "a")],
    ),
    (
        "an inline table applied",
        "EXEC('CREATE FUNCTION dbo.tv2 (@i int) RETURNS TABLE AS RETURN (SELECT id FROM dbo.f WHERE id > @i)'); SELECT f.id, COUNT(*) FROM dbo.f AS f CROSS APPLY dbo.tv2(f.id) AS t GROUP BY f.id ORDER BY f.id",
        [(1, 3), (2, 2), (3, 1)],
    ),
    (
        "too few arguments",
        "EXEC('CREATE FUNCTION dbo.fn5 (@x int) RETURNS int AS BEGIN RETURN @x END'); SELECT dbo.fn5()",
        313,
    ),
    (
        "a function dropped",
        "EXEC('CREATE FUNCTION dbo.fn6 (@x int) RETURNS int AS BEGIN RETURN @x END'); DROP FUNCTION dbo.fn6; SELECT dbo.fn6(1)",
        4121,
    ),
    (
        "a query in a scalar function",
        "CREATE FUNCTION dbo.fn7 (@x int) RETURNS int AS BEGIN RETURN (SELECT COUNT(*) FROM dbo.f) END",
        40517,
    ),
    # overview-features: the aggregates that a dedicated pool doesn't have
    ("no checksum_agg", "SELECT CHECKSUM_AGG(id) FROM dbo.f", 103010),
    ("no grouping_id", "SELECT GROUPING_ID(k) FROM dbo.f GROUP BY ROLLUP(k)", 103010),
]

PROCEDURAL: Statements = [
    ("declare and set", "DECLARE @a int = 1, @b varchar(5); SET @b = 'x'; SET @a += 2; SELECT @a, @b", [(3, "x")]),
    ("select assigns the last", "DECLARE @x int; SELECT @x = id FROM dbo.f ORDER BY id; SELECT @x", [(4,)]),
    ("no row leaves it alone", "DECLARE @x int = 9; SELECT @x = id FROM dbo.f WHERE 1 = 0; SELECT @x", [(9,)]),
    ("if and else", "IF 1 = 2 SELECT 'a' AS r ELSE IF 2 = 2 SELECT 'b' AS r ELSE SELECT 'c' AS r", [("b",)]),
    ("unknown isn't true", "IF NULL = NULL SELECT 1 AS r ELSE SELECT 2 AS r", [(2,)]),
    ("while and break", "DECLARE @i int = 0; WHILE 1 = 1 BEGIN SET @i += 1; IF @i = 4 BREAK; END; SELECT @i", [(4,)]),
    (
        "while over a query",
        "DECLARE @n int = 0; WHILE @n < (SELECT COUNT(*) FROM dbo.f) SET @n += 1; SELECT @n",
        [(4,)],
    ),
    (
        "try and catch",
        "BEGIN TRY SELECT 1 / 0 END TRY BEGIN CATCH SELECT ERROR_NUMBER(), ERROR_SEVERITY() END CATCH",
        [(8134, 16)],
    ),
    (
        "what was thrown",
        "BEGIN TRY THROW 100123, 'mine', 4 END TRY BEGIN CATCH SELECT ERROR_NUMBER(), ERROR_MESSAGE(), ERROR_STATE() END CATCH",
        [(100123, "mine", 4)],
    ),
    (
        "thrown again",
        "BEGIN TRY BEGIN TRY THROW 100001, 'in', 1 END TRY BEGIN CATCH THROW END CATCH END TRY BEGIN CATCH SELECT ERROR_MESSAGE() END CATCH",
        [("in",)],
    ),
    ("throw outside", "THROW", 10704),
    (
        "raiserror",
        "BEGIN TRY RAISERROR('n=%d s=%s', 16, 1, 5, 'x') END TRY BEGIN CATCH SELECT ERROR_NUMBER(), ERROR_MESSAGE() END CATCH",
        [(50000, "n=5 s=x")],
    ),
    ("a weak raiserror is a message", "RAISERROR('note', 10, 1); SELECT 1", [(1,)]),
    ("no error outside catch", "SELECT ERROR_NUMBER()", [(None,)]),
    ("row count", "UPDATE dbo.g SET a = a; SELECT @@ROWCOUNT", [(2,)]),
    ("no count", "SET NOCOUNT ON; UPDATE dbo.g SET a = a; SELECT @@ROWCOUNT; SET NOCOUNT OFF", [(2,)]),
    (
        "a procedure",
        "EXEC('CREATE PROCEDURE dbo.p1 @a int, @b int AS SELECT @a + @b AS s'); EXEC dbo.p1 1, @b = 4",
        [(5,)],
    ),
    (
        "an output parameter",
        "EXEC('CREATE PROCEDURE dbo.p2 @a int, @r int OUTPUT AS SET @r = @a * 2'); DECLARE @x int; EXEC dbo.p2 21, @x OUTPUT; SELECT @x",
        [(42,)],
    ),
    ("a missing parameter", "EXEC('CREATE PROCEDURE dbo.p3 @a int AS SELECT @a AS a'); EXEC dbo.p3", 201),
    ("too many", "EXEC('CREATE PROCEDURE dbo.p4 AS SELECT 1 AS a'); EXEC dbo.p4 1", 8144),
    ("an unknown procedure", "EXEC dbo.nope", 2812),
    (
        "altered",
        "EXEC('CREATE PROCEDURE dbo.p5 AS SELECT 1 AS a'); EXEC('ALTER PROCEDURE dbo.p5 AS SELECT 2 AS a'); EXEC dbo.p5",
        [(2,)],
    ),
    ("too deep", "EXEC('CREATE PROCEDURE dbo.p6 AS EXEC dbo.p6'); EXEC dbo.p6", 217),
    ("sp_executesql", "EXEC sp_executesql N'SELECT @a * 2 AS d', N'@a int', @a = 8", [(16,)]),
    (
        "sp_executesql hands back",
        "DECLARE @r int; EXEC sp_executesql N'SELECT @o = COUNT(*) FROM dbo.f', N'@o int OUTPUT', @o = @r OUTPUT; SELECT @r",
        [(4,)],
    ),
    (
        "text that is run",
        "DECLARE @t varchar(20) = 'f', @q varchar(100); SET @q = 'SELECT COUNT(*) FROM dbo.' + @t; EXEC(@q)",
        [(4,)],
    ),
    (
        "a transaction",
        "BEGIN TRAN; INSERT INTO dbo.g VALUES (50); ROLLBACK; SELECT COUNT(*) FROM dbo.g WHERE a = 50",
        [(0,)],
    ),
    ("how deep", "BEGIN TRAN; DECLARE @t int = @@TRANCOUNT; COMMIT; SELECT @t, @@TRANCOUNT", [(1, 0)]),
    ("nested ones aren't there", "BEGIN TRAN; BEGIN TRAN", 103010),
    ("after that it is still open", "SELECT @@TRANCOUNT; ROLLBACK; SELECT @@TRANCOUNT", [(0,)]),
    ("commit of nothing", "COMMIT", 3902),
    ("definitions inside one", "BEGIN TRAN; CREATE TABLE dbo.no (a int)", 111212),
    ("and away with it", "ROLLBACK; SELECT XACT_STATE()", [(0,)]),
    (
        "a failed one is doomed",
        "BEGIN TRY BEGIN TRAN; INSERT INTO dbo.g SELECT 1 / (a - a) FROM dbo.g; COMMIT END TRY BEGIN CATCH DECLARE @x int = XACT_STATE(); ROLLBACK; SELECT @x END CATCH",
        [(-2,)],
    ),
    ("return isn't there", "RETURN", 103010),
    ("goto isn't there", "GOTO x", 103010),
    ("continue isn't there", "WHILE 1 = 0 CONTINUE", 103010),
    ("table variables aren't there", "DECLARE @t TABLE (a int)", 103010),
    ("cursors aren't there", "DECLARE c CURSOR FOR SELECT 1", 103010),
    ("default parameters aren't there", "EXEC('CREATE PROCEDURE dbo.p7 @a int = 1 AS SELECT @a')", 103010),
    ("a variable twice", "DECLARE @a int; DECLARE @a int", 134),
    ("no such variable", "SELECT @nope", 137),
    ("print of a number", "PRINT 1 + 1; SELECT 'done'", [("done",)]),
]

DMV: Statements = [
    (
        "a label finds its request",
        "SELECT COUNT(*) FROM dbo.f OPTION (LABEL = 'D1'); SELECT status, command, row_count FROM sys.dm_pdw_exec_requests WHERE label = 'D1'",
        [("Completed", "SELECT COUNT(*) FROM dbo.f OPTION (LABEL = 'D1')", 1)],
    ),
    (
        "the request that asks runs",
        "SELECT status FROM sys.dm_pdw_exec_requests WHERE session_id = SESSION_ID() AND end_time IS NULL",
        [("Running",)],
    ),
    (
        "its steps",
        "SELECT COUNT(*) FROM dbo.f OPTION (LABEL = 'D2'); SELECT s.operation_type, s.status, s.row_count FROM sys.dm_pdw_request_steps s JOIN sys.dm_pdw_exec_requests r ON s.request_id = r.request_id WHERE r.label = 'D2'",
        [("ReturnOperation", "Complete", 1)],
    ),
    (
        "an empty CATCH",
        "BEGIN TRY SELECT 1 / 0 AS x OPTION (LABEL = 'D3') END TRY BEGIN CATCH END CATCH; SELECT status FROM sys.dm_pdw_exec_requests WHERE label = 'D3'",
        [("Failed",)],
    ),
    (
        "a failed one and its error",
        "BEGIN TRY SELECT 1 / 0 AS x OPTION (LABEL = 'D4') END TRY BEGIN CATCH PRINT 'x' END CATCH; SELECT r.status, e.details FROM sys.dm_pdw_exec_requests r JOIN sys.dm_pdw_errors e ON r.error_id = e.error_id WHERE r.label = 'D4'",
        [("Failed", "Divide by zero error encountered.")],
    ),
    (
        "this session",
        "SELECT status, login_name, app_name FROM sys.dm_pdw_exec_sessions WHERE session_id = SESSION_ID()",
        [("Active", "tester", "pytest")],
    ),
    (
        "sessions by spid",
        "SELECT session_id - @@SPID, program_name FROM sys.dm_exec_sessions WHERE session_id = @@SPID",
        [(0, "pytest")],
    ),
    (
        "what a step ran",
        "SELECT COUNT(*) AS d5 FROM dbo.f OPTION (LABEL = 'D5'); SELECT TOP 1 s.status FROM sys.dm_pdw_sql_requests s JOIN sys.dm_pdw_exec_requests r ON r.request_id = s.request_id WHERE r.label = 'D5'",
        [("Complete",)],
    ),
    (
        "60 distributions",
        "SELECT COUNT(*), MIN(distribution_id), MAX(distribution_id) FROM sys.pdw_distributions",
        [(60, 1, 60)],
    ),
    (
        "nodes",
        "SELECT type, COUNT(*) FROM sys.dm_pdw_nodes GROUP BY type ORDER BY type",
        [("COMPUTE", 1), ("CONTROL", 1)],
    ),
    ("space of a table", "DBCC PDW_SHOWSPACEUSED ('dbo.f')", ("rows", 60)),
    (
        "skew by the hash",
        "SELECT COUNT(*) FROM (SELECT ps.distribution_id FROM sys.pdw_nodes_tables nt JOIN sys.pdw_table_mappings tm ON nt.name = tm.physical_name JOIN sys.dm_pdw_nodes_db_partition_stats ps ON ps.object_id = nt.object_id AND ps.distribution_id = nt.distribution_id WHERE tm.object_id = OBJECT_ID('dbo.skewed') GROUP BY ps.distribution_id HAVING SUM(ps.row_count) > 0) AS x",
        [(1,)],
    ),
    (
        "even by round robin",
        "SELECT MAX(n) - MIN(n) FROM (SELECT nt.distribution_id, SUM(ps.row_count) AS n FROM sys.pdw_nodes_tables nt JOIN sys.pdw_table_mappings tm ON nt.name = tm.physical_name JOIN sys.dm_pdw_nodes_db_partition_stats ps ON ps.object_id = nt.object_id AND ps.distribution_id = nt.distribution_id WHERE tm.object_id = OBJECT_ID('dbo.even') GROUP BY nt.distribution_id) AS x",
        [(0,)],
    ),
    (
        "the vendor's view of table sizes",
        "SELECT t.name, tp.distribution_policy_desc, c.name, SUM(nps.row_count) FROM sys.schemas s "
        "INNER JOIN sys.tables t ON s.schema_id = t.schema_id INNER JOIN sys.indexes i ON t.object_id = i.object_id AND i.index_id <= 1 "
        "INNER JOIN sys.pdw_table_distribution_properties tp ON t.object_id = tp.object_id "
        "INNER JOIN sys.pdw_table_mappings tm ON t.object_id = tm.object_id INNER JOIN sys.pdw_nodes_tables nt ON tm.physical_name = nt.name "
        "INNER JOIN sys.dm_pdw_nodes pn ON nt.pdw_node_id = pn.pdw_node_id INNER JOIN sys.pdw_distributions di ON nt.distribution_id = di.distribution_id "
        "INNER JOIN sys.dm_pdw_nodes_db_partition_stats nps ON nt.object_id = nps.object_id AND nt.pdw_node_id = nps.pdw_node_id AND nt.distribution_id = nps.distribution_id AND i.index_id = nps.index_id "
        "LEFT OUTER JOIN (SELECT * FROM sys.pdw_column_distribution_properties WHERE distribution_ordinal = 1) cdp ON t.object_id = cdp.object_id "
        "LEFT OUTER JOIN sys.columns c ON cdp.object_id = c.object_id AND cdp.column_id = c.column_id "
        "WHERE pn.type = 'COMPUTE' AND t.name = 'f' GROUP BY t.name, tp.distribution_policy_desc, c.name",
        [("f", "HASH", "id", 4)],
    ),
    (
        "row groups of a small load are open",
        "SELECT DISTINCT rg.state_desc FROM sys.dm_pdw_nodes_db_column_store_row_group_physical_stats rg JOIN sys.pdw_nodes_tables nt ON nt.object_id = rg.object_id JOIN sys.pdw_table_mappings tm ON tm.physical_name = nt.name WHERE tm.object_id = OBJECT_ID('dbo.f')",
        [("OPEN",)],
    ),
    ("partition functions", "SELECT fanout, boundary_value_on_right FROM sys.partition_functions", [(3, True)]),
    (
        "boundaries",
        "SELECT value FROM sys.partition_range_values ORDER BY boundary_id",
        [("2020-01-01",), ("2021-01-01",)],
    ),
    (
        "distribution policy",
        "SELECT distribution_policy_desc FROM sys.pdw_table_distribution_properties WHERE object_id = OBJECT_ID('dbo.f')",
        [("HASH",)],
    ),
    (
        "distribution column",
        "SELECT c.name FROM sys.pdw_column_distribution_properties p JOIN sys.columns c ON c.object_id = p.object_id AND c.column_id = p.column_id WHERE p.object_id = OBJECT_ID('dbo.f') AND p.distribution_ordinal = 1",
        [("id",)],
    ),
    (
        "databases",
        "SELECT name, state_desc FROM sys.databases ORDER BY database_id",
        [("master", "ONLINE"), ("dw", "ONLINE")],
    ),
    ("its own id", "SELECT DB_ID(), DB_NAME(DB_ID())", [(5, "dw")]),
    ("no waits", "SELECT COUNT(*) FROM sys.dm_pdw_waits", [(0,)]),
    ("no workers", "SELECT COUNT(*) FROM sys.dm_pdw_dms_workers", [(0,)]),
    (
        "owners",
        "SELECT r.name, m.name FROM sys.database_role_members x JOIN sys.database_principals r ON r.principal_id = x.role_principal_id JOIN sys.database_principals m ON m.principal_id = x.member_principal_id",
        [("db_owner", "dbo")],
    ),
    ("no permissions are kept", "SELECT COUNT(*) FROM sys.database_permissions", [(0,)]),
    ("materialised views", "SELECT COUNT(*) FROM sys.pdw_materialized_view_mappings WHERE is_disabled = 1", [(0,)]),
    ("replicated tables are ready", "SELECT DISTINCT state FROM sys.pdw_replicated_table_cache_state", [("Ready",)]),
    (
        "replicated in one place",
        "SELECT COUNT(*), SUM(row_count) FROM (SELECT ps.row_count FROM sys.pdw_nodes_tables nt JOIN sys.pdw_table_mappings tm ON nt.name = tm.physical_name JOIN sys.dm_pdw_nodes_db_partition_stats ps ON ps.object_id = nt.object_id AND ps.distribution_id = nt.distribution_id WHERE tm.object_id = OBJECT_ID('dbo.rep') AND ps.row_count > 0) AS x",
        [(1, 3)],
    ),
    ("no data processed", "SELECT SUM(data_processed_mb) FROM sys.dm_external_data_processed", [(0,)]),
    (
        "classifier details",
        "CREATE WORKLOAD CLASSIFIER cd WITH (WORKLOAD_GROUP = 'smallrc', MEMBERNAME = 'x', START_TIME = '22:00', END_TIME = '02:00'); SELECT classifier_type, classifier_value FROM sys.workload_management_workload_classifier_details ORDER BY 1",
        [("end_time", "02:00"), ("membername", "x"), ("start_time", "22:00")],
    ),
    ("kill of a session that isn't there", "KILL 'SID9999'; SELECT 1", [(1,)]),
    (
        "a secret isn't shown",
        "CREATE MASTER KEY; CREATE DATABASE SCOPED CREDENTIAL cx WITH IDENTITY = 'i', SECRET = 'hush'; SELECT COUNT(*) FROM sys.dm_pdw_exec_requests WHERE command LIKE '%hush%' AND command NOT LIKE '%LIKE%'",
        [(0,)],
    ),
    ("a view that isn't there", "SELECT * FROM sys.dm_nothing", 208),
    ("a column that isn't there", "SELECT nothing FROM sys.dm_pdw_nodes", 207),
    (
        "what runs by the other view",
        "SELECT command, status FROM sys.dm_exec_requests WHERE session_id = @@SPID",
        [("SELECT", "running")],
    ),
    # catalog-stored-procedures, as ODBC calls them
    (
        "odbc: statistics",
        "CREATE TABLE dbo.keyed (a int NOT NULL, PRIMARY KEY NONCLUSTERED (a) NOT ENFORCED); EXEC sp_statistics_100 'keyed'",
        ("rows", 2),
    ),
    ("odbc: foreign keys", "EXEC sp_fkeys 'f'", ("columns", 14)),
    ("odbc: special columns", "EXEC sp_special_columns_100 'f'", ("rows", 0)),
    (
        "odbc: procedures",
        "EXEC('CREATE PROCEDURE dbo.listed @a int, @b varchar(5) OUTPUT AS SET @b = 1'); EXEC sp_stored_procedures 'listed'",
        ("rows", 1),
    ),
    ("odbc: parameters", "EXEC sp_sproc_columns 'listed'", ("rows", 2)),
]
