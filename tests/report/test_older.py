"""A report takes away what an earlier one left, and nothing of anybody else."""

from __future__ import annotations

from pathlib import Path

from subquad.report.render import render
from synthetic import ALL, NAIVE, SDPA, build_run


def files(folder: Path) -> set[Path]:
    return {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}


def test_the_folder_is_that_of_the_last_report(tmp_path: Path) -> None:
    small = build_run((NAIVE, SDPA), (256,))
    render(build_run(ALL, (256, 512, 1024, 2048, 4096)), tmp_path / "again")
    assert Path("figures/time_vs_seq_len.pdf") in files(tmp_path / "again")
    render(small, tmp_path / "again")
    render(small, tmp_path / "fresh")
    assert files(tmp_path / "again") == files(tmp_path / "fresh")


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    mine = ["figures/logo.svg", "figures/logo.png", "figures/plan.pdf", "tables/mine.tex", "notes.csv"]
    for name in mine:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("<svg><title>subquad</title></svg>" if name.endswith("svg") else "mine")
    render(build_run((NAIVE, SDPA), (256,)), tmp_path)
    assert {Path(name) for name in mine} <= files(tmp_path)
