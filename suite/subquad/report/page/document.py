"""index.html: one file that opens anywhere, without a network, and is of use without scripts.

The text is that of report.md; the pictures are held in it. A policy in the head forbids everything
foreign: what runs is the one script whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from subquad.report.page.markup import Section, inline, picture, sections, to_html
from subquad.report.plots import Figure

MOST_BYTES = 6_000_000
DETAILS = ("Every workload", "Kernels", "Rows that are not ok", "Verdicts")
"""Sections that are folded: long, and looked up rather than read."""
LEFT_OUT = "Too long for this page: it is in report.md, and every figure in cells.csv, beside it."
EXPLORE = """\
<section id="explore" hidden aria-labelledby="explore-title">
<h2 id="explore-title">Look closer</h2>
<p>Choose what to show and against what; point at a curve, or use the arrow keys in the chart. The
address of this page keeps what you chose.</p>
<div class="controls" data-at="controls"></div>
<ul class="families" data-at="families" aria-label="families shown"></ul>
<div class="chart" data-at="chart"></div>
<p class="told" data-at="told" role="status"
 data-idle="Point at a curve to read its value and interval."></p>
<ul class="legend" data-at="legend" aria-label="variants shown"></ul>
<div class="scroll" role="region" tabindex="0" aria-label="values of the chart"><table>
<caption data-at="caption"></caption>
<thead data-at="head"></thead>
<tbody data-at="body"></tbody>
</table></div>
</section>
"""


def document(blocks: Sequence[str], figures: Sequence[Figure], explored: Mapping[str, Any]) -> str:
    """The whole page; sections that would make it larger than MOST_BYTES are left to report.md."""
    title, lead, found = sections(blocks)
    pictures = _pictures(figures)
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    data = _json(explored)
    room = MOST_BYTES - sum(len(t.encode()) for t in (style, script, data, EXPLORE)) - 20_000
    made: dict[str, str] = {}
    for section in sorted(found, key=_weight):
        text = _section(section, pictures) if _weight(section)[1] < 2 * room else ""
        if not text or len(text.encode()) > room:
            text = _left_out(section)
        made[section.id] = text
        room -= len(text.encode())
    body = [made[s.id] for s in found]
    body.insert(min(1, len(body)), EXPLORE)
    plain = html.escape(html.unescape(title.replace("\\", "")))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">',
            f"<title>{plain}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f'<a class="skip" href="#{found[0].id if found else "main"}">Skip to the answer</a>',
            f"<header><h1>{inline(title)}</h1>",
            *(f'<p class="lead">{inline(block)}</p>' for block in lead),
            _contents(found),
            "</header>",
            '<main id="main">',
            *body,
            "</main>",
            f'<script type="application/json" id="data">{data}</script>',
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(section: Section, pictures: Mapping[str, str]) -> str:
    inner = to_html("\n\n".join(section.blocks), pictures, _plain(section.title))
    if section.title in DETAILS:
        inner = f"<details><summary>Show</summary>\n{inner}</details>"
    return _with_heading(section, inner)


def _left_out(section: Section) -> str:
    return _with_heading(section, f"<p>{LEFT_OUT}</p>")


def _with_heading(section: Section, inner: str) -> str:
    name = f"{section.id}-title"
    heading = f'<h2 id="{name}">{inline(section.title)}</h2>'
    return f'<section id="{section.id}" aria-labelledby="{name}">\n{heading}\n{inner}\n</section>'


def _weight(section: Section) -> tuple[bool, int]:
    """What is left out first where there is no room: the folded sections, the longest of them first."""
    return section.title in DETAILS, sum(map(len, section.blocks))


def _contents(found: Sequence[Section]) -> str:
    items = [f'<li><a href="#{s.id}">{inline(s.title)}</a></li>' for s in found]
    inner = f"<details><summary>Contents</summary><ul>\n{''.join(items)}\n</ul></details>"
    return f'<nav aria-label="Contents">{inner}</nav>'


def _plain(markdown: str) -> str:
    return html.unescape(markdown.replace("\\", ""))


def _pictures(figures: Sequence[Figure]) -> dict[str, str]:
    """What stands for each picture of the report: its SVG, inside the page."""
    found = {}
    for figure in figures:
        by_suffix = {path.suffix: path for path in figure.files}
        png = by_suffix[".png"]
        found[f"figures/{png.name}"] = picture(by_suffix[".svg"].read_text(encoding="utf-8"))
    return found


def _json(explored: Mapping[str, Any]) -> str:
    """Inside a script element nothing may look like its end."""
    text = json.dumps(explored, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("subquad.report.page").joinpath(name).read_text(encoding="utf-8")
