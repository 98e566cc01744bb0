"""What conformance cannot say of score forms: samples, unbiased estimates, sinks, memory at length."""

import math
from dataclasses import replace

import pytest
import torch

from subquad.conformance import (
    check_causal_ignores_the_future,
    check_cross_lengths,
    check_dtypes,
    check_gradient_equals_its_oracle,
    check_grouped_heads,
    check_workspace,
    conformance,
    draw,
)
from subquad.contract import Variant, Workload, softmax_attention
from subquad.oracle import relative_error
from subquad.probes.memory import allocator_peak
from subquad.variants.engines.query_chunks import cut
from subquad.variants.full_naive import FullNaive
from subquad.variants.score_additive import ScoreAdditive
from subquad.variants.score_cosine import ScoreCosine
from subquad.variants.score_differential import ScoreDifferential
from subquad.variants.score_dot import ScoreDot
from subquad.variants.score_hard import ScoreHard, chosen_keys, uniforms
from subquad.variants.score_sigmoid import ScoreSigmoid
from subquad.variants.score_sink import ScoreSink

SCORES = (
    ScoreAdditive(),
    ScoreCosine(),
    ScoreDifferential(),
    ScoreDot(),
    ScoreHard(),
    ScoreSigmoid(),
    ScoreSink(),
)

test_reinforce_is_what_its_oracle_says = conformance(
    ScoreHard("reinforce", temperature=0.5, seed=3),
    checks=(
        check_gradient_equals_its_oracle,
        check_causal_ignores_the_future,
        check_cross_lengths,
        check_dtypes,
        check_grouped_heads,
        check_workspace,
    ),
)


@pytest.mark.parametrize("phase", ["forward", "forward_backward"])
@pytest.mark.parametrize("variant", SCORES, ids=lambda v: v.name)
def test_any_cut_gives_the_same(variant: Variant, phase: str) -> None:
    w = Workload(2, 4, 23, 8, causal=True, kv_heads=2, kv_len=31, phase=phase)
    inputs, extra = draw(variant, w)
    leaves = [x.requires_grad_(phase == "forward_backward") for x in inputs]
    results = []
    for rows in (1, 12, 4096):
        out = replace(variant, rows=rows).prepare(w)(*leaves, **extra)
        results.append([out.detach()])
        if phase == "forward_backward":
            results[-1] += torch.autograd.grad(out.square().sum(), leaves)
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert relative_error(actual, expected) < 1e-5


def test_a_step_has_about_as_many_rows_as_asked() -> None:
    assert cut(256, 8, 1, 4096) == (2, 128)
    assert cut(256, 2, 4, 4096) == (2, 32)
    assert cut(256, 1, 1, 4096) == (1, 256)
    assert cut(256, 16, 1, 32) == (8, 32)
    assert cut(1, 16, 4, 32) == (2, 1)


@pytest.mark.parametrize("variant", SCORES, ids=lambda v: v.name)
def test_memory_grows_with_length_not_its_square(variant: Variant) -> None:
    peaks = []
    for n in (512, 2048):
        w = Workload(1, 1, n, 8, causal=True)
        inputs, extra = draw(variant, w)
        attend = replace(variant, rows=16).prepare(w)
        with torch.no_grad():
            peaks.append(allocator_peak(lambda a=attend, x=inputs, e=extra: a(*x, **e))[0])
    assert peaks[1] < 4.3 * peaks[0]


def test_dot_cosine_and_sink_become_full_attention_where_their_scores_do() -> None:
    w = Workload(2, 4, 40, 16, causal=True, kv_heads=2)
    (q, k, v), _ = draw(ScoreDot(), w)
    expected = FullNaive().prepare(w)(q, k, v)
    assert relative_error(ScoreDot().prepare(w)(q / 4, k, v), expected) < 1e-6
    unit_q, unit_k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    expected = FullNaive().prepare(w)(unit_q, unit_k, v)
    g = torch.full((4,), 0.25)
    assert relative_error(ScoreCosine().prepare(w)(q, 7 * k, v, g=g), expected) < 1e-6


def test_softmax_is_off_by_one_with_a_sink_of_zero() -> None:
    w = Workload(1, 1, 1, 4, causal=True)
    q, k, v = (
        torch.tensor([[[[2.0, 0, 0, 0]]]]),
        torch.tensor([[[[3.0, 0, 0, 0]]]]),
        torch.ones(w.key_shape),
    )
    out = ScoreSink().prepare(w)(q, k, v, sink=torch.zeros(1))
    weight = math.exp(3.0) / (1 + math.exp(3.0))  # the score is 2 x 3 / sqrt(4)
    assert torch.allclose(out, torch.full_like(out, weight))


def test_a_sink_far_above_all_scores_takes_everything() -> None:
    w = Workload(1, 2, 9, 4, causal=True)
    (q, k, v), _ = draw(ScoreSink(), w)
    assert ScoreSink().prepare(w)(q, k, v, sink=torch.full((2,), 500.0)).abs().max() == 0


def test_sigmoid_of_no_score_is_one_in_n_plus_one() -> None:
    for causal in (False, True):
        w = Workload(1, 1, 9, 4, causal=causal, kv_len=12)
        (q, k, v), _ = draw(ScoreSigmoid(), w)
        out = ScoreSigmoid().prepare(w)(q, 0 * k, v)
        seen = v.cumsum(2)[:, :, 3:] if causal else v.sum(2, keepdim=True)
        assert torch.allclose(out, (seen / 13).expand_as(out), atol=1e-6)


def test_additive_scores_by_hand() -> None:
    w = Workload(1, 1, 1, 2, causal=False, kv_len=2)
    q, k = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.5, 0.0], [-1.0, 3.0]]]])
    v = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    w_q, w_k, u = torch.tensor([[[1.0], [0.5]]]), torch.tensor([[[-4.0], [0.0]]]), torch.tensor([[3.0]])
    scores = [3 * math.tanh(2 - 2), 3 * math.tanh(2 + 4)]  # W q = 2, U k = -2 and 4
    first = 1 / (1 + math.exp(scores[1] - scores[0]))
    out = ScoreAdditive(hidden=1).prepare(w)(q, k, v, w_q=w_q, w_k=w_k, u=u)
    assert torch.allclose(out, torch.tensor([[[[first, 1 - first]]]]))


def test_one_of_two_equal_maps_is_left() -> None:
    w = Workload(2, 4, 20, 8, causal=True, kv_heads=2)
    (q, k, v), _ = draw(ScoreDifferential(), w)
    out = ScoreDifferential().prepare(w)(q, k, v, q2=q, k2=k, lam=torch.full((4,), 0.75))
    assert relative_error(out, 0.25 * FullNaive().prepare(w)(q, k, v)) < 1e-5


def test_hard_takes_the_largest_score_and_of_equals_the_first() -> None:
    scores = torch.randint(0, 4, (50, 11), generator=torch.Generator().manual_seed(0)).double()
    chosen = chosen_keys(scores, None)[:, 0]
    for row, found in zip(scores.tolist(), chosen.tolist(), strict=True):
        assert found == row.index(max(row))


def test_a_sample_is_where_the_weights_so_far_pass_the_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 7, generator=generator, dtype=torch.float64)
    scores[:, 5:] = -math.inf
    draws = torch.rand(200, 1, generator=generator, dtype=torch.float64)
    draws[0], draws[1] = 0.0, 1 - 2.0**-33
    chosen = chosen_keys(scores, draws)[:, 0].tolist()
    for row, share, found in zip(scores.tolist(), draws[:, 0].tolist(), chosen, strict=True):
        weights, passed, expected = [math.exp(x) for x in row], 0.0, -1
        while passed <= share * sum(weights):
            expected += 1
            passed += weights[expected]
        assert found == expected
    assert max(chosen) == 4


def test_uniforms_are_uniform_and_differ_by_everything_they_are_for() -> None:
    index = torch.arange(100)
    draws = uniforms(0, index[:, None, None], index[:10, None], index)  # 100,000 of them
    counts = torch.histc(draws, 50, 0, 1)
    expected = draws.numel() / 50
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 49 + 4 * math.sqrt(2 * 49)
    assert draws.unique().numel() > 0.999 * draws.numel()
    assert not torch.equal(draws, uniforms(1, index[:, None, None], index[:10, None], index))
    for dim in range(3):
        pairs = torch.stack([draws.narrow(dim, 0, 9).flatten(), draws.narrow(dim, 1, 9).flatten()])
        assert abs(float(pairs.corrcoef()[0, 1])) < 4 / math.sqrt(pairs.shape[1])


def test_reinforce_is_unbiased_for_a_loss_linear_in_the_output() -> None:
    copies, temperature = 20000, 0.7
    w = Workload(copies, 1, 2, 3, causal=True, kv_len=5, phase="forward_backward", dtype="float64")
    one = replace(w, batch=1)
    (q, k, v), _ = draw(ScoreDot(), one)
    weight = torch.randn(1, 1, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    leaves = [x.requires_grad_() for x in (q, k, v)]
    exact = softmax_attention(q / temperature, k, v, FullNaive().mask(one, torch.arange(2)))
    expected = torch.autograd.grad((exact * weight).sum(), leaves)

    many = [x.detach().repeat(copies, 1, 1, 1).requires_grad_() for x in (q, k, v)]
    out = ScoreHard("reinforce", temperature).prepare(w)(*many)
    estimates = torch.autograd.grad((out * weight).sum(), many)
    for estimate, truth in ((out.detach(), exact.detach()), *zip(estimates, expected, strict=True)):
        error = (estimate.mean(0) - truth[0]).abs()
        standard = estimate.std(0) / math.sqrt(copies)
        assert (error <= 4.5 * standard + 1e-12).all()
        assert (standard > 0).any()  # it was an estimate


def test_straight_through_derives_as_softmax_does() -> None:
    w = Workload(1, 2, 7, 4, causal=True, phase="forward_backward")
    (q, k, v), _ = draw(ScoreHard(), w)
    leaves = [q.requires_grad_(), k.requires_grad_()]
    hard = torch.autograd.grad(ScoreHard().prepare(w)(q, k, v).sum(), leaves)
    soft = torch.autograd.grad(FullNaive().prepare(w)(q, k, v).sum(), leaves)
    for actual, expected in zip(hard, soft, strict=True):
        assert relative_error(actual, expected) < 1e-5


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="gradient must be one of straight_through, reinforce"):
        ScoreHard("exact")
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        ScoreHard(temperature=0)
    with pytest.raises(ValueError, match="hidden must be >= 1, got 0"):
        ScoreAdditive(hidden=0)
    for variant in SCORES:
        with pytest.raises(ValueError, match="rows must be >= 1, got 0"):
            replace(variant, rows=0)
