"""Controls: known figures, the layers of torch.nn, and that queries and keys are not read."""

from dataclasses import replace

import pytest
import torch

from subquad import conformance as c
from subquad.contract import Variant, Workload
from subquad.variants.control_rnn import ControlGru, ControlLstm, _Recurrent
from subquad.variants.controls import (
    ControlConv,
    ControlFourier,
    ControlIdentity,
    ControlMean,
    ControlZero,
    merged,
    split,
)

W = Workload(2, 2, 9, 4, causal=True)


def test_running_mean_of_a_count() -> None:
    w = Workload(1, 1, 4, 1, causal=True, kv_len=5)
    v = torch.arange(5.0).view(1, 1, 5, 1)
    q = torch.zeros(1, 1, 4, 1)
    assert ControlMean().prepare(w)(q, v, v).flatten().tolist() == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    "variant",
    [
        ControlMean(),
        ControlIdentity(),
        ControlZero(),
        ControlConv(),
        ControlFourier(),
        ControlGru(),
        ControlLstm(),
    ],
    ids=lambda v: v.name,
)
def test_queries_and_keys_are_not_read(variant: Variant) -> None:
    w = Workload(2, 2, 9, 4, causal=True in variant.supports.causal)
    (q, k, v), extra = c.draw(variant, w)
    attend = variant.prepare(w)
    nothing = torch.full_like(q, torch.nan)
    assert torch.equal(attend(nothing, nothing, v, **extra), attend(q, k, v, **extra))


def test_zero_is_zero_with_a_gradient_of_zero() -> None:
    w = Workload(2, 4, 9, 4, causal=False, kv_heads=2, kv_len=5)
    (q, k, v), _ = c.draw(ControlZero(), w)
    out = ControlZero().prepare(w)(q.requires_grad_(), k, v)
    assert out.shape == w.query_shape
    assert not out.any()
    (gradient,) = torch.autograd.grad(out.sum(), q)
    assert not gradient.any()


def test_merged_heads_come_apart_again() -> None:
    x = torch.randn(2, 3, 5, 4)
    assert merged(x)[1, 4, 2 * 4 + 3] == x[1, 2, 4, 3]
    assert torch.equal(split(merged(x), 3), x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("taps", [2, 3, 5, 150])
def test_convolution_equals_the_layer_of_torch(taps: int, causal: bool) -> None:
    w = Workload(2, 3, 70, 4, causal, dtype="float64")
    (q, k, v), extra = c.draw(ControlConv(taps), w)
    weights = extra["kernel"].softmax(-1).flip(1)[:, None]  # conv1d correlates
    x = v.permute(0, 3, 1, 2).flatten(0, 1)  # [B D, H, L]
    ahead = 0 if causal else (taps - 1) // 2
    x = torch.nn.functional.pad(x, (taps - 1 - ahead, ahead))
    expected = torch.nn.functional.conv1d(x, weights, groups=3).view(2, 4, 3, 70).permute(0, 2, 3, 1)
    torch.testing.assert_close(ControlConv(taps).prepare(w)(q, k, v, **extra), expected)


def test_equal_taps_are_a_moving_mean() -> None:
    w = Workload(1, 1, 5, 1, causal=True)
    v = torch.arange(5.0).view(1, 1, 5, 1)
    out = ControlConv(2).prepare(w)(v, v, v, kernel=torch.zeros(1, 2))
    assert out.flatten().tolist() == [0.0, 0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize(("n", "heads", "dim"), [(8, 2, 4), (7, 3, 3), (1, 1, 1), (6, 1, 2)])
def test_fourier_is_the_real_part_of_the_plain_transform(n: int, heads: int, dim: int) -> None:
    w = Workload(2, heads, n, dim, causal=False, dtype="float64")
    (q, k, v), _ = c.draw(ControlFourier(), w)
    expected = torch.fft.fft2(merged(v)).real
    torch.testing.assert_close(merged(ControlFourier().prepare(w)(q, k, v)), expected)


@pytest.mark.parametrize(
    ("variant", "layer"), [(ControlGru(), torch.nn.GRU), (ControlLstm(), torch.nn.LSTM)]
)
def test_recurrent_controls_are_the_layers_of_torch(
    variant: _Recurrent, layer: type[torch.nn.RNNBase]
) -> None:
    module = layer(8, 8, batch_first=True)  # type: ignore[call-arg]
    extra = {name.removesuffix("_l0"): x.detach() for name, x in module.named_parameters()}
    (q, k, v), drawn = c.draw(variant, W)
    assert {name: x.shape for name, x in drawn.items()} == {name: x.shape for name, x in extra.items()}
    with torch.no_grad():
        expected = module(merged(v))[0]
        torch.testing.assert_close(merged(variant.prepare(W)(q, k, v, **extra)), expected)


@pytest.mark.parametrize("variant", [ControlGru(), ControlLstm()])
def test_recurrent_controls_say_what_they_refuse(variant: Variant) -> None:
    w = Workload(1, 2, 8, 4, causal=False, kv_heads=1)
    assert variant.unmet(w) == [
        "causal=false (only causal)",
        "kv_heads=1 (needs kv_heads = heads = 2)",
    ]


def test_what_is_not_looked_at_is_no_traffic() -> None:
    """Copying the values was twice as fast as a machine that also reads queries and keys allows."""
    w = Workload(2, 4, 64, 16, causal=False)
    one = 2 * 4 * 64 * 16 * 4
    assert ControlIdentity().cost(w).bytes == 2 * one
    assert ControlMean().cost(w).bytes == 2 * one
    assert ControlZero().cost(w).bytes == one
    assert ControlZero().cost(replace(w, phase="forward_backward")).bytes == 2 * one
