"""A pool of its own for every test module, and a lake on the local disk in place of the blob service."""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localazure.core.errors import NotFound
from localazure.settings import Settings
from localazure.sql.pool import Pool, Session
from localazure.sql.results import Result, ResultSet
from localazure.sql.rules import DEDICATED, PoolKind
from localazure.sql.serverless import Serverless
from localazure.storage.blobs import Blob
from localazure.storage.locations import Location


class FolderLake:
    """What the engine asks of the blob store, over a folder. ``opened``: the files that were asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: set[str] = set()
        self.copies = root.parent / "copies"

    def materialize(self, location: Location) -> Path:
        base = self.root / location.container
        if "*" not in location.path:
            found = base / location.path
            if not found.exists():
                raise NotFound(f"There is nothing at '{location}'.")
            self.opened.add(location.path)
            return found
        pattern = re.escape(location.path).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        names = [str(p.relative_to(base)) for p in base.rglob("*") if p.is_file()]
        matching = [name for name in names if re.fullmatch(pattern + "(/.*)?", name)]
        if not matching:
            raise NotFound(f"There is nothing at '{location}'.")
        copy = self.copies / re.sub(r"\W", "_", str(location))
        shutil.rmtree(copy, ignore_errors=True)
        for name in matching:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(base / name, copy / name)
        return copy

    def list(self, container: str, prefix: str = "") -> list[Blob]:
        base = self.root / container
        if not base.is_dir():
            raise NotFound(f"There is no container '{container}'.")
        found = {str(path.relative_to(base)): path.stat().st_size for path in base.rglob("*") if path.is_file()}
        stamp = datetime.datetime.now(datetime.UTC)
        return [Blob(name, found[name], "", stamp) for name in sorted(found) if name.startswith(prefix)]

    def upload_tree(self, local: Path, location: Location) -> list[str]:
        target = self.root / location.container / location.path
        shutil.copytree(local, target, dirs_exist_ok=True)
        return [str(path) for path in target.rglob("*")]


def make_pool(folder: Path, kind: PoolKind = DEDICATED, database: str = "dw") -> Pool:
    settings = Settings.load(folder / "home", sql_database=database, storage_account="acct", container="lake")
    lake: Any = FolderLake(folder / "lake")
    (folder / "lake" / "lake").mkdir(parents=True, exist_ok=True)
    return Pool(settings, lake, kind=kind)


def make_serverless(folder: Path, database: str = "demo") -> Serverless:
    """A serverless pool over the folder's lake; with a database of this name unless it is master."""
    settings = Settings.load(folder / "home", sql_database="dw", storage_account="acct", container="lake")
    lake: Any = FolderLake(folder / "lake")
    (folder / "lake" / "lake").mkdir(parents=True, exist_ok=True)
    server = Serverless(settings, lake)
    if database.lower() not in server.databases:
        server.create(database, "", 1)
    return server


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """The folder that is the container ``lake``."""
    folder = tmp_path / "lake" / "lake"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty database: copied faster than made."""
    folder = tmp_path_factory.mktemp("blank")
    make_pool(folder).close()
    return folder / "home" / "sql" / "dw.duckdb"


@pytest.fixture
def pool(tmp_path: Path, blank: Path) -> Iterator[Pool]:
    (tmp_path / "home" / "sql").mkdir(parents=True)
    shutil.copy(blank, tmp_path / "home" / "sql")
    made = make_pool(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session that a module's tests share because they leave nothing behind: refused statements."""
    made = make_pool(tmp_path_factory.mktemp("steady"))
    opened = made.session("tester")
    run(opened, "CREATE TABLE dbo.t (a int NOT NULL, b varchar(3))")
    yield opened
    opened.close()
    made.close()


@pytest.fixture
def session(pool: Pool) -> Iterator[Session]:
    opened = pool.session("tester", "pytest", "localhost")
    yield opened
    opened.close()


def run(session: Session, batch: str, *parameters: Any) -> list[Result]:
    """Everything a batch answers."""
    return list(session.execute(batch, parameters))


def rows(session: Session, batch: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a batch's last result set."""
    sets = [result for result in run(session, batch, *parameters) if isinstance(result, ResultSet)]
    assert sets, "the batch returned no rows"
    return table_rows(sets[-1])


def table_rows(result: ResultSet) -> list[tuple[Any, ...]]:
    return (
        list(zip(*[column.to_pylist() for column in result.table.columns], strict=True))
        if result.table.num_columns
        else []
    )
