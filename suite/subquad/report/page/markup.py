"""Markdown of a report as HTML that holds everything it needs.

No HTML passes through from a name or a reason: what a report writes is Markdown, and `<` in it is text.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "autolink"])
_NUMBERS = re.compile(r"-?[1-9]\d*\.\d{3,}")


@dataclass
class Section:
    """What stands below one heading of the second level."""

    id: str
    title: str
    blocks: list[str] = field(default_factory=list)


def sections(blocks: Sequence[str]) -> tuple[str, list[str], list[Section]]:
    """The title of a report, what stands before its sections, and these, from blocks of Markdown."""
    title = ""
    lead: list[str] = []
    found: list[Section] = []
    taken: set[str] = set()
    for block in blocks:
        if block.startswith("# "):
            title = block.removeprefix("# ")
        elif block.startswith("## "):
            name = block.removeprefix("## ")
            found.append(Section(_id(name, taken), name))
        else:
            (found[-1].blocks if found else lead).append(block)
    return title, lead, found


def _id(title: str, taken: set[str]) -> str:
    """`Which attention to use` is found at #which-attention-to-use."""
    start = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    name, number = start, 1
    while name in taken:
        number += 1
        name = f"{start}-{number}"
    taken.add(name)
    return name


def inline(markdown: str) -> str:
    """One line of Markdown as HTML, without a paragraph around it."""
    return str(_PARSER.renderInline(markdown))


def to_html(markdown: str, pictures: Mapping[str, str], label: str) -> str:
    """Blocks of Markdown as HTML. `pictures` maps the address of a picture to what stands for it.

    Tables can be scrolled with the keyboard and are named for those who hear them: by the last title
    before them (a paragraph in bold or a heading), else by `label`.
    """
    tokens = _PARSER.parse(markdown)
    _demote(tokens)
    names = iter(_table_names(tokens, label))
    for token in _all(tokens):
        if token.type == "image":
            source = str(token.attrs.get("src", ""))
            token.attrs["src"] = pictures.get(source, "")
            token.attrs["loading"] = "lazy"
        elif token.type == "th_open":
            token.attrs["scope"] = "col"
        if token.type in ("th_open", "td_open"):
            _classes_for_styles(token)
    text = str(_PARSER.renderer.render(tokens, _PARSER.options, {}))

    def named(_: re.Match[str]) -> str:
        name = html.escape(next(names))
        return f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table>'

    return re.sub("<table>", named, text).replace("</table>", "</table></div>")


def _demote(tokens: Sequence[Token]) -> None:
    """Headings of a report begin at the third level inside a section, and stay so."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close") and token.tag in ("h1", "h2"):
            token.tag = "h3"


def _table_names(tokens: Sequence[Token], label: str) -> list[str]:
    found: list[str] = []
    title = label
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline" and before is not None and token.children:
            first = next((t.type for t in token.children if t.type != "text" or t.content), "")
            if before.type == "heading_open" or first == "strong_open":
                title = "".join(t.content for t in token.children)[:160]
        elif token.type == "table_open":
            found.append(f"{title} (table {len(found) + 1})")
    return found


def _all(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _all(token.children or [])


def _classes_for_styles(token: Token) -> None:
    """A page that runs and loads nothing foreign has no style attributes."""
    style = str(token.attrs.pop("style", ""))
    if "right" in style:
        token.attrs["class"] = "number"


def picture(svg: str) -> str:
    """An SVG as an address that holds it; places beyond a hundredth of a point are left out.

    What is below 1 may be a scale, and stays.
    """
    small = _NUMBERS.sub(lambda m: f"{float(m.group()):.2f}".rstrip("0").rstrip("."), svg)
    return "data:image/svg+xml;base64," + base64.b64encode(small.encode()).decode()
