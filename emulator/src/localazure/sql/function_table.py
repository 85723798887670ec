"""The table of T-SQL functions: a name, how many arguments it takes, and the rule that writes DuckDB SQL for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localazure.sql import syntax as s
from localazure.sql.conversions import Value, convert
from localazure.sql.results import SqlType
from localazure.sql.sqltypes import CHARACTER

if TYPE_CHECKING:
    from localazure.sql.binding import Scope
    from localazure.sql.expressions import ExpressionCompiler


@dataclass(slots=True)
class Invocation:
    """One call being compiled: ``args`` are bound unless the rule asked for the raw tree."""

    compiler: ExpressionCompiler
    call: s.Call
    args: list[Value]
    scope: Scope

    @property
    def line(self) -> int:
        return self.call.line

    def text(self, index: int) -> Value:
        """An argument as a string."""
        value = self.args[index]
        return (
            value
            if value.type.name in CHARACTER and not value.null
            else convert(value, SqlType("varchar", 8000), self.line)
        )

    def number(self, index: int, kind: SqlType) -> str:
        """An argument as SQL of ``kind``."""
        return convert(self.args[index], kind, self.line).sql

    def nullable(self) -> bool:
        return any(value.nullable for value in self.args)


@dataclass(frozen=True, slots=True)
class Rule:
    fewest: int
    most: int
    apply: Callable[[Invocation], Value]
    raw: bool = False
    windowed: bool = False


FUNCTIONS: dict[str, Rule] = {}


def function(
    *names: str, args: int | tuple[int, int], raw: bool = False, windowed: bool = False
) -> Callable[[Callable[[Invocation], Value]], Callable[[Invocation], Value]]:
    """Register a rule. raw: the rule binds its arguments; windowed: OVER, DISTINCT or WITHIN GROUP may follow."""
    fewest, most = (args, args) if isinstance(args, int) else args

    def register(apply: Callable[[Invocation], Value]) -> Callable[[Invocation], Value]:
        for name in names:
            FUNCTIONS[name] = Rule(fewest, most, apply, raw, windowed)
        return apply

    return register


MANY = 254
