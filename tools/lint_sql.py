"""Checks the T-SQL below include/sql as a pool would read it: each file rendered for a sample night, then linted.

    var/env/airflow/bin/python tools/lint_sql.py [FILE ...]

A file is checked by the rules of the pool that a model.yml sends it to (`sql_pool: serverless`, else a dedicated one).
Prints ``file:line: severity rule: message``; the exit code is 1 if anything was found. `bin/check` runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jinja2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))

from azflow import tsql_lint
from azflow.errors import SpecError
from azflow.prepare_steps import SqlStep
from azflow.specs import INCLUDE, Night, readable_specs
from azflow.synapse import render
from azflow.tsql_rules import Pool

SQL = INCLUDE / "sql"
#: A first night, which builds two months of days.
FIRST_NIGHT = Night.of("nightly_retraining__flight_delay", "first", date(2013, 3, 8), date(2013, 1, 1))
AZURE = {
    "lake_url": "https://azflowlake.dfs.core.windows.net/lake",
    "lake_abfss_url": "abfss://lake@azflowlake.dfs.core.windows.net",
    "container": "lake",
}


def sql_files() -> list[str]:
    """Every SQL file, relative to include/sql."""
    return sorted(path.relative_to(SQL).as_posix() for path in SQL.rglob("*.sql"))


def pools() -> dict[str, Pool]:
    """The pool of each file that a step of a model sends somewhere."""
    return {step.sql: step.sql_pool for spec in readable_specs() for step in spec.prepare if isinstance(step, SqlStep)}


def rendered(
    file: str, night: Night = FIRST_NIGHT, azure: Mapping[str, str] = AZURE, **more: Any
) -> tuple[str, list[int]]:
    """A file as the operator renders it: (text, for each of its lines the line of the file).

    :raises SpecError: the template is wrong; names the line.
    """
    context = {"night": night, "azure": azure, "model": "flight_delay", "params": {}, **more}
    return render(SQL, file, jinja2.Environment(), context)


def findings(file: str, pool: Pool) -> list[str]:
    """What is wrong with a file, a line each."""
    try:
        text, lines = rendered(file)
    except SpecError as problem:
        return [f"include/sql/{file}: error template: {problem.problem}"]
    return [
        f"include/sql/{file}:{lines[found.line - 1]}: {found.severity} {found.rule}: {found.message}"
        for found in tsql_lint.lint(text, pool)
    ]


def main(files: Sequence[str]) -> int:
    """Lint `files`, or all of them."""
    parser = argparse.ArgumentParser(prog="lint_sql.py", description="Checks the T-SQL below include/sql.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="below include/sql; none: all of them")
    paths = [Path(name).resolve() for name in parser.parse_args(files).files]
    if outside := [path for path in paths if not (path.is_relative_to(SQL) and path.is_file())]:
        parser.error(f"{outside[0]} is no file below {SQL}")
    known = pools()
    asked = [path.relative_to(SQL).as_posix() for path in paths] or sql_files()
    found = [line for file in asked for line in findings(file, known.get(file, "dedicated"))]
    print("\n".join(found) if found else f"T-SQL files checked: {len(asked)}; nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
