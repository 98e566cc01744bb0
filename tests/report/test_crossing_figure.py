"""Crossovers on a line of lengths: drawn where two lengths were compared, the same bytes each time."""

from __future__ import annotations

from subquad.report.crossing_figure import draw_crossings
from subquad.report.findings import Findings
from synthetic import LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run

LENGTHS = (128, 512, 2048, 8192)


def drawn(run, out):
    out.mkdir(exist_ok=True)
    return draw_crossings(Findings.of([run]), "CPU", out)


def test_each_workload_is_a_panel_against_the_best_exact_kernel(tmp_path):
    run = build_run((NAIVE, SDPA, WINDOW, LINEAR, MEAN), LENGTHS, causal=(False, True))
    figure = drawn(run, tmp_path / "a")
    assert figure.caption.count("against full_sdpa") == 2
    svg = next(p for p in figure.files if p.suffix == ".svg").read_bytes()
    again = drawn(run, tmp_path / "b")
    assert next(p for p in again.files if p.suffix == ".svg").read_bytes() == svg


def test_one_length_or_nobody_to_compare_with_is_no_figure(tmp_path):
    assert drawn(build_run((NAIVE, SDPA), (512,)), tmp_path) is None
    assert drawn(build_run((NAIVE, MEAN), LENGTHS), tmp_path) is None
    assert drawn(build_run((WINDOW, LINEAR), LENGTHS), tmp_path) is None
