"""What is paid once, and how many calls it is worth."""

from __future__ import annotations

from dataclasses import replace

from subquad.analyze.slices import slices
from subquad.analyze.summary import rows
from subquad.record import Status
from subquad.report.setup import setup_section
from synthetic import NAIVE, SDPA, build_run


def test_the_dearest_set_up_comes_first_with_the_calls_it_is_worth():
    run = build_run((NAIVE, SDPA), (512, 1024))
    measured = []
    for m in run.measurements:
        once = 2.0 if m.cell.variant == "full_sdpa" else 0.001
        processes = tuple(replace(p, setup_s=once, first_call_s=once / 2) for p in m.timing.processes)
        measured.append(replace(m, timing=replace(m.timing, processes=processes)))
    blocks = setup_section(slices(rows(replace(run, measurements=tuple(measured)))))
    assert blocks[0] == "## Set-up and first call"
    assert "seq_len 1024" in blocks[2]
    first = blocks[3].splitlines()[2].split(" | ")
    assert first[:3] == ["| full_sdpa", "2.00 s", "1.00 s"]
    time_s = next(r["time_s"] for r in rows(run) if r["label"] == "full_sdpa" and r["seq_len"] == 1024)
    assert abs(float(first[4].strip(" |")) / (3.0 / time_s) - 1) < 0.05


def test_without_a_time_there_is_no_table():
    failures = {("full_naive", 512): (Status.OOM, "no")}
    assert setup_section(slices(rows(build_run((NAIVE,), (512,), failures=failures)))) == []
