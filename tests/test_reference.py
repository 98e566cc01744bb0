"""The committed reference: no row beats the machine, and the report follows from the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from subquad.analyze.summary import rows
from subquad.record import Status
from subquad.report.render import render
from subquad.store import load

ROOT = Path(__file__).parents[1]
RUNS = sorted(p for p in (ROOT / "results/reference").glob("*") if p.is_dir())
UNTIMED = ("fidelity", "features", "recall")  # how good everyone is

pytestmark = pytest.mark.skipif(not RUNS, reason="no reference results are committed")


@pytest.mark.parametrize("folder", RUNS, ids=lambda p: p.name)
def test_no_row_is_above_the_measured_ceiling(folder: Path) -> None:
    found = [r for r in rows(load(folder)) if r["roofline_share"] is not None]
    assert found or folder.name in UNTIMED
    beaten = [
        (r["variant"], r["seq_len"], r["roofline_share"]) for r in found if r["roofline_share"] > 1
    ]
    assert beaten == []


@pytest.mark.parametrize("folder", RUNS, ids=lambda p: p.name)
def test_every_row_has_a_time_or_a_reason(folder: Path) -> None:
    for row in rows(load(folder)):
        timed = folder.name not in UNTIMED and row["task"] is None
        assert (row["time_s"] is not None) == (timed and Status(row["status"]).has_time)
        assert row["reason"] or row["status"] == Status.OK


@pytest.mark.slow
@pytest.mark.parametrize("folder", RUNS, ids=lambda p: p.name)
def test_the_committed_report_follows_from_the_results(folder: Path, tmp_path: Path) -> None:
    name = f"reference/{folder.name}"
    render([load(folder, name)], tmp_path)
    for file in ("report.md", "cells.csv"):
        committed = ROOT / "reports" / name / file
        assert (tmp_path / file).read_text() == committed.read_text(), f"subquad report {name}"
