"""The tables of a report, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from subquad import units
from subquad.analyze.slices import Slice, describe, heading, is_fit
from subquad.analyze.standing import Standing
from subquad.analyze.summary import Row
from subquad.analyze.verdicts import Judged
from subquad.record import Run, Status
from subquad.report.markdown import escape, table

ABSENT = "–"
NOT_DETERMINED = "not determined"


def with_interval(row: Row, names: tuple[str, str, str], write: Any) -> str:
    """`1.2 ms [1.1 ms, 1.3 ms]` from the fields of a row that hold estimate, low and high."""
    estimate, low, high = (row[name] for name in names)
    if estimate is None:
        return ABSENT
    interval = NOT_DETERMINED if low is None or high is None else f"{write(low)}, {write(high)}"
    return f"{write(estimate)} [{interval}]"


def time_text(row: Row) -> str:
    text = with_interval(row, ("time_s", "time_low_s", "time_high_s"), units.seconds)
    return f"{text} (noisy)" if row["noisy"] and row["time_s"] is not None else text


def speedup_text(row: Row) -> str:
    if row["speedup"] == row["speedup_low"] == row["speedup_high"] == 1.0:
        return "1 (the baseline)"  # against itself, by definition
    return with_interval(row, ("speedup", "speedup_low", "speedup_high"), units.ratio)


def standing_text(row: Row, standing: Standing) -> str:
    """`2.3x [2.1x, 2.5x] FASTER` over a reference; of the variant's ratio, upside down."""
    if row["label"] == standing.reference:
        return "the reference" if is_fit(row) else ABSENT
    judged = standing.judged.get((row["label"], int(row["seq_len"])))
    if judged is None or judged.interval is None:
        return ABSENT
    return f"{speed_text(judged)} {judged.verdict}"


def speed_text(judged: Judged) -> str:
    """`2.31x [2.25x, 2.38x]`: how many times as fast as the reference, its ratio upside down."""
    i = judged.interval
    if i is None:
        return ABSENT
    between = NOT_DETERMINED
    if i.low is not None and i.high is not None:
        between = f"{units.ratio(1 / i.high)}, {units.ratio(1 / i.low)}"
    return f"{units.ratio(1 / i.estimate)} [{between}]"


def optional(value: float | None, write: Any) -> str:
    return ABSENT if value is None else write(value)


def error(value: float) -> str:
    return units.significant(value, 2)


MACHINE = ("cpu", "gpu", "memory", "huge_pages", "kernel", "python", "torch", "xformers")


def machine_lines(run: Run) -> list[str]:
    """What each environment of a run was: hardware first, then software, whatever was recorded."""
    lines = []
    for id_, environment in run.environments.items():
        packages = environment.get("packages") or {}
        found = {"memory": environment.get("memory_bytes"), **packages, **environment}
        parts = [_component(name, found.get(name)) for name in MACHINE]
        text = "; ".join(p for p in parts if p) or "nothing recorded"
        lines.append(f"{escape(text)} (environment {escape(id_)})")
    return lines


def _component(name: str, value: Any) -> str:
    """`cpu Synthetic CPU, cores 2` from whatever shape a component of an environment has."""
    if value in (None, "", [], {}, ()):
        return ""
    if isinstance(value, Mapping):
        heading = [str(value[k]) for k in ("model", "name", "version") if value.get(k)]
        counted = [f"{k} {value[k]}" for k in ("cpus", "capability") if value.get(k)]
        return f"{name} {', '.join(heading + counted)}" if heading or counted else ""
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, (_component(name, item) for item in value)))
    if name == "memory" and isinstance(value, (int, float)):
        return f"memory {units.size(value)}"
    return f"{name} {value}"


def seq_len_table(part: Slice) -> str:
    """Variants by seq_len: the time, or the status where there is none."""
    lengths = part.seq_lens
    body = []
    for label in part.labels:
        by_length = {r["seq_len"]: r for r in part.of(label)}
        cells = [_short(by_length.get(n)) for n in lengths]
        first = next(iter(by_length.values()))
        body.append([escape(label), escape(first["family"] or ABSENT), *cells])
    heads = [str(n) for n in lengths]
    return table(["variant", "family", *heads], body, right=heads)


def _short(row: Row | None) -> str:
    if row is None:
        return ABSENT
    if is_fit(row):
        return units.seconds(row["time_s"])
    return str(row["status"])


def workload_table(
    rows: Sequence[Row], families: Sequence[str], standings: Sequence[Standing] = ()
) -> str:
    """Everything measured of one workload, by time; a column for each reference of `standings`."""
    quality = [f for f in families if any(r[f"deviation_{f}"] is not None for r in rows)]
    head = ["variant", "family", "computes", "time [95 % interval]"]
    head += [f"speed-up over {escape(s.reference)} [95 % interval], verdict" for s in standings]
    head += ["peak workspace", "oracle error", *(f"deviation / skill, {escape(f)}" for f in quality)]
    head += ["roofline share", "status", "reason"]
    body = []
    for r in rows:
        line = [escape(r["label"]), escape(r["family"] or ABSENT), escape(r["computes"] or ABSENT)]
        line += [time_text(r), *(standing_text(r, s) for s in standings)]
        line += [optional(r["workspace_bytes"], units.size)]
        line += [optional(r["oracle_error"], error), *(_quality(r, f) for f in quality)]
        line += [optional(r["roofline_share"], units.percent), r["status"], escape(r["reason"] or "")]
        body.append(line)
    return table(head, body, right=("peak workspace", "oracle error", "roofline share"))


def _quality(row: Row, family: str) -> str:
    deviation, skill = row[f"deviation_{family}"], row[f"skill_{family}"]
    if deviation is None:
        return ABSENT
    return f"{error(deviation)} / {ABSENT if skill is None else f'{skill:.2f}'}"


def kernels_table(parts: Sequence[Slice]) -> str | None:
    """The operators that did each variant's work, over all its rows; None where none were recorded.

    Phases and devices stand apart, since each may take another kernel.
    """
    seen: dict[tuple[str, str, str], list[list[str]]] = {}
    for r in (r for part in parts for r in part.rows if r["kernels"] is not None):
        key = (r["label"], r["phase"], r["device"])
        seen.setdefault(key, []).append(r["kernels"].split("; "))
    if not seen:
        return None
    body = [[escape(label), *where, _counted(ran)] for (label, *where), ran in seen.items()]
    return table(["variant", "phase", "device", "operators (rows, where not in all)"], body)


def _counted(rows: Sequence[Sequence[str]], limit: int = 6) -> str:
    """The names in most rows first, as code: underscores at both ends of a text are emphasis."""
    counts = Counter(name for row in rows for name in row)
    texts = [
        f"`{escape(name)}`" + (f" ({count} of {len(rows)})" if count < len(rows) else "")
        for name, count in counts.most_common(limit)
    ]
    more = len(counts) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


def failures_table(parts: Sequence[Slice]) -> str | None:
    """Every row that is not ok with its reason, alike ones in one line; None where all are ok."""
    groups: dict[tuple[str, ...], list[int]] = {}
    names = heading(parts)
    for part in parts:
        where = describe(part.axes, names)
        for r in part.rows:
            if r["status"] != Status.OK:
                key = (r["label"], r["status"], r["reason"] or "no reason recorded", where)
                groups.setdefault(key, []).append(r["seq_len"])
    if not groups:
        return None
    body = [
        [escape(label), status, ", ".join(map(str, sorted(lengths))), escape(reason), escape(where)]
        for (label, status, reason, where), lengths in groups.items()
    ]
    return table(["variant", "status", "seq_len", "reason", "workload"], body)
