"""The first answer of a report: which attention to use, by sequence length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from subquad import units
from subquad.analyze.advice import USABLE, Advice, Gain, advice
from subquad.analyze.slices import Fastest, Slice, Timings, describe, heading, is_fit
from subquad.report.markdown import escape, table
from subquad.report.tables import speed_text, speedup_text

ABSENT = "–"
NONE = "none surely faster"
NOT_DETERMINED = "not determined"

READING = f"""\
Exact: the fastest variant that computes softmax attention itself, and those that cannot be told from
it. The others are named only where they are surely faster than that (paired ratios, Holm-corrected over
all variants at that length); the figure is how many times as fast, with its 95 % interval.
Closest: of those that restrict or estimate softmax, the one with the highest skill (1 is full
attention, 0 no better than averaging), if that is at least {USABLE:g}. A function of its own is no
stand-in for softmax: a model has to be trained with it. Controls do not compete."""

HEAD = [
    *("seq_len", "exact: use", "time", "over the baseline", "approximate, closest: use", "skill"),
    *("times as fast", "approximate, fastest", "times as fast"),
    *("own function, fastest", "times as fast"),
]


def advice_section(parts: Sequence[Slice], timings: Timings) -> list[str]:
    """A table for each workload of several lengths, one for all others; none without a time."""
    timed = [part for part in parts if any(is_fit(r) for r in part.rows)]
    if not timed:
        return []
    names = heading(parts)
    blocks = ["## Which attention to use"]
    single = []
    for part in timed:
        found, where = advice(part, timings), describe(part.axes, names)
        if len(found) == 1:
            single += [(where, found[0])]
            continue
        blocks += [f"**{escape(where)}**", f"{in_short(found)}{_inputs(found)}"]
        blocks.append(advice_table([(str(a.seq_len), a) for a in found]))
    if single:
        rows = [(f"{a.seq_len}: {escape(where)}", a) for where, a in single]
        blocks += ["**Workloads measured at one length**", advice_table(rows, several=True)]
    return [*blocks, READING]


def _inputs(found: Sequence[Advice]) -> str:
    """Where skill is from, if any is told."""
    told = any(a.closest and a.closest.skill is not None for a in found)
    return f" Skill is on {escape(found[0].inputs)} inputs." if told else ""


def in_short(found: Sequence[Advice]) -> str:
    """The table in a sentence or two: what to use from which length to which."""
    known = [a for a in found if a.exact]
    exact = "; ".join(
        f"{escape(name)} {_stretch(lengths)}"
        for name, lengths in _runs([(a.seq_len, _name(a.exact)) for a in known])
    )
    if not any(a.contenders for a in known):
        return f"Exact: {exact}."
    closest = "; ".join(
        f"{escape(name) if name else 'none'} {_stretch(lengths)}"
        for name, lengths in _runs([(a.seq_len, _usable(a.closest)) for a in known])
    )
    return f"Exact: {exact}. Faster and still close: {closest}."


def _usable(gain: Gain | None) -> str:
    return gain.row["label"] if gain and gain.usable else ""


def _name(found: Fastest | None) -> str:
    return found.row["label"] if found else ""


def _label(gain: Gain | None) -> str:
    return gain.row["label"] if gain else ""


def _runs(named: Sequence[tuple[int, str]]) -> list[tuple[str, list[int]]]:
    return [(name, [n for n, _ in group]) for name, group in groupby(named, key=lambda p: p[1])]


def _stretch(lengths: Sequence[int]) -> str:
    return f"at {lengths[0]}" if len(lengths) == 1 else f"from {lengths[0]} to {lengths[-1]}"


def advice_table(found: Sequence[tuple[str, Advice]], several: bool = False) -> str:
    """A line for each advice, with the words that begin it; `several` workloads name their inputs."""
    body = []
    for start, a in found:
        line = [start, _exact(a.exact)]
        line.append(units.seconds(a.exact.row["time_s"]) if a.exact else ABSENT)
        line.append(speedup_text(a.exact.row) if a.exact else ABSENT)
        usable = a.closest if a.closest and a.closest.usable else None
        line += [_closest(a), _skill(a, several), _times(usable)]
        line += [_use(a.quickest, a), _times(a.quickest)]
        line += [escape(_label(a.other)) or ABSENT, _times(a.other)]
        body.append(line)
    head = ["seq_len and workload" if several else "seq_len", *HEAD[1:]]
    return table(head, body, right=("time", "skill"))


def _exact(found: Fastest | None) -> str:
    if found is None:
        return ABSENT
    text = f"**{escape(found.row['label'])}**"
    if found.tied:
        text += f", or {_some([r['label'] for r in found.tied])}"
    if found.undetermined:
        names = _some([r["label"] for r in found.undetermined])
        text += f" ({NOT_DETERMINED} against {names})"
    return text


def _some(labels: Sequence[str], limit: int = 3) -> str:
    more = len(labels) - limit
    return ", ".join(map(escape, labels[:limit])) + (f" and {more} more" if more > 0 else "")


def _use(gain: Gain | None, a: Advice) -> str:
    if gain is not None:
        return escape(gain.row["label"])
    return NONE if a.contenders and a.exact else ABSENT


def _closest(a: Advice) -> str:
    if a.closest is not None and not a.closest.usable:
        return f"none (the best of them, {escape(a.closest.row['label'])}, has)"
    return _use(a.closest, a)


def _skill(a: Advice, named: bool) -> str:
    if a.closest is None or a.closest.skill is None:
        return ABSENT
    highest = 1.0 if a.closest.usable else USABLE - 0.01  # what is refused is not rounded up to the bar
    text = f"{min(a.closest.skill, highest):.2f}"
    return f"{text} on {escape(a.inputs)}" if named else text


def _times(gain: Gain | None) -> str:
    return ABSENT if gain is None else speed_text(gain.judged)
