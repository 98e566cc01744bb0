"""The section on growth: compact, with a reason wherever there is no exponent."""

from __future__ import annotations

from dataclasses import replace

from subquad.record import Status
from subquad.report.findings import Findings
from subquad.report.growth import growth_section
from synthetic import LINEAR, NAIVE, SDPA, build_run

LENGTHS = tuple(128 * 2**i for i in range(8))


def blocks_of(*runs) -> list[str]:
    found = Findings.of(runs)
    return growth_section(found.parts, found.growth)


def text_of(run) -> str:
    return "\n\n".join(blocks_of(run))


def line_of(text: str, variant: str) -> list[str]:
    line = next(x for x in text.splitlines() if x.startswith(f"| {variant} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_tells_exponent_declared_and_verdict_of_each_variant():
    text = text_of(build_run((NAIVE, LINEAR), LENGTHS, processes=20))
    assert text.startswith("## How time and memory grow\n\n")
    assert "**in seq_len: forward, not causal**" in text
    name, time, declared, verdict, memory, why = line_of(text, "full_naive")
    assert (name, declared, verdict, why) == ("full_naive", "2", "quadratic or steeper", "")
    assert time.startswith(("2.0", "1.9"))
    assert memory.endswith("]")
    assert line_of(text, "linear_elu")[2:4] == ["1", "sub-quadratic"]


def test_what_has_no_exponent_has_a_reason():
    failures = {("full_naive", n): (Status.OOM, "no room") for n in LENGTHS[3:]}
    text = text_of(build_run((NAIVE, LINEAR), LENGTHS, failures=failures, processes=20))
    assert line_of(text, "full_naive")[1:] == [
        "not identifiable", "2", "not identifiable", "not identifiable", "3 points, a fit needs 5"
    ]  # fmt: skip


def test_an_interval_that_holds_the_limit_says_so():
    between = replace(NAIVE, time_s=lambda w: 1e-9 * w.seq_len**1.9)
    line = line_of(text_of(build_run((between,), LENGTHS)), "full_naive")
    assert "[" in line[1]
    assert line[3] == "not identifiable"
    assert line[5] == "the interval holds 1.9"


def test_memory_that_does_not_grow_says_so():
    flat = replace(LINEAR, workspace=lambda w: 10**9)
    text = text_of(build_run((flat,), LENGTHS[:5]))
    assert line_of(text, "linear_elu")[4] == "0 (does not grow)"


def test_variants_without_a_measurement_share_one_line():
    failures = {
        (v, n): (Status.UNSUPPORTED, "no form") for v in ("full_sdpa", "linear_elu") for n in LENGTHS
    }
    text = text_of(build_run((NAIVE, SDPA, LINEAR), LENGTHS, failures=failures))
    assert "Nothing was measured of full_sdpa, linear_elu." in text
    assert "| full_sdpa |" not in text


def test_workloads_with_too_few_values_share_one_list():
    text = text_of(build_run((NAIVE, LINEAR), LENGTHS[:5], heads=(1, 2, 4)))
    head, listed = text.split("No exponent, since a fit needs 5 values over a range of 8x:")
    assert head.count("| full_naive |") == 3
    assert listed.count("- in heads: seq_len") == 5
    assert "(3 values, 1 to 4)" in listed


def test_a_long_list_of_such_workloads_is_cut():
    text = text_of(build_run((LINEAR,), LENGTHS, heads=(1, 2)))
    assert text.count("- in heads") == 6
    assert text.endswith("- and 2 more")


def test_heads_have_a_table_of_their_own_without_a_verdict():
    text = text_of(build_run((NAIVE, LINEAR), (512,), heads=(1, 2, 4, 8, 16)))
    assert "**in heads: seq_len 512, forward" in text
    assert "| variant | time | memory | why not |" in text
    assert "verdict" not in text.split("**in heads")[1]


def test_a_run_without_enough_values_says_so_in_one_line():
    blocks = blocks_of(build_run((NAIVE,), (256, 512)))
    assert blocks == [
        "## How time and memory grow",
        "Not determined: no variant was measured at 5 values of an axis over a range of 8x.",
    ]
    assert blocks_of() == []


def test_a_table_of_64_variants_has_one_short_line_each():
    many = [replace(LINEAR, name=f"linear_{i:02d}") for i in range(64)]
    text = text_of(build_run(many, LENGTHS[::2] + LENGTHS[-1:], processes=2))
    lines = [x for x in text.splitlines() if x.startswith("| linear_")]
    assert len(lines) == 64
    assert max(map(len, lines)) < 220
    assert len(text.splitlines()) < 64 + 15


def test_hostile_names_stay_text():
    evil = replace(LINEAR, name="a|b<script>*x*\n](y)")
    text = text_of(build_run((evil,), LENGTHS[:5]))
    assert "<script" not in text
    assert "a\\|b&lt;script&gt;\\*x\\* ]\\(y)" in text


def test_the_same_run_gives_the_same_text():
    run = build_run((NAIVE, LINEAR), LENGTHS)
    assert text_of(run) == text_of(run)
