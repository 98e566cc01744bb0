"""Deviation from full attention, against cases whose answer is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from scipy import stats
from torch import Tensor

from plants import Plain
from subquad.contract import AttentionFn, Supports, Variant, Workload, causal_mask, softmax_attention
from subquad.inputs import FAMILIES, Autoregressive, Gaussian, InputFamily, LowrankSink
from subquad.probes import fidelity
from subquad.probes.fidelity import (
    bias_and_spread,
    log_interval,
    mass_recall,
    mean_of_visible,
    measure,
    t_quantile,
)
from subquad.probes.matrix import full_weights
from subquad.probes.subject import Inputs, draw, sample_rows
from subquad.record import Deviation
from subquad.settings import FidelitySettings
from subquad.variants.control_rnn import ControlGru
from subquad.variants.controls import ControlMean
from subquad.variants.full_naive import FullNaive
from subquad.variants.full_sdpa import FullSdpaFlash
from subquad.variants.linear_performer import LinearPerformer
from subquad.variants.linear_retention import LinearRetention
from subquad.variants.local_window import LocalWindow
from subquad.variants.lowrank_nystrom import LowrankNystrom

GAUSSIAN = FAMILIES["gaussian"]()
SELF = Workload(1, 2, 96, 16, False)
FEW = FidelitySettings(rows=32, draws=2, seeds=4)


@dataclass(frozen=True)
class Mean(Plain):
    """The mean of the visible values: its skill is 0 by definition."""

    name: ClassVar[str] = "control_mean"

    def prepare(self, w: Workload) -> AttentionFn:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return mean_of_visible(w, Inputs(q, k, v, {}), torch.arange(w.seq_len)).to(v.dtype)

        return attend


@dataclass(frozen=True)
class Flat(Plain):
    """Softmax of the scores times `scale`: flatter than full attention below 1."""

    name: ClassVar[str] = "plant_flat"
    scale: float = 0.5

    def prepare(self, w: Workload) -> AttentionFn:
        mask = self.mask(w, torch.arange(w.seq_len))
        return lambda q, k, v: softmax_attention(self.scale * q, k, v, mask)


@dataclass(frozen=True)
class Signed(Plain):
    """1.5 times full attention less half of the query's own value: rows sum to 1, one weight is < 0."""

    name: ClassVar[str] = "plant_signed"

    def prepare(self, w: Workload) -> AttentionFn:
        return lambda q, k, v: 1.5 * softmax_attention(q, k, v) - 0.5 * v


@dataclass(frozen=True)
class WrongBackward(Plain):
    """Right forward; the gradient of the queries is `factor` times what it must be."""

    name: ClassVar[str] = "plant_wrong_backward"
    factor: float = 1.1

    def prepare(self, w: Workload) -> AttentionFn:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            steeper = self.factor * q - (self.factor - 1) * q.detach()  # q, with another derivative
            return softmax_attention(steeper, k, v)

        return attend


@dataclass(frozen=True)
class Noisy(Plain):
    """Full attention times 1 + bias, and from `seed` noise of the relative size `scatter`."""

    name: ClassVar[str] = "plant_noisy"
    bias: float = 0.0
    scatter: float = 0.0
    fatal: int = -1  # the seed whose output is not finite
    seed: int = 0

    def prepare(self, w: Workload) -> AttentionFn:
        noise = torch.randn(w.query_shape, generator=torch.Generator().manual_seed(self.seed))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            full = softmax_attention(q, k, v)
            out = (1 + self.bias) * full + self.scatter * full.square().mean().sqrt() * noise
            return out * math.nan if self.seed == self.fatal else out

        return attend


@dataclass(frozen=True)
class Faded(Plain):
    """Nine tenths of full attention, cut off from its inputs."""

    name: ClassVar[str] = "plant_faded"

    def prepare(self, w: Workload) -> AttentionFn:
        return lambda q, k, v: 0.9 * softmax_attention(q, k, v).detach()


@dataclass(frozen=True)
class Leaning(Plain):
    """Full attention and a little of the query, so that its gradient never vanishes."""

    name: ClassVar[str] = "plant_leaning"

    def prepare(self, w: Workload) -> AttentionFn:
        return lambda q, k, v: softmax_attention(q, k, v) + 1e-3 * q


@dataclass(frozen=True)
class Bend(Plain):
    """Not linear in the values, and without a finite gradient of them."""

    name: ClassVar[str] = "plant_bend"

    def prepare(self, w: Workload) -> AttentionFn:
        return lambda q, k, v: softmax_attention(q, k, v.square()) + (v * 0).sqrt()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seq_len", [1, 40, 300])
def test_full_attention_has_skill_1_and_the_mean_has_0(causal: bool, seq_len: int) -> None:
    w = Workload(1, 4, seq_len, 8, causal, kv_heads=2)
    full = measure(Plain(), w, GAUSSIAN, 0, FidelitySettings())
    mean = measure(Mean(), w, GAUSSIAN, 0, FidelitySettings())
    assert full.deviation is not None
    assert full.deviation < 1e-6
    if seq_len == 1:  # one value: its mean is full attention, nothing is left to be better at
        assert full.skill is None or mean.deviation == pytest.approx(0, abs=1e-6)
        return
    assert full.skill == pytest.approx(1, abs=1e-5)
    assert mean.skill == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "autoregressive", "lowrank_sink", "needle"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_control_that_averages_scores_0_on_every_family(family: str, causal: bool) -> None:
    w = Workload(1, 4, 128, 16, causal, kv_heads=2)
    found = measure(ControlMean(), w, FAMILIES[family](), 0, FEW)
    assert found.skill == pytest.approx(0, abs=1e-6)
    assert found.dq == 1.0  # it looks at no query: its gradient is zero, all of full attention's missed
    assert found.entropy_gap is not None
    assert found.entropy_gap > 0


def test_sampled_rows_estimate_the_deviation_of_all() -> None:
    w = Workload(1, 4, 512, 16, False)
    few = measure(Mean(), w, GAUSSIAN, 0, FidelitySettings(rows=64))
    every = measure(Mean(), w, GAUSSIAN, 0, FidelitySettings(rows=512))
    assert (few.rows, every.rows) == (64, 512)
    assert few.deviation == pytest.approx(every.deviation, rel=0.05)


def test_a_family_without_this_shape_gives_a_reason_and_no_number() -> None:
    w = Workload(1, 4, 64, 64, False)
    found = measure(Plain(), w, FAMILIES["captured"](), 0, FidelitySettings())
    assert found.deviation is None
    assert found.skill is None
    assert "head_dim 32" in found.reason


def test_rows_are_sorted_distinct_and_hold_both_ends() -> None:
    rows = sample_rows(Workload(1, 1, 1000, 8, False), 64, seed=3)
    assert len(rows) == len(rows.unique()) == 64
    assert (rows.diff() > 0).all()
    assert (int(rows[0]), int(rows[-1])) == (0, 999)


def test_a_function_of_its_own_is_not_applicable_and_a_control_is() -> None:
    w = replace(SELF, causal=True)
    retention = measure(LinearRetention(), w, GAUSSIAN, 0, FEW)
    assert retention == Deviation(
        "gaussian", reason="not applicable: linear_retention computes a function of its own"
    )
    control = measure(ControlGru(), w, GAUSSIAN, 0, FEW)
    assert control.reason == ""
    assert control.deviation is not None
    assert control.deviation > 0.5


def test_inputs_are_called_by_their_settings() -> None:
    assert measure(Plain(), SELF, Gaussian(0.25), 0, FEW).inputs == "gaussian(scale=0.25)"
    refused = measure(Plain(), SELF, LowrankSink(rank=16), 0, FEW)
    assert refused.inputs == "lowrank_sink(rank=16)"
    assert refused.deviation is None


@pytest.mark.parametrize("variant", [FullNaive(), FullSdpaFlash()])
@pytest.mark.parametrize("causal", [False, True])
def test_an_exact_variant_is_off_by_rounding_in_every_figure(variant: Variant, causal: bool) -> None:
    w = Workload(2, 4, 96, 16, causal, kv_heads=2)
    rounding = 30 * torch.finfo(torch.float32).eps
    found = measure(variant, w, GAUSSIAN, 0, FEW)
    for name in ("deviation", "dq", "dk", "dv", "map_error"):
        assert 0 < getattr(found, name) < rounding, name
    for name, expected in {"cosine": 1, "row_sum": 1, "mass_recall": 1}.items():
        assert getattr(found, name) == pytest.approx(expected, abs=rounding), name
    for name in ("kl", "entropy_gap", "negative_share"):
        assert getattr(found, name) == pytest.approx(0, abs=rounding), name
    assert (found.top, found.seeds, found.bias, found.spread) == (16, 0, None, None)


@pytest.mark.parametrize("phase", ["forward", "forward_backward"])
def test_float64_leaves_nothing_but_its_own_rounding(phase: Any) -> None:
    found = measure(FullNaive(), replace(SELF, dtype="float64", phase=phase), GAUSSIAN, 0, FEW)
    for name in ("deviation", "dq", "dk", "dv", "map_error"):
        assert getattr(found, name) < 1e-14, name


def test_half_precision_is_still_a_distribution() -> None:
    found = measure(FullNaive(), replace(SELF, dtype="bfloat16"), GAUSSIAN, 0, FEW)
    assert found.kl is not None
    assert 0 <= found.kl < 1e-3


@pytest.mark.parametrize("window", [24, 40])
def test_a_window_recalls_the_share_that_it_can_see(window: int) -> None:
    w = Workload(1, 2, 96, 16, True)
    found = measure(LocalWindow(window), w, GAUSSIAN, 5, replace(FEW, top=24))
    inputs, rows = draw(GAUSSIAN, w, 5, {}), sample_rows(w, FEW.rows, 5)
    full = full_weights(w, inputs, rows)
    distance = rows[:, None] - torch.arange(96)
    inside = full * ((distance >= 0) & (distance < window))
    recalled = inside.topk(24).values.sum(-1) / full.topk(24).values.sum(-1)
    assert found.mass_recall == pytest.approx(float(recalled.mean()), rel=1e-6)
    # Its weights are those of full attention over their sum in the window.
    assert found.kl == pytest.approx(float(-inside.sum(-1).log().mean()), rel=1e-4)
    assert found.map_error is not None
    assert found.map_error > 0.1


def test_flatter_weights_have_more_entropy_and_the_divergence_of_their_definition() -> None:
    found, steep = (measure(Flat(scale=scale), SELF, GAUSSIAN, 3, FEW) for scale in (0.5, 2.0))
    inputs, rows = draw(GAUSSIAN, SELF, 3, {}), sample_rows(SELF, FEW.rows, 3)
    full = full_weights(SELF, inputs, rows)
    flat = full_weights(SELF, Inputs(inputs.q / 2, inputs.k, inputs.v, {}), rows)
    assert found.kl == pytest.approx(float((flat * (flat / full).log()).sum(-1).mean()), rel=1e-4)
    gap = -(flat * flat.log()).sum(-1) + (full * full.log()).sum(-1)
    assert found.entropy_gap == pytest.approx(float(gap.mean()), rel=1e-4)
    assert steep.entropy_gap is not None
    assert found.entropy_gap > 0 > steep.entropy_gap
    assert found.mass_recall == pytest.approx(1)  # its order of keys is full attention's


def test_weights_below_zero_are_a_share_and_no_distribution() -> None:
    found = measure(Signed(), SELF, GAUSSIAN, 0, FEW)
    inputs, rows = draw(GAUSSIAN, SELF, 0, {}), sample_rows(SELF, FEW.rows, 0)
    signed = 1.5 * full_weights(SELF, inputs, rows) - 0.5 * torch.eye(96, dtype=torch.float64)[rows]
    share = -signed.clamp(max=0).sum() / signed.abs().sum()
    assert found.negative_share == pytest.approx(float(share), rel=1e-4)
    assert found.row_sum == pytest.approx(1, abs=1e-5)
    assert (found.kl, found.entropy_gap) == (None, None)


def test_rows_that_do_not_sum_to_1_are_no_distribution() -> None:
    found = measure(Faded(), SELF, GAUSSIAN, 0, FEW)
    assert found.row_sum == pytest.approx(0.9, abs=1e-6)
    assert (found.negative_share, found.kl, found.entropy_gap) == (0.0, None, None)
    assert found.deviation == pytest.approx(0.1, abs=1e-6)


def test_an_output_without_a_graph_has_gradient_zero() -> None:
    found = measure(Faded(), SELF, GAUSSIAN, 0, FEW)
    assert (found.dq, found.dk, found.dv) == (1.0, 1.0, 1.0)


def test_keys_of_one_weight_share_the_places_and_no_weight_is_no_choice() -> None:
    full = torch.tensor([[[[0.5, 0.3, 0.15, 0.05]]]], dtype=torch.float64)
    for found, expected in (
        ([0.5, 0.3, 0.1, 0.1], 1.0),
        ([0.1, 0.1, 0.3, 0.5], 0.2 / 0.8),
        ([0.25, 0.25, 0.25, 0.25], 0.5 / 0.8),  # two places for four keys
        ([0.2, 0.6, 0.2, 0.0], (0.3 + 0.65 / 2) / 0.8),
        ([0.0, 1.0, 0.0, 0.0], 0.3 / 0.8),
        ([-1.0, 2.0, 0.0, 0.0], 0.3 / 0.8),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
        ([0.0, -1.0, -2.0, -3.0], 0.0),
    ):
        weights = torch.tensor([[[found]]], dtype=torch.float64)
        assert mass_recall(weights, full, 2) == pytest.approx(expected), found


def test_the_mean_recalls_what_chance_would() -> None:
    found = measure(ControlMean(), SELF, GAUSSIAN, 0, FEW)
    full = full_weights(SELF, draw(GAUSSIAN, SELF, 0, {}), sample_rows(SELF, FEW.rows, 0))
    chance = (16 / 96) / full.topk(16).values.sum(-1)
    assert found.mass_recall == pytest.approx(float(chance.mean()), rel=1e-6)


def test_a_wrong_gradient_of_the_queries_shows_in_dq_alone() -> None:
    found = measure(WrongBackward(), SELF, GAUSSIAN, 0, FEW)
    assert found.dq == pytest.approx(0.1, rel=1e-4)
    for name in ("deviation", "dk", "dv"):
        assert getattr(found, name) < 1e-5, name


def test_without_a_backward_pass_there_are_no_gradients_and_the_rest_is() -> None:
    @dataclass(frozen=True)
    class ForwardOnly(Plain):
        supports: ClassVar[Supports] = Supports(phases=("forward",))

    found = measure(ForwardOnly(), SELF, GAUSSIAN, 0, FEW)
    assert (found.dq, found.dk, found.dv) == (None, None, None)
    assert found.map_error is not None


def test_one_key_has_no_gradient_to_be_held_against() -> None:
    w = Workload(1, 2, 1, 16, True)
    found = measure(FullNaive(), w, GAUSSIAN, 0, FEW)
    assert (found.deviation, found.dv) == (0.0, 0.0)
    assert found.skill is None
    leaning = measure(Leaning(), w, GAUSSIAN, 0, FEW)
    assert (leaning.dq, leaning.dk) == (None, 0.0)
    assert leaning.dv == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scatter", [0.0, 0.3])
@pytest.mark.parametrize("bias", [0.0, 0.2])
def test_bias_and_spread_are_those_of_a_known_random_method(bias: float, scatter: float) -> None:
    w = Workload(1, 4, 96, 32, False)
    found = measure(
        Noisy(bias=bias, scatter=scatter), w, GAUSSIAN, 0, FidelitySettings(rows=96, draws=1)
    )
    assert (found.seeds, found.draws) == (15, 1)
    # 12288 numbers of 15 draws each: the spread is known to 0.2 %, the bias² to 0.0004.
    assert found.spread == pytest.approx(scatter, rel=0.02, abs=1e-6)
    assert found.bias == pytest.approx(bias, abs=0.02)
    assert found.deviation == pytest.approx(math.hypot(bias, scatter), rel=0.05, abs=1e-6)


def test_the_bias_of_few_draws_is_not_their_scatter() -> None:
    """Without its correction it would be spread / 2 with four draws, whatever the method."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(20_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 20_000, generator=generator, dtype=torch.float64)
    bias, spread = bias_and_spread(full + 0.8 * noise, full)
    assert spread == pytest.approx(0.8, rel=0.02)
    assert bias < 0.1
    bias, _ = bias_and_spread(1.3 * full + 0.8 * noise, full)
    assert bias == pytest.approx(0.3, abs=0.03)


def test_a_draw_of_its_own_that_is_not_finite_is_told() -> None:
    found = measure(Noisy(fatal=2), SELF, GAUSSIAN, 0, FEW)
    assert found.reason == "no bias and spread: the output of seed=2 is not finite"
    assert (found.seeds, found.bias, found.spread) == (0, None, None)
    assert found.deviation is not None


def test_an_output_that_is_not_finite_is_a_reason_and_no_number() -> None:
    found = measure(Noisy(fatal=0), SELF, GAUSSIAN, 0, FEW)
    assert found == Deviation("gaussian", rows=32, reason="the output is not finite")


def test_what_is_not_linear_in_the_values_has_no_matrix_and_a_nan_gradient_is_told() -> None:
    found = measure(Bend(), SELF, GAUSSIAN, 0, FEW)
    assert found.deviation is not None
    assert (found.map_error, found.kl, found.mass_recall, found.top) == (None, None, None, 0)
    assert found.reason == "a gradient is not finite"
    assert found.dv is None


def test_figures_are_means_over_draws_of_inputs_with_an_interval() -> None:
    each = [measure(LinearPerformer(32), SELF, GAUSSIAN, s, replace(FEW, draws=1)) for s in range(4)]
    found = measure(LinearPerformer(32), SELF, GAUSSIAN, 0, replace(FEW, draws=4))
    assert all(one.low is None and one.high is None and one.draws == 1 for one in each)
    assert found.draws == 4
    for name in ("deviation", "mean_deviation", "cosine"):
        mean = sum(getattr(one, name) for one in each) / 4
        assert getattr(found, name) == pytest.approx(mean, rel=1e-12), name
    for name in ("dq", "map_error", "bias"):  # of the first draw
        assert getattr(found, name) == pytest.approx(getattr(each[0], name), rel=1e-12), name
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.deviation < found.high  # type: ignore[operator]
    assert found.skill_low is not None
    assert found.skill_high is not None
    assert found.skill_low < found.skill < found.skill_high  # type: ignore[operator]


def test_the_skill_of_a_mean_is_zero_without_a_doubt_though_deviations_scatter() -> None:
    found = measure(ControlMean(), SELF, GAUSSIAN, 0, replace(FEW, draws=4))
    assert found.high - found.low > 1e-3 * found.deviation  # type: ignore[operator]
    assert found.skill_low == pytest.approx(0, abs=1e-6)
    assert found.skill_high == pytest.approx(0, abs=1e-6)


def test_one_sample_is_one_draw_however_many_are_asked_for() -> None:
    found = measure(ControlMean(), Workload(1, 2, 64, 32, False), FAMILIES["captured"](), 0, FEW)
    assert (found.draws, found.low, found.high) == (1, None, None)
    assert found.skill == pytest.approx(0, abs=1e-6)


def test_the_interval_over_draws_covers_95_percent() -> None:
    """Deviations that scatter by 10 %; 2000 intervals, whose share has a standard error of 0.5 %."""
    generator = torch.Generator().manual_seed(1)
    drawn = 1 + 0.1 * torch.randn(2000, 5, generator=generator, dtype=torch.float64)
    inside = 0
    for values in drawn.tolist():
        low, high = log_interval(values)
        assert low is not None
        assert high is not None
        inside += low <= 1 <= high
    assert 0.93 < inside / 2000 < 0.97


def test_the_interval_of_a_ratio_covers_95_percent_and_knows_what_both_have_in_common() -> None:
    """Both scatter by 20 % together and by 2 % alone: the ratio is known ten times better."""
    generator = torch.Generator().manual_seed(1)
    common, above, below = torch.randn(3, 2000, 5, generator=generator, dtype=torch.float64)
    values = (1 + 0.2 * common) * (1 + 0.02 * above)
    over = 2 * (1 + 0.2 * common) * (1 + 0.02 * below)
    inside, widths = 0, []
    for v, o in zip(values.tolist(), over.tolist(), strict=True):
        low, high = log_interval(v, o)
        assert low is not None
        assert high is not None
        inside += low <= 0.5 <= high
        widths.append((high - low) / 0.5)
    assert 0.92 < inside / 2000 < 0.98
    assert sum(widths) / len(widths) < 0.1


def test_an_interval_is_never_below_zero_and_none_of_one_value() -> None:
    low, high = log_interval([1e-9, 1.0])
    assert low is not None
    assert high is not None
    assert 0 < low < 0.5 < high
    assert log_interval([0.0, 0.0]) == (0.0, 0.0)
    assert log_interval([0.5]) == (None, None)
    assert log_interval([1.0, 2.0], over=[0.0, 0.0]) == (None, None)
    low, high = log_interval([2.0, 4.0])  # mean 3, standard error 1
    assert high == pytest.approx(3 * math.exp(float(stats.t.ppf(0.975, 1)) / 3))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 14, 40, 101])
def test_the_quantile_of_t_is_scipys(df: int) -> None:
    assert t_quantile(df) == pytest.approx(float(stats.t.ppf(0.975, df)), rel=1e-9)


THOROUGH = ("cosine", "low", "dq", "map_error", "kl", "mass_recall", "bias", "spread")


@pytest.mark.parametrize(
    "w",
    [
        Workload(1, 2, 96, 16, True, phase="decode"),
        Workload(2, 2, 96, 16, True, lengths=(96, 50)),
        Workload(1, 2, 97, 16, True),
    ],
    ids=["decode", "ragged", "more than thorough_len"],
)
def test_elsewhere_the_output_alone_is_measured_on_one_draw(w: Workload) -> None:
    s = replace(FEW, thorough_len=96)
    found = measure(LinearPerformer(32), w, GAUSSIAN, 0, s)
    inputs, rows = draw(GAUSSIAN, w, 0, {}), sample_rows(w, s.rows, 0)
    assert found.draws == 1
    assert all(getattr(found, name) is None for name in THOROUGH)
    assert found.deviation == pytest.approx(by_hand(LinearPerformer(32), w, inputs, rows), rel=1e-5)
    assert measure(FullNaive(), w, GAUSSIAN, 0, s).deviation == pytest.approx(0, abs=1e-6)
    assert measure(ControlMean(), w, GAUSSIAN, 0, s).skill == pytest.approx(0, abs=1e-6)
    at_the_limit = measure(LinearPerformer(32), Workload(1, 2, 96, 16, True), GAUSSIAN, 0, s)
    assert all(getattr(at_the_limit, name) is not None for name in THOROUGH)


def by_hand(variant: Variant, w: Workload, inputs: Inputs, rows: Tensor) -> float:
    """Deviation of the variant's definition, each sequence of a batch on its own."""
    missed = size = 0.0
    for b, length in enumerate(w.lengths or [w.seq_len] * w.batch):
        alone = replace(w, batch=1, seq_len=length, lengths=None, phase="forward")
        q, k, v = (x[b : b + 1, :, :length].double() for x in (inputs.q, inputs.k, inputs.v))
        valid = rows[rows < length]
        full = softmax_attention(q[:, :, valid], k, v, causal_mask(alone, valid))
        missed += float((variant.oracle(alone)(q, k, v, valid) - full).square().sum())
        size += float(full.square().sum())
    return math.sqrt(missed / size)


def without_extras(*_: object) -> dict[str, Any]:
    return {}


@pytest.fixture
def output_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "_of_first_draw", without_extras)


@pytest.mark.usefixtures("output_alone")
@pytest.mark.parametrize(
    ("family", "landmarks", "least", "most"),
    [
        # Useless where landmarks, means of segments, average everything away.
        (Gaussian(0.25), 64, -0.02, 0.02),
        (Gaussian(), 16, -0.02, 0.03),
        (Gaussian(), 64, 0.0, 0.15),
        (Gaussian(2.0), 64, -0.3, 0.0),
        # Good where neighbours are alike over a segment.
        (Autoregressive(0.95), 64, 0.85, 0.97),
        (Autoregressive(0.99), 16, 0.9, 0.98),
        # Low rank is not enough without smoothness: most of what it scores is the sink.
        (LowrankSink(), 64, 0.5, 0.8),
        (LowrankSink(sink=0.0), 64, 0.1, 0.45),
    ],
)
def test_nystrom_is_useless_on_iid_inputs_and_good_on_smooth_ones(
    family: InputFamily, landmarks: int, least: float, most: float
) -> None:
    w = Workload(1, 2, 512, 64, False)
    found = measure(LowrankNystrom(landmarks), w, family, 0, FEW)
    assert found.skill is not None
    assert least < found.skill < most
