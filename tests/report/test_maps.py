"""Maps: colours that say what they claim, figures that are right, and one line for what cannot be."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm, to_rgba

from subquad import maps
from subquad.config import ConfigError
from subquad.contract import Variant, Workload
from subquad.inputs import FAMILIES
from subquad.probes.heads import heads
from subquad.report.maps import EMPTY, NEGATIVE, POSITIVE, Map, coloured, page_text, scale, write
from subquad.variants.control_rnn import ControlGru
from subquad.variants.controls import ControlFourier, ControlMean
from subquad.variants.linear_delta import LinearDelta
from subquad.variants.local_window import LocalWindow

GAUSSIAN = FAMILIES["gaussian"]()
W = Workload(1, 2, 24, 8, causal=True)  # the fewest panels that show heads apart
NORM = LogNorm(1e-4, 1.0)


def make(out: Path, *variants: Variant, w: Workload = W) -> dict[str, list[str]]:
    """The table of the page, by variant."""
    page = maps.make(variants, w, GAUSSIAN, out).page.read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    return {c[0]: c for c in cells}


def lightness(colours: np.ndarray) -> np.ndarray:
    """L of OKLab (Ottosson 2020) of sRGB colours."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    cone = (
        linear
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    light: np.ndarray = np.cbrt(cone) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])
    return light


def test_both_ramps_darken_evenly_and_alike():
    positive, negative = (lightness(np.array(m.colors)) for m in (POSITIVE, NEGATIVE))
    steps = np.diff(positive)
    assert steps.max() < 0
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.25)
    np.testing.assert_allclose(positive, negative, atol=0.005)


def test_no_size_of_a_weight_looks_like_nothing():
    grey = np.array(to_rgba(EMPTY)[:3])
    for ramp in (POSITIVE, NEGATIVE):
        assert np.abs(np.array(ramp.colors) - grey).max(-1).min() > 0.08
    assert np.abs(np.array(POSITIVE.colors) - np.array(NEGATIVE.colors)).max(-1).min() > 0.1


def test_zero_is_grey_the_future_white_and_a_leak_into_it_seen():
    weights = np.array([[0.5, 0.0, 1e-3], [0.0, -0.5, 0.0], [1e-9, 0.5, 0.1]])
    seen = coloured(weights, NORM, causal=True)
    grey, white = to_rgba(EMPTY), (1, 1, 1, 1)
    assert tuple(seen[1, 0]) == grey
    assert tuple(seen[0, 1]) == tuple(seen[1, 2]) == white
    assert tuple(seen[0, 2]) == POSITIVE(NORM(1e-3))
    assert tuple(seen[1, 1]) == NEGATIVE(NORM(0.5))
    assert tuple(seen[2, 0]) == POSITIVE(0.0)  # as faint as it gets, and not nothing
    assert tuple(coloured(weights, NORM, causal=False)[0, 1]) == grey


def test_one_scale_holds_the_largest_weight_of_all():
    small, large = torch.full((1, 4, 4), 0.25), torch.full((1, 4, 4), -3.0)
    norm = scale([Map("a", "full", small), Map("b", "linear", large), Map("c", "control")])
    assert (norm.vmin, norm.vmax) == (pytest.approx(0.25 / 100), 3.0)


def test_figures_of_known_attention(tmp_path):
    found = make(tmp_path, LocalWindow(5), ControlMean())
    head = found["variant"]
    assert list(found)[2:] == ["full_naive", "local_window(window=5)", "control_mean"]
    full, window, mean = ((dict(zip(head, c, strict=True))) for c in list(found.values())[2:])
    assert float(full["from full"]) < 1e-6
    assert full["reach"] == "23 / 0"
    assert window["reach"] == "4 / 0"
    assert float(window["from full"]) > 0.3
    entropy = float(torch.arange(1, 25).double().log().mean())
    assert float(mean["entropy"]) == pytest.approx(entropy, abs=0.01)
    assert (mean["first key"], mean["row sum"], mean["negative"]) == ("0.000", "1.000", "0 %")


def test_full_attention_stands_first_unless_it_is_asked_for(tmp_path):
    from subquad.variants.full_sdpa import FullSdpaMath

    assert list(make(tmp_path, FullSdpaMath(), ControlMean()))[2:] == ["full_sdpa_math", "control_mean"]


def test_what_has_no_matrix_or_does_not_run_says_why_and_is_not_drawn(tmp_path):
    found = make(tmp_path, ControlGru(), ControlFourier())
    page = (tmp_path / "maps.md").read_text()
    assert "- control_gru: has no matrix: its output is not a linear function" in page
    assert "- control_fourier: causal=true (has no causal form)" in page
    gru = dict(zip(found["variant"], found["control_gru"], strict=True))
    assert (gru["entropy"], gru["from full"], gru["reach"]) == ("–", "–", "23 / 0")
    assert "![attention matrices](maps.png)" in page
    nothing = [Map("control_gru", "control", reason="has no matrix")]
    written = write(nothing, W, "gaussian", tmp_path / "none")
    assert written.figures == ()
    assert "maps.png" not in written.page.read_text()


def test_the_csv_has_a_row_for_every_head(tmp_path):
    make(tmp_path, LinearDelta(), ControlGru())
    rows = list(csv.DictReader((tmp_path / "maps.csv").open()))
    assert [(r["variant"], r["head"]) for r in rows] == [
        (name, head) for name in ("full_naive", "linear_delta") for head in "01"
    ]
    assert all(float(r["keys"]) > 1 for r in rows)
    assert float(rows[2]["negative_share"]) > 0.1 > float(rows[0]["negative_share"])


def test_the_same_maps_have_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        make(tmp_path / folder, LinearDelta())
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["maps.csv", "maps.md", "maps.pdf", "maps.png", "maps.svg"]
    assert all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )


def test_one_position_and_many_heads_are_drawn(tmp_path):
    make(tmp_path, ControlMean(), w=Workload(1, 1, 1, 8, causal=True))
    make(tmp_path, ControlMean(), w=Workload(1, 12, 5, 8, causal=False))


def test_a_name_does_not_become_markup():
    page = page_text([Map("x|y(path=$a_b$<i>)", "full", reason="a|b")], "asked")
    assert "x\\|y(path=$a_b$&lt;i&gt;)" in page


def test_labels_that_read_as_mathematics_are_drawn_as_text(tmp_path):
    w = Workload(1, 1, 2, 8, causal=False)
    found = torch.full((1, 2, 2), 0.5)
    odd = Map("x_$bad{(path=$a_b$, s=$)", "full", found, heads(found[None], w, torch.arange(2)), [0.1])
    assert len(write([odd], w, "captured(path=$)", tmp_path).figures) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "unknown inputs 'nothing': known are gaussian"),
        (["captured", "layer=middle"], "layer must be one of early, late"),
        (["captured", "late"], "cannot read 'late': write SETTING=VALUE after captured"),
        (["captured", "depth=3"], "depth"),
        (["gaussian", "scale=much"], "much"),
    ],
)
def test_inputs_that_are_not_there_are_one_line(words, said):
    with pytest.raises(ConfigError, match=said) as error:
        maps.chosen_family(words)
    assert "\n" not in str(error.value)


def test_inputs_are_read_with_their_settings():
    assert maps.chosen_family(["captured", "layer=late"]).label == "captured(layer=late)"


def test_what_is_too_large_or_has_no_inputs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="up to 1024 positions, got seq_len=4096"):
        maps.make([], Workload(1, 1, 4096, 8, False), GAUSSIAN, tmp_path)
    with pytest.raises(ConfigError, match="head_dim 32, got 8"):
        maps.make([], W, FAMILIES["captured"](), tmp_path)
