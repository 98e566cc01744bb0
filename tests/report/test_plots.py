"""Figures: which are drawn, what their captions own up to, and labels that do not collide."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.analyze.slices import slices
from subquad.analyze.summary import rows
from subquad.record import Status
from subquad.report.plots import MEMORY, MOST_LINES, TIME, _by_family, _leaders, draw_all
from subquad.report.style import FAMILY_COLOURS, family_colour, looks, powers, short_number, spread
from synthetic import ALL, LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run


def draw(run, out):
    return {f.name: f for f in draw_all(rows(run), "Synthetic CPU", out)}


def test_every_figure_has_three_formats(tmp_path):
    figures = draw(build_run(heads=(2, 8)), tmp_path)
    assert list(figures) == [
        "time_vs_seq_len",
        "memory_vs_seq_len",
        "speedup_vs_seq_len",
        "time_vs_heads",
    ]
    for figure in figures.values():
        assert [p.suffix for p in figure.files] == [".png", ".svg", ".pdf"]
        assert all(p.stat().st_size > 1000 for p in figure.files)


def test_heads_are_drawn_only_where_two_counts_were_measured(tmp_path):
    assert "time_vs_heads" not in draw(build_run((NAIVE, LINEAR)), tmp_path)


def test_one_length_draws_no_curve(tmp_path):
    assert list(draw(build_run((NAIVE, LINEAR), (256,)), tmp_path)) == []


def test_gaps_are_owned_up_to_in_the_caption(tmp_path):
    failures = {
        ("full_naive", 2048): (Status.SKIPPED_MEMORY, "too large"),
        ("full_naive", 4096): (Status.SKIPPED_MEMORY, "too large"),
        ("full_sdpa", 512): (Status.CRASHED, "signal 11"),
    }
    figures = draw(build_run((NAIVE, SDPA, LINEAR), failures=failures), tmp_path)
    caption = figures["time_vs_seq_len"].caption
    assert "full_naive: not at 2048, 4096 (skipped_memory); full_sdpa: not at 512 (crashed)" in caption
    assert "No speed-up where the baseline has no time." in figures["speedup_vs_seq_len"].caption


def test_more_than_four_facets_are_said_to_be_left_out(tmp_path):
    run = build_run((NAIVE, LINEAR), (256, 512), causal=(False, True), heads=(1, 2, 4))
    assert (
        "2 more workload families are in the tables." in draw(run, tmp_path)["time_vs_seq_len"].caption
    )


def test_a_family_has_one_colour_and_its_members_differ():
    found = rows(build_run((*ALL, LINEAR), (256,)))
    style = looks(found)
    assert {style[v.name].colour for v in ALL if v.family == "full"} == {FAMILY_COLOURS["full"]}
    members = [style[n] for n in ("full_naive", "full_sdpa")]
    assert members[0].marker != members[1].marker
    assert members[0].dash != members[1].dash
    assert style["local_window"] == looks(rows(build_run((WINDOW,), (256,))))["local_window"]
    assert family_colour("never seen") == family_colour("never seen")


@given(st.lists(st.floats(-1, 2), max_size=30), st.floats(0.01, 0.2))
def test_spread_labels_keep_their_order_and_distance(places, pitch):
    moved = spread(sorted(places), pitch)
    assert len(moved) == len(places)
    assert all(b - a >= pitch - 1e-9 for a, b in pairwise(moved))


def test_labels_with_room_stay_where_they_are():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def test_labels_stay_beside_the_axes():
    assert spread([0.95, 1.0, 1.0], 0.1, 0.0, 1.0) == pytest.approx([0.8, 0.9, 1.0])
    assert spread([0.0, 0.0], 0.1, 0.0, 1.0) == pytest.approx([0.0, 0.1])


def test_ticks_are_written_short():
    assert [short_number(t) for t in ("1.00 ms", "100 us", "0.500x", "64.0 KiB")] == [
        "1 ms",
        "100 us",
        "0.5x",
        "64 KiB",
    ]
    assert powers(1e-4, 1e-1, 10) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert len(powers(1, 2**40, 2)) <= 7


def test_more_lines_than_an_eye_can_follow_are_led_by_one_of_each_family(tmp_path):
    many = [replace(v, name=f"{v.name}_{i}") for i in range(8) for v in (WINDOW, LINEAR)]
    run = build_run((NAIVE, SDPA, *many), (256, 1024), causal=(False, True))
    figures = draw(run, tmp_path)
    assert list(figures) == [
        *("time_vs_seq_len", "time_vs_seq_len_by_family_1", "time_vs_seq_len_by_family_2"),
        *("memory_vs_seq_len", "memory_vs_seq_len_by_family_1", "speedup_vs_seq_len"),
    ]
    assert "Of each family the variant that is fastest" in figures["time_vs_seq_len"].caption
    by_family = [figures[f"time_vs_seq_len_by_family_{n}"].caption for n in (1, 2)]
    assert [", not causal" in caption for caption in by_family] == [True, False]
    assert "Black in every panel: the fastest exact variant." in by_family[0]


def test_leaders_are_the_baseline_and_the_fastest_of_each_family_but_no_control():
    slow = replace(LINEAR, name="linear_slow", time_s=lambda w: 9.0)
    (part,) = slices(rows(build_run((NAIVE, SDPA, slow, LINEAR, MEAN), (256, 4096))))
    assert _leaders(TIME, part).labels == ["full_naive", "full_sdpa", "linear_elu"]


def test_without_times_the_leaders_are_those_with_the_least_memory(tmp_path):
    many = [replace(LINEAR, name=f"linear_{i}", workspace=lambda w, i=i: 9 - i) for i in range(8)]
    run = build_run((NAIVE, SDPA, *many, *(replace(v, name=f"{v.name}_b") for v in ALL)), (256, 4096))
    untimed = [replace(m, timing=None, status=Status.TIMEOUT) for m in run.measurements]
    run = replace(run, measurements=tuple(untimed))
    (part,) = slices(rows(run))
    assert "linear_7" in _leaders(MEMORY, part).labels
    assert "linear_0" not in _leaders(MEMORY, part).labels
    figures = draw(run, tmp_path)
    assert list(figures) == ["memory_vs_seq_len", "memory_vs_seq_len_by_family_1"]
    controls = [replace(MEAN, name=f"control_{i}") for i in range(MOST_LINES + 1)]
    only = draw(build_run(controls, (256, 4096)), tmp_path)
    assert "time_vs_seq_len" in only


def test_small_families_share_a_panel_and_each_has_the_fastest_exact_variant():
    many = [replace(LINEAR, name=f"linear_{i}") for i in range(4)]
    (part,) = slices(rows(build_run((NAIVE, SDPA, WINDOW, *many), (256, 4096))))
    found = _by_family(TIME, part)
    assert [p.axes["family"] for p in found] == ["linear", "full, local"]
    assert [p.labels for p in found] == [
        ["full_sdpa", "linear_0", "linear_1", "linear_2", "linear_3"],
        ["full_naive", "full_sdpa", "local_window"],
    ]
