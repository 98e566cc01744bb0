"""Ragged batches and decoding are made of what a variant answers: whole sequences and steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from subquad import answer
from subquad.contract import Variant, Workload
from subquad.discover import discover
from subquad.inputs import FAMILIES
from subquad.probes import memory
from subquad.probes.subject import call_of, called_bytes, draw, set_up
from subquad.probes.work import WorkCounter

RAGGED = Workload(3, 2, 96, 16, causal=True, lengths=(96, 40, 7))
DECODE = Workload(2, 4, 50, 16, causal=True, phase="decode", kv_heads=2)
NAMES = ("full_naive", "local_window", "linear_elu")


def variant(name: str) -> Variant:
    return discover()[name]()


def inputs(w: Workload) -> tuple[Tensor, Tensor, Tensor]:
    return FAMILIES["gaussian"]().draw(w, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_in_a_ragged_batch_is_as_if_alone(name: str) -> None:
    q, k, v = inputs(RAGGED)
    out = answer.attention(variant(name), RAGGED)(q, k, v)
    for b, n in enumerate(RAGGED.lengths or ()):
        alone = variant(name).prepare(Workload(1, 2, n, 16, causal=True))
        expected = alone(*(x[b : b + 1, :, :n] for x in (q, k, v)))
        assert torch.equal(out[b : b + 1, :, :n], expected)
        assert not out[b, :, n:].any()


def test_the_padding_is_skipped_and_not_masked() -> None:
    """Operations of the ragged batch are those of its sequences, and the padded batch makes more."""

    def work(w: Workload) -> int:
        attend, (q, k, v) = answer.attention(variant("full_naive"), w), inputs(w)
        with WorkCounter() as counter:
            attend(q, k, v)
        return counter.work

    each = [work(answer.sequence(RAGGED, n)) for n in RAGGED.lengths or ()]
    written = 2 * 3 * 2 * 96 * 16  # the zeros, and the rows copied into them
    assert sum(each) <= work(RAGGED) <= sum(each) + written
    assert work(RAGGED) < 0.5 * work(replace(RAGGED, lengths=None))


def test_cost_of_a_ragged_batch_is_that_of_its_sequences() -> None:
    found = answer.cost(variant("full_naive"), RAGGED)
    pairs = sum(n * (n + 1) // 2 for n in RAGGED.lengths or ())
    assert found.flops == 4 * 2 * 16 * pairs


@pytest.mark.parametrize(
    ("name", "pairs"), [("full_naive", 1000), ("local_window", 256), ("linear_elu", None)]
)
def test_cost_of_a_step_is_what_one_position_adds(name: str, pairs: int | None) -> None:
    w = Workload(1, 2, 1000, 16, causal=True, phase="decode")
    found = answer.cost(variant(name), w)
    if pairs is None:  # a state of fixed size: the same at any length
        assert found == replace(answer.cost(variant(name), replace(w, seq_len=5000)))
        assert found.exponent == 0.0
    else:
        assert found.flops == 4 * 2 * 16 * pairs


@pytest.mark.parametrize("name", NAMES)
def test_a_decoding_call_is_the_last_row_and_can_be_repeated(name: str) -> None:
    given = draw(FAMILIES["gaussian"](), DECODE, 0, {})
    call = call_of(DECODE, set_up(variant(name), DECODE, given), given)
    expected = variant(name).oracle(answer.whole(DECODE))(
        *(x.double() for x in (given.q, given.k, given.v)), torch.tensor([49])
    )
    for _ in range(3):
        torch.testing.assert_close(call().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_state_of_a_decoder_is_what_the_set_up_keeps() -> None:
    given = draw(FAMILIES["gaussian"](), DECODE, 0, {})
    for name in NAMES:
        _, kept = memory.kept(lambda n=name: set_up(variant(n), DECODE, given), "cpu")
        state = answer.cost(variant(name), DECODE).state_bytes
        assert state is not None
        assert state <= kept <= state + 4096  # the mask of a window's prompt, at most
    assert called_bytes(DECODE, given, frozenset()) == 2 * (4 + 2 + 2) * 16 * 4


def test_a_sequence_too_short_for_a_variant_is_told() -> None:
    linformer = discover()["lowrank_linformer"](rank=64, projection="identity")  # type: ignore[call-arg]
    w = Workload(2, 2, 64, 16, causal=False, lengths=(64, 5))
    assert any("64" in reason for reason in answer.unmet(linformer, w))
    assert answer.unmet(variant("full_naive"), w) == []
