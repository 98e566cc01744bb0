"""One flat row a cell: every axis, how it ended, and every figure with its unit in its name.

Rows are plain dicts, so that terminal, tables, plots and frames read the same figures. Absent is
None. `kv_heads` and `kv_len` are None where they equal `heads` and `seq_len`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from subquad.analyze.intervals import (
    Interval,
    log_interval,
    median_of_blocks,
    ratio_interval,
    time_interval,
)
from subquad.analyze.seeds import of_score
from subquad.contract import Cost
from subquad.record import Cell, Measurement, Run, Scalar, Session, Timing, canonical_json

Row = dict[str, Any]

# fmt: off
_BEFORE = [
    "cell", "run", "label", "variant", "family", "computes", "params",
    "hardware", "device", "threads", "allocator", "phase", "causal", "dtype", "batch", "heads",
    "kv_heads", "seq_len", "kv_len", "fill", "head_dim", "inputs", "seed", "status", "reason",
    "time_s", "time_low_s", "time_high_s", "cold_time_s", "setup_s", "first_call_s",
    "processes", "samples", "speedup", "speedup_low", "speedup_high",
    "peak_bytes", "workspace_bytes", "kept_bytes", "input_bytes", "output_bytes",
    "rss_bytes", "reserved_bytes",
    "kernels", "oracle_error", "oracle_tolerance",
    "task", "metric", "score", "score_low", "score_high",
]
_AFTER = [
    "flops", "compulsory_bytes", "expected_workspace_bytes", "state_bytes",
    "roofline_share", "flops_per_s", "declared_exponent",
    "aa_ratio", "aa_low", "aa_high", "noisy", "environment",
]
# fmt: on


def deviation_families(runs: Iterable[Run]) -> tuple[str, ...]:
    """Families of inputs that any row of the runs has a deviation for, sorted."""
    return tuple(sorted({d.inputs for run in runs for m in run.measurements for d in m.deviations}))


def columns(families: Sequence[str]) -> list[str]:
    """Names of a row's fields, in their order."""
    quality = [f"{figure}_{family}" for family in families for figure in ("deviation", "skill")]
    return [*_BEFORE, *quality, *_AFTER]


def rows(run: Run, families: Sequence[str] | None = None) -> list[Row]:
    """The rows of a run, in the order of its measurements; made once, and not to be changed.

    `families` are the families of inputs that get columns; by default those of the run.
    """
    families = deviation_families([run]) if families is None else families
    key = f"rows {canonical_json(list(families))}"
    if key not in run.derived:
        run.derived[key] = _rows(run, families)
    found: list[Row] = run.derived[key]
    return found


def _rows(run: Run, families: Sequence[str]) -> list[Row]:
    names_of = labels(run)
    baselines = {m.cell.id for m in run.measurements if m.cell.variant == run.baseline}
    names = columns(families)
    controls: dict[str, Row] = {}  # of each session, worked out once
    found = []
    for m, label in zip(run.measurements, names_of, strict=True):
        timing = m.timing if m.status.has_time else None  # a wrong kernel has no speed
        time = time_interval(timing) if timing else None
        row: Row = dict.fromkeys(names)
        row |= {
            "cell": m.cell.id,
            "run": run.name,
            "label": label,
            "environment": m.environment or None,
        }
        row |= _axes(m) | _timing(timing, time) | _memory(m) | _quality(m, families)
        row |= _cost(m, time, run.environments.get(m.environment, {}))
        row |= _session(timing, run.sessions, baselines, controls) | _score(m)
        found.append(row)
    return found


def labels(run: Run) -> list[str]:
    """The variant's name, with the parameters that tell its sets apart where the run holds several."""
    if "labels" not in run.derived:
        run.derived["labels"] = _labels(run)
    found: list[str] = run.derived["labels"]
    return found


def _labels(run: Run) -> list[str]:
    sets: dict[str, dict[str, Mapping[str, Scalar]]] = {}
    for m in run.measurements:
        sets.setdefault(m.cell.variant, {})[m.cell.params_json] = m.cell.params
    differing: dict[str, list[str]] = {}
    for variant, params in sets.items():
        names = sorted({name for p in params.values() for name in p})
        differing[variant] = [
            n for n in names if len({canonical_json(p.get(n)) for p in params.values()}) > 1
        ]
    return [_label(m.cell, differing[m.cell.variant]) for m in run.measurements]


def _label(cell: Cell, names: Sequence[str]) -> str:
    if not names:
        return cell.variant
    return f"{cell.variant}[{', '.join(f'{n}={cell.params.get(n)}' for n in names)}]"


def _axes(m: Measurement) -> Row:
    cell, w = m.cell, m.cell.workload
    settings = {k: v for k, v in sorted(cell.inputs.items()) if k not in ("family", "task", "seed")}
    inputs = str(cell.inputs.get("family", ""))
    if cell.is_task:
        settings, inputs = {}, ""
    if settings:
        inputs += f"({', '.join(f'{k}={v}' for k, v in settings.items())})"
    row: Row = {name: getattr(w, name) for name in ("device", "phase", "causal", "dtype", "batch")}
    row |= {n: getattr(w, n) for n in ("heads", "kv_heads", "seq_len", "kv_len", "head_dim")}
    if w.lengths is not None:
        row["fill"] = round(sum(w.lengths) / (w.batch * w.seq_len), 3)
    row |= {"hardware": cell.hardware.get("name"), "threads": cell.hardware.get("threads")}
    row |= {"allocator": cell.hardware.get("allocator"), "seed": cell.inputs.get("seed")}
    return row | {
        "variant": cell.variant,
        "family": m.family or None,
        "computes": m.computes or None,
        "params": cell.params_json,
        "inputs": inputs or None,
        "status": m.status.value,
        "reason": m.reason or None,
    }


def _timing(timing: Timing | None, time: Interval | None) -> Row:
    if timing is None or time is None:
        return {}
    cold = [median_of_blocks(p.cold_blocks) for p in timing.processes]
    flushed = log_interval(np.array([c for c in cold if c is not None], dtype=np.float64))
    return {
        "time_s": time.estimate,
        "time_low_s": time.low,
        "time_high_s": time.high,
        "cold_time_s": flushed.estimate if flushed else None,
        "setup_s": median(p.setup_s for p in timing.processes),
        "first_call_s": median(p.first_call_s for p in timing.processes),
        "processes": time.processes,
        "samples": sum(len(block) for p in timing.processes for block in p.blocks),
    }


def _memory(m: Measurement) -> Row:
    names = ("peak", "workspace", "kept", "input", "output", "rss", "reserved")
    return {f"{n}_bytes": getattr(m.memory, f"{n}_bytes") for n in names} if m.memory else {}


def _quality(m: Measurement, families: Sequence[str]) -> Row:
    row: Row = {}
    if m.kernels:
        row["kernels"] = "; ".join(m.kernels.ran) or "none seen"
    if m.gate:
        row |= {"oracle_error": _finite(m.gate.oracle_error)}
        row |= {"oracle_tolerance": _finite(m.gate.tolerance)}
    for d in m.deviations:
        if d.inputs in families:
            row[f"deviation_{d.inputs}"], row[f"skill_{d.inputs}"] = (
                _finite(d.deviation),
                _finite(d.skill),
            )
    return row


def _score(m: Measurement) -> Row:
    """Of a task: the mean test score over seeds, and its interval."""
    row: Row = {"task": m.cell.inputs.get("task")}
    mean = of_score(m.score) if m.score else None
    if m.score is None or mean is None:
        return row
    interval = mean.interval() or (None, None)
    figures = {"score": mean.value, "score_low": interval[0], "score_high": interval[1]}
    return row | {"metric": m.score.metric} | figures


def _finite(value: float | None) -> float | None:
    """An error that is not a number is absent; the row's status and reason say why."""
    return value if value is not None and math.isfinite(value) else None


def _cost(m: Measurement, time: Interval | None, environment: Mapping[str, Any]) -> Row:
    if m.cost is None:
        return {}
    row: Row = {
        "flops": m.cost.flops,
        "compulsory_bytes": m.cost.bytes,
        "expected_workspace_bytes": m.cost.workspace_bytes,
        "declared_exponent": m.cost.exponent,
        "state_bytes": m.cost.state_bytes if m.cell.workload.phase == "decode" else None,
    }
    if time is not None:
        least = least_time_s(m.cost, m.cell.workload.dtype, environment)
        row["roofline_share"] = None if least is None else least / time.estimate
        row["flops_per_s"] = m.cost.flops / time.estimate
    return row


def least_time_s(cost: Cost, dtype: str, environment: Mapping[str, Any]) -> float | None:
    """The least time the machine's measured ceilings allow; None where a ceiling is missing.

    Bytes move at the higher ceiling of the two tabulated working sets around the cost's bytes: the
    smaller one stays in a faster cache, but the larger one pays less for being called at all.
    """
    ceilings = environment.get("ceilings") or {}
    flops_per_s = (ceilings.get("flops_per_s") or {}).get(dtype)
    by_size = {int(k): float(v) for k, v in (ceilings.get("bytes_per_s") or {}).items() if v}
    if not flops_per_s or not by_size:
        return None
    below = max((s for s in by_size if s <= cost.bytes), default=min(by_size))
    above = min((s for s in by_size if s >= cost.bytes), default=max(by_size))
    bytes_per_s = max(by_size[below], by_size[above])
    return float(max(cost.flops / float(flops_per_s), cost.bytes / bytes_per_s))


def _session(
    timing: Timing | None,
    sessions: Mapping[str, Session],
    baselines: set[str],
    controls: dict[str, Row],
) -> Row:
    """Speed-up over the baseline, where the session's reference is the baseline, and the A/A ratio."""
    session = sessions.get(timing.session) if timing else None
    if timing is None or session is None:
        return {}
    if timing.session not in controls:
        control = ratio_interval(session.control_timing, session.reference_timing)
        controls[timing.session] = (
            {"aa_ratio": control.estimate, "aa_low": control.low, "aa_high": control.high}
            if control
            else {}
        )
    row: Row = {"noisy": session.noisy, **controls[timing.session]}
    speedup = ratio_interval(session.reference_timing, timing)
    if speedup and session.reference in baselines:
        row |= {"speedup": speedup.estimate}
        row |= {"speedup_low": speedup.low, "speedup_high": speedup.high}
    return row
