"""String functions. https://learn.microsoft.com/en-us/sql/t-sql/functions/string-functions-transact-sql"""

from __future__ import annotations

from dataclasses import replace

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.conversions import Value, convert, stripped
from localazure.sql.function_table import MANY, Invocation, function
from localazure.sql.macros import call
from localazure.sql.patterns import patindex_regex
from localazure.sql.python_functions import HASHES, hash_name
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import BIGINT, BINARY, CHARACTER, INT, MOMENT, NUMERIC


def _string(sql: str, like: SqlType, length: int | None, nullable: bool = True, trimmed: bool = False) -> Value:
    national = like.name in {"nchar", "nvarchar"}
    longest = 4000 if national else 8000
    size = (-1 if length == -1 else longest) if length is None or length == -1 else max(min(length, longest), 1)
    return Value(sql, SqlType("nvarchar" if national else "varchar", size), nullable, trimmed=trimmed)


def _length(i: Invocation) -> Value:
    value = i.text(0)
    kind = BIGINT if value.type.length == -1 else INT
    return Value(
        f"CAST(length({stripped(value)}) AS {'BIGINT' if kind is BIGINT else 'INTEGER'})", kind, value.nullable
    )


function("LEN", args=1)(_length)


@function("DATALENGTH", args=1)
def _datalength(i: Invocation) -> Value:
    """Bytes: two a character for n-types, otherwise the characters (one byte each in the default code page)."""
    value = i.args[0]
    name = value.type.name
    widths = {
        "bit": 1,
        "tinyint": 1,
        "smallint": 2,
        "int": 4,
        "bigint": 8,
        "float": 8,
        "real": 4,
        "money": 8,
        "date": 3,
        "datetime": 8,
        "smalldatetime": 4,
        "datetime2": 8,
        "datetimeoffset": 10,
        "time": 5,
        "uniqueidentifier": 16,
        "decimal": 9,
    }
    if name in {"nchar", "nvarchar"}:
        sql = f"2 * length({value.sql})"
    elif name in CHARACTER:
        sql = f"strlen({value.sql})"
    elif name in BINARY:
        sql = f"octet_length({value.sql})"
    else:
        sql = f"CASE WHEN {value.sql} IS NOT NULL THEN {widths[name]} END"
    return Value(f"CAST({sql} AS INTEGER)", INT, value.nullable)


@function("LEFT", args=2)
def _left(i: Invocation) -> Value:
    value, count = i.text(0), i.number(1, INT)
    length = int(i.args[1].literal or 0) or value.type.length
    return _string(call("left_of", value.sql, count), value.type, length)


@function("RIGHT", args=2)
def _right(i: Invocation) -> Value:
    value, count = i.text(0), i.number(1, INT)
    length = int(i.args[1].literal or 0) or value.type.length
    return _string(call("right_of", value.sql, count), value.type, length, trimmed=value.trimmed)


@function("SUBSTRING", args=3)
def _substring(i: Invocation) -> Value:
    value = i.args[0]
    if value.type.name in BINARY:
        raise errors.not_implemented("SUBSTRING of binary", i.line)
    if value.type.name not in CHARACTER:
        raise SqlError(
            8116, f"Argument data type {value.type.name} is invalid for argument 1 of substring function.", line=i.line
        )
    sql = call("substring", value.sql, i.number(1, INT), i.number(2, INT))
    return _string(sql, value.type, value.type.length)


def _simple(name: str, duck_name: str, keeps_trim: bool) -> None:
    @function(name, args=1)
    def rule(i: Invocation) -> Value:
        value = i.text(0)
        sql = f"{duck_name}({value.sql})"
        return _string(sql, value.type, value.type.length, value.nullable, trimmed=keeps_trim and value.trimmed)


_simple("UPPER", "upper", True)
_simple("LOWER", "lower", True)
_simple("REVERSE", "reverse", False)


@function("LTRIM", args=(1, 2))
def _ltrim(i: Invocation) -> Value:
    return _trimmed(i, "ltrim")


@function("RTRIM", args=(1, 2))
def _rtrim(i: Invocation) -> Value:
    return _trimmed(i, "rtrim")


@function("TRIM", args=(1, 2))
def _trim(i: Invocation) -> Value:
    return _trimmed(i, "trim")


def _trimmed(i: Invocation, duck_name: str) -> Value:
    value = i.text(0)
    letters = i.text(1).sql if len(i.args) > 1 else "' '"
    done = _string(f"{duck_name}({value.sql}, {letters})", value.type, value.type.length, value.nullable)
    return replace(done, trimmed=value.trimmed or (duck_name != "ltrim" and len(i.args) == 1))


@function("CONCAT", args=(2, MANY))
def _concat(i: Invocation) -> Value:
    """NULL counts as an empty string."""
    values = [i.text(index) for index in range(len(i.args))]
    national = any(value.type.name in {"nchar", "nvarchar"} for value in values)
    total = -1 if any(value.type.length == -1 for value in values) else sum(value.type.length or 1 for value in values)
    sql = "concat(" + ", ".join(value.sql for value in values) + ")"
    return _string(sql, SqlType("nvarchar" if national else "varchar"), total, False)


@function("CONCAT_WS", args=(3, MANY))
def _concat_ws(i: Invocation) -> Value:
    values = [i.text(index) for index in range(len(i.args))]
    return _string("concat_ws(" + ", ".join(value.sql for value in values) + ")", values[0].type, None, False)


@function("REPLACE", args=3)
def _replace(i: Invocation) -> Value:
    value = i.text(0)
    return _string(call("replace_ci", value.sql, i.text(1).sql, i.text(2).sql), value.type, None)


@function("REPLICATE", args=2)
def _replicate(i: Invocation) -> Value:
    value = i.text(0)
    count = i.number(1, INT)
    return _string(f"CASE WHEN {count} >= 0 THEN repeat({value.sql}, {count}) END", value.type, None)


@function("SPACE", args=1)
def _space(i: Invocation) -> Value:
    count = i.number(0, INT)
    return _string(f"CASE WHEN {count} >= 0 THEN repeat(' ', {count}) END", SqlType("varchar"), None)


@function("STUFF", args=4)
def _stuff(i: Invocation) -> Value:
    value = i.text(0)
    return _string(call("stuff", value.sql, i.number(1, INT), i.number(2, INT), i.text(3).sql), value.type, None)


@function("CHARINDEX", args=(2, 3))
def _charindex(i: Invocation) -> Value:
    start = i.number(2, INT) if len(i.args) > 2 else "1"  # noqa: PLR2004
    sql = call("charindex", i.text(0).sql, i.text(1).sql, start)
    return Value(f"CAST({sql} AS INTEGER)", INT, i.nullable())


@function("PATINDEX", args=2)
def _patindex(i: Invocation) -> Value:
    """The position of the first match: what a lazy prefix before it spans, plus one."""
    pattern = i.compiler.constant_text(i.call.args[0], i.scope)
    inner, start, end = patindex_regex(pattern)
    value = i.text(1).sql
    prefix = "" if start else ".*?"
    whole = f"(?is)^({prefix}){inner}{'$' if end else ''}"
    found = errors.literal(whole)
    sql = f"CASE WHEN regexp_matches({value}, {found}) THEN length(regexp_extract({value}, {found}, 1)) + 1 ELSE 0 END"
    sql = f"CASE WHEN {value} IS NOT NULL THEN {sql} END"
    return Value(f"CAST({sql} AS INTEGER)", INT, i.nullable())


@function("QUOTENAME", args=(1, 2))
def _quotename(i: Invocation) -> Value:
    value = i.text(0).sql
    mark = i.compiler.constant_text(i.call.args[1], i.scope) if len(i.args) > 1 else "["
    pairs = {
        "[": ("[", "]"),
        "]": ("[", "]"),
        "'": ("'", "'"),
        '"': ('"', '"'),
        "(": ("(", ")"),
        "<": ("<", ">"),
        "{": ("{", "}"),
    }
    if mark not in pairs:
        return Value("CAST(NULL AS VARCHAR)", SqlType("nvarchar", 258))
    first, last = pairs[mark]
    sql = (
        f"{errors.literal(first)} || replace({value}, {errors.literal(last)}, {errors.literal(last * 2)}) || "
        f"{errors.literal(last)}"
    )
    return Value(f"({sql})", SqlType("nvarchar", 258), i.nullable(), trimmed=True)


@function("CHAR", args=1)
def _char(i: Invocation) -> Value:
    code = i.number(0, INT)
    return Value(f"CASE WHEN {code} BETWEEN 0 AND 255 THEN chr({code}) END", SqlType("varchar", 1))


@function("NCHAR", args=1)
def _nchar(i: Invocation) -> Value:
    return Value(f"chr({i.number(0, INT)})", SqlType("nvarchar", 1))


@function("ASCII", "UNICODE", args=1)
def _ascii(i: Invocation) -> Value:
    value = i.text(0).sql
    return Value(f"CASE WHEN {value} <> '' THEN CAST(ord({value}) AS INTEGER) END", INT)


@function("SOUNDEX", args=1)
def _soundex(i: Invocation) -> Value:
    return Value(f"tsql_soundex({i.text(0).sql})", SqlType("varchar", 5), i.nullable(), trimmed=True)


@function("DIFFERENCE", args=2)
def _difference(i: Invocation) -> Value:
    """How many of the four characters of two SOUNDEX codes agree."""
    first, second = (f"tsql_soundex({i.text(index).sql})" for index in (0, 1))
    same = " + ".join(f"CAST({first}[{place}] = {second}[{place}] AS INTEGER)" for place in range(1, 5))
    return Value(f"({same})", INT, i.nullable())


@function("PARSENAME", args=2)
def _parsename(i: Invocation) -> Value:
    return Value(f"tsql_parsename({i.text(0).sql})[{i.number(1, INT)}]", SqlType("nvarchar", 128), True, trimmed=True)


@function("TRANSLATE", args=3)
def _translate(i: Invocation) -> Value:
    value = i.text(0)
    return _string(f"translate({value.sql}, {i.text(1).sql}, {i.text(2).sql})", value.type, None)


_WIDTHS = {"MD5": 16, "SHA1": 20, "SHA": 20, "SHA2_256": 32, "SHA2_512": 64}
_BUILT_IN = {"MD5": "md5", "SHA1": "sha1", "SHA": "sha1", "SHA2_256": "sha256"}


@function("HASHBYTES", args=2)
def _hashbytes(i: Invocation) -> Value:
    """MD5, SHA1, SHA2_256, SHA2_512 of the bytes: UTF-16 for nvarchar."""
    name = i.compiler.constant_text(i.call.args[0], i.scope).upper()
    if name not in HASHES:
        raise errors.refused(f"HASHBYTES '{name}'", i.line)
    value = i.args[1]
    if value.null:
        value = convert(value, SqlType("varchar", 1), i.line)
    kind = SqlType("varbinary", _WIDTHS[name])
    if value.type.name in BINARY or (value.type.name in {"char", "varchar"} and name in _BUILT_IN):
        if name not in _BUILT_IN:
            raise errors.not_implemented(f"HASHBYTES '{name}' of binary", i.line)
        return Value(f"unhex({_BUILT_IN[name]}({value.sql}))", kind, value.nullable)
    if value.type.name not in CHARACTER:
        raise SqlError(
            8116, f"Argument data type {value.type.name} is invalid for argument 2 of hashbytes function.", line=i.line
        )
    algorithm = "SHA1" if name == "SHA" else name
    return Value(f"{hash_name(algorithm, value.type.name in {'nchar', 'nvarchar'})}({value.sql})", kind, value.nullable)


@function("FORMAT", args=(2, 3))
def _format(i: Invocation) -> Value:
    """.NET format strings: the common numeric ones and date patterns. https://learn.microsoft.com/en-us/sql/t-sql/functions/format-transact-sql"""
    if len(i.args) > 2 and i.compiler.constant_text(i.call.args[2], i.scope).lower() not in {"en-us"}:  # noqa: PLR2004
        raise errors.not_implemented("FORMAT with a culture other than en-US", i.line)
    pattern = i.compiler.constant_text(i.call.args[1], i.scope)
    value = i.args[0]
    kind = SqlType("nvarchar", 4000)
    if value.type.name in MOMENT:
        return Value(
            f"strftime({value.sql}, {errors.literal(_net_date(pattern, i.line))})", kind, value.nullable, trimmed=True
        )
    if value.type.name not in NUMERIC:
        raise SqlError(
            8116, f"Argument data type {value.type.name} is invalid for argument 1 of format function.", line=i.line
        )
    letter, digits = pattern[:1].upper(), pattern[1:]
    if letter in {"N", "F", "P", "D"} and (digits.isdigit() or not digits):
        places = int(digits or (0 if letter == "D" else 2))
        number = f"CAST({value.sql} AS DECIMAL(38,{places}))"
        if letter == "D":
            return Value(
                f"lpad(CAST({value.sql} AS VARCHAR), CAST(greatest({places}, length(CAST({value.sql} AS VARCHAR))) "
                "AS INTEGER), '0')",
                kind,
                value.nullable,
            )
        if letter == "P":
            return Value(f"format('{{:,.{places}f}}', CAST({value.sql} * 100 AS DOUBLE)) || '%'", kind, value.nullable)
        comma = "," if letter == "N" else ""
        return Value(f"format('{{:{comma}.{places}f}}', CAST({number} AS DOUBLE))", kind, value.nullable)
    whole, _, fraction = pattern.partition(".")
    if set(whole) <= set("0#,") and set(fraction) <= set("0"):
        comma = "," if "," in whole else ""
        width = whole.count("0") + (len(fraction) + 1 if fraction else 0)
        sql = f"format('{{:{comma}.{len(fraction)}f}}', CAST({value.sql} AS DOUBLE))"
        return Value(
            f"CASE WHEN length({sql}) < {width} THEN lpad({sql}, {width}, '0') ELSE {sql} END", kind, value.nullable
        )
    raise errors.not_implemented(f"FORMAT '{pattern}'", i.line)


_NET = [
    ("yyyy", "%Y"),
    ("yy", "%y"),
    ("MMMM", "%B"),
    ("MMM", "%b"),
    ("MM", "%m"),
    ("M", "%-m"),
    ("dddd", "%A"),
    ("ddd", "%a"),
    ("dd", "%d"),
    ("d", "%-d"),
    ("HH", "%H"),
    ("H", "%-H"),
    ("hh", "%I"),
    ("h", "%-I"),
    ("mm", "%M"),
    ("m", "%-M"),
    ("ss", "%S"),
    ("s", "%-S"),
    ("ffffff", "%f"),
    ("fff", "%g"),
    ("tt", "%p"),
]


def _net_date(pattern: str, line: int) -> str:
    if len(pattern) == 1:
        standard = {"d": "%-m/%-d/%Y", "D": "%A, %B %-d, %Y", "s": "%Y-%m-%dT%H:%M:%S"}
        if pattern not in standard:
            raise errors.not_implemented(f"FORMAT '{pattern}'", line)
        return standard[pattern]
    out, index = "", 0
    while index < len(pattern):
        for net, duck_format in _NET:
            if pattern.startswith(net, index):
                out += duck_format
                index += len(net)
                break
        else:
            letter = pattern[index]
            if letter.isalpha() and letter != "T":
                raise errors.not_implemented(f"FORMAT '{pattern}'", line)
            out += "%%" if letter == "%" else letter
            index += 1
    return out


@function("JSON_VALUE", args=2)
def _json_value(i: Invocation) -> Value:
    path = _json_path(i)
    sql = f"json_extract_string({i.text(0).sql}, {errors.literal(path)})"
    kind = f"json_type({i.text(0).sql}, {errors.literal(path)})"
    return Value(f"CASE WHEN {kind} NOT IN ('OBJECT', 'ARRAY', 'NULL') THEN {sql} END", SqlType("nvarchar", 4000))


@function("JSON_QUERY", args=(1, 2))
def _json_query(i: Invocation) -> Value:
    path = _json_path(i) if len(i.args) > 1 else "$"
    kind = f"json_type({i.text(0).sql}, {errors.literal(path)})"
    sql = f"CAST(json_extract({i.text(0).sql}, {errors.literal(path)}) AS VARCHAR)"
    return Value(f"CASE WHEN {kind} IN ('OBJECT', 'ARRAY') THEN {sql} END", SqlType("nvarchar", -1))


@function("JSON_MODIFY", args=3)
def _json_modify(i: Invocation) -> Value:
    """https://learn.microsoft.com/en-us/sql/t-sql/functions/json-modify-transact-sql"""
    path = i.compiler.constant_text(i.call.args[1], i.scope)
    given, value = i.call.args[2], i.args[2]
    if value.null:
        made = "NULL"
    elif isinstance(given, s.Call) and given.name in {"JSON_QUERY", "JSON_MODIFY"}:
        made = value.sql
    elif value.type.name == "bit":
        made = f"CASE WHEN {value.sql} THEN 'true' ELSE 'false' END"
    elif value.type.name in NUMERIC:
        made = f"CAST({value.sql} AS VARCHAR)"
    else:
        made = f"CAST(to_json({i.text(2).sql}) AS VARCHAR)"
    sql = f"tsql_json_modify({i.text(0).sql}, {errors.literal(path)}, CAST({made} AS VARCHAR))"
    return Value(sql, SqlType("nvarchar", -1))


def _json_path(i: Invocation) -> str:
    path = i.compiler.constant_text(i.call.args[1], i.scope)
    if path.startswith("strict "):
        raise errors.not_implemented("strict JSON path", i.line)
    return path.removeprefix("lax ")


@function("ISJSON", args=1)
def _isjson(i: Invocation) -> Value:
    text = i.text(0).sql
    return Value(
        f"CASE WHEN {text} IS NULL THEN NULL WHEN json_valid({text}) AND json_type(CASE WHEN json_valid({text}) "
        f"THEN {text} ELSE '0' END) IN ('OBJECT', 'ARRAY') THEN 1 ELSE 0 END",
        INT,
    )


@function("STR", args=(1, 3))
def _str(i: Invocation) -> Value:
    length = int(i.compiler.constant_int(i.call.args[1], i.scope)) if len(i.args) > 1 else 10
    places = int(i.compiler.constant_int(i.call.args[2], i.scope)) if len(i.args) > 2 else 0  # noqa: PLR2004
    text = f"format('{{:.{places}f}}', CAST({convert(i.args[0], SqlType('float'), i.line).sql} AS DOUBLE))"
    return _string(
        f"lpad({text}, CAST(greatest({length}, length({text})) AS INTEGER), ' ')", SqlType("varchar"), length
    )


@function("STRING_AGG", args=2, raw=True, windowed=True)
def _string_agg(i: Invocation) -> Value:
    value = i.compiler.value(i.call.args[0], i.scope)
    if value.type.name not in CHARACTER:
        value = convert(value, SqlType("nvarchar", 4000), i.line)
    separator = errors.literal(i.compiler.constant_text(i.call.args[1], i.scope))
    order = ""
    if i.call.within:
        order = " ORDER BY " + i.compiler.order_sql(i.call.within, i.scope)
    if i.call.over is not None or i.call.distinct:
        raise errors.syntax("OVER" if i.call.over else "DISTINCT", i.line)
    kind = SqlType(
        value.type.name.replace("char", "varchar").replace("varvar", "var"),
        8000 if "n" not in value.type.name[:1] else 4000,
    )
    return Value(f"string_agg({value.sql}, {separator}{order})", kind, True, aggregate=True)
