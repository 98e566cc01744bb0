"""Fronts in a report: the table, the pictures, and what they own up to."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from subquad.analyze.fronts import Cost, fronts, invalid_tasks
from subquad.analyze.quality import Kind
from subquad.record import Memory, Run
from subquad.report.front_figures import draw_fronts
from subquad.report.fronts import fronts_csv, fronts_section
from synthetic import LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run
from synthetic_quality import crowd, quality_run, task

FEW = (NAIVE, SDPA, WINDOW, LINEAR, MEAN)


def page(run: Run) -> str:
    return "\n\n".join(fronts_section(fronts([run]), (), invalid_tasks([run])))


def test_the_front_is_told_from_the_cheapest_on():
    text = page(build_run(FEW, (4096,)))
    line = next(x for x in text.splitlines() if x.startswith("| gaussian | time |"))
    assert line.startswith("| gaussian | time | linear_elu (1.")
    assert [name in line for name in ("local_window", "full_sdpa")] == [True, True]
    assert line.index("linear_elu") < line.index("local_window") < line.index("full_sdpa")
    assert "full_naive" not in line
    assert "control_mean" not in line
    assert "~>99 %" in line  # one draw of the inputs gives no interval
    assert line.endswith("| 1 of 4 |")


def test_the_source_of_a_quality_is_told():
    text = page(build_run(FEW, (1024, 4096)))
    assert "- gaussian: skill at the same workload" in text
    assert "- captured: skill at seq_len 1024, not causal" in text


def test_who_has_no_quality_is_told():
    timed = build_run((NAIVE, SDPA, WINDOW), (512,), causal=(True,))
    rows = [task(v, "mqar", [1.0, 1.0]) for v in (NAIVE, SDPA)]
    text = page(replace(timed, measurements=timed.measurements + tuple(rows)))
    assert "- without mqar: local_window" in text


def test_an_invalid_task_is_named_instead_of_drawn():
    timed = build_run(FEW, (512,), causal=(True,))
    rows = [task(v, "hard", [0.1, 0.2]) for v in FEW]
    text = page(replace(timed, measurements=timed.measurements + tuple(rows)))
    assert "No front of hard: INVALID" in text
    assert "| hard |" not in text


def test_every_point_is_in_the_csv_with_who_dominates_it():
    found = fronts([build_run(FEW, (4096,))])
    lines = list(csv.DictReader(io.StringIO(fronts_csv(found))))
    assert len(lines) == sum(len(f.placed) for f in found)
    naive = next(x for x in lines if x["label"] == "full_naive" and x["against"] == "time")
    assert naive["dominated_by"] == "full_sdpa"
    assert float(naive["p_front"]) == 0.0
    control = next(x for x in lines if x["label"] == "control_mean")
    assert control["p_front"] == ""


def test_fidelity_recall_and_tasks_are_drawn_apart(tmp_path):
    found = draw_fronts(fronts([quality_run(FEW, tasks=("mqar",))]), "CPU", tmp_path)
    assert [f.name for f in found] == ["front_fidelity", "front_recall", "front_task"]
    for figure in found:
        assert [p.suffix for p in figure.files] == [".png", ".svg", ".pdf"]
    assert "below -1 stands at the lower edge" in found[0].caption
    text = "\n".join(fronts_section(fronts([quality_run(FEW)]), found))
    assert text.count("](figures/front_") == 3


def test_five_tasks_are_two_figures_and_a_crowd_is_named_in_part(tmp_path):
    run = quality_run(crowd(20), tasks=[f"t{i}" for i in range(5)], seq_lens=(512,))
    mine = [f for f in fronts([run]) if f.kind is Kind.TASK and f.cost is Cost.TIME]
    found = draw_fronts(mine, "CPU", tmp_path)
    assert [f.name for f in found] == ["front_task_1", "front_task_2"]
    assert "Named are those with a probability of 5 % or more." in found[0].caption


def test_nothing_to_draw_draws_nothing(tmp_path):
    assert fronts_section([]) == []
    assert draw_fronts([], "CPU", tmp_path) == []
    assert len(fronts_csv([]).splitlines()) == 1


def test_hostile_names_stay_text(tmp_path):
    evil = replace(WINDOW, name="=a|<b>$x^2$[a](http://x)", family="$odd$")
    found = fronts([quality_run((NAIVE, SDPA, evil), tasks=("x|<i>$",), seq_lens=(512,))])
    text = "\n".join(fronts_section(found))
    for markup in ("<b>", "<i>", "](http"):
        assert markup not in text
    lines = list(csv.DictReader(io.StringIO(fronts_csv(found))))
    assert all(not line["label"].startswith("=") for line in lines)
    assert len(draw_fronts([f for f in found if f.kind is Kind.TASK], "$m$", tmp_path)) == 1


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = quality_run(FEW, tasks=("mqar",), seq_lens=(512,))
    for name in "ab":
        (tmp_path / name).mkdir()
    found = [[f for f in fronts([run]) if f.kind is Kind.RECALL] for _ in "ab"]
    first, second = (draw_fronts(f, "CPU", tmp_path / n) for f, n in zip(found, "ab", strict=True))
    for one, other in zip(first, second, strict=True):
        assert [p.read_bytes() for p in one.files] == [p.read_bytes() for p in other.files]
    assert page(run) == page(run)


def test_costs_that_are_nearly_alike_are_drawn(tmp_path):
    """No power of two lies between them, so that the axis has no round tick."""
    run = quality_run(FEW)
    alike = tuple(
        replace(m, memory=Memory(2**20, 2**20, 2**20 + i)) if m.memory else m
        for i, m in enumerate(run.measurements)
    )
    found = fronts([replace(run, measurements=alike)])
    assert any(f.cost is Cost.PEAK for f in found)
    assert draw_fronts(found, "Synthetic CPU", tmp_path)
