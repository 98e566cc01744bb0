"""Several runs side by side: what changed from the first to each of the others.

The same comparison as `subquad compare`, cell by cell; runs of other hardware are matched without it.
Runs that share no cell (one has costs, the other qualities) say why they are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from subquad.analyze.compare import Options, compare
from subquad.analyze.matching import NotComparable
from subquad.analyze.sides import of_run
from subquad.record import Run
from subquad.report.comparison import closing, comparison_blocks
from subquad.report.markdown import escape


def versus_section(runs: Sequence[Run]) -> list[str]:
    """Blocks of Markdown; none for one run."""
    blocks: list[str] = []
    for new in runs[1:]:
        blocks.append(f"### {escape(new.name)} against {escape(runs[0].name)}")
        blocks += _compared(runs[0], new)
    return ["## Runs side by side", *blocks] if blocks else []


def _compared(base: Run, new: Run) -> list[str]:
    """Across hardware where they were not measured on the same."""
    own = [{str(m.cell.hardware.get("name")) for m in run.measurements} for run in (base, new)]
    options = Options(across_hardware=not own[0] & own[1])
    try:
        found = compare(of_run(base), of_run(new), options)
    except NotComparable as refusal:
        return [f"Not compared: {escape(refusal)}."]
    return [f"**{escape(closing(found))}**", *comparison_blocks(found)]
