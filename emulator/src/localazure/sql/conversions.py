"""CAST, CONVERT and implicit conversions: a value of one T-SQL type as DuckDB SQL of another.

https://learn.microsoft.com/en-us/sql/t-sql/functions/cast-and-convert-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/data-types/data-type-conversion-database-engine
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from localazure.sql import errors
from localazure.sql.macros import call
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import (
    APPROXIMATE,
    BINARY,
    CHARACTER,
    EXACT,
    INTEGER,
    MOMENT,
    NUMERIC,
    as_decimal,
    duck,
    with_length,
)


@dataclass(frozen=True, slots=True)
class Value:
    """A bound expression: DuckDB SQL with its T-SQL type.

    trimmed: no trailing blanks can occur, so a comparison needn't strip them; null: the literal NULL, which takes any
    type; literal: the text of a constant; binary: compared by code point (a BIN2 collation); zone: the IANA zone
    whose wall clock a datetimeoffset shows (DuckDB keeps the instant alone); bare: the SQL of a padded char(n)
    before padding; name: the column's own name, which names it in a result.
    """

    sql: str
    type: SqlType
    nullable: bool = True
    trimmed: bool = False
    null: bool = False
    literal: str | None = None
    binary: bool = False
    zone: str | None = None
    aggregate: bool = False
    bare: str | None = None
    name: str = ""


def stripped(value: Value) -> str:
    """The value without trailing blanks, as comparisons see it."""
    if value.literal is not None:
        return errors.literal(value.literal.rstrip(" "))
    if value.trimmed:
        return value.sql
    return value.bare if value.bare is not None else f"rtrim({value.sql}, ' ')"


def null_of(kind: SqlType) -> Value:
    return Value(f"CAST(NULL AS {duck(kind)})", kind, True, trimmed=True)


# style -> strftime; https://learn.microsoft.com/en-us/sql/t-sql/functions/cast-and-convert-transact-sql#date-and-time-styles
_DATE_STYLES = {
    1: "%m/%d/%y",
    2: "%y.%m.%d",
    3: "%d/%m/%y",
    4: "%d.%m.%y",
    5: "%d-%m-%y",
    6: "%d %b %y",
    7: "%b %d, %y",
    10: "%m-%d-%y",
    11: "%y/%m/%d",
    12: "%y%m%d",
    23: "%Y-%m-%d",
    101: "%m/%d/%Y",
    102: "%Y.%m.%d",
    103: "%d/%m/%Y",
    104: "%d.%m.%Y",
    105: "%d-%m-%Y",
    106: "%d %b %Y",
    107: "%b %d, %Y",
    110: "%m-%d-%Y",
    111: "%Y/%m/%d",
    112: "%Y%m%d",
}
_TIME_STYLES = frozenset({8, 24, 108, 14, 114})
_FULL_STYLES = {
    20: "%Y-%m-%d %H:%M:%S",
    120: "%Y-%m-%d %H:%M:%S",
    13: "%d %b %Y %H:%M:%S:%g",
    113: "%d %b %Y %H:%M:%S:%g",
}
_FRACTION_STYLES = {21: " ", 25: " ", 121: " ", 126: "T", 127: "T"}
_PARSE_EXTRA = {
    120: ["%Y-%m-%d %H:%M:%S"],
    20: ["%Y-%m-%d %H:%M:%S"],
    121: ["%Y-%m-%d %H:%M:%S.%f"],
    126: ["%Y-%m-%dT%H:%M:%S"],
}


def convert(
    value: Value, target: SqlType, line: int, *, style: int | None = None, attempt: bool = False, explicit: bool = True
) -> Value:
    """``value`` as ``target``. attempt: NULL where the strict form raises; explicit: CAST may shorten a string."""
    target = with_length(target, 30)
    source = value.type
    if value.null:
        return replace(null_of(target), null=False)
    done = replace(
        value,
        type=target,
        literal=None,
        null=False,
        zone=None,
        nullable=value.nullable or attempt,
        name="",
        trimmed=False,
        bare=None,
    )
    if target.name in CHARACTER:
        return _to_string(value, target, done, line, style=style, attempt=attempt, explicit=explicit)
    if source == target:
        return value
    if source.name in CHARACTER:
        return _from_string(value, target, done, line, style=style, attempt=attempt)
    if target.name == "bit" and source.name in NUMERIC:
        return replace(done, sql=f"({value.sql} <> 0)")
    if target.name in INTEGER and source.name in NUMERIC:
        inner = value.sql if source.name in INTEGER | {"bit"} else f"trunc({value.sql})"
        return replace(done, sql=_cast(inner, target, attempt))
    if target.name in {"decimal", "money"} and source.name in NUMERIC:
        inner = f"CAST({value.sql} AS INTEGER)" if source.name == "bit" else value.sql
        return replace(done, sql=_cast(inner, target, attempt))
    if target.name in APPROXIMATE and source.name in NUMERIC:
        inner = f"CAST({value.sql} AS INTEGER)" if source.name == "bit" else value.sql
        return replace(done, sql=_cast(inner, target, attempt))
    if source.name in MOMENT and target.name in MOMENT:
        zone = value.zone if target.name == "datetimeoffset" else None
        return replace(done, sql=_moment(value, target, line), zone=zone)
    if target.name in {"datetime", "smalldatetime"} and source.name in NUMERIC:
        days = f"TIMESTAMP '1900-01-01' + to_microseconds(CAST(round({value.sql} * 86400000000.0) AS BIGINT))"
        if source.name in INTEGER | {"bit"}:
            days = f"TIMESTAMP '1900-01-01' + to_days(CAST({value.sql} AS INTEGER))"
        return replace(done, sql=f"({days})")
    if source.name in {"datetime", "smalldatetime"} and target.name in NUMERIC:
        days = f"(epoch_us({value.sql} - TIMESTAMP '1900-01-01') / 86400000000.0)"
        if target.name in INTEGER:
            days = f"round({days})"
        return replace(done, sql=_cast(days, target, attempt))
    if target.name in BINARY:
        return _to_binary(value, target, done, line)
    if source.name in BINARY and target.name in INTEGER:
        return replace(done, sql=f"CAST(CAST('0x' || right(hex({value.sql}), 16) AS BIGINT) AS {duck(target)})")
    if source.name in BINARY and target.name == "uniqueidentifier":
        raise errors.not_implemented("CAST of binary to uniqueidentifier", line)
    raise SqlError(529, f"Explicit conversion from data type {source.name} to {target.name} is not allowed.", line=line)


def _cast(sql: str, target: SqlType, attempt: bool) -> str:
    return f"{'TRY_CAST' if attempt else 'CAST'}({sql} AS {duck(target)})"


def _strict(value: Value, tried: str, target: SqlType, attempt: bool, *, message: str = "", number: int = 245) -> str:
    """``tried`` where it has a value; NULL stays NULL; anything else raises unless attempted."""
    if attempt:
        return tried
    if not message:
        text = (
            f"{errors.literal(f'Conversion failed when converting the {value.type.name} value ')} || chr(39) || "
            f"{value.sql} || chr(39) || {errors.literal(f' to data type {target.name}.')}"
        )
    else:
        text = errors.literal(message)
    return (
        f"CASE WHEN ({tried}) IS NULL AND ({value.sql}) IS NOT NULL THEN "
        f"{errors.raise_sql(number, f'({text})', duck(target))} "
        f"ELSE ({tried}) END"
    )


_DATE_ERROR = "Conversion failed when converting date and/or time from character string."


def _from_string(value: Value, target: SqlType, done: Value, line: int, *, style: int | None, attempt: bool) -> Value:
    name, sql = target.name, value.sql
    if name in INTEGER:
        if value.literal is not None and value.literal.strip().lstrip("+-").isdigit():
            return replace(done, sql=_cast(sql, target, attempt))
        tried = f"TRY_CAST({call('try_int', sql)} AS {duck(target)})"
        return replace(done, sql=_strict(value, tried, target, attempt))
    if name in APPROXIMATE:
        tried = f"TRY_CAST({call('try_float', sql)} AS {duck(target)})"
        message = f"Error converting data type {value.type.name} to {name}."
        return replace(done, sql=_strict(value, tried, target, attempt, message=message, number=8114))
    if name == "decimal":
        tried = f"TRY_CAST({call('decimal_text', sql)} AS {duck(target)})"
        message = f"Error converting data type {value.type.name} to numeric."
        return replace(done, sql=_strict(value, tried, target, attempt, message=message, number=8114))
    if name == "money":
        tried = f"TRY_CAST({call('money_text', sql)} AS {duck(target)})"
        message = "Cannot convert a char value to money. The char value has incorrect syntax."
        return replace(done, sql=_strict(value, tried, target, attempt, message=message, number=235))
    if name == "bit":
        return replace(done, sql=_strict(value, call("try_bit", sql), target, attempt))
    if name in MOMENT:
        return replace(
            done,
            sql=_strict(
                value, _parse_moment(sql, target, style, line), target, attempt, message=_DATE_ERROR, number=241
            ),
        )
    if name == "uniqueidentifier":
        tried = f"upper(CAST(TRY_CAST({sql} AS UUID) AS VARCHAR))"
        message = "Conversion failed when converting from a character string to uniqueidentifier."
        return replace(done, sql=_strict(value, tried, target, attempt, message=message, number=8169))
    return _to_binary(value, target, done, line, style)


def _parse_moment(sql: str, target: SqlType, style: int | None, line: int) -> str:
    parsed = call("try_timestamp", sql)
    if style is not None and style not in {0, 100, 20, 21, 25, 120, 121, 126, 127, 23}:
        if style not in _DATE_STYLES:
            raise SqlError(
                281, f"{style} is not a valid style number when converting from a character string.", line=line
            )
        written = _DATE_STYLES[style]
        dates = {written.replace("/", mark).replace("-", mark).replace(".", mark) for mark in "/-."}
        times = ("", " %H:%M:%S", " %H:%M:%S.%f", " %H:%M")
        formats = ", ".join(f"'{date}{time}'" for date in sorted(dates) for time in times)
        parsed = f"try_strptime(trim({sql}), [{formats}])"
    if target.name == "date":
        return f"CAST({parsed} AS DATE)"
    if target.name == "time":
        return _scaled_time(f"CAST({parsed} AS TIME)", target)
    if target.name == "datetime":
        return call("to_datetime", parsed)
    if target.name == "smalldatetime":
        return call("to_smalldatetime", parsed)
    if target.name == "datetimeoffset":
        zoned = call("try_offset", sql)
        return f"coalesce({zoned}, timezone('UTC', {parsed}))"
    return _scaled(parsed, target)


def _scaled(sql: str, target: SqlType) -> str:
    """Rounded to the scale of datetime2; 6 and 7 digits are DuckDB's own."""
    scale = 7 if target.scale is None else target.scale
    return sql if scale >= 6 else call("to_scale", sql, str(10 ** (6 - scale)))  # noqa: PLR2004


def _scaled_time(sql: str, target: SqlType) -> str:
    stamp = f"(DATE '1900-01-01' + {sql})"
    scaled = _scaled(stamp, target)
    return sql if scaled == stamp else f"CAST({scaled} AS TIME)"


def _moment(value: Value, target: SqlType, line: int) -> str:
    """Between the date and time types."""
    source, sql = value.type.name, value.sql
    if source == target.name and source not in {"datetime2", "time", "datetimeoffset"}:
        return sql
    if source == "datetimeoffset" and target.name != "datetimeoffset":
        sql = f"timezone('{value.zone or 'UTC'}', {sql})"
    if target.name == "date":
        if source == "time":
            raise SqlError(529, "Explicit conversion from data type time to date is not allowed.", line=line)
        return f"CAST({sql} AS DATE)"
    if target.name == "time":
        return _scaled_time(sql if source == "time" else f"CAST({sql} AS TIME)", target)
    if target.name == "datetimeoffset":
        stamp = f"timezone('UTC', {value.sql})" if source == "datetimeoffset" else f"CAST({sql} AS TIMESTAMP)"
        if source == "datetimeoffset" and _scaled(stamp, target) == stamp:
            return value.sql
        return f"timezone('UTC', {_scaled(stamp, target)})"
    stamp = f"CAST({sql} AS TIMESTAMP)"
    if source == "time":
        stamp = f"(DATE '1900-01-01' + {sql})"
    if target.name == "datetime":
        return stamp if source in {"date", "smalldatetime"} else call("to_datetime", stamp)
    if target.name == "smalldatetime":
        return call("to_smalldatetime", stamp)
    return stamp if source in {"date", "smalldatetime", "datetime"} else _scaled(stamp, target)


def _to_string(
    value: Value, target: SqlType, done: Value, line: int, *, style: int | None, attempt: bool, explicit: bool
) -> Value:
    source = value.type
    length = target.length if target.length is not None else 30
    if source.name in CHARACTER:
        text = value.sql
        if length != -1 and (source.length == -1 or (source.length or 1) > length):
            text = f"left({text}, {length})" if explicit else shortened(text, length)
    elif source.name in BINARY:
        text = _binary_text(value, style, line)
        if length != -1:
            text = f"left({text}, {length})"
    else:
        text = as_text(value, style, line)
        widest = text_length(source)
        if length != -1 and widest > length:
            if source.name in INTEGER:  # T-SQL shows * where an integer doesn't fit
                text = f"CASE WHEN length({text}) > {length} THEN '*' ELSE {text} END"
            elif source.name in EXACT:
                overflow = errors.raise_sql(
                    8115,
                    errors.literal("Arithmetic overflow error converting numeric to data type varchar."),
                    "VARCHAR",
                )
                text = f"CASE WHEN length({text}) > {length} THEN {'NULL' if attempt else overflow} ELSE {text} END"
            else:
                text = f"left({text}, {length})"
    if target.name in {"char", "nchar"}:
        return replace(done, sql=f"rpad({text}, {length}, ' ')")
    keeps = source.name not in CHARACTER or (value.trimmed and text == value.sql)
    literal = value.literal if source.name in CHARACTER and text == value.sql else None
    return replace(done, sql=text, trimmed=keeps, literal=literal)


def shortened(text: str, length: int) -> str:
    """``text`` for a column of ``length``: blanks beyond are dropped, anything else is error 8152."""
    message = errors.literal("String or binary data would be truncated.")
    return (
        f"CASE WHEN length(rtrim({text}, ' ')) > {length} THEN {errors.raise_sql(8152, message, 'VARCHAR')} ELSE "
        f"left({text}, {length}) END"
    )


def text_length(source: SqlType) -> int:
    """The most characters a value of this type prints as."""
    widths = {
        "bit": 1,
        "tinyint": 3,
        "smallint": 6,
        "int": 11,
        "bigint": 20,
        "float": 24,
        "real": 24,
        "money": 21,
        "date": 10,
        "time": 16,
        "datetime": 30,
        "smalldatetime": 20,
        "datetime2": 27,
        "datetimeoffset": 34,
        "uniqueidentifier": 36,
    }
    if source.name == "decimal":
        return (source.precision or 18) + 2
    return widths.get(source.name, source.length or 30)


_EXACT_STYLE = 3  # of approximate numbers: always 17 digits, so that every value has a text of its own


def as_text(value: Value, style: int | None, line: int) -> str:
    """A number, moment or identifier as T-SQL prints it."""
    source, sql = value.type, value.sql
    if source.name == "bit":
        return f"CASE WHEN {sql} THEN '1' WHEN NOT {sql} THEN '0' END"
    if source.name in APPROXIMATE:
        if style in {None, 0}:
            return call("float_text", sql)
        if style == _EXACT_STYLE:
            return f"printf('%.17g', {sql})"
        # the exponent has three digits
        made = f"printf('%.{7 if style == 1 else 15}e', {sql})"
        return f"regexp_replace({made}, 'e([+-])([0-9]{{2}})$', 'e\\1' || '0' || '\\2')"
    if source.name == "money":
        if style == 1:
            return f"format('{{:,.2f}}', CAST({sql} AS DECIMAL(19,2)))"
        return f"CAST(CAST({sql} AS DECIMAL(19,{4 if style == 2 else 2})) AS VARCHAR)"  # noqa: PLR2004
    if source.name in MOMENT:
        return _moment_text(value, style, line)
    return f"CAST({sql} AS VARCHAR)"


def _moment_text(value: Value, style: int | None, line: int) -> str:
    source, sql = value.type, value.sql
    scale = 7 if source.scale is None else source.scale
    if source.name == "datetimeoffset":
        sql = f"timezone('{value.zone or 'UTC'}', {sql})"
    if source.name == "time":
        stamp = f"(DATE '1900-01-01' + {sql})"
        if style in {20, 120, 8, 108, 24}:
            return f"strftime({stamp}, '%H:%M:%S')"
        if style in {0, 100}:
            return f"lpad(strftime({stamp}, '%-I:%M%p'), 7, ' ')"
        return f"strftime({stamp}, '%H:%M:%S') || {call('fraction', stamp, str(scale))}"
    if source.name == "date":
        if style in {0, 100, 9, 109}:
            return call("mon_dd_yyyy", sql)
        if style is None or style in _FULL_STYLES or style in _FRACTION_STYLES:
            return f"strftime({sql}, '%Y-%m-%d')"
    if source.name in {"datetime", "smalldatetime"} and style is None:
        style = 0
    if style in {0, 100}:
        return call("style_0", sql)
    if style in _DATE_STYLES:
        return f"strftime({sql}, '{_DATE_STYLES[style]}')"
    if style in _TIME_STYLES:
        return f"strftime({sql}, '{'%H:%M:%S' if style in {8, 24, 108} else '%H:%M:%S:%g'}')"
    if style in _FULL_STYLES:
        return f"strftime({sql}, '{_FULL_STYLES[style]}')"
    if style is None or style in _FRACTION_STYLES:
        digits = 3 if source.name == "datetime" else 0 if source.name == "smalldatetime" else scale
        separator = _FRACTION_STYLES.get(style or 121, " ")
        text = f"strftime({sql}, '%Y-%m-%d{separator}%H:%M:%S') || {call('fraction', sql, str(digits))}"
        if source.name == "datetimeoffset":
            text += f" || {call('offset_text', value.sql, sql)}"
        return text
    raise SqlError(
        281, f"{style} is not a valid style number when converting from {source.name} to a character string.", line=line
    )


def _binary_text(value: Value, style: int | None, line: int) -> str:
    if style == 1:
        return f"'0x' || hex({value.sql})"
    if style == 2:  # noqa: PLR2004  hexadecimal without the 0x
        return f"hex({value.sql})"
    return f"decode({value.sql})"


def _to_binary(value: Value, target: SqlType, done: Value, line: int, style: int | None = None) -> Value:
    """Strings by their bytes (style 1 and 2: hexadecimal), integers big-endian."""
    source, sql = value.type, value.sql
    if source.name in BINARY:
        text = sql
    elif source.name in CHARACTER:
        if source.name in {"nchar", "nvarchar"} and style not in {1, 2}:
            raise errors.not_implemented("CAST of nvarchar to binary", line)
        text = f"unhex({sql})" if style == 2 else f"unhex(substr({sql}, 3))" if style == 1 else f"encode({sql})"  # noqa: PLR2004
    elif source.name in INTEGER:
        width = {"tinyint": 1, "smallint": 2, "int": 4, "bigint": 8}[source.name]
        number = f"(CAST({sql} AS HUGEINT) + CASE WHEN {sql} < 0 THEN {2 ** (8 * width)}::HUGEINT ELSE 0 END)"
        wanted = width if target.length in {None, -1} or target.name == "varbinary" else target.length
        return replace(done, sql=f"unhex(lpad(to_hex({number}), {2 * (wanted or width)}, '0'))")
    else:
        raise errors.not_implemented(f"CAST of {source.name} to {target.name}", line)
    if target.length not in {None, -1}:
        text = f"unhex(left(hex({text}), {2 * (target.length or 1)}))"
        if target.name == "binary":
            text = f"unhex(rpad(hex({text}), {2 * (target.length or 1)}, '0'))"
    return replace(done, sql=text)


def implicit(value: Value, target: SqlType, line: int) -> Value:
    """The conversion of an assignment: shortening a string is error 8152, a pair that needs CAST is 206 or 257."""
    source = value.type
    if not value.null:
        if (source.name in MOMENT and target.name in NUMERIC) or (
            source.name in NUMERIC and target.name in MOMENT - {"datetime", "smalldatetime"}
        ):
            raise errors.operand_clash(source, target, line)
        if source.name in CHARACTER and target.name in BINARY:
            raise SqlError(
                257,
                f"Implicit conversion from data type {source.name} to {target.name} is not allowed. Use the CONVERT "
                "function to run this query.",
                state=3,
                line=line,
            )
    return convert(value, target, line, explicit=False)


def unscaled(value: Value) -> tuple[str, int]:
    """An exact number as (HUGEINT SQL, scale)."""
    kind = as_decimal(value.type)
    scale = kind.scale or 0
    if value.type.name in INTEGER:
        return f"CAST({value.sql} AS HUGEINT)", 0
    if value.type.name == "bit":
        return f"CAST({value.sql} AS INTEGER)::HUGEINT", 0
    return f"CAST({value.sql} * CAST({10**scale} AS DECIMAL({scale + 1},0)) AS HUGEINT)", scale
