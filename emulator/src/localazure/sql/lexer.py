"""T-SQL text to tokens, with the line of each.

Comments nest, brackets and quotes double to escape, and N'..' is a kind of its own. Error messages need the lines,
typing needs the kinds of literals.
https://learn.microsoft.com/en-us/sql/t-sql/language-elements/transact-sql-syntax-conventions-transact-sql
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from localazure.sql.results import SqlError


class Token(NamedTuple):
    """kind: word, quoted, string, nstring, int, decimal, float, money, binary, variable, op, end.

    text: the value (quotes undone); key: what the parser compares, upper case for words and the operator's text,
    empty for everything that can never be a keyword.
    """

    kind: str
    text: str
    key: str
    start: int
    end: int
    line: int


_PATTERN = re.compile(
    r"""
    (?P<space>[\s\ufeff\u00a0]+)
  | (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<nstring>[Nn]'(?:[^']|'')*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<bracket>\[(?:[^\]]|\]\])*\])
  | (?P<quoted>"(?:[^"]|"")*")
  | (?P<binary>0[xX][0-9a-fA-F]*)
  | (?P<float>(?:\d+\.?\d*|\.\d+)[eE][+-]?\d+)
  | (?P<decimal>\d+\.\d*|\.\d+)
  | (?P<int>\d+)
  | (?P<money>\$[+-]?(?:\d[\d,]*\.?\d*|\.\d+))
  | (?P<variable>@@?[\w$\#@]+)
  | (?P<word>[^\W\d][\w$\#@]*|\#{1,2}[\w$\#@]+|\$action)
  | (?P<op><=|>=|<>|!=|!<|!>|\+=|-=|\*=|/=|%=|&=|\|=|\^=|::|[-+*/%&|^~=<>().,;:{}?!])
    """,
    re.VERBOSE,
)


def _block_end(text: str, start: int, line: int) -> int:
    """Offset behind the comment that opens at ``start``; comments nest in T-SQL."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return start + mark.end()
    raise SqlError(113, "Missing end comment mark '*/'.", severity=15, line=line)


@lru_cache(maxsize=512)
def tokens(text: str) -> tuple[Token, ...]:
    """All tokens of a batch, ended by one of kind ``end``. SqlError 102, 105 or 113 where a token is malformed."""
    found: list[Token] = []
    offset, line = 0, 1
    while offset < len(text):
        match = _PATTERN.match(text, offset)
        if match is None:
            if text[offset] in "'\"[":
                near = text[offset + 1 : offset + 60]
                raise SqlError(
                    105, f"Unclosed quotation mark after the character string '{near}'.", severity=15, line=line
                )
            raise SqlError(102, f"Incorrect syntax near '{text[offset]}'.", severity=15, line=line)
        kind, raw, end = match.lastgroup or "", match.group(), match.end()
        if kind == "block":
            end = _block_end(text, offset, line)
            raw = text[offset:end]
        elif kind not in {"space", "comment"}:
            found.append(_token(kind, raw, offset, end, line))
        line += raw.count("\n")
        offset = end
    found.append(Token("end", "", "", len(text), len(text), line))
    return tuple(found)


def _token(kind: str, raw: str, start: int, end: int, line: int) -> Token:
    if kind == "word":
        return Token("word", raw, raw.upper(), start, end, line)
    if kind == "op":
        return Token("op", raw, "<>" if raw == "!=" else raw, start, end, line)
    if kind == "string":
        return Token("string", raw[1:-1].replace("''", "'"), "", start, end, line)
    if kind == "nstring":
        return Token("nstring", raw[2:-1].replace("''", "'"), "", start, end, line)
    if kind == "bracket":
        return Token("quoted", raw[1:-1].replace("]]", "]"), "", start, end, line)
    if kind == "quoted":
        return Token("quoted", raw[1:-1].replace('""', '"'), "", start, end, line)
    return Token(kind, raw, "", start, end, line)


# https://learn.microsoft.com/en-us/sql/t-sql/language-elements/reserved-keywords-transact-sql
RESERVED = frozenset(
    [
        "ADD",
        "ALL",
        "ALTER",
        "AND",
        "ANY",
        "AS",
        "ASC",
        "AUTHORIZATION",
        "BACKUP",
        "BEGIN",
        "BETWEEN",
        "BREAK",
        "BROWSE",
        "BULK",
        "BY",
        "CASCADE",
        "CASE",
        "CHECK",
        "CHECKPOINT",
        "CLOSE",
        "CLUSTERED",
        "COALESCE",
        "COLLATE",
        "COLUMN",
        "COMMIT",
        "COMPUTE",
        "CONSTRAINT",
        "CONTAINS",
        "CONTAINSTABLE",
        "CONTINUE",
        "CONVERT",
        "CREATE",
        "CROSS",
        "CURRENT",
        "CURRENT_DATE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
        "CURSOR",
        "DATABASE",
        "DBCC",
        "DEALLOCATE",
        "DECLARE",
        "DEFAULT",
        "DELETE",
        "DENY",
        "DESC",
        "DISTINCT",
        "DISTRIBUTED",
        "DOUBLE",
        "DROP",
        "ELSE",
        "END",
        "ERRLVL",
        "ESCAPE",
        "EXCEPT",
        "EXEC",
        "EXECUTE",
        "EXISTS",
        "EXIT",
        "EXTERNAL",
        "FETCH",
        "FOR",
        "FOREIGN",
        "FREETEXT",
        "FROM",
        "FULL",
        "FUNCTION",
        "GOTO",
        "GRANT",
        "GROUP",
        "HAVING",
        "HOLDLOCK",
        "IDENTITY",
        "IDENTITY_INSERT",
        "IF",
        "IN",
        "INDEX",
        "INNER",
        "INSERT",
        "INTERSECT",
        "INTO",
        "IS",
        "JOIN",
        "KEY",
        "KILL",
        "LEFT",
        "LIKE",
        "MERGE",
        "NATIONAL",
        "NOCHECK",
        "NONCLUSTERED",
        "NOT",
        "NULL",
        "NULLIF",
        "OF",
        "OFF",
        "ON",
        "OPEN",
        "OPENQUERY",
        "OPENROWSET",
        "OPENXML",
        "OPTION",
        "OR",
        "ORDER",
        "OUTER",
        "OVER",
        "PERCENT",
        "PIVOT",
        "PRIMARY",
        "PRINT",
        "PROC",
        "PROCEDURE",
        "RAISERROR",
        "READ",
        "RECONFIGURE",
        "REFERENCES",
        "REPLICATION",
        "RESTORE",
        "RETURN",
        "REVERT",
        "REVOKE",
        "RIGHT",
        "ROLLBACK",
        "RULE",
        "SAVE",
        "SCHEMA",
        "SELECT",
        "SEMANTICKEYPHRASETABLE",
        "SESSION_USER",
        "SET",
        "SETUSER",
        "SOME",
        "STATISTICS",
        "SYSTEM_USER",
        "TABLE",
        "TABLESAMPLE",
        "TEXTSIZE",
        "THEN",
        "TO",
        "TOP",
        "TRAN",
        "TRANSACTION",
        "TRIGGER",
        "TRUNCATE",
        "TRY_CONVERT",
        "UNION",
        "UNIQUE",
        "UNPIVOT",
        "UPDATE",
        "USE",
        "USER",
        "VALUES",
        "VARYING",
        "VIEW",
        "WAITFOR",
        "WHEN",
        "WHERE",
        "WHILE",
        "WITH",
        "WITHIN",
    ]
)
