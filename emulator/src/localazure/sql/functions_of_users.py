"""User-defined functions: a scalar's value and an inline table's query, put in the place of the call.

https://learn.microsoft.com/en-us/sql/t-sql/statements/create-function-sql-data-warehouse
Arguments are bound in the caller's scope before they go in, so that a name of the body never meets one of the caller.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.catalog import Function
from localazure.sql.conversions import Value, convert
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import with_length

if TYPE_CHECKING:
    from localazure.sql.binding import Scope
    from localazure.sql.expressions import ExpressionCompiler


def find(compiler: ExpressionCompiler, call: s.Call) -> s.CreateFunction | None:
    """The definition that ``schema.name(..)`` means."""
    from localazure.sql.parse_statements import parse

    if not call.qualifier:
        return None
    found = compiler.context.find((*call.qualifier, call.name), call.line)
    if not isinstance(found, Function):
        return None
    compiler.context.demand("SELECT" if found.inline else "EXECUTE", (*call.qualifier, call.name), found, call.line)
    definition = parse(found.text)[0]
    return definition if isinstance(definition, s.CreateFunction) else None


def scalar(compiler: ExpressionCompiler, definition: s.CreateFunction, call: s.Call, scope: Scope) -> Value:
    """The value of a scalar function: its RETURN, with what DECLARE and SET made of the variables before it."""
    if definition.returns is None or definition.value is None:
        raise SqlError(
            4121,
            f'Cannot find either column "{call.qualifier[0]}" or the user-defined function or aggregate '
            f'"{".".join((*call.qualifier, call.name.lower()))}", or the name is ambiguous.',
            line=call.line,
        )
    known = _arguments(compiler, definition, call, scope)
    returns: list[tuple[s.Expr, s.Expr]] = []
    _follow(definition.body, known, None, returns)
    value = substituted(definition.value, known)
    if returns:
        value = s.Case(call.line, None, returns, value)
    result = s.Cast(call.line, value, definition.returns, False)
    return replace(compiler.value(result, scope), literal=None)


def _follow(
    body: list[s.Statement],
    known: dict[str, s.Expr],
    path: s.Expr | None,
    returns: list[tuple[s.Expr, s.Expr]],
) -> None:
    """What the statements make of ``known``, as expressions: both sides of an IF are followed, a CASE chooses.

    ``path``: the condition under which the statements run. ``returns`` gets (condition, value) of each RETURN on the
    way, in their order, so that the first one that holds is the function's value.
    """
    for statement in body:
        match statement:
            case s.Block():
                _follow(statement.statements, known, path, returns)
            case s.If():
                _follow_both(statement, known, path, returns)
            case s.Return(value=value) if value is not None:
                always = _equals(statement.line, _number(statement.line, 1), 1)
                returns.append((path or always, substituted(value, known)))
                if path is None:
                    return
            case _:
                for name, kind, value in _assigned(statement, known):
                    null = s.Literal(statement.line, "null", "NULL")
                    expr = null if value is None else substituted(value, known)
                    known[name.lower()] = s.Cast(statement.line, expr, kind, False)


def _follow_both(
    statement: s.If, known: dict[str, s.Expr], path: s.Expr | None, returns: list[tuple[s.Expr, s.Expr]]
) -> None:
    """IF and ELSE: a condition that is unknown doesn't hold."""
    line = statement.line
    flag = s.Case(line, None, [(substituted(statement.condition, known), _number(line, 1))], _number(line, 0))
    after: list[dict[str, s.Expr]] = []
    for value, branch in ((1, statement.then), (0, statement.otherwise)):
        here, chosen = dict(known), _equals(line, flag, value)
        way = chosen if path is None else s.Logical(line, "AND", path, chosen)
        _follow([branch] if branch is not None else [], here, way, returns)
        after.append(here)
    then, otherwise = after
    for name in {**then, **otherwise}:
        left, right = then.get(name), otherwise.get(name)
        if left is right:
            continue
        null = s.Literal(line, "null", "NULL")
        value_of = s.Case(line, None, [(_equals(line, flag, 1), left or null)], right or null)
        known[name] = s.Cast(line, value_of, _type_of(left or right), False)


def _number(line: int, value: int) -> s.Expr:
    return s.Literal(line, "int", str(value))


def _equals(line: int, left: s.Expr, value: int) -> s.Expr:
    return s.Compare(line, "=", left, _number(line, value))


def _type_of(known: s.Expr | None) -> SqlType:
    """Of a variable's value: a parameter's is bound, another's is a CAST."""
    assert isinstance(known, s.Cast | s.Bound)
    kind: SqlType = known.type if isinstance(known, s.Cast) else known.value.type
    return kind


def _assigned(statement: s.Statement, known: dict[str, s.Expr]) -> list[tuple[str, SqlType, s.Expr | None]]:
    match statement:
        case s.Declare():
            return list(statement.items)
        case s.SetVariable():
            found = known.get(statement.name.lower())
            if found is None:
                raise errors.undeclared(statement.name, statement.line)
            value = statement.value
            if statement.op != "=":
                current = s.Variable(statement.line, statement.name)
                value = s.Binary(statement.line, statement.op[:-1], current, value)
            return [(statement.name, _type_of(found), value)]
    raise errors.not_implemented(f"{type(statement).__name__} in a function", statement.line)


def table(compiler: Any, definition: s.CreateFunction, call: s.Call, scope: Scope) -> Any:
    """The compiled query of an inline table-valued function."""
    if definition.query is None:
        raise errors.invalid_object(".".join((*call.qualifier, call.name.lower())), call.line)
    known = _arguments(compiler, definition, call, scope)
    context = compiler.context
    with context.inside(context.elsewhere((*call.qualifier, call.name), call.line), call.qualifier[-1]):
        return compiler.query(substituted(definition.query, known), None)


def _arguments(
    compiler: ExpressionCompiler, definition: s.CreateFunction, call: s.Call, scope: Scope
) -> dict[str, s.Expr]:
    if len(call.args) != len(definition.parameters):
        many = len(call.args) > len(definition.parameters)
        name = ".".join((*call.qualifier, call.name.lower()))
        raise SqlError(
            8144 if many else 313,
            f"Procedure or function {name} has too many arguments specified."
            if many
            else f"An insufficient number of arguments were supplied for the procedure or function {name}.",
            line=call.line,
        )
    known: dict[str, s.Expr] = {}
    for parameter, arg in zip(definition.parameters, call.args, strict=True):
        value = convert(compiler.value(arg, scope), with_length(parameter.type, 1), call.line)
        known[parameter.name.lower()] = s.Bound(call.line, value)
    return known


def substituted(node: Any, known: dict[str, s.Expr]) -> Any:
    """A copy of a tree with its variables replaced."""
    if isinstance(node, s.Variable) and node.name.lower() in known:
        return known[node.name.lower()]
    if isinstance(node, s.Bound):
        return node
    if isinstance(node, s.Node) and is_dataclass(node):
        changes = {}
        for item in fields(node):
            old = getattr(node, item.name)
            new = substituted(old, known)
            if new is not old:
                changes[item.name] = new
        return replace(node, **changes) if changes else node
    if isinstance(node, list | tuple):
        made = [substituted(part, known) for part in node]
        if all(a is b for a, b in zip(made, node, strict=True)):
            return node
        return made if isinstance(node, list) else tuple(made)
    return node
