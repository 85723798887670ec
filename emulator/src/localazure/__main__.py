"""The command line: `localazure up`, `down`, `reset`, `status`, `connection`, `coverage`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from localazure import supervisor
from localazure.core import certificates
from localazure.core.clock import Clock
from localazure.core.faults import KINDS as FAULTS
from localazure.core.faults import Faults
from localazure.settings import SETTINGS, Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "coverage":
        from localazure import stack

        # Built in a home of its own: what is printed depends on the code alone.
        with tempfile.TemporaryDirectory() as folder:
            print(stack.coverage(stack.compose(Settings.load(Path(folder)))))
        return 0
    if options.command == "settings":
        print(settings_table()) if options.markdown else _table(_SETTINGS_HEAD, _settings_rows())
        return 0
    overrides = {} if options.port_base is None else {"port_base": options.port_base}
    try:
        settings = Settings.load(options.home, **overrides)
        return _run(options, settings)
    except (supervisor.StackError, ValueError, TimeoutError) as error:
        print(f"localazure: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, settings: Settings) -> int:
    if options.command == "up":
        if options.publish:
            certificates.ensure(settings)
            settings.write_connection(options.publish)
        if options.foreground:
            supervisor.foreground(settings)
        else:
            supervisor.up(settings, options.timeout)
            _table(("what", "address"), _addresses(settings))
    elif options.command == "down":
        print("localazure is down" if supervisor.down(settings) else "localazure wasn't up")
    elif options.command == "reset":
        supervisor.reset(settings, force=options.force)
        print(f"{settings.home} is empty")
    elif options.command == "status":
        rows = supervisor.status(settings)
        _table(
            ("process", "pid", "port", "state", "memory"),
            [(r.name, str(r.pid or "-"), str(r.port), r.state, f"{r.memory / 2**20:.0f} MB") for r in rows],
        )
        return 0 if all(row.healthy for row in rows) else 3
    elif options.command == "connection":
        if options.json:
            # Holds secrets: asked for by name, it may go to a terminal or a pipe.
            print(json.dumps(settings.connection(), indent=2))
        else:
            print(settings.write_connection())
    elif options.command == "fault":
        if not Faults(settings.faults).ask(options.kind, options.subject):
            raise ValueError(f"nobody took the fault: '{options.subject}' holds no node (or localazure isn't up)")
        print(f"{options.kind}: {options.subject}")
    elif options.command == "clock":
        clock = Clock(settings.clock_file)
        if options.reset:
            clock.reset()
        elif options.set is not None or options.rate is not None:
            clock.set_time(options.set, 1.0 if options.rate is None else options.rate)
        print(f"{clock.now().isoformat(timespec='seconds')}, {clock.rate:g} s a second")
    elif options.command == "api":
        from localazure import stack

        stack.serve(settings)
    elif options.command == "supervise":
        supervisor.supervise(settings)
    return 0


def _addresses(settings: Settings) -> list[tuple[str, str]]:
    return [
        ("Entra, Resource Manager, Azure ML, Synapse", settings.api_url),
        ("Synapse SQL (TDS)", f"{settings.sql_server}, database {settings.sql_database}"),
        ("Synapse serverless SQL (TDS)", settings.sql_server_ondemand),
        ("Blob storage", settings.blob_url),
        ("Key Vault", f"{settings.key_vault_url}, or {settings.key_vault_uri}"),
        ("Scoring", settings.router_url),
        ("MLflow (starts when asked)", settings.mlflow_url),
        ("Certificates to trust", str(settings.ca_bundle)),
        ("Connection", str(settings.home / "connection.json")),
    ]


_SETTINGS_HEAD = ("setting", "default", "what it is", "variable")


def _settings_rows() -> list[tuple[str, ...]]:
    return [(row.name, row.shown_default(), row.help, row.variable or "") for row in SETTINGS]


def settings_table() -> str:
    """The rows of settings.json as a Markdown table, for the README."""
    rows = [_SETTINGS_HEAD, ("---",) * len(_SETTINGS_HEAD), *_settings_rows()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="localazure", description="A private Azure on one machine.")
    parser.add_argument("--home", type=Path, help="the folder that holds everything (default: var/localazure)")
    parser.add_argument("--port-base", type=int, help="the first port; kept in the home's settings.json")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start everything, and wait until it is healthy")
    up.add_argument("--timeout", type=float, default=180, help="seconds to wait (default: 180)")
    up.add_argument("--foreground", action="store_true", help="don't detach, don't wait: for containers")
    up.add_argument("--publish", type=Path, help="another folder to get connection.json and the CA bundle")
    commands.add_parser("down", help="end everything, jobs included; what is stored stays")
    reset = commands.add_parser("reset", help="empty the home; settings, keys and certificates stay")
    reset.add_argument("--force", action="store_true", help="end what is running first")
    commands.add_parser("status", help="the processes; exit code 3 unless all are healthy")
    connection = commands.add_parser("connection", help="the file that tells clients where and who (holds secrets)")
    connection.add_argument("--json", action="store_true", help="print its content instead of its path")
    commands.add_parser("coverage", help="every operation that is implemented, as a Markdown table")
    settings = commands.add_parser("settings", help="the rows of settings.json")
    settings.add_argument("--markdown", action="store_true", help="as the table in the README")
    fault = commands.add_parser("fault", help="make something fail: the node of a running job is preempted")
    fault.add_argument("kind", choices=FAULTS)
    fault.add_argument("subject", help="the job's name")
    clock = commands.add_parser("clock", help="the time that schedules go by: show it, set it, let it run faster")
    clock.add_argument(
        "--set", type=datetime.fromisoformat, help="the time to show from now on, e.g. 2026-12-01T05:59:50Z"
    )
    clock.add_argument("--rate", type=float, help="its seconds a second of the machine's (default: 1)")
    clock.add_argument("--reset", action="store_true", help="the machine's time again")
    commands.add_parser("api", help="(internal) the API process")
    commands.add_parser("supervise", help="(internal) the supervisor")
    return parser


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
