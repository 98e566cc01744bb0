"""Rows: every figure of a cell, found again where it was planted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from subquad.analyze.summary import columns, least_time_s, rows
from subquad.contract import Cost
from subquad.record import Gate, Kernels, Run, Status
from synthetic import ALL, LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run, timing


def row_of(found, variant, seq_len):
    return next(r for r in found if (r["variant"], r["seq_len"]) == (variant, seq_len))


def test_every_row_has_every_column_in_order():
    found = rows(build_run(failures={("full_sdpa", 512): (Status.OOM, "out of memory")}))
    expected = columns(["captured", "gaussian"])
    assert len(found) == 5 * len(ALL)
    assert all(list(r) == expected for r in found)
    assert expected[expected.index("score_high") + 1 :][:4] == [
        "deviation_captured",
        "skill_captured",
        "deviation_gaussian",
        "skill_gaussian",
    ]
    json.dumps(found, allow_nan=False)


def test_planted_figures_are_found():
    row = row_of(rows(build_run(seq_lens=(1024,))), "linear_elu", 1024)
    planted = 60e-6 + 45e-9 * 8 * 1024
    naive = 40e-6 + 2e-9 * 8 * 1024**2
    assert row["time_s"] == pytest.approx(planted, rel=0.3)
    assert row["time_low_s"] < planted < row["time_high_s"]
    assert row["speedup"] == pytest.approx(naive / planted, rel=0.05)
    assert row["speedup_low"] < row["speedup"] < row["speedup_high"]
    assert row["processes"] == 5
    assert row["samples"] == 5 * 5 * 3
    assert row["setup_s"] == 2e-4
    assert row["workspace_bytes"] == 300 * 8 * 1024
    assert row["peak_bytes"] == row["input_bytes"] + row["output_bytes"] + row["workspace_bytes"]
    assert row["skill_gaussian"] == pytest.approx(-0.2)
    assert row["flops_per_s"] == pytest.approx(row["flops"] / row["time_s"])
    assert row["aa_low"] < 1.02
    assert row["cold_time_s"] is None
    assert row["noisy"] is False
    assert (row["hardware"], row["threads"], row["inputs"], row["seed"]) == ("cpu-2", 2, "gaussian", 0)


def test_the_kernels_of_a_row_are_one_text_and_absent_where_nobody_looked():
    run = build_run((NAIVE, SDPA, LINEAR), (256,))
    kernels = (None, Kernels(("_scaled_dot_product_attention_math", "mine::rotate")), Kernels(()))
    measured = (replace(m, kernels=k) for m, k in zip(run.measurements, kernels, strict=True))
    found = rows(replace(run, measurements=tuple(measured)))
    assert [r["kernels"] for r in found] == [
        None,
        "_scaled_dot_product_attention_math; mine::rotate",
        "none seen",
    ]


def test_the_baseline_against_itself_is_one():
    row = row_of(rows(build_run(seq_lens=(256,))), "full_naive", 256)
    assert (row["speedup"], row["speedup_low"], row["speedup_high"]) == (1.0, 1.0, 1.0)


def test_another_reference_gives_no_speedup_but_its_noise():
    run = build_run(seq_lens=(256,), failures={("full_naive", 256): (Status.OOM, "out of memory")})
    row = row_of(rows(run), "linear_elu", 256)
    assert row["speedup"] is None
    assert row["time_s"] is not None
    assert row["aa_ratio"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("status", [s for s in Status if not s.has_time])
def test_a_failed_row_has_a_reason_and_no_figures(status):
    run = build_run(seq_lens=(256,), failures={("full_sdpa", 256): (status, "because")})
    row = row_of(rows(run), "full_sdpa", 256)
    assert (row["status"], row["reason"]) == (status.value, "because")
    assert all(row[n] is None for n in row if n.endswith(("_s", "_bytes")) or "speedup" in n)


def test_a_wrong_kernel_has_no_speed_even_if_it_was_timed():
    run = build_run(seq_lens=(256,))
    wrong = [
        replace(m, status=Status.INCORRECT, gate=Gate(float("nan"), 1e-6, 8)) for m in run.measurements
    ]
    for row in rows(replace(run, measurements=tuple(wrong))):
        assert row["time_s"] is row["speedup"] is row["roofline_share"] is row["oracle_error"] is None


def test_one_process_is_not_determined():
    row = row_of(rows(build_run(seq_lens=(256,), processes=1)), "linear_elu", 256)
    assert row["time_s"] is not None
    assert row["time_low_s"] is row["time_high_s"] is row["speedup_low"] is row["aa_low"] is None


def test_labels_name_only_the_parameters_that_differ():
    wide = replace(WINDOW, params={"window": 128, "sink": 4})
    narrow = replace(WINDOW, params={"window": 64, "sink": 4})
    found = rows(build_run((NAIVE, narrow, wide), (256,)))
    assert [r["label"] for r in found] == [
        "full_naive",
        "local_window[window=64]",
        "local_window[window=128]",
    ]
    assert found[1]["params"] == '{"sink":4,"window":64}'
    assert rows(build_run((NAIVE, wide), (256,)))[1]["label"] == "local_window"


def test_cold_time_is_reduced_like_the_hot_one():
    import numpy as np

    run = build_run((NAIVE,), (256,))
    m = run.measurements[0]
    hot = timing(m.timing.session, np.zeros(3), 1e-3, np.random.default_rng(0), noise=0)
    cold = tuple(replace(p, cold_blocks=((2e-3, 4e-3), (3e-3,))) for p in hot.processes)
    cold_run = replace(run, measurements=(replace(m, timing=replace(hot, processes=cold)),))
    assert rows(cold_run)[0]["cold_time_s"] == pytest.approx(3e-3)


CEILINGS = {
    "ceilings": {"flops_per_s": {"float32": 1e9}, "bytes_per_s": {"1000": 1e9, "100000": 1e8}},
}


@pytest.mark.parametrize(
    ("flops", "moved", "least"),
    [
        (5_000_000, 10, 5e-3),  # by arithmetic
        (1, 500, 5e-7),  # below the smallest working set: its ceiling
        (1, 99_999, 99_999e-9),
        (1, 200_000, 2e-3),  # above the largest: its ceiling
    ],
)
def test_least_time_is_set_by_the_nearer_ceiling(flops, moved, least):
    assert least_time_s(Cost(flops, moved, 0, 1.0), "float32", CEILINGS) == pytest.approx(least)


def test_a_larger_working_set_may_move_faster_than_a_small_one_that_is_mostly_calls():
    bytes_per_s = {"1000": 1e8, "100000": 1e9, "1000000": 5e8}
    ceilings = {"ceilings": {"flops_per_s": {"float32": 1e9}, "bytes_per_s": bytes_per_s}}
    assert least_time_s(Cost(1, 50_000, 0, 1.0), "float32", ceilings) == pytest.approx(5e-5)
    assert least_time_s(Cost(1, 2_000_000, 0, 1.0), "float32", ceilings) == pytest.approx(4e-3)


@pytest.mark.parametrize(
    "environment",
    [{}, {"ceilings": None}, {"ceilings": {"flops_per_s": {"float32": 1e9}}}, {"ceilings": {}}],
)
def test_no_ceiling_no_roofline_share(environment):
    assert least_time_s(Cost(1, 1, 0, 1.0), "float32", environment) is None
    assert all(
        r["roofline_share"] is None for r in rows(build_run((LINEAR,), (256,), environment=environment))
    )


def test_an_empty_run_has_no_rows():
    assert rows(Run("nothing", ())) == []


def test_families_of_another_run_are_empty_columns():
    found = rows(build_run((MEAN, SDPA), (256,)), families=("gaussian", "recall"))
    assert all(r["skill_recall"] is None and "skill_captured" not in r for r in found)
