"""Scores of quality: what has one, with which interval, and why others have none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from subquad.analyze.quality import Kind, scores, task_labels
from subquad.record import Deviation, Run, Status
from synthetic import LINEAR, NAIVE, SDPA, WINDOW, build_run
from synthetic_quality import deviation, quality_run, recall, task, with_fidelity


def found(run: Run, kind: Kind) -> dict[tuple[str, str], object]:
    return {(s.label, s.what): s for s in scores([run]) if s.kind is kind}


def test_skill_carries_its_interval():
    run = with_fidelity(build_run([NAIVE, WINDOW], (256,)), {"local_window": {"captured": 0.6}})
    score = found(run, Kind.FIDELITY)["local_window", "captured"]
    assert (score.value, score.low, score.high) == pytest.approx((0.6, 0.59, 0.61))
    assert score.replicates == 5
    single = found(run, Kind.FIDELITY)["full_naive", "gaussian"]
    assert single.value == 1.0
    assert not single.determined


def test_recall_has_a_score_for_every_number_of_pairs():
    run = Run("r", (recall(LINEAR, {4: 1.0, 64: 0.5}, 16384),))
    by_pairs = found(run, Kind.RECALL)
    assert [what for _, what in by_pairs] == ["4 pairs", "64 pairs"]
    score = by_pairs["linear_elu", "64 pairs"]
    assert (score.value, score.low, score.high) == (0.5, 0.49, 0.51)
    assert score.state_bytes == 16384
    assert score.share


def test_a_task_is_the_mean_over_seeds_of_the_chosen_rate():
    run = Run("r", (task(LINEAR, "mqar", [0.5, 0.6, 0.7]),))
    score = found(run, Kind.TASK)["linear_elu", "mqar"]
    assert score.value == pytest.approx(0.6)
    assert score.low < 0.5
    assert score.replicates == 3
    assert score.share


def test_settings_tell_two_tasks_of_one_name_apart():
    rows = [task(LINEAR, "mqar", [0.5], settings={"pairs": n, "width": 64}) for n in (4, 16)]
    assert sorted(task_labels([Run("r", tuple(rows))]).values()) == ["mqar[pairs=16]", "mqar[pairs=4]"]


def test_a_cell_that_ended_early_says_why_for_all_that_others_of_its_group_have():
    failures = {("local_window", 256): (Status.OOM, "too big")}
    run = build_run([NAIVE, WINDOW], (256,), failures=failures)
    missing = [s for s in scores([run]) if s.label == "local_window"]
    assert {s.what for s in missing} == {"gaussian", "captured"}
    assert {(s.value, s.status, s.reason) for s in missing} == {(None, Status.OOM, "too big")}


def test_a_family_of_inputs_that_does_not_fit_keeps_its_reason():
    score = found(build_run([NAIVE], (2048,)), Kind.FIDELITY)["full_naive", "captured"]
    assert score.value is None
    assert score.reason == "captured inputs end at 1024 positions"


def test_a_wrong_kernel_has_no_quality():
    run = quality_run([NAIVE, SDPA], seq_lens=(256,))
    wrong = [replace(m, status=Status.INCORRECT, reason="off") for m in run.measurements]
    values = {(s.value, s.low, s.reason) for s in scores([replace(run, measurements=tuple(wrong))])}
    assert values == {(None, None, "off")}


def test_seeds_that_diverged_are_owned_up_to():
    run = Run("r", (task(LINEAR, "mqar", [0.5, None, 0.7]),))
    score = found(run, Kind.TASK)["linear_elu", "mqar"]
    assert score.value == pytest.approx(0.6)
    assert score.replicates == 2
    assert score.reason.startswith(
        "1 of 3 seeds have no score and are left out of the mean: loss was NaN"
    )


def test_a_deviation_that_is_not_finite_is_no_score():
    run = build_run([NAIVE], (256,))
    broken = Deviation("gaussian", 64, float("inf"), 1.0)
    rows = [replace(m, deviations=(broken, deviation("captured", 0.5))) for m in run.measurements]
    score = found(replace(run, measurements=tuple(rows)), Kind.FIDELITY)["full_naive", "gaussian"]
    assert score.value is None
    assert score.reason


def test_no_run_has_no_score():
    assert scores([]) == []
    assert scores([Run("empty", ())]) == []
