"""The shape of a batch's first result set, without running it: sp_prepare and sp_describe_first_result_set need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localazure.sql import syntax as s
from localazure.sql.parse_statements import parse
from localazure.sql.results import Column
from localazure.sql.running import result_columns
from localazure.sql.sqltypes import with_length

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Session


def first_result(session: Session, batch: str, frame: Frame) -> tuple[Column, ...]:
    """The columns of the first statement that returns rows; empty when none does."""
    return _first(session, list(parse(batch)), frame)


def _first(session: Session, statements: list[s.Statement], frame: Frame) -> tuple[Column, ...]:
    from localazure.sql.interpreter import Variable

    for statement in statements:
        match statement:
            case s.QueryStatement(query=query):
                body = query.body
                if isinstance(body, s.Select) and (body.into is not None or any(item.assign for item in body.items)):
                    continue
                compiled = session.compiler(frame).query(query, None)
                return result_columns(compiled.columns)
            case s.Declare():
                for name, kind, _ in statement.items:
                    frame.variables[name.lower()] = Variable(with_length(kind, 1))
            case s.Block():
                if found := _first(session, statement.statements, frame):
                    return found
            case s.If():
                branches = [statement.then, *([statement.otherwise] if statement.otherwise else [])]
                if found := _first(session, branches, frame):
                    return found
            case s.TryCatch():
                if found := _first(session, statement.body, frame):
                    return found
            case s.Execute(text=s.Literal(text=text)):
                if found := _first(session, list(parse(text)), frame):
                    return found
            case _:
                continue
    return ()
