"""DuckDB macros that carry T-SQL's value semantics, kept in the hidden schema ``$tsql``.

Each ``try_*`` answers NULL where T-SQL's TRY_CAST does; the strict forms compare it with the input and raise. DuckDB
refuses TRY() around error(), so the two can't be one.
"""

from __future__ import annotations

import hashlib

import duckdb

SCHEMA = '"$tsql"'

# string -> number: blanks around are fine, '' is 0 for integers and floats and an error for decimals
# https://learn.microsoft.com/en-us/sql/t-sql/functions/cast-and-convert-transact-sql
_MACROS = {
    "try_int(x)": "CASE WHEN regexp_full_match(x, '\\s*') THEN 0 WHEN regexp_full_match(x, '\\s*[+-]?\\s*[0-9]+\\s*') "
    "THEN TRY_CAST(replace(trim(x), ' ', '') AS BIGINT) END",
    "try_float(x)": "CASE WHEN regexp_full_match(x, '\\s*') THEN 0 WHEN regexp_full_match(x, "
    "'\\s*[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eEdD][+-]?[0-9]+)?\\s*') THEN TRY_CAST(trim(x) AS DOUBLE) END",
    "decimal_text(x)": "CASE WHEN regexp_full_match(x, '\\s*[+-]?\\s*([0-9]+\\.?[0-9]*|\\.[0-9]+)\\s*') "
    "THEN replace(trim(x), ' ', '') END",
    "money_text(x)": "CASE WHEN regexp_full_match(x, '\\s*') THEN '0' ELSE "
    "regexp_replace(trim(x), '[,$£€]', '', 'g') END",
    "try_bit(x)": "CASE WHEN lower(trim(x)) = 'true' THEN true WHEN lower(trim(x)) = 'false' THEN false "
    "WHEN regexp_full_match(x, '\\s*') THEN false "
    "WHEN regexp_full_match(x, '\\s*[+-]?[0-9]+\\s*') THEN TRY_CAST(trim(x) AS HUGEINT) <> 0 END",
    # the formats that a language of us_english reads without a style
    "try_timestamp(x)": "CASE WHEN regexp_full_match(x, '\\s*') THEN TIMESTAMP '1900-01-01' "
    "WHEN regexp_matches(x, '^\\s*[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}') THEN TRY_CAST(x AS TIMESTAMP) "
    "ELSE coalesce(try_strptime(trim(x), ['%Y%m%d', '%Y%m%d %H:%M:%S', '%Y%m%d %H:%M:%S.%f', '%Y%m%d %H:%M', "
    "'%m/%d/%Y', '%m/%d/%Y %H:%M:%S', '%m/%d/%Y %H:%M', '%m/%d/%Y %I:%M:%S %p', '%m/%d/%Y %I:%M %p', '%m-%d-%Y', "
    "'%Y/%m/%d', '%Y/%m/%d %H:%M:%S', '%Y.%m.%d', '%m/%d/%y', '%b %d %Y', '%b %d, %Y', '%B %d, %Y', '%B %d %Y', "
    "'%d %b %Y', '%d %B %Y', '%b %d %Y %I:%M%p', '%Y']), "
    "TIMESTAMP '1900-01-01' + (try_strptime(trim(x), ['%H:%M:%S.%f', '%H:%M:%S', '%H:%M', '%I:%M:%S %p', '%I:%M %p', "
    "'%I:%M%p']) - TIMESTAMP '1900-01-01')) END",
    # datetime counts in thirds of 10 ms; smalldatetime in minutes
    "to_datetime(x)": "epoch_ms(CAST(round(epoch_us(x) * 3 / 10000.0) * 10 / 3 AS BIGINT))",
    "to_smalldatetime(x)": "date_trunc('minute', CAST(x AS TIMESTAMP) + INTERVAL 29 SECOND + INTERVAL 999 MILLISECOND)",
    "to_scale(x, us)": "make_timestamp(epoch_us(x) + us // 2 - ((epoch_us(x) + us // 2) % us + us) % us)",
    "try_offset(x)": "CASE WHEN regexp_matches(x, '([+-][0-9]{2}:?[0-9]{2}|Z)\\s*$') THEN "
    "TRY_CAST(regexp_replace(x, '\\s+([+-][0-9]{2}:?[0-9]{2})\\s*$', '\\1') AS TIMESTAMPTZ) END",
    # seconds with one to seven digits, as datetime2 prints them
    "fraction(x, n)": "CASE WHEN n = 0 THEN '' ELSE '.' || left(strftime(x, '%f') || '0', n) END",
    "mon_dd_yyyy(x)": "strftime(x, '%b ') || lpad(strftime(x, '%-d'), 2, ' ') || strftime(x, ' %Y')",
    "style_0(x)": "strftime(x, '%b ') || lpad(strftime(x, '%-d'), 2, ' ') || strftime(x, ' %Y ') || "
    "lpad(strftime(x, '%-I'), 2, ' ') || strftime(x, ':%M%p')",
    "offset_text(x, wall)": "CASE WHEN datediff('minute', timezone('UTC', x), wall) < 0 THEN ' -' ELSE ' +' END || "
    "lpad(CAST(abs(datediff('minute', timezone('UTC', x), wall)) // 60 AS VARCHAR), 2, '0') || ':' || "
    "lpad(CAST(abs(datediff('minute', timezone('UTC', x), wall)) % 60 AS VARCHAR), 2, '0')",
    "float_text(x)": "CASE WHEN x = 0 THEN '0' WHEN abs(x) >= 1e6 OR abs(x) < 1e-4 THEN "
    "regexp_replace(regexp_replace(printf('%.5e', x), '\\.?0*e', 'e'), 'e([+-])([0-9]{2})$', 'e\\1' || '0' || '\\2') "
    "ELSE regexp_replace(printf('%.6g', x), '(\\.[0-9]*?)0+$', '\\1') END",
    "like_dynamic(x, p)": "CASE WHEN contains(p, '[') THEN tsql_like(x, p, '') ELSE x ILIKE p END",
    # DATEDIFF counts boundaries crossed; weeks start on Sunday whatever DATEFIRST says
    # https://learn.microsoft.com/en-us/sql/t-sql/functions/datediff-transact-sql
    "diff_week(a, b)": "datediff('day', date_trunc('week', CAST(a AS TIMESTAMP) + INTERVAL 1 DAY), "
    "date_trunc('week', CAST(b AS TIMESTAMP) + INTERVAL 1 DAY)) // 7",
    "weekday(x)": "dayofweek(x) + 1",
    "week_of_year(x)": "1 + (dayofyear(x) - 1 + dayofweek(make_date(CAST(year(x) AS BIGINT), 1, 1))) // 7",
    # an integer as decimal text: more digits than one multiplication could hold
    "decimal_point(q, p, s)": "CASE WHEN q < 0 THEN '-' ELSE '' END || CAST(abs(q) // p AS VARCHAR) || '.' || "
    "lpad(CAST(abs(q) % p AS VARCHAR), s, '0')",
    "stuff(x, start, len, y)": "CASE WHEN start < 1 OR len < 0 OR start > length(x) THEN NULL ELSE "
    "substr(x, 1, start - 1) || coalesce(y, '') || substr(x, start + len) END",
    "substring(x, start, len)": "CASE WHEN len < 0 THEN CAST(CAST('TSQL:537:Invalid length parameter passed to the "
    "LEFT or "
    "SUBSTRING function.:TSQL' AS INTEGER) AS VARCHAR) WHEN start < 1 THEN substr(x, 1, greatest(start + len - 1, "
    "0)) ELSE substr(x, start, "
    "len) END",
    "left_of(x, n)": "CASE WHEN n < 0 THEN CAST(CAST('TSQL:536:Invalid length parameter passed to the left "
    "function.:TSQL' AS INTEGER) AS VARCHAR) "
    "ELSE substr(x, 1, n) END",
    "right_of(x, n)": "CASE WHEN n < 0 THEN CAST(CAST('TSQL:536:Invalid length parameter passed to the right "
    "function.:TSQL' AS INTEGER) AS VARCHAR) "
    "WHEN n = 0 THEN '' ELSE substr(x, greatest(length(x) - n + 1, 1)) END",
    "charindex(p, x, start)": "CASE WHEN strpos(substr(lower(x), greatest(start, 1)), lower(p)) = 0 OR p = '' THEN 0 "
    "ELSE strpos(substr(lower(x), greatest(start, 1)), lower(p)) + greatest(start, 1) - 1 END",
    "replace_ci(x, p, y)": "CASE WHEN p = '' OR x IS NULL OR p IS NULL OR y IS NULL THEN CASE WHEN p IS NULL OR y "
    "IS NULL "
    "THEN NULL ELSE x END ELSE regexp_replace(x, regexp_escape(p), replace(y, '\\', '\\\\'), 'gi') END",
    "patindex(x, regex)": "CASE WHEN regexp_matches(x, regex) THEN "
    "length(x) - length(regexp_replace(x, '^' || regexp_extract(x, '^(?is:(.*?))' || regex, 1), '')) + 1 ELSE 0 END",
    "isnumeric(x)": "CASE WHEN regexp_full_match(trim(x), "
    "'[+-]?[$]?([0-9][0-9,]*\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?') "
    "THEN 1 ELSE 0 END",
}


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros, unless the database file has them from this very version."""
    mark = "version_" + hashlib.sha256(repr(sorted(_MACROS.items())).encode()).hexdigest()[:16]
    try:
        # Called, not looked up: duckdb_functions() lists thousands of functions first.
        connection.execute(f"SELECT {SCHEMA}.{mark}()")
        return
    except duckdb.CatalogException:
        pass
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    for head, body in _MACROS.items():
        connection.execute(f"CREATE OR REPLACE MACRO {SCHEMA}.{head} AS {body}")
    connection.execute(f"CREATE OR REPLACE MACRO {SCHEMA}.{mark}() AS 1")


def call(name: str, *args: str) -> str:
    """SQL that calls a macro."""
    return f"{SCHEMA}.{name}({', '.join(args)})"
