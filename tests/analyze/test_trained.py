"""Verdicts of trained tasks: when a task says nothing, and what may be claimed of a variant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from subquad.analyze.trained import Validity, Verdict, task_tables
from subquad.record import Measurement, Run, Status
from synthetic import LINEAR, MEAN, NAIVE, SDPA, WINDOW
from synthetic_quality import crowd, task


def table(*rows: Measurement):
    (found,) = task_tables([Run("r", rows)])
    return found


SOLVED = task(NAIVE, "t", [1.0, 0.998, 0.999])


def test_full_attention_that_fails_makes_the_task_invalid():
    found = table(task(NAIVE, "t", [0.9, 0.95, 0.98]), task(LINEAR, "t", [1.0, 1.0, 1.0]))
    assert found.validity is Validity.INVALID
    assert found.why == "full attention (full_naive) reaches 0.9433, and must reach 0.99"


def test_the_best_exact_variant_speaks_for_full_attention():
    found = table(task(NAIVE, "t", [0.5, 0.5, 0.6]), task(SDPA, "t", [0.99, 0.995, 1.0]))
    assert found.validity is Validity.VALID
    assert found.reference == "full_sdpa"


def test_a_shortcut_that_solves_the_task_makes_it_invalid():
    found = table(task(NAIVE, "t", [1.0, 1.0, 1.0], shortcuts={"majority": 0.1, "one token": 0.99}))
    assert found.validity is Validity.INVALID
    assert "'one token' alone reaches 0.99" in found.why


def test_a_model_that_averages_and_solves_the_task_makes_it_invalid():
    found = table(SOLVED, task(MEAN, "t", [1.0, 1.0, 1.0]))
    assert found.validity is Validity.INVALID
    assert found.why == "control_mean, which looks at no query, reaches 1, solved is 0.99"
    assert table(SOLVED, task(MEAN, "t", [0.9, 0.9, 0.9])).validity is Validity.VALID


def test_full_attention_that_diverged_failed_the_task():
    gone = task(NAIVE, "t", status=Status.DIVERGED, reason="NaN")
    assert table(gone, task(LINEAR, "t", [1.0, 1.0])).validity is Validity.INVALID


@pytest.mark.parametrize("rows", [(), (task(NAIVE, "t", status=Status.OOM, reason="no room"),)])
def test_without_an_exact_score_there_is_no_reference(rows):
    found = table(*rows, task(LINEAR, "t", [1.0, 1.0]))
    assert found.validity is Validity.NO_REFERENCE
    assert "no exact attention has a score" in found.why
    assert found.rows[-1].against is None


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([0.99, 0.99, 0.99], Verdict.SOLVED),
        ([0.50, 0.51, 0.52], Verdict.ABOVE_SHORTCUT),
        ([0.12, 0.13, 0.11], Verdict.AT_SHORTCUT),
        ([0.01, 0.02, 0.01], Verdict.AT_SHORTCUT),
        ([0.13, 0.90, 0.50], Verdict.AT_SHORTCUT),  # seeds scatter too much to say more
        ([0.50], Verdict.UNDECIDED),
        ([0.05], Verdict.AT_SHORTCUT),
        ([], Verdict.FAILED),
    ],
)
def test_a_variant_is_held_against_the_best_shortcut(scores, verdict):
    assert table(SOLVED, task(LINEAR, "t", scores)).of("linear_elu").verdict is verdict


def test_lower_scores_are_better_where_the_task_says_so():
    ways = {"metric": "bits per byte", "up": False, "solved": 2.5, "shortcuts": {"a": 4.0, "b": 3.5}}
    found = table(
        task(NAIVE, "t", [2.2, 2.25, 2.3], **ways),
        task(LINEAR, "t", [3.0, 3.01, 3.02], **ways),
        task(WINDOW, "t", [3.6, 3.5, 3.55], **ways),
        task(MEAN, "t", [5.0, 5.1, 5.2], **ways),
    )
    assert found.validity is Validity.VALID
    assert found.best_shortcut == "b"
    assert [r.verdict for r in found.rows] == [
        Verdict.SOLVED,
        Verdict.ABOVE_SHORTCUT,
        Verdict.AT_SHORTCUT,
        Verdict.AT_SHORTCUT,
    ]
    assert found.of("linear_elu").against.value == pytest.approx(0.76)


def test_a_table_of_variants_at_chance_claims_something_one_time_in_twenty():
    rng = np.random.default_rng(1)
    variants = [replace(LINEAR, name=f"linear_{i}") for i in range(6)]
    false = 0
    for _ in range(40):
        draws = rng.binomial(256, 0.12, (6, 3)) / 256
        rows = [
            task(v, "t", list(map(float, d)), asked=256) for v, d in zip(variants, draws, strict=True)
        ]
        found = table(task(NAIVE, "t", [1.0, 1.0, 1.0], asked=256), *rows)
        false += any(r.verdict is Verdict.ABOVE_SHORTCUT for r in found.rows)
    assert false <= 5


def test_what_the_own_interval_says_and_the_table_does_not_allow_is_undecided():
    near = [0.20, 0.21, 0.24]
    alone = table(SOLVED, task(LINEAR, "t", near)).of("linear_elu")
    assert alone.verdict is Verdict.ABOVE_SHORTCUT
    others = [task(v, "t", [0.11, 0.12, 0.13]) for v in crowd(40)[1:]]
    among = table(SOLVED, task(LINEAR, "t", near), *others).of("linear_elu")
    assert among.verdict is Verdict.UNDECIDED


def test_differences_to_full_attention_are_paired_by_seed():
    found = table(SOLVED, task(LINEAR, "t", [0.50, 0.52, 0.51])).of("linear_elu")
    assert found.against.paired
    assert found.against.value == pytest.approx(0.51 - 0.999)
    assert found.differs
    twin = table(SOLVED, task(SDPA, "t", [0.999, 0.998, 0.9985])).of("full_sdpa")
    assert not twin.differs


def test_tasks_runs_and_hardware_stand_apart():
    rows = (SOLVED, task(NAIVE, "u", [1.0, 1.0]), task(NAIVE, "t", [1.0, 1.0], settings={"n": 8}))
    found = task_tables([Run("a", rows), Run("b", rows[:1])])
    assert [(t.run, t.task) for t in found] == [
        ("a", "t[n=None]"),
        ("a", "u"),
        ("a", "t[n=8]"),
        ("b", "t[n=None]"),
    ]
