"""What the chart knows is what the tables say."""

from __future__ import annotations

import pytest

from subquad.analyze.growth import scalings
from subquad.analyze.slices import slices, timings
from subquad.analyze.standing import standing
from subquad.analyze.summary import rows
from subquad.record import Status
from subquad.report.findings import Findings
from subquad.report.page import explore
from subquad.report.page.explore import explored
from synthetic import ALL, LINEAR, NAIVE, SDPA, build_run

LENGTHS = (256, 512, 1024, 2048, 4096)


def told(run):
    return explored(Findings.of([run]))


def test_every_row_is_there_with_its_figures():
    failures = {("full_naive", 4096): (Status.OOM, "needs more")}
    run = build_run(ALL, LENGTHS, failures=failures)
    found = told(run)
    names = [v["label"] for v in found["variants"]]
    assert len(found["rows"]) == len(rows(run))
    by_key = {(names[r["variant"]], r["n"]): r for r in found["rows"]}
    for row in rows(run):
        mine = by_key[row["label"], row["seq_len"]]
        assert mine["status"] == row["status"]
        if row["time_s"] is None:
            assert "time" not in mine
            assert mine["reason"] == "needs more"
        else:
            assert mine["time"] == pytest.approx(row["time_s"], rel=1e-4)
            assert mine["low"] == pytest.approx(row["time_low_s"], rel=1e-4)


def test_ratios_are_those_of_the_verdicts_upside_down():
    run = build_run(ALL, LENGTHS)
    found = told(run)
    (part,) = slices(rows(run))
    assert found["slices"][0]["references"] == ["full_naive", "full_sdpa"]
    names = [v["label"] for v in found["variants"]]
    for reference in found["slices"][0]["references"]:
        judged = standing(part, timings([run]), reference).judged
        mine = [r for r in found["ratios"] if r["reference"] == reference]
        assert len(mine) == len(judged)
        for r in mine:
            its = judged[names[r["variant"]], r["n"]]
            assert r["verdict"] == its.verdict.value
            assert r["low"] == pytest.approx(1 / its.interval.high, rel=1e-4)
            assert r["low"] <= r["value"] <= r["high"]


def test_exponents_are_those_of_the_table():
    run = build_run((NAIVE, SDPA), LENGTHS)
    found = told(run)
    fits = scalings(rows(run), timings([run]))
    assert len(found["exponents"]) == 4
    assert found["exponents"]["0 0 time"].startswith(f"n^{fits[0].time.estimate:.2f} [")


def test_axes_are_those_that_tell_workloads_apart():
    run = build_run((NAIVE, SDPA), (256, 512), causal=(False, True), heads=(2, 8))
    found = told(run)
    assert [a["name"] for a in found["axes"]] == ["causal", "heads"]
    assert [v["text"] for v in found["axes"][0]["values"]] == ["not causal", "causal"]
    assert len(found["slices"]) == 4
    assert {(s["axes"]["causal"], s["axes"]["heads"]) for s in found["slices"]} == {
        (c, h) for c in (False, True) for h in (2, 8)
    }


def test_the_poorest_workloads_are_left_out_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(explore, "MOST_ROWS", 12)
    run = build_run((NAIVE, SDPA), LENGTHS, causal=(False, True))
    assert len(told(run)["slices"]) == 1
    assert told(build_run((LINEAR,), (256,)))["slices"][0]["references"] == []
