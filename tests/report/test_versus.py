"""Several runs in one report: compared where they share cells, with the reason where they do not."""

from __future__ import annotations

from dataclasses import replace

from subquad.report.versus import versus_section
from synthetic import LINEAR, NAIVE, SDPA, build_run


def test_a_planted_slowdown_is_found_between_two_runs():
    base = build_run((NAIVE, SDPA, LINEAR), (1024, 4096))
    slow = replace(SDPA, time_s=lambda w: 1.5 * SDPA.time_s(w))
    new = replace(build_run((NAIVE, slow, LINEAR), (1024, 4096), seed=5), name="after")
    blocks = versus_section([base, new])
    assert blocks[:2] == ["## Runs side by side", "### after against planted"]
    changed = blocks[blocks.index("#### What changed") + 1]
    assert "full_sdpa" in changed
    assert "SLOWER" in changed
    assert "linear_elu" not in changed


def test_runs_without_a_common_cell_say_why_and_one_run_says_nothing():
    one = build_run((NAIVE,), (1024,))
    blocks = versus_section([one, replace(build_run((SDPA,), (512,)), name="other")])
    assert blocks[1] == "### other against planted"
    assert blocks[2].startswith("Not compared: ")
    assert versus_section([one]) == []
