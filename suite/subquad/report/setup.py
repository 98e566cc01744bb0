"""What is paid once: set-up and the first call, beside one call of those that follow."""

from __future__ import annotations

from collections.abc import Sequence

from subquad import units
from subquad.analyze.slices import Slice, describe, heading, is_fit
from subquad.analyze.summary import Row
from subquad.report.markdown import escape, table

READING = """\
Set-up: masks, tables, projections and compilation, in a process that has torch loaded. First call:
right after it, with cold caches. Medians over processes, at the longest length at which most variants
have a time. The last column is how many later calls both together cost: short of that many calls, the
time of one call is not what you will see."""
MOST = 3
ABSENT = "–"


def setup_section(parts: Sequence[Slice]) -> list[str]:
    """A table for each of the first workloads with a time, dearest set-up first."""
    names = heading(parts)
    blocks: list[str] = []
    for part in parts:
        rows = _at_one_length(part)
        if not rows or len(blocks) >= 2 * MOST:
            continue
        where = describe({**part.axes, "seq_len": rows[0]["seq_len"]}, ["seq_len", *names])
        blocks += [f"**{escape(where)}**", setup_table(rows)]
    return ["## Set-up and first call", READING, *blocks] if blocks else []


def _at_one_length(part: Slice) -> list[Row]:
    """Timed rows at the length that most variants have a time at, the longest of these."""
    timed = [r for r in part.rows if is_fit(r) and r["setup_s"] is not None]
    if not timed:
        return []
    counts = {n: sum(r["seq_len"] == n for r in timed) for n in part.seq_lens}
    n = max(counts, key=lambda n: (counts[n], n))
    return [r for r in timed if r["seq_len"] == n]


def setup_table(rows: Sequence[Row]) -> str:
    head = ["variant", "set-up", "first call", "a later call", "worth as many calls"]
    body = []
    for r in sorted(rows, key=lambda r: -_once(r)):
        first = ABSENT if r["first_call_s"] is None else units.seconds(r["first_call_s"])
        line = [escape(r["label"]), units.seconds(r["setup_s"]), first, units.seconds(r["time_s"])]
        body.append([*line, units.significant(_once(r) / r["time_s"], 2)])
    return table(head, body, right=head[1:])


def _once(r: Row) -> float:
    return float(r["setup_s"]) + float(r["first_call_s"] or 0.0)
