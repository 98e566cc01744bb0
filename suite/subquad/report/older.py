"""Files that an earlier report left in a folder and that the one just written has no part in.

Only what a report wrote is taken away: figures whose SVG names subquad as its creator, tables that
begin with its mark, and the CSV files of quality. Everything else in the folder is its owner's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from subquad.report.latex import MARK
from subquad.report.style import CREATOR

QUALITY = ("quality.csv", "fidelity.csv", "fronts.csv")
HEAD = 2000  # characters of an SVG in which its creator is named


def drop_older(out: Path, written: Iterable[Path]) -> None:
    """Remove what an earlier report wrote under `out`, but for what is `written` now."""
    kept = set(written)
    stale = [out / name for name in QUALITY]
    for svg in out.glob("figures/*.svg"):
        if (
            f"<dc:title>{CREATOR}</dc:title>"
            in svg.read_text(encoding="utf-8", errors="replace")[:HEAD]
        ):
            stale += [svg.with_suffix(suffix) for suffix in (".svg", ".png", ".pdf")]
    for tex in out.glob("tables/*.tex"):
        if tex.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            stale.append(tex)
    for path in stale:
        if path not in kept:
            path.unlink(missing_ok=True)
