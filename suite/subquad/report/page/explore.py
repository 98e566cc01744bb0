"""What the chart of the page knows: times, memory, paired ratios and exponents, by workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subquad.analyze.growth import Scaling
from subquad.analyze.scaling import Exponent
from subquad.analyze.slices import Slice, Timings, describe, differing, heading, is_fit
from subquad.analyze.standing import standing
from subquad.report.findings import Findings
from subquad.report.style import family_colour, looks

AXES = ("hardware", "device", "phase", "causal", "dtype", "heads", "head_dim", "kv_heads", "batch")
MOST_ROWS = 12_000  # of a chart: beyond it the workloads with fewest variants are left to the tables
MOST_REFERENCES = 6


def explored(found: Findings) -> dict[str, Any]:
    """The document that the page's script reads.

    Its slices are those that can be drawn, the richest first: at least one time.
    """
    drawn = _chosen(found.parts)
    rows = [r for part in drawn for r in part.rows]
    style = looks(rows)
    labels = list(dict.fromkeys(r["label"] for r in rows))
    number = {label: i for i, label in enumerate(labels)}
    names = heading(found.parts)
    first = {r["label"]: r for r in reversed(rows)}
    document: dict[str, Any] = {
        "variants": [
            {
                "label": label,
                "family": first[label]["family"] or "other",
                "computes": first[label]["computes"] or "unknown",
                "colour": _colour(first[label]["family"] or ""),
                "marker": style[label].marker,
                "dash": _dash(style[label].dash),
            }
            for label in labels
        ],
        "slices": [],
        "axes": _axes(drawn),
        "rows": [],
        "ratios": [],
        "exponents": {},
    }
    for index, part in enumerate(drawn):
        references = _references(part, found.baselines.get(str(part.axes["run"]), ""))
        document["slices"].append(
            {
                "axes": {a["name"]: part.axes[a["name"]] for a in document["axes"]},
                "where": describe(part.axes, names),
                "lengths": part.seq_lens,
                "references": references,
            }
        )
        document["rows"] += [_row(index, number[r["label"]], r) for r in part.rows]
        for label in references:
            document["ratios"] += _ratios(index, part, found.samples, label, number)
        for s in found.growth:
            if s.axis == "seq_len" and s.axes == part.axes:
                document["exponents"] |= _exponents(index, number[s.label], s)
    return document


def _chosen(parts: Sequence[Slice]) -> list[Slice]:
    """Workloads with a time at most lengths and of most variants first, as many as a page can hold."""
    found = [p for p in parts if any(is_fit(r) for r in p.rows)]
    found.sort(key=lambda p: (-len(p.seq_lens), -sum(is_fit(r) for r in p.rows)))
    kept: list[Slice] = []
    count = 0
    for part in found:
        if kept and count + len(part.rows) > MOST_ROWS:
            continue
        kept.append(part)
        count += len(part.rows)
    return kept


def _axes(parts: Sequence[Slice]) -> list[dict[str, Any]]:
    """The axes that tell the workloads apart, with their values."""
    found = []
    for name in (n for n in ("run", *AXES, "inputs", "fill", "kv_len") if n in differing(parts)):
        values = sorted({p.axes[name] for p in parts}, key=lambda v: (v is not None, v))
        texts = [{"value": v, "text": _text(name, v)} for v in values]
        found.append({"name": name, "title": name.replace("_", " "), "values": texts})
    return found


def _text(name: str, value: Any) -> str:
    if name == "causal":
        return "causal" if value else "not causal"
    if value is None:
        return {"kv_heads": "as heads", "kv_len": "as seq_len", "fill": "full"}.get(name, "none")
    return str(value)


def _references(part: Slice, baseline: str) -> list[str]:
    """The baseline first, then the other exact variants, the fastest at the longest length first."""
    longest = {r["label"]: r for r in sorted(part.rows, key=lambda r: int(r["seq_len"])) if is_fit(r)}
    mine = [n for n, r in longest.items() if r["variant"] == baseline]
    exact = [r for n, r in longest.items() if r["computes"] == "exact" and n not in mine]
    exact = [r for r in exact if r["family"] != "control"]
    exact.sort(key=lambda r: (-int(r["seq_len"]), float(r["time_s"])))
    return [*mine, *(r["label"] for r in exact)][:MOST_REFERENCES]


def _row(index: int, number: int, r: Mapping[str, Any]) -> dict[str, Any]:
    """Absent figures are left out: there are many."""
    fit = is_fit(dict(r))
    found = {
        "time": r["time_s"] if fit else None,
        "low": r["time_low_s"] if fit else None,
        "high": r["time_high_s"] if fit else None,
        "setup": r["setup_s"] if fit else None,
        "first": r["first_call_s"] if fit else None,
        "peak": r["peak_bytes"],
        "workspace": r["workspace_bytes"],
        "reason": (r["reason"] or "")[:200] or None,
    }
    kept = {k: _short(v) for k, v in found.items() if v is not None}
    return {"slice": index, "variant": number, "n": r["seq_len"], "status": r["status"], **kept}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _ratios(
    index: int, part: Slice, timings: Timings, reference: str, number: Mapping[str, int]
) -> list[dict[str, Any]]:
    """How many times as fast as the reference each variant is."""
    found = []
    for (label, n), judged in standing(part, timings, reference).judged.items():
        i = judged.interval
        if i is None:
            continue
        one = {"slice": index, "reference": reference, "variant": number[label], "n": n}
        one |= {"value": _short(1 / i.estimate), "verdict": judged.verdict.value}
        if i.low is not None and i.high is not None:
            one |= {"low": _short(1 / i.high), "high": _short(1 / i.low)}
        found.append(one)
    return found


def _exponents(index: int, number: int, s: Scaling) -> dict[str, str]:
    found = {}
    for measure, fit in (("time", s.time), ("peak", s.memory)):
        if isinstance(fit, Exponent):
            found[f"{index} {number} {measure}"] = (
                f"n^{fit.estimate:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
            )
    return found


def _colour(family: str) -> str:
    """Black would be gone on a dark page."""
    colour = family_colour(family)
    return "currentColor" if family == "full" else colour


def _dash(dash: Any) -> str:
    return "" if isinstance(dash, str) else " ".join(f"{v * 1.7:g}" for v in dash[1])
