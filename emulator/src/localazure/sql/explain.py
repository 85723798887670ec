"""EXPLAIN: the plan of a statement, in a dedicated pool's XML."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import duckdb

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.distributions import DISTRIBUTIONS, nodes
from localazure.sql.results import ResultSet, SqlType
from localazure.sql.results_of_rows import rows

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.session import Session


def explain(session: Session, statement: s.Explain, frame: Frame) -> ResultSet:
    """The plan in the elements a dedicated pool answers with; its one operation holds DuckDB's plan as text.

    https://learn.microsoft.com/en-us/sql/t-sql/queries/explain-transact-sql
    """
    if not session.pool.kind.tables:
        raise errors.unsupported("EXPLAIN", statement.line)
    session.context(frame).demand_on_database("SHOWPLAN", statement.line)
    inner = statement.statement
    if not isinstance(inner, s.QueryStatement | s.Insert | s.Update | s.Delete):
        raise errors.not_implemented(f"EXPLAIN of {type(inner).__name__}", statement.line)
    compiled = session.compile(inner, frame, cached=False)
    values = session.values(compiled.parameters, frame)
    with session.attached(compiled.attachments):
        try:
            found = session.cursor.execute(f"EXPLAIN {compiled.sql}", values or None).fetchall()
        except duckdb.Error as error:
            raise errors.from_duckdb(error, statement.line) from error
    count = nodes(session)
    operation = "RETURN" if isinstance(inner, s.QueryStatement) else "ON"
    root = ElementTree.Element(
        "dsql_query",
        number_nodes=str(count),
        number_distributions=str(DISTRIBUTIONS),
        number_distributions_per_node=str(DISTRIBUTIONS // count),
    )
    ElementTree.SubElement(root, "sql").text = inner.batch_text
    operations = ElementTree.SubElement(root, "dsql_operations", total_cost="0", total_number_operations="1")
    step = ElementTree.SubElement(operations, "dsql_operation", operation_type=operation)
    ElementTree.SubElement(step, "location", distribution="AllDistributions")
    ElementTree.SubElement(step, "select").text = "\n".join(str(row[1]) for row in found)
    text = ElementTree.tostring(root, encoding="unicode")
    return rows([("explain", SqlType("nvarchar", -1))], [(f'<?xml version="1.0" encoding="utf-8"?>{text}',)])
