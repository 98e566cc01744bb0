"""sparse_bigbird and sparse_strided: who sees whom, and no key twice."""

import pytest
import torch

from subquad.contract import Variant, Workload
from subquad.variants.sparse_bigbird import SparseBigbird
from subquad.variants.sparse_strided import SparseStrided


def weights_of(variant: Variant, w: Workload) -> torch.Tensor:
    """The attention matrix [n, n] on keys that are all alike: 1 / visible where visible."""
    zeros = torch.zeros(w.query_shape, dtype=w.torch_dtype)
    values = torch.eye(w.seq_len, w.head_dim, dtype=w.torch_dtype).expand(w.query_shape)
    return variant.prepare(w)(zeros, zeros, values)[0, 0]


def drawn(weights: torch.Tensor) -> list[str]:
    return ["".join("x" if weight > 0 else "." for weight in row) for row in weights]


VARIANTS = [
    SparseBigbird(block=4),
    SparseBigbird(block=5, window_blocks=5, global_blocks=2, random_blocks=2, seed=3),
    SparseBigbird(block=3, window_blocks=1, global_blocks=0, random_blocks=100),
    SparseStrided(),
    SparseStrided(3),
    SparseStrided(70),  # wider than a tile
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [1, 7, 81, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_no_key_is_counted_twice(variant: Variant, n: int, causal: bool) -> None:
    w = Workload(1, 1, n, n, causal, dtype="float64")
    rows = torch.arange(n)
    mask = variant.mask(w, rows)
    assert mask is not None
    visible = mask.double()
    # Were a key counted twice, its weight would be twice the others'.
    torch.testing.assert_close(weights_of(variant, w), visible / visible.sum(1, keepdim=True))
    assert variant.visible_pairs(w) == int(visible.sum())


def test_stride_sees_the_window_and_its_column() -> None:
    assert drawn(weights_of(SparseStrided(3), Workload(1, 1, 8, 8, causal=True))) == [
        "x.......",
        "xx......",
        "xxx.....",
        "xxxx....",
        ".xxxx...",
        "..xxxx..",
        "x..xxxx.",
        ".x..xxxx",
    ]
    assert drawn(weights_of(SparseStrided(3), Workload(1, 1, 8, 8, causal=False))) == [
        "xxxx..x.",
        "xxxxx..x",
        "xxxxxx..",
        "xxxxxxx.",
        ".xxxxxxx",
        "..xxxxxx",
        "x..xxxxx",
        ".x..xxxx",
    ]


def test_the_default_stride_is_the_root_of_the_length() -> None:
    assert SparseStrided().stride_of(Workload(1, 1, 1000, 8, causal=True)) == 32
    assert SparseStrided(5000).stride_of(Workload(1, 1, 1000, 8, causal=True)) == 1000


def test_global_blocks_see_and_are_seen_by_all() -> None:
    w = Workload(1, 1, 40, 40, causal=False)
    variant = SparseBigbird(block=4, window_blocks=1, global_blocks=2, random_blocks=0)
    expected = ["x" * 40] * 8
    for block in range(2, 10):
        row = "x" * 8 + "".join("x" * 4 if u == block else "." * 4 for u in range(2, 10))
        expected += [row] * 4
    assert drawn(weights_of(variant, w)) == expected


@pytest.mark.parametrize("causal", [False, True])
def test_bigbird_draws_the_number_it_says_outside_of_what_is_seen_anyway(causal: bool) -> None:
    w = Workload(1, 1, 1000, 8, causal)
    variant = SparseBigbird(block=10, window_blocks=3, global_blocks=2, random_blocks=4)
    for t, blocks in enumerate(variant.visible_blocks(w)):
        if blocks is None:
            assert t < 2
            continue
        assert len(blocks) == len(set(blocks))
        assert blocks[-1] == t
        assert {0, 1} <= set(blocks)
        last = t if causal else 99
        window = set(range(max(2, t - 1), min(last, t + 1) + 1))
        others = set(range(2, last + 1)) - window
        assert set(blocks) - {0, 1} - window <= others
        assert len(blocks) == 2 + len(window) + min(4, len(others))


def test_causal_draws_do_not_depend_on_the_length() -> None:
    short, long = (Workload(1, 1, n, 8, causal=True) for n in (640, 1000))
    variant = SparseBigbird(block=10)
    assert variant.visible_blocks(long)[:64] == variant.visible_blocks(short)


def test_the_seed_decides_the_draw() -> None:
    w = Workload(1, 1, 1000, 8, causal=False)
    first, same, other = (SparseBigbird(block=10, seed=s).visible_blocks(w) for s in (1, 1, 2))
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    "variant", [SparseBigbird(block=8), SparseStrided(), SparseStrided(20)], ids=lambda x: str(x)
)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_definition(variant: Variant, causal: bool) -> None:
    w = Workload(2, 4, 77, 4, causal=causal, kv_heads=2, dtype="float64", phase="forward_backward")
    q, k, v = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in (w.query_shape, w.key_shape, w.key_shape)
    )
    given = torch.randn(w.query_shape, dtype=torch.float64)
    got = torch.autograd.grad(variant.prepare(w)(q, k, v), (q, k, v), given)
    want = torch.autograd.grad(variant.oracle(w)(q, k, v, torch.arange(77)), (q, k, v), given)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_tiles_are_bounded_whatever_the_stride() -> None:
    n = 4096
    for stride in (1, 8, 64, 512, n):
        variant = SparseStrided(stride)
        inputs = 4 * n * 8 * 4
        assert variant.workspace_bytes(Workload(1, 1, n, 8, causal=True)) < 8 * inputs + 2**23


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseStrided(0), "stride must be >= 1, got 0"),
        (lambda: SparseBigbird(block=0), "block must be >= 1, got 0"),
        (lambda: SparseBigbird(window_blocks=2), "window_blocks must be odd, got 2"),
        (lambda: SparseBigbird(random_blocks=-1), "random_blocks must be >= 0, got -1"),
    ],
)
def test_a_wrong_parameter_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
