"""A notebook run, and a Livy batch, for people: what Synapse Studio would show, as one page without scripts. Pure.

Outputs are shown as text and images; HTML from a notebook is never passed on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1b1b}
h1{font-size:1.3rem}table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0;vertical-align:top}
pre{background:#f5f6f8;padding:.6rem .8rem;overflow-x:auto;margin:.3rem 0;border-left:3px solid #ccd}
pre.out{background:#fff;border-left-color:#9c9}pre.error{background:#fff4f4;border-left-color:#c33}
.tag{color:#667;font-size:.8rem}.Succeeded{color:#1a7f37}.Failed,.Cancelled{color:#b3261e}img{max-width:100%}
"""
_ACTIVE = frozenset({"Starting", "Running"})
#: Nothing of a page may load or run anything.
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}


def run_page(document: Mapping[str, Any], snapshot: Mapping[str, Any]) -> str:
    """The page of a run; one that is still active reloads itself."""
    status = document["runStatus"]
    refresh = '<meta http-equiv="refresh" content="3">' if status in _ACTIVE else ""
    rows = {
        "Run": document["runId"],
        "Spark pool, session": f"{document['sparkPool']}, {document['sessionId']}",
        "Submitted": document["submittedAt"],
        "Started": document["startedAt"],
        "Ended": document["endedAt"],
        **{f"Parameter {name}": item["value"] for name, item in document["parameters"].items()},
        "Exit value": document["exitValue"],
    }
    table = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in rows.items() if v is not None)
    cells = "".join(_cell(cell) for cell in snapshot["notebookContent"]["properties"]["cells"])
    return _page(document["notebook"], status, refresh, f"<table>{table}</table>{_error(document.get('error'))}{cells}")


def batch_page(document: Mapping[str, Any], lines: Sequence[str]) -> str:
    """The page of a Livy batch with its driver's last lines; one that is still active reloads itself."""
    times, options = document["schedulerInfo"], document["livyInfo"]["jobCreationRequest"]
    is_active = document["result"] == "Uncertain"
    refresh = '<meta http-equiv="refresh" content="3">' if is_active else ""
    rows = {
        "Batch": document["id"],
        "Spark pool, application": f"{document['sparkPoolName']}, {document['appId'] or 'none yet'}",
        "File": options.get("file"),
        "Arguments": " ".join(options.get("args") or ()) or None,
        "Submitted": times["submittedAt"],
        "Scheduled": times.get("scheduledAt"),
        "Ended": times.get("endedAt"),
        **{f"Tag {name}": value for name, value in document["tags"].items()},
    }
    table = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in rows.items() if v is not None)
    errors = "".join(f'<pre class="error">{escape(each["message"])}</pre>' for each in document["errorInfo"])
    output = "\n".join(lines)
    return _page(
        document["name"],
        document["state"] if is_active else document["result"],
        refresh,
        f'<table>{table}</table>{errors}<pre class="out">{escape(output)}</pre>',
    )


def _page(title: str, status: str, head: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"{head}<style>{_STYLE}</style></head><body><h1>{escape(title)}: "
        f'<span class="{escape(status)}">{escape(status)}</span></h1>{body}</body></html>'
    )


def _cell(cell: Mapping[str, Any]) -> str:
    tags = ", ".join(str(tag) for tag in (cell.get("metadata") or {}).get("tags") or ())
    head = f'<div class="tag">{escape(tags)}</div>' if tags else ""
    outputs = "".join(_outputs(cell.get("outputs") or ()))
    return f"{head}<pre>{escape(_text(cell['source']))}</pre>{outputs}"


def _outputs(outputs: Any) -> Iterator[str]:
    for output in outputs:
        data = output.get("data") or {}
        if output.get("output_type") == "error":
            yield _error(output)
        elif "image/png" in data:
            yield _image(_text(data["image/png"]))
        else:
            text = _text(output.get("text") or data.get("text/plain") or "")
            if text.strip():
                yield f'<pre class="out">{escape(text)}</pre>'


def _image(encoded: str) -> str:
    try:
        content = base64.b64encode(base64.b64decode(encoded)).decode()
    except binascii.Error:
        return ""
    return f'<img alt="" src="data:image/png;base64,{content}">'


def _error(error: Mapping[str, Any] | None) -> str:
    if not error:
        return ""
    lines = [f"{error.get('ename')}: {error.get('evalue')}", *(error.get("traceback") or ())]
    return f'<pre class="error">{escape(_without_colours(chr(10).join(str(line) for line in lines)))}</pre>'


def _without_colours(text: str) -> str:
    return "".join(part if not index else part.partition("m")[2] for index, part in enumerate(text.split("\x1b[")))


def _text(value: Any) -> str:
    return "".join(str(item) for item in value) if isinstance(value, list) else str(value)
