"""Fronts of runs: what is joined with what, and which workloads are chosen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from subquad.analyze.fronts import Cost, fronts, invalid_tasks, log_errors
from subquad.analyze.quality import Kind
from subquad.record import ProcessTiming, Run, Status, Timing
from synthetic import LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run
from synthetic_quality import quality_run, recall, task, with_fidelity

FEW = (NAIVE, SDPA, WINDOW, LINEAR)


def timing(session: str, *seconds: float) -> Timing:
    return Timing(session, tuple(ProcessTiming(0.0, 0.0, 1, ((s,),)) for s in seconds))


def one(found, cost: Cost, what: str):
    (front,) = [f for f in found if f.cost is cost and f.what == what]
    return front


def test_a_slow_process_that_slows_all_is_no_error():
    slow = np.array([1.0, 3.0, 0.5, 2.0, 1.5])
    errors = log_errors([timing("s", *slow), timing("s", *(2 * slow)), timing("s", *(5 * slow))])
    assert [e for e, _ in errors] == pytest.approx([0, 0, 0], abs=1e-12)
    assert [df for _, df in errors] == [4, 4, 4]


def test_of_two_entries_the_errors_add_up_to_that_of_their_paired_ratio():
    rng = np.random.default_rng(0)
    logs = rng.normal(0, 0.3, 6) + rng.normal(0, 0.05, (2, 6))
    (first, _), (second, _) = log_errors([timing("s", *np.exp(x)) for x in logs])
    known = np.std(logs[0] - logs[1], ddof=1) / math.sqrt(6)
    assert math.hypot(first, second) == pytest.approx(known)


def test_an_entry_alone_in_its_session_has_its_own_error_and_one_process_none():
    alone, single, none = log_errors([timing("a", 1.0, 2.0), timing("b", 1.0), None])
    assert alone == pytest.approx((math.log(2) / math.sqrt(2) / math.sqrt(2), 1))
    assert single is None
    assert none is None


def test_every_kind_of_quality_has_fronts_of_its_own():
    found = fronts([quality_run(FEW, tasks=("mqar",))])
    assert {(f.kind, f.what) for f in found} >= {
        (Kind.FIDELITY, "captured"),
        (Kind.TASK, "mqar"),
    }
    for f in found:
        labels = [p.point.label for p in f.placed]
        assert len(labels) == len(set(labels))
    assert {f.cost for f in found} == set(Cost)


def test_fidelity_is_that_of_the_timed_cells():
    run = build_run(FEW, (256, 1024))
    front = one(fronts([run]), Cost.TIME, "gaussian")
    assert front.seq_len == 1024
    assert front.source == "skill at the same workload"
    qualities = {p.point.label: p.point.quality for p in front.placed}
    assert qualities == pytest.approx({v.name: v.skill for v in FEW})


def test_fidelity_that_ends_earlier_comes_from_its_largest_length_and_says_so():
    run = build_run(FEW, (256, 1024, 4096))
    front = one(fronts([run]), Cost.TIME, "captured")
    assert front.seq_len == 4096
    assert front.source == "skill at seq_len 1024, not causal, 8 heads, head_dim 64"


def test_runs_given_together_are_joined_by_variant_and_parameters():
    timed = build_run(FEW, (512,), causal=(True,), name="demo")
    rows = [task(v, "mqar", [v.skill, v.skill - 0.01, 1.0]) for v in (SDPA, WINDOW)]
    rows += [
        task(NAIVE, "mqar", [1.0, 1.0, 1.0]),
        task(replace(LINEAR, params={"f": 2}), "mqar", [0.5]),
    ]
    front = one(fronts([timed, Run("quality", tuple(rows))]), Cost.TIME, "mqar")
    assert {p.point.label for p in front.placed} == {"full_naive", "full_sdpa", "local_window"}
    assert front.missing == ("linear_elu",)


def test_recall_is_taken_where_it_tells_variants_apart_and_has_its_own_state():
    timed = build_run(FEW, (512,), causal=(True,))
    rows = [recall(v, {4: 1.0, 64: a, 1024: 0.0}, 4096 * k) for k, (v, a) in
            enumerate(zip(FEW, (1.0, 0.9, 0.4, 0.2), strict=True), start=1)]  # fmt: skip
    found = fronts([replace(timed, measurements=timed.measurements + tuple(rows))])
    front = one(found, Cost.STATE, "64 pairs")
    assert {p.point.label: p.point.cost for p in front.placed} == {
        "full_naive": 4096,
        "full_sdpa": 8192,
        "local_window": 12288,
        "linear_elu": 16384,
    }


def test_an_invalid_task_has_no_front():
    timed = build_run(FEW, (512,), causal=(True,))
    rows = [task(v, "hard", [0.3, 0.4, 0.5]) for v in FEW] + [task(v, "fine", [1.0, 1.0]) for v in FEW]
    run = replace(timed, measurements=timed.measurements + tuple(rows))
    assert {f.what for f in fronts([run]) if f.kind is Kind.TASK} == {"fine"}
    assert [t.task for t in invalid_tasks([run])] == ["hard"]


def test_a_task_of_the_other_masking_is_not_joined_where_both_were_timed():
    timed = build_run(FEW, (512,), causal=(False, True))
    rows = [task(v, "mqar", [1.0, 1.0]) for v in FEW]
    found = fronts([replace(timed, measurements=timed.measurements + tuple(rows))])
    assert {f.axes["causal"] for f in found if f.what == "mqar"} == {True}
    only = build_run(FEW, (512,), causal=(False,))
    found = fronts([replace(only, measurements=only.measurements + tuple(rows))])
    assert one(found, Cost.TIME, "mqar").source == "task mqar, causal"


def test_exact_kernels_that_differ_in_rounding_do_not_beat_each_other():
    run = with_fidelity(
        build_run((NAIVE, SDPA), (1024,)),
        {"full_naive": {"g": 0.99999999}, "full_sdpa": {"g": 0.99999998}},
    )
    exact = [replace(m, deviations=tuple(replace(d, skill_low=d.skill, skill_high=d.skill)
             for d in m.deviations)) for m in run.measurements]  # fmt: skip
    front = one(fronts([replace(run, measurements=tuple(exact))]), Cost.TIME, "g")
    assert [(p.point.label, p.on_front, p.probability) for p in front.placed] == [
        ("full_sdpa", True, 1.0),
        ("full_naive", False, 0.0),
    ]


def test_controls_do_not_compete():
    front = one(fronts([build_run((*FEW, MEAN), (512,))]), Cost.TIME, "gaussian")
    control = next(p for p in front.placed if p.point.label == "control_mean")
    assert (control.on_front, control.probability) == (False, None)
    assert all("control_mean" not in p.dominated_by for p in front.placed)


def test_the_length_of_a_front_is_that_at_which_most_variants_have_a_time():
    failures = {("full_naive", 4096): (Status.OOM, "no"), ("full_naive", 2048): (Status.OOM, "no")}
    found = fronts([build_run(FEW, (512, 1024, 2048, 4096), failures=failures)])
    assert {f.seq_len for f in found} == {1024}


def test_without_intervals_a_point_is_taken_as_it_stands():
    front = one(fronts([build_run(FEW, (512,), processes=1)]), Cost.TIME, "gaussian")
    assert not any(p.point.determined for p in front.placed)
    assert {p.probability for p in front.placed} <= {0.0, 1.0}


def test_runs_without_times_or_quality_have_no_front():
    assert fronts([]) == []
    assert fronts([Run("r", (task(NAIVE, "t", [1.0, 1.0]),))]) == []
    assert fronts([build_run((NAIVE,), (512,))]) == []
    failures = {(v.name, 512): (Status.ERROR, "no") for v in FEW}
    assert fronts([build_run(FEW, (512,), failures=failures)]) == []
