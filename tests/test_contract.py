"""Workloads refuse what makes no sense, and the definitions they share are right."""

from __future__ import annotations

import pytest
import torch

from plants import Missing, Plain, Refusing
from subquad.contract import (
    Variant,
    Workload,
    causal_mask,
    io_bytes,
    repeat_heads,
    softmax_attention,
)
from subquad.discover import discover, missing_requirements


def workload(**changes: object) -> Workload:
    values = {"batch": 2, "heads": 4, "seq_len": 8, "head_dim": 16, "causal": False, **changes}
    return Workload(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 0}, "seq_len must be >= 1, got 0"),
        ({"batch": -1}, "batch must be >= 1, got -1"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads, got heads=4 and kv_heads=3"),
        ({"kv_heads": 0}, "kv_heads must be >= 1, got 0"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"phase": "train"}, "phase must be one of"),
        ({"causal": True, "kv_len": 4}, "causal attention needs kv_len >= seq_len"),
    ],
)
def test_a_workload_outside_its_range_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload(**changes)


def test_equal_heads_and_lengths_have_one_spelling() -> None:
    assert workload(kv_heads=4, kv_len=8) == workload()
    assert (workload().key_heads, workload().key_len) == (4, 8)
    assert workload(kv_heads=2).key_shape == (2, 2, 8, 16)


@pytest.mark.parametrize("kv_len", [None, 13])
@pytest.mark.parametrize("causal", [False, True])
def test_pairs_are_the_sum_of_the_mask(causal: bool, kv_len: int | None) -> None:
    w = workload(causal=causal, kv_len=kv_len)
    rows = torch.arange(w.seq_len)
    mask = causal_mask(w, rows) if causal else torch.ones(w.seq_len, w.key_len)
    assert int(mask.sum()) == w.pairs


def test_the_last_query_sees_the_last_key() -> None:
    mask = causal_mask(workload(causal=True, kv_len=11), torch.arange(8))
    assert mask[-1].all()
    assert mask[0].tolist() == [True] * 4 + [False] * 7


def test_softmax_attention_is_torchs() -> None:
    q, k, v = torch.randn(3, 2, 4, 8, 16, dtype=torch.float64).unbind()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(softmax_attention(q, k, v), expected)


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    q, k, v = torch.randn(3, 1, 1, 2, 4).unbind()
    mask = torch.tensor([[False, False], [True, True]])
    out = softmax_attention(q, k, v, mask)
    assert out[0, 0, 0].tolist() == [0.0] * 4
    assert out.isfinite().all()


def test_grouped_heads_serve_neighbours() -> None:
    x = torch.arange(2.0).reshape(1, 2, 1, 1)
    assert repeat_heads(x, 4).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_io_counts_inputs_and_output_and_their_gradients() -> None:
    assert io_bytes(workload()) == 4 * 2 * 4 * 8 * 16 * 4
    assert io_bytes(workload(phase="forward_backward")) == 2 * io_bytes(workload())


def test_refusals_name_value_and_limit() -> None:
    assert Refusing().unmet(workload()) == ["dtype=float32 (supports float16)"]
    assert Plain().unmet(workload(phase="decode", causal=True)) == [
        "phase=decode (supports forward, forward_backward)"
    ]
    assert missing_requirements(Missing()) == [
        "needs no-such-package>=1: pip install 'no-such-package>=1'"
    ]


def test_who_says_decode_has_a_decoder() -> None:
    for cls in discover().variants.values():
        says = "decode" in cls.supports.phases
        assert says == (cls.decoder is not Variant.decoder) or cls.requires, (
            cls.name
        )  # adapters inherit


def test_decode_and_lengths_refuse_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="phase=decode needs causal=true"):
        workload(phase="decode")
    with pytest.raises(ValueError, match=r"lengths must be 2 numbers .* from 1 to seq_len=8"):
        workload(lengths=(3, 9))
    with pytest.raises(ValueError, match="not with phase=decode"):
        workload(lengths=(3, 4), causal=True, phase="decode")
    assert workload(lengths=(8, 8)).lengths is None
