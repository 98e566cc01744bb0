"""How time and memory grow along an axis: exponents with their intervals, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from subquad.analyze.growth import Scaling
from subquad.analyze.scaling import (
    LEAST_POINTS,
    LEAST_RANGE,
    QUADRATIC,
    Exponent,
    Fit,
    Growth,
    NotIdentifiable,
    Steady,
    growth,
)
from subquad.analyze.slices import Slice, describe, heading
from subquad.report.markdown import escape, table

ABSENT = "–"
MAX_UNTRIED = 6  # workloads without a fit that are named

READING = f"""\
Time and peak memory are fitted as *a + b n^p* with a fixed overhead *a*. The exponent is *p*, that of
the growing part over the measured range, with its 95 % interval; beyond that range it promises nothing.
*Declared* is the growth of time that the variant itself states. *Sub-quadratic* means that the whole
interval is below {QUADRATIC}, *quadratic or steeper* that it is above."""


def growth_section(parts: Sequence[Slice], grown: Sequence[Scaling]) -> list[str]:
    """Blocks of the report: a table for each workload that can be fitted; none without a figure."""
    rows = [r for part in parts for r in part.rows]
    if not any(r["time_s"] is not None or r["peak_bytes"] is not None for r in rows):
        return []
    names = [*heading(parts), "seq_len"]
    tables, untried = [], []
    for _, group in groupby(grown, key=lambda s: id(s.axes)):
        found = list(group)
        axis = found[0].axis
        title = f"in {axis}: {_where(found[0], names)}"
        if any(s.tried for s in found):
            tables += [f"**{escape(title)}**", *_table(axis, found)]
        elif any(s.values for s in found):
            values = max((s.values for s in found), key=len)
            untried.append(f"- {escape(title)} ({_count(values)})")
    if tables:
        return ["## How time and memory grow", READING, *tables, *_untried(untried)]
    none = (
        f"Not determined: no variant was measured at {LEAST_POINTS} values of an axis over a range of "
    )
    return ["## How time and memory grow", f"{none}{LEAST_RANGE:.0f}x."]


def _where(s: Scaling, names: Sequence[str]) -> str:
    shared = s.axes.get("heads a kv head", 1)
    text = describe(s.axes, names)
    return text if shared == 1 else f"{text}, {shared} heads a kv head"


def _count(values: Sequence[int]) -> str:
    if len(values) == 1:
        return f"1 value, {values[0]}"
    return f"{len(values)} values, {values[0]} to {values[-1]}"


def _untried(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"- and {len(lines) - MAX_UNTRIED} more"] if len(lines) > MAX_UNTRIED else []
    head = f"No exponent, since a fit needs {LEAST_POINTS} values over a range of {LEAST_RANGE:.0f}x:"
    return [head, "\n".join([*lines[:MAX_UNTRIED], *more])]


def _table(axis: str, found: Sequence[Scaling]) -> list[str]:
    """The variants that have a measurement; in seq_len with what is declared and the verdict."""
    head = ["variant", "time", "memory", "why not"]
    if axis == "seq_len":
        head[2:2] = ["declared", "verdict"]
    body = []
    for s in (s for s in found if s.values):
        line = [escape(s.label), _exponent(s.time), _exponent(s.memory), escape(_why_not(axis, s))]
        if axis == "seq_len":
            line[2:2] = [ABSENT if s.declared is None else f"{s.declared:g}", growth(s.time).value]
        body.append(line)
    missing = [escape(s.label) for s in found if not s.values]
    return [table(head, body), *([f"Nothing was measured of {', '.join(missing)}."] if missing else [])]


def _exponent(fit: Fit) -> str:
    if isinstance(fit, Exponent):
        return f"{fit.estimate:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
    return "0 (does not grow)" if isinstance(fit, Steady) else Growth.UNKNOWN.value


def _why_not(axis: str, s: Scaling) -> str:
    """Why there is no exponent or no verdict; empty where there are."""
    time = s.time.reason if isinstance(s.time, NotIdentifiable) else ""
    if not time and axis == "seq_len" and growth(s.time) is Growth.UNKNOWN:
        time = f"the interval holds {QUADRATIC}"
    memory = s.memory.reason if isinstance(s.memory, NotIdentifiable) else ""
    if time == memory:
        return time
    return "; ".join(filter(None, (time, memory and f"memory: {memory}")))
