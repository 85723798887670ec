"""Small self-contained HTML pages: one file, no script, no external resource; light and dark as the reader's system is.

Pure. Everything that isn't `Html` is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

Tone = Literal["good", "bad", "warn", "plain", "accent"]


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


STYLE = """
:root { color-scheme: light dark;
  --ink: #16202c; --soft: #5b6878; --line: #e3e8ee; --ground: #f6f8fa; --card: #ffffff; --accent: #2563a8;
  --accent-soft: #dbe8f6; --good: #1a7f4b; --good-soft: #dcf3e6; --bad: #c0352b; --bad-soft: #fbe3e1;
  --warn: #9a6700; --warn-soft: #fbefcf; --muted: #8693a2; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4eaf1; --soft: #97a5b5; --line: #2b3643; --ground: #10161d; --card: #18212b; --accent: #6aa9ec;
  --accent-soft: #1e354e; --good: #4cc38a; --good-soft: #14352a; --bad: #f2857c; --bad-soft: #45201e;
  --warn: #e3b341; --warn-soft: #3d3010; --muted: #708196; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 0 0 4px; }
p { margin: 6px 0; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: 13px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.soft { color: var(--soft); } .small { font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 18px 0; }
section > .soft:first-of-type { margin-top: 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 22px 0 4px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.fact b { display: block; font-size: 22px; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.fact span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: 10px; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12.5px; border-bottom: 1px solid var(--line);
  padding: 6px 12px 6px 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--line); padding: 7px 12px 7px 0; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td code { overflow-wrap: anywhere; } td:has(code) { min-width: 150px; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.badge { display: inline-block; border-radius: 999px; padding: 1px 9px; font-size: 12.5px; font-weight: 550;
  white-space: nowrap; background: var(--line); color: var(--ink); }
.badge.good { background: var(--good-soft); color: var(--good); }
.badge.bad { background: var(--bad-soft); color: var(--bad); }
.badge.warn { background: var(--warn-soft); color: var(--warn); }
.badge.accent { background: var(--accent-soft); color: var(--accent); }
svg { display: block; max-width: 100%; height: auto; margin-top: 10px; }
.wide svg { min-width: 760px; } .nowrap { white-space: nowrap; }
.says { font-size: 18px; line-height: 1.4; margin: 18px 0 2px; }
.good-ink { color: var(--good); } .bad-ink { color: var(--bad); } .warn-ink { color: #dba617; }
svg text { fill: var(--ink); font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--muted); }
svg .bar { fill: var(--accent); } svg .bar.soft { fill: var(--muted); } svg .good { fill: var(--good); }
svg .bad { fill: var(--bad); } svg .warn { fill: var(--warn); } svg .accent { fill: var(--accent); }
svg .wait { fill: var(--accent-soft); } svg .amber { fill: #dba617; }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--accent); font-size: 14px; }
footer { color: var(--soft); font-size: 13px; margin-top: 28px; }
"""


def text(value: object) -> str:
    """A value as HTML: escaped, numbers grouped, None as a dash."""
    if isinstance(value, Html):
        return value
    if value is None or value == "":
        return '<span class="soft">–</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR2004
    return escape(str(value))


def join(parts: Iterable[str]) -> Html:
    """Pieces of HTML after each other."""
    return Html("".join(parts))


def badge(label: object, tone: Tone = "plain") -> Html:
    """A small coloured label."""
    return Html(f'<span class="badge {tone}">{text(label)}</span>')


def link(label: object, url: str) -> Html:
    """A link; only https and http lead anywhere."""
    if not url.startswith(("https://", "http://")):
        return Html(text(label))
    return Html(f'<a href="{escape(url, quote=True)}">{text(label)}</a>')


def code(value: object) -> Html:
    """Text in a fixed-width font."""
    return Html(f"<code>{escape(str(value))}</code>")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> Html:
    """A table; `numbers` are the columns (from 0) that align to the right."""

    def row(tag: str, cells: Sequence[object]) -> str:
        made = (f"<{tag}{' class=n' if i in numbers else ''}>{text(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return Html(f'<div class="scroll"><table>{row("th", [Html(escape(h)) for h in headers])}{body}</table></div>')


def section(title: str, intro: object, *parts: str) -> Html:
    """A card with a heading."""
    lead = f'<p class="soft small">{text(intro)}</p>' if intro else ""
    return Html(f"<section><h2>{escape(title)}</h2>{lead}{''.join(parts)}</section>")


def fold(title: str, *parts: str) -> Html:
    """Parts that the reader opens."""
    return Html(f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>")


def facts(pairs: Iterable[tuple[object, str]]) -> Html:
    """The few figures a reader looks for first: (value, what it is)."""
    cells = "".join(f'<div class="fact"><b>{text(value)}</b><span>{escape(name)}</span></div>' for value, name in pairs)
    return Html(f'<div class="facts">{cells}</div>')


def page(title: str, lead: object, *parts: str, footer: object = "") -> str:
    """The whole document."""
    foot = f"<footer>{text(footer)}</footer>" if footer else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main><h1>{escape(title)}</h1><div class="soft">{text(lead)}</div>{"".join(parts)}{foot}</main>'
        "</body></html>\n"
    )
