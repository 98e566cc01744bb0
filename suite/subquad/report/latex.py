r"""Tables of a report for a paper: LaTeX with booktabs.

A table is made of the same Markdown that report.md shows, so the two cannot differ. The file needs
\usepackage{booktabs} and nothing else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

MARK = "% Written by subquad report."
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "×": r"$\times$",
    "²": r"$^2$",
    "µ": r"$\mu$",
    "●": r"$\bullet$",
    "▲": r"$\triangle$",
    "▽": r"$\nabla$",
    "↓": r"$\downarrow$",
    "…": r"\ldots{}",
}
_CELLS = re.compile(r"(?<!\\)\|")


def latex(markdown: str, caption: str, label: str) -> str:
    """One Markdown table as a LaTeX table of its own.

    Raises:
        ValueError: the text is no table.
    """
    lines = markdown.splitlines()
    if len(lines) < 2 or not set(lines[1]) <= set("|-: "):
        raise ValueError(f"not a Markdown table: {lines[:2]}")
    head, rule, *body = (_cells(line) for line in lines)
    columns = "".join("r" if cell.endswith(":") else "l" for cell in rule)
    rows = [_row(cells) for cells in body]
    return "\n".join(
        [
            MARK,
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escaped(caption)}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {_row(head)}",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def is_table(block: str) -> bool:
    """Whether a block of Markdown is a table."""
    lines = block.splitlines()
    return len(lines) >= 2 and lines[0].startswith("|") and set(lines[1]) <= set("|-: ")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _CELLS.split(line.strip())[1:-1]]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(_cell(cell) for cell in cells) + r" \\"


def _cell(text: str) -> str:
    bold = len(text) > 4 and text.startswith("**") and "**" in text[2:]
    if bold:
        strong, _, rest = text[2:].partition("**")
        return rf"\textbf{{{escaped(strong)}}}{escaped(rest)}"
    return escaped(text)


def escaped(markdown: str) -> str:
    """Text of Markdown as text of LaTeX, whatever it holds."""
    plain = re.sub(r"(?<!\\)[*`]", "", markdown)
    plain = html.unescape(re.sub(r"\\([\\|`*()])", r"\1", plain))
    return "".join(_SPECIAL.get(c, c) for c in plain if c.isprintable())
