"""Every kind of statement in the vendor's lists for Synapse SQL, each with the case of the tests that shows it.

    python -m tests.sql.statement_kinds        (in emulator; writes the table into docs/parity.md)

Lists: https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-reference-tsql-statements
and .../sql-data-warehouse-reference-tsql-language-elements for dedicated pools, .../sql/overview-features for both.
What the table says of a kind isn't written here: it is what its case expects, and the case is a test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import statements_dedicated, statements_definitions, statements_rows, statements_serverless

PARITY = Path(__file__).parents[3] / "docs" / "parity.md"
BEGIN, END = "<!-- statements: emulator/tests/sql/statement_kinds.py -->\n", "\n<!-- end of statements -->"
NOT_YET = 40517
_CORPUS = Path(__file__).parent / "synapse-statements.json"


def _cases() -> dict[str, Any]:
    """What each case expects, by its name: ``group: name``."""
    groups: dict[str, list[tuple[str, str, Any]]] = {
        "dedicated": statements_dedicated.DEDICATED,
        "procedural": statements_dedicated.PROCEDURAL,
        "views": statements_dedicated.DMV,
        "lake": statements_serverless.STATEMENTS,
        "ddl": statements_definitions.DDL,
        "load": statements_definitions.LOAD,
        "admin": statements_definitions.ADMIN,
        "dml": statements_rows.DML,
        "query": statements_rows.QUERY,
        "proc": statements_rows.PROC,
        "sem": statements_rows.SEM,
    }
    found = {f"{group}: {name}": answer for group, rows in groups.items() for name, _, answer in rows}
    for statement in json.loads(_CORPUS.read_text(encoding="utf-8"))["statements"]:
        if statement["expected"] != "ERR":  # refused under a number that the corpus doesn't say
            found[f"corpus: {statement['id']}"] = []
    found["permissions: a log-in"] = []  # test_permissions.py: log-ins are made in master, by a session of their own
    return found


CASES = _cases()

# (kind, the case for a dedicated pool, the case for a serverless pool); empty: not in the vendor's list for it
KINDS: dict[str, list[tuple[str, str, str]]] = {
    "Definitions": [
        ("ALTER DATABASE", "admin: caching of results", "lake: collation of a database"),
        ("ALTER FUNCTION", "ddl: a function altered", ""),
        ("ALTER INDEX", "ddl: all indexes rebuilt", ""),
        ("ALTER MATERIALIZED VIEW", "dedicated: disabled and rebuilt", ""),
        ("ALTER PROCEDURE", "procedural: altered", "ddl: serverless: a procedure altered"),
        ("ALTER SCHEMA .. TRANSFER", "ddl: move a table to another schema", ""),
        ("ALTER TABLE .. ADD, ALTER, DROP COLUMN", "ddl: columns added at once", "lake: alter table"),
        ("ALTER TABLE .. ADD CONSTRAINT", "ddl: unique not enforced, added", ""),
        ("ALTER TABLE .. SPLIT, MERGE RANGE", "dedicated: split and merge", ""),
        ("ALTER TABLE .. SWITCH PARTITION", "corpus: switch", ""),
        ("ALTER VIEW", "ddl: a view over itself", "ddl: serverless: a view dropped"),
        ("CREATE DATABASE", "admin: no databases more", "admin: serverless: a database more"),
        ("CREATE EXTERNAL DATA SOURCE", "load: a data source with everything", "ddl: serverless: external objects dropped"),
        ("CREATE EXTERNAL FILE FORMAT", "load: external file format for text", "ddl: serverless: external objects dropped"),
        ("CREATE EXTERNAL TABLE", "load: external table over text", "lake: an external table"),
        ("CREATE EXTERNAL TABLE AS SELECT", "load: cetas and back", "load: serverless: cetas"),
        ("CREATE FUNCTION, scalar", "ddl: a scalar function with if", "lake: no scalar function"),
        ("CREATE FUNCTION, scalar with WHILE", "ddl: a scalar function with while", ""),
        ("CREATE FUNCTION, inline table", "dedicated: an inline table", "lake: an inline table function"),
        ("CREATE INDEX", "ddl: an index by another name", "ddl: serverless: no index"),
        ("CREATE COLUMNSTORE INDEX", "dedicated: ordered columnstore", ""),
        ("CREATE MATERIALIZED VIEW", "dedicated: a materialised view", "lake: a materialised view"),
        ("CREATE PROCEDURE", "procedural: a procedure", "proc: serverless: a procedure"),
        ("CREATE SCHEMA", "ddl: create schema with objects of it", "lake: a schema"),
        ("CREATE STATISTICS", "admin: statistics and their columns", "admin: serverless: statistics of files"),
        ("CREATE TABLE", "ddl: default of a column", "lake: create table"),
        ("CREATE TABLE #temporary", "dedicated: a temporary table by hash", "dml: serverless: a temporary table"),
        ("CREATE TABLE AS SELECT", "ddl: ctas keeps types", "lake: create table as select"),
        ("CREATE TABLE AS CLONE OF", "ddl: no clones", ""),
        ("CREATE VIEW", "ddl: a view alone in its batch", "ddl: serverless: create or alter a view"),
        ("CREATE TRIGGER", "ddl: no triggers", ""),
        ("CREATE SEQUENCE", "ddl: no sequences", ""),
        ("CREATE SYNONYM", "ddl: no synonyms", ""),
        ("CREATE TYPE", "ddl: no types of one's own", ""),
        ("DROP DATABASE", "admin: a database dropped", "admin: serverless: and gone"),
        ("DROP EXTERNAL DATA SOURCE, FILE FORMAT", "ddl: external objects dropped", "ddl: serverless: external objects dropped"),
        ("DROP EXTERNAL TABLE", "load: external table dropped, files stay", "ddl: serverless: external objects dropped"),
        ("DROP FUNCTION", "ddl: a function dropped", ""),
        ("DROP INDEX", "ddl: an index dropped", ""),
        ("DROP PROCEDURE", "ddl: a procedure defined and dropped", "ddl: serverless: a procedure altered"),
        ("DROP SCHEMA", "ddl: an empty schema goes", "ddl: serverless: a schema dropped"),
        ("DROP STATISTICS", "admin: statistics dropped", "admin: serverless: statistics of files"),
        ("DROP TABLE", "ddl: drop several, some not there", "dml: serverless: a temporary table"),
        ("DROP VIEW", "ddl: a view dropped", "ddl: serverless: a view dropped"),
        ("RENAME OBJECT", "corpus: rename", "lake: rename"),
        ("sp_rename of a column", "ddl: sp_rename of a column", ""),
        ("TRUNCATE TABLE", "dml: truncate", "lake: truncate"),
        ("UPDATE STATISTICS", "admin: statistics updated", ""),
    ],
    "Rows": [
        ("COPY INTO", "load: copy a folder", "lake: copy into"),
        ("COPY INTO .. AUTO_CREATE_TABLE", "load: copy that makes its table", ""),
        ("COPY INTO of ORC", "load: copy of orc", ""),
        ("DELETE", "dml: delete by a join", "lake: delete from a view"),
        ("INSERT", "dml: rows of values", "lake: insert into an external table"),
        ("INSERT .. EXEC", "dml: no insert exec", ""),
        ("MERGE", "dml: merge of all three", "lake: merge"),
        ("OUTPUT", "dml: no output clause", ""),
        ("SELECT .. INTO", "dml: select into", "lake: select into a table"),
        ("UPDATE", "dml: update by a join", "lake: update an external table"),
    ],
    "Queries": [
        ("SELECT, WHERE, ORDER BY, TOP", "query: top with ties", "query: serverless: common tables and sets"),
        ("WITH common tables", "query: common tables on each other", "query: serverless: common tables and sets"),
        ("WITH, recursive", "query: recursion isn't there", "lake: a recursive table"),
        ("UNION, EXCEPT, INTERSECT", "query: intersect before union", "query: serverless: common tables and sets"),
        ("GROUP BY, HAVING", "query: rollup and grouping", "query: serverless: windows and grouping"),
        ("GROUP BY ROLLUP, GROUPING SETS", "query: rollup and grouping", "lake: grouping sets"),
        ("OVER", "query: running total", "query: serverless: windows and grouping"),
        ("PIVOT, UNPIVOT", "query: a pivot", "query: serverless: pivot"),
        ("CROSS APPLY, OUTER APPLY", "query: cross apply of the latest", ""),
        ("OFFSET .. FETCH", "", "query: serverless: offset and fetch"),
        ("FOR XML", "query: for xml isn't there", "query: serverless: no xml of rows yet"),
        ("FOR JSON", "dedicated: no for json", "query: serverless: no json of rows yet"),
        ("OPENJSON", "query: json over rows", ""),
        ("OPENROWSET", "load: no openrowset", "lake: count reads no column"),
        ("TABLESAMPLE", "dedicated: no table sample", ""),
        ("OPTION (LABEL)", "load: copy with a label", "lake: a label"),
        ("OPTION of joins, table hints", "query: hints of joins", "lake: a table hint"),
        ("EXPLAIN", "admin: explain with recommendations", "admin: serverless: no explain"),
        ("names of three parts", "query: names of three parts", "query: serverless: names of three parts"),
    ],
    "Control of flow": [
        ("BEGIN .. END, IF .. ELSE", "proc: else of the nearer if", "proc: serverless: flow"),
        ("WHILE, BREAK", "proc: break out of the inner one", "proc: serverless: flow"),
        ("CONTINUE", "procedural: continue isn't there", "lake: continue"),
        ("DECLARE, SET, SELECT @x =", "proc: select into several", "proc: serverless: flow"),
        ("DECLARE .. TABLE", "procedural: table variables aren't there", "lake: a table variable"),
        ("DECLARE .. CURSOR", "procedural: cursors aren't there", ""),
        ("EXECUTE", "proc: a procedure of procedures", "proc: serverless: a procedure"),
        ("EXECUTE ('text'), sp_executesql", "proc: dynamic with two parameters", "proc: serverless: dynamic"),
        ("GOTO", "procedural: goto isn't there", ""),
        ("PRINT", "proc: print of dates", "proc: serverless: flow"),
        ("RAISERROR", "proc: raiserror of a variable", "proc: serverless: raiserror"),
        ("RETURN", "procedural: return isn't there", "proc: serverless: return ends a batch"),
        ("THROW, TRY .. CATCH", "proc: throw of variables", "proc: serverless: try and catch"),
        ("WAITFOR", "proc: no wait", ""),
        ("BEGIN, COMMIT, ROLLBACK TRANSACTION", "proc: commit what is right", "lake: a definition rolled back"),
        ("SAVE TRANSACTION", "proc: no savepoints", ""),
        ("nested, named transactions", "proc: no named transactions", ""),
        ("SET options", "admin: settings of a session", "proc: serverless: settings"),
        ("SET RESULT_SET_CACHING", "dedicated: off for a session", ""),
        ("SET TRANSACTION ISOLATION LEVEL", "proc: isolation", ""),
        ("USE", "admin: another database", "proc: serverless: another database"),
    ],
    "Administration": [
        ("CREATE, ALTER, DROP WORKLOAD GROUP", "admin: a workload group altered", "lake: a workload group"),
        ("CREATE, DROP WORKLOAD CLASSIFIER", "admin: a classifier replaced", ""),
        ("CREATE, ALTER, DROP DATABASE SCOPED CREDENTIAL", "load: a credential", "admin: serverless: a credential"),
        ("CREATE, DROP MASTER KEY", "admin: master key altered and dropped", ""),
        ("KILL", "admin: kill of nobody", "admin: serverless: kill of nobody"),
        ("DBCC DROPCLEANBUFFERS, FREEPROCCACHE", "admin: caches emptied", ""),
        ("DBCC DROPRESULTSETCACHE", "dedicated: emptied", ""),
        ("DBCC PDW_SHOWEXECUTIONPLAN", "admin: plan of a running request", ""),
        ("DBCC PDW_SHOWMATERIALIZEDVIEWOVERHEAD", "dedicated: its overhead", ""),
        ("DBCC PDW_SHOWPARTITIONSTATS", "admin: partition statistics", ""),
        ("DBCC PDW_SHOWSPACEUSED", "admin: space used", ""),
        ("DBCC SHOWRESULTCACHESPACEUSED", "dedicated: its space", ""),
        ("DBCC SHOW_STATISTICS", "dedicated: histogram", ""),
        ("DBCC SHRINKLOG", "admin: log shrunk", ""),
        ("DBCC of other names", "admin: an unknown dbcc", ""),
        ("BACKUP, RESTORE", "admin: no backup", ""),
        ("sp_set_data_processed_limit", "", "lake: budgets are configuration"),
    ],
    "Who may do what": [
        ("ADD SENSITIVITY CLASSIFICATION", "admin: a column's sensitivity", ""),
        ("ALTER AUTHORIZATION of a schema", "admin: users and roles dropped", ""),
        ("ALTER AUTHORIZATION of an object", "admin: no owner of a table alone", ""),
        ("CREATE, ALTER, DROP USER", "admin: a user altered", "admin: serverless: a log-in and its user"),
        ("CREATE, ALTER, DROP LOGIN", "permissions: a log-in", "admin: serverless: a log-in and its user"),
        ("CREATE, DROP ROLE", "admin: a role, and its member", "admin: serverless: a role's member"),
        ("ALTER ROLE, sp_addrolemember", "admin: a user of the directory", "admin: serverless: a role's member"),
        ("GRANT", "admin: a grant", "admin: serverless: bulk operations granted"),
        ("GRANT of columns", "admin: a grant of columns", ""),
        ("DENY", "admin: a denial wins", "admin: serverless: denied and revoked"),
        ("REVOKE", "admin: a revocation", "admin: serverless: denied and revoked"),
        ("EXECUTE AS USER, REVERT", "admin: a grant", "admin: serverless: my permissions"),
        ("CREATE SECURITY POLICY", "admin: no row-level security yet", ""),
        ("MASKED columns", "admin: no masks yet", ""),
        ("CREATE CERTIFICATE", "admin: no certificates yet", ""),
        ("CREATE SYMMETRIC KEY", "admin: no symmetric keys yet", ""),
        ("CREATE DATABASE ENCRYPTION KEY", "admin: no encryption key yet", ""),
    ],
}  # fmt: skip
#: Cases whose error is about something else than the kind: the statement itself does what it should.
SHOWN_BY_ERROR = {"ddl: a function dropped": 4121, "admin: another database": 40508}


def state(case: str) -> str:
    """supported, refused with the pool's number, or not yet: by what the case expects."""
    if not case:
        return ""
    answer = CASES[case]
    if not isinstance(answer, int) or SHOWN_BY_ERROR.get(case) == answer:
        return "supported"
    return "not yet" if answer == NOT_YET else f"refused ({answer})"


def table() -> str:
    """The Markdown table."""
    rows = ["| Statement | Dedicated pool | Serverless pool | Shown by |", "|---|---|---|---|"]
    for section, kinds in KINDS.items():
        rows.append(f"| **{section}** | | | |")
        for kind, dedicated, serverless in kinds:
            shown = ", ".join(f"`{case}`" for case in dict.fromkeys((dedicated, serverless)) if case)
            rows.append(f"| {kind} | {state(dedicated)} | {state(serverless)} | {shown} |")
    return "\n".join(rows)


def main() -> None:
    """Write the table between its two comments."""
    head, begin, rest = PARITY.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PARITY} has no place for the table")
    PARITY.write_text(head + begin + table() + end + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
