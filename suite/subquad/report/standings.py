"""What a run may claim of its variants against a reference, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from subquad import units
from subquad.analyze.crossover import references
from subquad.analyze.slices import Slice, describe, heading, timings
from subquad.analyze.standing import Standing, standing
from subquad.analyze.verdicts import MARGIN, Judged, Verdict
from subquad.record import Run
from subquad.report.markdown import escape, table

ABSENT = "–"

READING = f"""\
FASTER and SLOWER: the interval of the paired ratio leaves 1 out. EQUIVALENT: it lies within
{units.percent(MARGIN)} of 1. AMBIGUOUS: neither can be said. Both claims are corrected by Holm over
each table: a whole table holds a false FASTER or SLOWER at most one time in twenty. Single intervals
are with each workload below. The figure is the speed-up over the reference."""


def standings(
    runs: Sequence[Run], parts: Sequence[Slice], against: Sequence[str] = ()
) -> list[tuple[Slice, list[Standing]]]:
    """Each slice against the baseline and the best exact kernel, or against `against`."""
    baselines = {run.name: run.baseline for run in runs}
    samples = timings(runs)
    found = []
    for part in parts:
        chosen = list(against) or [r.label for r in references(part, baselines[part.axes["run"]])]
        mine = [standing(part, samples, label) for label in chosen if label in part.labels]
        found.append((part, [s for s in mine if s.judged]))
    return found


def standings_section(found: Sequence[tuple[Slice, Sequence[Standing]]]) -> list[str]:
    """Blocks of verdicts; none where nothing was compared."""
    names = heading([part for part, _ in found])
    blocks = []
    for part, mine in found:
        for one in mine:
            blocks += [_title(part, names, one), standing_table(part, one)]
    return ["## Verdicts", READING, *blocks] if blocks else []


def _title(part: Slice, names: Sequence[str], found: Standing) -> str:
    counts = Counter(j.verdict for j in found.judged.values())
    told = ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v])
    unpaired = sum(not j.paired for j in found.judged.values())
    note = f"; {unpaired} not paired, from two sessions" if unpaired else ""
    text = f"Against {found.reference}: {describe(part.axes, names)}"
    return f"**{escape(text)}** ({told}{note})"


def standing_table(part: Slice, found: Standing) -> str:
    """Variants by seq_len: verdict and speed-up over the reference."""
    lengths = sorted({n for _, n in found.judged})
    labels = [label for label in part.labels if any((label, n) in found.judged for n in lengths)]
    body = [
        [escape(label), *(_cell(found.judged.get((label, n))) for n in lengths)] for label in labels
    ]
    return table(["variant", *map(str, lengths)], body)


def _cell(judged: Judged | None) -> str:
    if judged is None or judged.interval is None:
        return ABSENT
    return f"{judged.verdict} {units.ratio(1 / judged.interval.estimate)}"
