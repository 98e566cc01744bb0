"""The section on quality: tables, marks, reasons, and nothing that a name could break."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from subquad.analyze.trained import task_tables
from subquad.record import Deviation, Run, Status
from subquad.report.fidelity import fidelity_csv
from subquad.report.quality import quality_csv, quality_section
from subquad.report.quality_terminal import show_tasks
from subquad.report.task_figure import draw_tasks, order, place
from synthetic import LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run
from synthetic_quality import crowd, deviation, quality_run, task

FEW = (NAIVE, WINDOW, LINEAR, MEAN)


def text(*runs: Run) -> str:
    return "\n\n".join(quality_section(runs))


def cells(page: str, first: str) -> list[str]:
    """The first line of a table that starts with this cell."""
    line = next(x for x in page.splitlines() if x.startswith(f"| {first} |"))
    return line.strip("| ").split(" | ")


def rows(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table)))


def test_skills_stand_by_variant_and_family_with_their_intervals():
    page = text(quality_run(FEW, tasks=()))
    assert (
        "| variant | computes | gaussian(scale=0.25) | gaussian | autoregressive | captured |" in page
    )
    assert cells(page, "local_window")[2] == "0.70 [0.69, 0.71]"
    assert cells(page, "control_mean")[2] == "0.00 [-0.01, 0.01]"
    assert "seq_len 1024, causal" in page


def test_another_function_is_not_applicable_and_said_once():
    run = build_run((NAIVE, LINEAR), (256,))
    gone = [
        replace(m, deviations=(Deviation("gaussian", reason="computes another function"),))
        if m.computes == "different"
        else replace(m, deviations=(deviation("gaussian", 1.0),))
        for m in run.measurements
    ]
    page = text(replace(run, measurements=tuple(gone)))
    table = next(block for block in page.split("\n\n") if block.startswith("| variant | computes |"))
    assert "linear_elu" not in table
    assert page.count("compute another function than softmax attention on purpose") == 1
    assert page.split("no fault: ")[1].startswith("linear_elu.")
    assert "What has no score" not in page


def test_details_leave_out_columns_that_nobody_has():
    page = text(quality_run(FEW, tasks=()))
    assert "Details on captured inputs:" in page
    assert "| variant | cosine | dQ | dK | dV |" in page


def test_task_scores_carry_interval_and_mark_below_what_they_must_beat():
    run = Run("r", (task(NAIVE, "mqar", [1.0, 1.0, 1.0]), task(LINEAR, "mqar", [0.5, 0.51, 0.52]),
                    task(MEAN, "mqar", [0.12, 0.11, 0.12]), task(WINDOW, "mqar", [0.4])))  # fmt: skip
    page = text(run)
    assert cells(page, "*solved*")[1] == "0.990"
    assert cells(page, "*shortcut: one token*")[1] == "0.120"
    assert cells(page, "full_naive")[1] == "1.000 [0.996, 1.000] ●"
    assert cells(page, "linear_elu")[1].startswith("0.510 [0.4")
    assert cells(page, "linear_elu")[1].endswith("▲")
    assert cells(page, "control_mean")[1].endswith("▽")
    assert cells(page, "local_window")[1] == "0.400 [not determined] ?"


def test_an_invalid_task_is_flagged_and_makes_no_claim():
    run = Run("r", (task(NAIVE, "hard", [0.5, 0.5, 0.5]), task(LINEAR, "hard", [1.0, 1.0, 1.0])))
    page = text(run)
    assert "| variant | hard **INVALID** |" in page
    assert "- hard: INVALID, full attention (full_naive) reaches 0.5, and must reach 0.99" in page
    assert cells(page, "linear_elu")[1] == "1.000 [0.996, 1.000]"
    assert "SOLVED" not in page


def test_how_it_was_learned_is_told():
    page = text(
        Run("r", (task(NAIVE, "mqar", [1.0, 1.0, 1.0]), task(LINEAR, "mqar", [0.5, 0.51, 0.52])))
    )
    line = next(x for x in page.splitlines() if x.startswith("| mqar | linear_elu |"))
    assert "ABOVE SHORTCUT" in line
    assert "-0.490 [-0.5" in line
    assert "differs | 0.003 | 3 | 26 s | 25000 | 70 %" in line


def test_seven_tasks_are_two_tables():
    rows_ = [task(NAIVE, f"t{i}", [1.0, 1.0]) for i in range(7)]
    assert text(Run("r", tuple(rows_))).count("| *solved* |") == 2


def test_what_has_no_score_is_told_with_its_reason_once():
    rows_ = [task(v, "mqar", status=Status.DIVERGED, reason="NaN at 0.01") for v in (NAIVE, LINEAR)]
    rows_.append(task(WINDOW, "mqar", [0.5, None, 0.5]))
    page = text(Run("r", tuple(rows_)))
    assert "| task | mqar | full_naive, linear_elu | diverged | NaN at 0.01 |" in page
    assert "1 of 3 seeds have no score and are left out of the mean: loss was NaN at step 40" in page
    assert cells(page, "local_window")[1].startswith("0.500\\*")
    assert cells(page, "full_naive")[1] == "diverged"


def test_the_tables_as_csv_hold_every_score_and_verdict():
    run = quality_run(FEW, tasks=("mqar",))
    found = rows(quality_csv([run]))
    assert len(found) == 4 * (2 * 4 + 5 + 1)
    line = next(r for r in found if r["kind"] == "task" and r["label"] == "linear_elu")
    assert line["verdict"] == "AT SHORTCUT"
    assert float(line["lr"]) == 0.003
    assert float(line["low"]) <= float(line["value"]) <= float(line["high"])
    details = rows(fidelity_csv([run]))
    assert len(details) == 4 * 2 * 4
    assert {r["cosine"] == "" for r in details} == {False}


def test_nothing_asked_about_quality_makes_no_section(tmp_path):
    plain = build_run((NAIVE,), (256,))
    plain = replace(plain, measurements=tuple(replace(m, deviations=()) for m in plain.measurements))
    assert quality_section([]) == quality_section([plain]) == []
    assert draw_tasks([plain], "", tmp_path) == []
    assert len(quality_csv([]).splitlines()) == 1


def test_a_run_of_failures_only_is_reasons_only(tmp_path):
    run = Run("r", tuple(task(v, "t", status=Status.CRASHED, reason="signal 11") for v in FEW))
    page = text(run)
    assert "| t **NO REFERENCE** |" in page
    assert "signal 11" in page
    assert draw_tasks([run], "", tmp_path) == []


def test_hostile_names_stay_text(tmp_path):
    evil = replace(LINEAR, name="=cmd|'/c'!A1<script>x</script>$x^2$[a](http://x)`*", family="$f$")
    rows_ = [
        task(NAIVE, "a|b<i>$_$", [1.0, 1.0, 1.0], shortcuts={"x|<b>": 0.1}),
        task(evil, "a|b<i>$_$", [0.5, 0.6]),
    ]
    rows_.append(task(evil, "c|d", status=Status.ERROR, reason="bad | pipe\n<b>"))
    run = Run("r|<u>", (*quality_run((NAIVE, evil), tasks=()).measurements, *rows_))
    page = text(run)
    for markup in ("<script", "<i>", "<b>", "<u>", "](http"):
        assert markup not in page
    widths = {line.count(" | ") for line in page.splitlines() if line.startswith("| a\\|b")}
    assert len(widths) == 1
    assert all(not r["label"].startswith("=") for r in rows(quality_csv([run])))
    assert len(draw_tasks([run], "$m$", tmp_path)) == 1


def test_a_place_is_the_way_from_the_best_shortcut_to_full_attention():
    (found,) = task_tables([Run("r", (task(NAIVE, "t", [1.0, 1.0]), task(LINEAR, "t", [0.56, 0.56])))])
    assert place(found, 0.56) == pytest.approx(0.5)
    assert place(found, 0.12) == 0.0
    ways = {"metric": "bits", "up": False, "solved": 3.0, "shortcuts": {"a": 4.0}}
    (lower,) = task_tables([Run("r", (task(NAIVE, "t", [2.0, 2.0], **ways),))])
    assert place(lower, 3.0) == 0.5
    (alone,) = task_tables([Run("r", (task(LINEAR, "t", [1.0, 1.0]),))])
    assert place(alone, 0.5) is None


def test_variants_stand_in_the_order_of_what_they_learned():
    rows_ = [task(v, "t", [s, s]) for v, s in ((LINEAR, 0.3), (NAIVE, 1.0), (WINDOW, 0.8))]
    assert order(task_tables([Run("r", tuple(rows_))])) == ["full_naive", "local_window", "linear_elu"]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = quality_run((*FEW, SDPA))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (draw_tasks([run], "CPU", tmp_path / n)[0] for n in "ab")
    assert [p.suffix for p in first.files] == [".png", ".svg", ".pdf"]
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert text(run) == text(run)


def test_nine_tasks_are_drawn_in_two_figures(tmp_path):
    tasks = [f"task_{i}" for i in range(9)]
    run = Run("r", tuple(task(v, t, [0.5, 0.6, 0.7]) for v in crowd(3) for t in tasks))
    found = draw_tasks([run], "CPU", tmp_path)
    assert [f.name for f in found] == ["tasks_1", "tasks_2"]
    assert "task_0 is INVALID" in found[0].caption
    assert "\n".join(quality_section([run], found)).count("](figures/tasks_") == 2


def test_the_hash_of_real_data_is_told():
    m = task(NAIVE, "bytes", [1.0, 1.0])
    assert m.score is not None
    page = text(Run("r", (replace(m, score=replace(m.score, data="abc123")),)))
    assert "sha256 of the data that examples were taken from: bytes abc123." in page


def test_a_terminal_of_80_columns_shows_scores_marks_and_what_is_left_out():
    console = Console(width=80, record=True, file=io.StringIO())
    hard = [task(v, "hard", [0.2, 0.3]) for v in FEW]
    show_tasks([Run("r", (*quality_run(FEW).measurements, *hard))], console)
    shown = console.export_text()
    assert "0.998●" in shown
    assert "hard: INVALID: full attention (full_naive) reaches 0.25" in shown
    assert max(map(len, shown.splitlines())) <= 80
    many = [task(NAIVE, f"t{i}", [1.0, 1.0]) for i in range(9)]
    show_tasks([Run("r", tuple(many))], console)
    assert "5 more tasks are in the report." in console.export_text()
    show_tasks([build_run((NAIVE,), (256,))], console)
    assert console.export_text() == ""
