"""The section on crossovers: one line an answer, and nothing said that was not measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from subquad.analyze.crossover import UnknownReference, compare
from subquad.analyze.intervals import LogMean
from subquad.record import Run, Status
from subquad.report.crossings import answer, crossings_section
from subquad.report.findings import Findings
from synthetic import ALL, LINEAR, MEAN, NAIVE, SDPA, WINDOW, Planted, build_run

LENGTHS = (128, 256, 512, 1024, 2048)


def section(run: Run, against: list[str] | None = None) -> str:
    return "\n\n".join(crossings_section(Findings.of([run], against or ())))


def said(text: str, label: str) -> list[str]:
    """The answers of every table about one variant."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [answer for names, answer in lines if label in names.split(", ")]


def curve(**ratios: float) -> str:
    """The answer for ratios that are well known; 1.0 cannot be told from 1."""
    found = {int(n[1:]): LogMean(math.log(r), 0.01, 4, 5) for n, r in ratios.items()}
    return answer(compare("a", "b", found))


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ({"n256": 0.5, "n512": 0.5}, "faster throughout"),
        ({"n256": 2, "n512": 2}, "never faster up to 512"),
        ({"n256": 2, "n512": 1, "n1024": 2}, "never faster up to 1024; cannot be told apart at 512"),
        ({"n256": 1, "n512": 1}, "ambiguous throughout"),
        ({"n256": 1, "n512": 0.5, "n1024": 0.5}, "faster from 512 to 1024, ambiguous below 512"),
        ({"n256": 1, "n512": 2, "n1024": 1}, "slower at 512, ambiguous below 512 and above 512"),
        ({"n256": 2}, "not compared: both have a time at 256 only (slower there)"),
        (
            {"n256": 4, "n512": 2, "n1024": 0.5, "n2048": 0.25, "n4096": 1},
            "faster from between 512 and 1024 (about 720 [650, 800]), ambiguous above 2048",
        ),
    ],
)
def test_an_answer_reads_as_a_sentence(ratios, text):
    assert curve(**ratios) == text


def test_what_is_rounded_stays_in_the_bracket():
    assert "(about 1024 [1024, 1100])" in curve(n512=4, n1024=1.04, n2048=0.1, n4096=0.01)


def test_several_crossings_are_told_in_their_order():
    text = curve(n256=2, n512=0.5, n1024=0.5, n2048=2)
    assert text.startswith("faster from between 256 and 512 (about")
    assert ", then slower from between 1024 and 2048 (about" in text


def test_undecided_lengths_of_a_bracket_are_not_told_twice():
    text = curve(n256=4, n512=2, n1024=1, n2048=0.5)
    assert text.startswith("faster from between 512 and 2048")
    assert "told apart" not in text


def test_the_default_is_the_baseline_and_the_fastest_exact_variant():
    text = section(build_run(ALL, LENGTHS))
    assert text.startswith("## Where one overtakes the other")
    assert "Against full_naive, the baseline:" in text
    assert "Against full_sdpa, the fastest exact variant at 2048:" in text
    assert said(text, "full_sdpa") == ["faster throughout"]
    assert said(text, "full_naive") == ["never faster up to 2048"]


def test_the_planted_crossing_is_in_the_table():
    text = section(build_run([NAIVE, WINDOW], LENGTHS, heads=(1,)))
    (found,) = said(text, "local_window")
    assert found.startswith("faster from between 128 and 256 (about 1")


def test_phases_are_compared_apart():
    run = build_run(
        [NAIVE, SDPA], LENGTHS, causal=(True,), phases=("forward", "forward_backward", "decode")
    )
    text = section(run)
    for phase in ("forward,", "forward_backward,", "decode,"):
        assert f"**{phase}" in text
    assert text.count("Against full_naive") == 3


def test_sixty_four_variants_of_one_answer_are_one_line():
    many = [replace(LINEAR, name=f"linear_{i}", time_s=lambda w: 1e-6) for i in range(64)]
    text = section(build_run([NAIVE, *many], LENGTHS))
    assert said(text, "linear_0") == said(text, "linear_63") == ["faster throughout"]
    assert len(text.splitlines()) < 25


def test_controls_do_not_compete():
    assert said(section(build_run([NAIVE, SDPA, MEAN], LENGTHS)), "control_mean") == []


def test_missing_times_are_said_with_their_status():
    failures = {("full_naive", 2048): (Status.OOM, "too big")}
    failures |= {("full_sdpa", n): (Status.UNSUPPORTED, "no") for n in LENGTHS}
    failures |= {("local_window", 128): (Status.TIMEOUT, "slow")}
    text = section(build_run([NAIVE, SDPA, WINDOW], LENGTHS, failures=failures), ["full_naive"])
    assert "full_naive has no time at 2048 (oom): nothing is compared there." in text
    assert said(text, "full_sdpa") == ["not compared: no time at any length (unsupported)"]
    assert said(text, "local_window") == ["faster throughout; no time at 128 (timeout)"]


def test_what_was_not_planned_is_said():
    run = build_run([NAIVE, WINDOW], LENGTHS)
    kept = [
        m
        for m in run.measurements
        if (m.cell.variant, m.cell.workload.seq_len) != ("local_window", 512)
    ]
    text = section(replace(run, measurements=tuple(kept)))
    assert said(text, "local_window")[0].endswith("; no time at 512 (not planned)")


def test_one_process_is_not_determined():
    text = section(build_run([NAIVE, SDPA], (256, 512), processes=1))
    assert said(text, "full_sdpa") == [
        "ambiguous throughout; not determined at 256, 512 (too few processes)"
    ]


def test_any_label_may_be_the_reference():
    text = section(build_run(ALL, LENGTHS), ["linear_elu"])
    assert "Against linear_elu:" in text
    assert "Against full_naive" not in text
    with pytest.raises(UnknownReference, match="linear_elu"):
        section(build_run(ALL, LENGTHS), ["linear_elo"])


def test_a_single_length_has_no_section():
    assert section(build_run(ALL, (256,))) == ""


def test_a_slice_without_a_reference_says_so():
    assert "Neither the baseline nor any exact variant" in section(build_run([LINEAR, WINDOW], LENGTHS))


def test_names_stay_text():
    odd = Planted("full_|x|*", "full", "exact", SDPA.time_s, SDPA.workspace)
    text = section(build_run([NAIVE, odd], LENGTHS))
    assert "full_\\|x\\|\\*" in text
