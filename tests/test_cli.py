"""The command from outside: exit codes, one-line errors, files where they are promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subquad.store import Journal


def subquad(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "subquad.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `experiment=smoke` has run."""
    folder = tmp_path_factory.mktemp("smoke")
    done = subquad("run", "experiment=smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_smoke_writes_measurements_and_a_report_and_says_where(smoke: Path) -> None:
    printed = (smoke / "stdout").read_text()
    assert "results/smoke/" in printed
    assert "reports/smoke/index.html" in printed
    assert (smoke / "results/smoke/cpu_1thread.jsonl").stat().st_size > 0
    assert (smoke / "results/smoke/cells.parquet").stat().st_size > 0
    report = (smoke / "reports/smoke/report.md").read_text()
    for variant in ("full_naive", "full_chunked", "local_window", "linear_elu"):
        assert variant in printed
        assert variant in report
    for figure in ("time_vs_seq_len", "memory_vs_seq_len"):
        assert (smoke / f"reports/smoke/figures/{figure}.png").stat().st_size > 1000
        assert (smoke / f"reports/smoke/figures/{figure}.svg").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_export_has_one_row_a_cell_with_units_in_its_names(smoke: Path, suffix: str) -> None:
    import pandas as pd

    done = subquad("export", "smoke", "-o", f"out.{suffix}", cwd=smoke)
    assert (done.returncode, done.stdout) == (0, f"out.{suffix}: 8 rows\n")
    frame = getattr(pd, f"read_{suffix}")(smoke / f"out.{suffix}")
    assert frame.cell.nunique() == len(frame) == 8
    assert {"seq_len", "heads", "status", "reason", "time_s", "workspace_bytes"} <= set(frame.columns)


@pytest.mark.slow
def test_a_report_of_the_same_run_has_the_same_bytes(smoke: Path) -> None:
    for out in ("a", "b"):
        assert subquad("report", "smoke", "-o", out, cwd=smoke).returncode == 0
    files = sorted(p.relative_to(smoke / "a") for p in (smoke / "a").rglob("*") if p.is_file())
    assert files
    assert all((smoke / "a" / f).read_bytes() == (smoke / "b" / f).read_bytes() for f in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "experiment=smoke", "seq_len=0"], "subquad: seq_len must be >= 1, got 0\n"),
        (["run", "experiment=smoke", "variant=[nope]"], "subquad: unknown variant 'nope'"),
        (["report", "nope"], "subquad: results/nope holds no run; `subquad run name=nope` makes one"),
        (["run", "probe=task"], "subquad: probe=task needs tasks and tasks need it"),
        (["run", "probe=task", "task=nope"], "subquad: unknown task 'nope': known are"),
        (["maps", "nope"], "subquad: unknown variant 'nope'"),
        (["maps", "full_naive", "--heads", "0"], "subquad: heads must be >= 1, got 0"),
        (["maps", "full_naive", "--seq-len", "9999"], "subquad: maps are drawn up to 1024 positions"),
        (["export", "nope", "-o", "x.txt"], "subquad: cannot export to x.txt: end it in .parquet"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = subquad(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_maps_draws_a_picture_and_a_table(tmp_path: Path) -> None:
    axes = ["--seq-len", "16", "--heads", "2", "--head-dim", "8", "--causal"]
    done = subquad("maps", "full_naive", "linear_elu", *axes, "--inputs", "gaussian", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "reports/maps/maps.md\n"), done.stderr
    assert "| linear_elu |" in (tmp_path / done.stdout.strip()).read_text(encoding="utf-8")
    assert (tmp_path / "reports" / "maps" / "maps.png").stat().st_size > 1000


def test_a_task_is_learned_and_told(tmp_path: Path) -> None:
    asked = ["run", "probe=task", "task=stacked_recall", "tasks.stacked_recall.pairs=4"]
    asked += ["tasks.stacked_recall.steps=20", "probe.task.lrs=[0.01]", "probe.task.seeds=2"]
    asked += ["probe.task.test=64", "variant=[full_naive,lowrank_nystrom]", "name=lesson"]
    done = subquad(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Test scores of trained tasks: lesson" in done.stdout
    assert "lowrank_nystrom at 4: unsupported: causal=true (has no causal form)" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reports", "results"]
    assert "### Trained tasks" in (tmp_path / "reports" / "lesson" / "report.md").read_text()


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file, not a folder")
    done = subquad("run", "experiment=smoke", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("subquad: cannot write results/smoke/cpu_1thread.jsonl")
    assert done.stderr.count("\n") == 1


def test_a_second_run_of_one_name_is_refused_and_the_first_is_untouched(tmp_path: Path) -> None:
    with Journal(tmp_path / "results/smoke", "cpu_1thread") as journal:
        done = subquad("run", "experiment=smoke", cwd=tmp_path)
        assert done.returncode == 2
        assert "is being written by another run" in done.stderr
        assert journal.path.read_bytes() == b""


def test_variants_lists_every_one_with_parameters_and_source(tmp_path: Path) -> None:
    done = subquad("variants", "--json", cwd=tmp_path)
    catalog = json.loads(done.stdout)
    assert catalog["broken"] == []
    assert {"full_naive", "lowrank_nystrom"} <= {v["name"] for v in catalog["variants"]}
    assert all(v["source"] and v["family"] for v in catalog["variants"])


def test_info_tells_machine_and_software(tmp_path: Path) -> None:
    record = json.loads(subquad("info", "--json", cwd=tmp_path).stdout)
    assert record["cpu"]["cpus"] == os.cpu_count()
    assert record["packages"]["torch"]
