"""The table and the figures of recall: who holds how much, what is left out, what stands apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from subquad.contract import Workload
from subquad.record import Cell, Measurement, Recall, RecallPoint, Run, Status
from subquad.report.recall import Curve, panels, recall_section
from subquad.report.recall_figures import MOST_CURVES, draw_recall

CAUSAL = Workload(1, 1, 1024, 64, True)
PAIRS = (4, 16, 64, 256, 1024)


def measured(
    variant: str,
    accuracies: Sequence[float] | Mapping[int, float],
    *,
    family: str = "linear",
    state: int | None = None,
    w: Workload = CAUSAL,
    correlation: float = 0.0,
    half: float = 0.02,
    status: Status = Status.OK,
) -> Measurement:
    """A variant with these accuracies, each `half` unsure."""
    by_pairs = (
        accuracies if isinstance(accuracies, Mapping) else dict(zip(PAIRS, accuracies, strict=False))
    )
    points = tuple(
        RecallPoint(n, a, max(0.0, a - half), min(1.0, a + half), 256, 8, 64.0, {}, state)
        for n, a in by_pairs.items()
    )
    cell = Cell(variant, {}, w, {"name": "cpu"}, {"family": "gaussian", "seed": 0})
    recall = Recall(1024, correlation, points) if points else None
    return Measurement(cell, status, recall=recall, family=family, computes="different")


FULL = measured("full_naive", [1, 1, 1, 1, 1], family="full", state=2**19)
ELU = measured("linear_elu", [0.5, 0.1, 0.03, 0.02, 0.02], state=2**14)
IDENTITY = measured("linear_identity", [1, 1, 0.98, 0.6, 0.1], state=2**14)
WINDOW = measured("local_window", [1, 1, 1, 1, 0.25], family="local", state=2**17)


def text_of(*rows: Measurement) -> str:
    return "\n\n".join(recall_section([Run("planted", rows)]))


def line_of(text: str, variant: str) -> list[str]:
    line = next(x for x in text.splitlines() if x.startswith(f"| {variant} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_variants_are_sorted_by_what_they_hold():
    text = text_of(ELU, WINDOW, IDENTITY, FULL)
    names = [x.split("|")[1].strip() for x in text.splitlines() if x.startswith("| l") or "full" in x]
    assert names == ["full_naive", "local_window", "linear_identity", "linear_elu"]


def test_a_line_tells_pairs_held_accuracies_and_state():
    text = text_of(FULL, IDENTITY, ELU)
    assert "**causal, float32, head_dim 64, independent key inputs, 1024 codes**" in text
    assert line_of(text, "linear_identity") == [
        "linear_identity", "different", "64", "1.00 [0.98, 1.00]", "1.00 [0.98, 1.00]",
        "0.98 [0.96, 1.00]", "0.60 [0.58, 0.62]", "0.10 [0.08, 0.12]", "16.0 KiB",
    ]  # fmt: skip
    assert line_of(text, "full_naive")[2] == "≥ 1024"
    assert line_of(text, "linear_elu")[2] == "< 4"


def test_pairs_are_held_only_where_that_is_sure_and_so_are_all_fewer():
    def held(accuracies: Sequence[float], half: float = 0.02) -> int | None:
        return panels([Run("x", (measured("v", accuracies, half=half),))])[0].curves[0].held

    assert held([1, 0.95, 0.95, 0.5, 0.1]) == 64
    assert held([1, 0.95, 0.91, 0.5, 0.1]) == 16  # 0.91 - 0.02 is not above 0.9
    assert held([1, 0.95, 0.95, 0.5, 0.1], half=0.08) == 4
    assert held([1, 0.5, 1, 1, 1]) == 4
    assert held([0.5, 1, 1, 1, 1]) is None


def test_many_numbers_of_pairs_are_thinned_and_the_largest_stays():
    text = text_of(measured("v", {2**e: 1.0 for e in range(2, 11)}))
    head = next(x for x in text.splitlines() if x.startswith("| variant"))
    assert [h.strip() for h in head.split("|")[4:-2]] == [f"{n} pairs" for n in PAIRS]


def test_what_was_not_measured_is_a_dash_or_a_line():
    short = measured("short", {4: 1.0, 16: 1.0})
    nothing = measured("lowrank_nystrom", [])
    wrong = measured("wrong", [1, 1, 1, 1, 1], status=Status.INCORRECT)
    text = text_of(FULL, short, nothing, wrong)
    assert line_of(text, "short")[-3:] == ["–", "–", "–"]
    assert line_of(text, "short")[2] == "16"
    assert "No recall was measured of lowrank_nystrom, wrong." in text


def test_other_questions_have_a_table_of_their_own():
    free = measured("lowrank_nystrom", [1, 1, 1, 0.1, 0.1], w=Workload(1, 1, 1024, 64, False))
    alike = measured("linear_delta", [1, 0.8, 0.4, 0.1, 0.0], correlation=0.5)
    text = text_of(FULL, free, alike)
    assert "**not causal, float32, head_dim 64, independent key inputs, 1024 codes**" in text
    assert "**causal, float32, head_dim 64, 0.5-correlated key inputs, 1024 codes**" in text
    assert text.count("| variant |") == 3


def test_of_two_lengths_the_one_with_more_points_counts():
    few = measured("full_naive", [1, 1], family="full", w=Workload(1, 1, 16, 64, True))
    (panel,) = panels([Run("x", (few, FULL))])
    (curve,) = panel.curves
    assert len(curve.points) == 5


def test_without_recall_there_is_no_section_and_no_figure(tmp_path):
    runs = [Run("x", (measured("v", []),))]
    assert recall_section(runs) == []
    assert draw_recall(runs, "CPU", tmp_path) == []


def test_both_figures_are_in_three_formats_and_say_what_they_show(tmp_path):
    run = Run("x", (FULL, ELU, IDENTITY, WINDOW))
    figures = {f.name: f for f in draw_recall([run], "CPU", tmp_path)}
    assert list(figures) == ["recall_vs_pairs", "recall_vs_state"]
    for figure in figures.values():
        assert [p.suffix for p in figure.files] == [".png", ".svg", ".pdf"]
        assert all(p.stat().st_size > 1000 for p in figure.files)
    assert "chance is 1 / 1024" in figures["recall_vs_pairs"].caption
    assert "grey" not in figures["recall_vs_pairs"].caption
    assert "0 bytes" not in figures["recall_vs_state"].caption


def crowd(count: int) -> list[Measurement]:
    return [
        measured(
            f"{family}_{i:02d}", [1, 1 - i / 100, 0.9 - i / 100, 0.5 - i / 100, 0.2], family=family
        )
        for family in ("linear", "sparse")
        for i in range(count)
    ]


def drawn_labels(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Measurement], out) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(
        "subquad.report.recall_figures.label_ends", lambda ax, ends: seen.extend(e.text for e in ends)
    )
    monkeypatch.setattr("subquad.report.recall_figures.save", lambda figure, stem: [])
    draw_recall([Run("x", tuple(rows))], "CPU", out)
    return seen


def test_of_many_variants_the_best_and_worst_of_each_family_are_named(monkeypatch, tmp_path):
    few, many = crowd(MOST_CURVES // 2), crowd(MOST_CURVES)
    assert len(drawn_labels(monkeypatch, few, tmp_path)) == MOST_CURVES
    last = MOST_CURVES - 1
    expected = {f"{family}_{i:02d}" for family in ("linear", "sparse") for i in (0, last)}
    assert set(drawn_labels(monkeypatch, many, tmp_path)) == expected
    (figure,) = draw_recall([Run("x", tuple(many))], "CPU", tmp_path)
    assert "the others are grey" in figure.caption


def test_curves_of_a_family_that_lie_on_each_other_share_a_name(monkeypatch, tmp_path):
    again = measured("full_chunked", [1, 1, 1, 1, 1], family="full", state=2**19)
    other = measured("score_dot", [1, 1, 1, 1, 1], family="score", state=2**19)
    found = drawn_labels(monkeypatch, [again, FULL, other, ELU], tmp_path)
    assert found == ["full_naive +1", "score_dot", "linear_elu"] * 2  # the baseline gives the name


def test_a_state_of_nothing_is_owned_up_to(tmp_path):
    copy = measured("control_identity", [0.2, 0.1, 0, 0, 0], family="control", state=0)
    figures = draw_recall([Run("x", (FULL, ELU, copy))], "CPU", tmp_path)
    assert "0 bytes has no place" in figures[1].caption


def test_hostile_names_stay_text():
    text = text_of(measured("a|b<script>", [1, 1, 1, 1, 1]))
    assert "<script" not in text


def test_a_curve_knows_its_points_by_pairs():
    (panel,) = panels([Run("x", (ELU,))])
    curve: Curve = panel.curves[0]
    assert curve.at(64) is not None
    assert curve.at(64).accuracy == 0.03
    assert curve.at(65) is None
