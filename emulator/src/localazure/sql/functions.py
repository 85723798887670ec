"""A function call to its rule. A name without a rule is error 195: no call reaches DuckDB by its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localazure.sql import (
    aggregate_functions,  # noqa: F401  the modules register their rules
    date_functions,  # noqa: F401
    errors,
    functions_of_users,
    number_functions,  # noqa: F401
    security_functions,  # noqa: F401
    system_functions,  # noqa: F401
    text_functions,  # noqa: F401
)
from localazure.sql import syntax as s
from localazure.sql.conversions import Value
from localazure.sql.function_table import FUNCTIONS, MANY, Invocation
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.binding import Scope
    from localazure.sql.expressions import ExpressionCompiler


def call_function(compiler: ExpressionCompiler, call: s.Call, scope: Scope) -> Value:
    """Bind the arguments and apply the rule; SqlError 195 unknown, 174/189 wrong count, 103010 not in this pool."""
    name = call.name
    if call.qualifier and name in {"FILEPATH", "FILENAME"}:
        return _file_column(compiler, call, scope)
    rule = FUNCTIONS.get(name)
    if name in compiler.context.kind.refused_functions:
        raise errors.refused(name, call.line)
    if call.qualifier and call.qualifier[-1].lower() not in {"sys"}:
        definition = functions_of_users.find(compiler, call)
        if definition is not None:
            return functions_of_users.scalar(compiler, definition, call, scope)
        qualified = ".".join((*call.qualifier, call.name.lower()))
        raise SqlError(
            4121,
            f'Cannot find either column "{call.qualifier[0]}" or the user-defined function or aggregate '
            f'"{qualified}", or the name is ambiguous.',
            line=call.line,
        )
    if rule is None:
        raise SqlError(195, f"'{name}' is not a recognized built-in function name.", severity=15, line=call.line)
    if not rule.fewest <= len(call.args) <= rule.most:
        wanted = str(rule.fewest) if rule.fewest == rule.most else f"{rule.fewest} to {rule.most}"
        if rule.most == MANY:
            wanted = f"at least {rule.fewest}"
        raise errors.argument_count(name, wanted, call.line)
    if not rule.windowed and (call.over is not None or call.distinct or call.within is not None):
        raise errors.syntax("OVER" if call.over is not None else "DISTINCT", call.line)
    args = [] if rule.raw else [compiler.value(arg, scope) for arg in call.args]
    return rule.apply(Invocation(compiler, call, args, scope))


def _file_column(compiler: ExpressionCompiler, call: s.Call, scope: Scope) -> Value:
    """``r.filepath(1)`` of OPENROWSET."""
    source = scope.source(call.qualifier)
    key = call.name + (str(compiler.constant(call.args[0])) if call.args else "")
    if source is not None and source.file_columns and key not in source.file_columns:
        raise SqlError(15824, "Filepath function argument(s) out of range.", line=call.line)
    if source is None or key not in source.file_columns:
        raise errors.unbound(".".join((*call.qualifier, call.name.lower())), call.line)
    from localazure.sql.results import SqlType

    return Value(source.file_columns[key], SqlType("nvarchar", 1024), True, trimmed=True)
