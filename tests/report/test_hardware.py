"""Hardware side by side: the planted difference with its verdict, on what both have."""

from __future__ import annotations

from dataclasses import replace

from subquad.analyze.slices import slices, timings
from subquad.analyze.summary import rows
from subquad.record import Run, Status
from subquad.report.hardware import hardware_section
from synthetic import LINEAR, NAIVE, SDPA, build_run


def both(**failures) -> Run:
    """`LINEAR` takes twice as long on the second hardware, which stops at 2048."""
    slow = replace(LINEAR, time_s=lambda w: 2 * LINEAR.time_s(w))
    one = build_run((NAIVE, SDPA, LINEAR), (512, 1024, 2048, 4096))
    two = build_run((NAIVE, SDPA, slow), (512, 1024, 2048), hardware="cpu-1", seed=3, **failures)
    return replace(
        one,
        measurements=one.measurements + two.measurements,
        sessions={**one.sessions, **two.sessions},
    )


def section(run: Run) -> list[str]:
    return hardware_section(slices(rows(run)), timings([run]))


def test_a_planted_difference_is_told_at_the_longest_common_length():
    blocks = section(both())
    assert blocks[0] == "## By hardware"
    assert blocks[2].startswith("**seq_len 2048, forward")
    lines = {x.split(" | ")[0].strip("| "): x for x in blocks[3].splitlines()}
    assert "SLOWER" in lines["linear_elu"]
    assert "SLOWER" not in lines["full_sdpa"]
    assert "on cpu-2" in blocks[3]
    assert "on cpu-1" in blocks[3]


def test_a_failure_is_told_by_its_status_and_one_hardware_has_no_section():
    blocks = section(both(failures={("linear_elu", 2048): (Status.OOM, "no")}))
    line = next(x for x in blocks[3].splitlines() if x.startswith("| linear_elu"))
    assert "| oom | – |" in line
    assert section(build_run((NAIVE, SDPA), (512, 1024))) == []
