"""A run of one length has a picture, too: the list of its variants."""

from __future__ import annotations

from subquad.record import Status
from subquad.report.findings import Findings
from subquad.report.list_figure import draw_list
from synthetic import ALL, NAIVE, SDPA, build_run


def drawn(run, out):
    out.mkdir(exist_ok=True)
    return draw_list(Findings.of([run]), "CPU", out)


def test_each_workload_of_one_length_is_a_panel(tmp_path):
    run = build_run(ALL, (1024,), causal=(False, True))
    figure = drawn(run, tmp_path / "a")
    assert "seq_len 1024, forward, not causal; seq_len 1024, forward, causal" in figure.caption
    svg = next(p for p in figure.files if p.suffix == ".svg").read_bytes()
    again = drawn(run, tmp_path / "b")
    assert next(p for p in again.files if p.suffix == ".svg").read_bytes() == svg


def test_two_lengths_have_curves_and_one_time_no_picture(tmp_path):
    assert drawn(build_run((NAIVE, SDPA), (256, 512)), tmp_path) is None
    failures = {("full_naive", 256): (Status.OOM, "no memory")}
    assert drawn(build_run((NAIVE, SDPA), (256,), failures=failures), tmp_path) is None
