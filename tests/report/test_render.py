"""Reports: complete, escaped, reproducible, and clear where there is nothing to say."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from subquad.record import Kernels, Run, Status
from subquad.report.noise import noise_floor
from subquad.report.render import PAPER, render
from subquad.store import load
from synthetic import LINEAR, MEAN, NAIVE, SDPA, build_run
from synthetic_quality import recall

GOLDEN = Path(__file__).parents[1] / "golden"
VICTIMS = ("local_window", "sparse_bigbird", "linear_elu", "full_sdpa", "lowrank_linformer")
FAILED = [s for s in Status if s is not Status.OK]
FAILURES = {
    (name, length): (status, f"reason of {status.value}")
    for (length, name), status in zip(product((512, 1024, 2048), VICTIMS), FAILED, strict=False)
}


def page(run, tmp_path) -> str:
    return render(run, tmp_path / "report").page.read_text(encoding="utf-8")


def test_every_status_is_shown_with_its_reason(tmp_path):
    text = page(build_run(failures=FAILURES), tmp_path)
    section = text.split("## Rows that are not ok")[1].split("\n## ")[0]
    for (name, length), (status, reason) in FAILURES.items():
        assert f"| {name} | {status.value} | {length} | {reason} |" in section


def test_runs_of_every_schema_stand_in_one_report(tmp_path):
    runs = [load(GOLDEN / name) for name in ("schema_1", "schema_2", "schema_3")]
    text = page(runs, tmp_path)
    for run in runs:
        mine = [m for m in run.measurements if not m.cell.is_task]
        assert f"- Run {run.name}: {len(mine)} cells" in text
    with (tmp_path / "report/cells.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == sum(len(run.measurements) for run in runs)


def test_report_says_what_ran_where_and_how_noisy(tmp_path):
    text = page(
        build_run(seq_lens=(256, 512), warnings=("the last line of a.jsonl was torn",)), tmp_path
    )
    assert "- Run planted: 14 cells, 14 with a time, 14 ok; baseline full_naive" in text
    assert "Synthetic CPU" in text
    assert "torch 2.13.0" in text
    assert "Noise floor of planted: in 2 sessions the reference was entered twice (A/A)" in text
    assert "of 2 intervals exclude 1" in text
    assert "None: every cell is ok." in text
    assert "- planted: the last line of a.jsonl was torn" in text
    assert "captured inputs end at" not in text


def test_the_kernels_that_ran_are_told_by_variant_and_phase(tmp_path):
    run = build_run((NAIVE, SDPA), (256, 512), phases=("forward", "forward_backward"))
    assert "## Kernels" not in page(run, tmp_path), "nothing was recorded"
    measured = []
    for m in run.measurements:
        ran = ("bmm", "_softmax") if m.cell.workload.seq_len == 256 else ("bmm",)
        if m.cell.variant == "full_sdpa":
            ran = ("_scaled_dot_product_attention_math",)
        measured.append(replace(m, kernels=Kernels(ran)))
    text = page(replace(run, measurements=tuple(measured)), tmp_path)
    section = text.split("## Kernels")[1].split("\n## ")[0]
    for phase in ("forward", "forward_backward"):
        assert f"| full_naive | {phase} | cpu | `bmm`, `_softmax` (1 of 2) |" in section
        assert f"| full_sdpa | {phase} | cpu | `_scaled_dot_product_attention_math` |" in section


def test_workload_tables_are_sorted_by_time_and_carry_intervals(tmp_path):
    text = page(build_run((NAIVE, SDPA, LINEAR), (2048,)), tmp_path)
    rows = [line for line in text.split("#### seq_len 2048")[1].splitlines() if line.startswith("| ")][
        2:
    ]
    assert [r.split(" | ")[0] for r in rows] == ["| linear_elu", "| full_sdpa", "| full_naive"]
    assert rows[0].count("[") == 3  # time, over the baseline, over the best exact kernel
    assert "the reference" in rows[2]
    assert "- captured: captured inputs end at 1024 positions" in text


def test_one_process_says_not_determined(tmp_path):
    text = page(build_run((NAIVE, LINEAR), (256, 512), processes=1), tmp_path)
    assert "[not determined]" in text
    assert "Their intervals are not determined." in text
    assert "None" not in text.replace("None: every cell is ok.", "")


def test_the_files_are_those_that_were_promised(tmp_path):
    report = render(build_run((NAIVE, SDPA, LINEAR), (256, 512, 1024)), tmp_path)
    assert {p.name for p in (report.page, report.html)} == {"report.md", "index.html"}
    assert all(path.stat().st_size > 0 for path in report.paths)
    for figure in report.figures:
        assert {path.suffix for path in figure.files} == {".png", ".svg", ".pdf"}
    names = {path.name for path in report.tables}
    assert {"cells.csv", "which-attention-to-use-1.tex", "verdicts-1.tex"} <= names


def test_every_section_that_a_paper_may_want_is_there_under_its_name(tmp_path):
    run = build_run((NAIVE, SDPA, LINEAR), (256, 512, 1024, 2048, 4096))
    learned = recall(LINEAR, {4: 1.0, 64: 0.5})
    report = render(replace(run, measurements=(*run.measurements, learned)), tmp_path)
    written = {path.stem.rsplit("-", 1)[0] for path in report.tables if path.suffix == ".tex"}
    titles = {line[3:] for line in report.page.read_text("utf-8").splitlines() if line[:3] == "## "}
    assert set(PAPER) <= titles
    assert len(written) == len(PAPER)


def test_the_answer_comes_first(tmp_path):
    text = page(build_run(), tmp_path)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[0] == "## Which attention to use"
    assert titles[1] == "## Time of one call by sequence length"
    assert titles[-1] == "## Every workload"


def test_workloads_beyond_what_a_reader_compares_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.report.findings.MOST_WORKLOADS", 2)
    run = build_run((NAIVE, SDPA), (256, 512), heads=(1, 2, 4))
    report = render(run, tmp_path)
    text = report.page.read_text(encoding="utf-8")
    assert "1 more workload, with fewer times, is in cells.csv only." in text
    assert "12 cells, 12 with a time" in text
    with report.tables[0].open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_hostile_names_stay_text(tmp_path):
    evil = replace(LINEAR, name="=cmd|'/c calc'!A1<script>alert(1)</script>$x^2$[a](http://x)")
    odd = replace(MEAN, name="@SUM(1)\nx", family="-weird$")
    failures = {(evil.name, 512): (Status.ERROR, "bad | pipe\n<b>bold</b> `tick`")}
    report = render(build_run((NAIVE, evil, odd), (256, 512, 1024), failures=failures), tmp_path)
    text = report.page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    assert "](http" not in text
    assert "bad \\| pipe &lt;b&gt;bold&lt;/b&gt; \\`tick\\`" in text
    with report.tables[0].open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert {c["variant"] for c in cells} == {"full_naive", "'" + evil.name, "'" + odd.name}
    assert {c["family"] for c in cells} == {"full", "linear", "'-weird$"}
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in tables)
    assert "<script" not in (tmp_path / "figures/time_vs_seq_len.svg").read_text(encoding="utf-8")


def test_csv_holds_raw_numbers_and_every_row(tmp_path):
    run = build_run(failures=FAILURES)
    with render(run, tmp_path).tables[0].open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == len(run.measurements)
    by_id = {c["cell"]: c for c in cells}
    for m in run.measurements:
        row = by_id[m.cell.id]
        assert row["status"] == m.status.value
        assert (float(row["time_s"]) > 0) if m.status.has_time else (row["time_s"] == "")
        assert row["causal"] == "false"


def test_same_run_gives_the_same_bytes(tmp_path):
    run = build_run(failures=FAILURES, heads=(2, 8))
    first, second = render(run, tmp_path / "a"), render(run, tmp_path / "b")
    assert [p.name for p in first.paths] == [p.name for p in second.paths]
    for one, two in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_several_runs_are_one_report(tmp_path):
    runs = [
        build_run((NAIVE, LINEAR), (256, 512), name=n, hardware=h)
        for n, h in (("a", "cpu-2"), ("b", "h200"))
    ]
    report = render(runs, tmp_path)
    text = report.page.read_text(encoding="utf-8")
    assert text.startswith("# Attention benchmark: a, b\n")
    for words in (
        "on cpu-2, 2 threads, allocator default, run a",
        "on h200, 2 threads, allocator default, run b",
    ):
        assert words in text
    assert "Noise floor of a:" in text
    assert "Noise floor of b:" in text
    assert len(report.tables[0].read_text(encoding="utf-8").splitlines()) == 1 + 8


def test_an_empty_run_says_so(tmp_path):
    for runs in (Run("nothing", ()), []):
        report = render(runs, tmp_path)
        text = report.page.read_text(encoding="utf-8")
        assert "There are no cells in these runs" in text
        assert report.figures == ()


def test_a_run_of_failures_says_so(tmp_path):
    failures = {(v.name, n): (Status.CRASHED, "signal 9") for v in (NAIVE, LINEAR) for n in (256, 512)}
    report = render(build_run((NAIVE, LINEAR), (256, 512), failures=failures), tmp_path)
    text = report.page.read_text(encoding="utf-8")
    assert "None of the 4 cells has a time" in text
    assert "| full_naive | crashed | 256, 512 | signal 9 |" in text
    assert "not determined, since no session" in text
    assert report.figures == ()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"cpu": None, "gpu": [{"name": "H200"}], "torch": {"version": "2.13"}},
        {"cpu": "x|y", "memory": 2**34},
    ],
)
def test_any_environment_record_will_do(tmp_path, environment):
    text = page(build_run((NAIVE, LINEAR), (256, 512), environment=environment), tmp_path)
    for word in environment and ("H200" if "gpu" in environment else "x\\|y",):
        assert word in text


def test_noise_floor_counts_intervals_that_exclude_one():
    run = build_run((NAIVE,), (256, 512, 1024))
    off = {}
    for key, session in run.sessions.items():
        doubled = tuple(
            replace(p, blocks=tuple(tuple(2 * x for x in b) for b in p.blocks))
            for p in session.control_timing.processes
        )
        off[key] = replace(session, control_timing=replace(session.control_timing, processes=doubled))
    assert "3 of 3 intervals exclude 1" in noise_floor(replace(run, sessions=off))
