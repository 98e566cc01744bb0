"""Text into Markdown and CSV that stays text: nothing a name holds becomes markup or a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_ESCAPES = {
    "\\": "\\\\",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": "\\|",
    "`": "\\`",
    "*": "\\*",
    "](": "]\\(",
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def escape(text: object) -> str:
    """Text as it reads, in one line, whatever it holds."""
    line = " ".join(str(text).split())
    for raw, safe in _ESCAPES.items():
        line = line.replace(raw, safe)
    return line


def table(head: Sequence[str], body: Iterable[Sequence[str]], right: Iterable[str] = ()) -> str:
    """A Markdown table of cells that are escaped already; the columns named in `right` align right."""
    to_right = set(right)
    rule = ["---:" if name in to_right else "---" for name in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def csv_text(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV: raw numbers, true and false, nothing for None.

    Floats have 12 digits: the last of 17 differs between processors for the same samples.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        [
            v if (v := row.get(name)) is None or v.__class__ is int else _csv_field(v)  # most by far
            for name in names
        ]
        for row in rows
    )
    return out.getvalue()


def _csv_field(value: Any) -> Any:
    """Strings that a spreadsheet would run as a formula get a quote in front."""
    kind = type(value)
    if kind is float:
        return f"{value:.12g}"
    if kind is bool:
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return value
