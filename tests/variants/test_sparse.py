"""The sparse variants: who sees whom, no key twice, and what a selection selects."""

import pytest
import torch

from subquad.contract import Variant, Workload
from subquad.variants.sparse_bigbird import SparseBigbird
from subquad.variants.sparse_fixed import SparseFixed
from subquad.variants.sparse_longformer import SparseLongformer
from subquad.variants.sparse_lsh import Plan, Round, SparseLsh, buckets_of
from subquad.variants.sparse_strided import SparseStrided
from subquad.variants.sparse_topk import Selection, SparseTopk, largest


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
    SparseFixed(),
    SparseFixed(7, 0),
    SparseFixed(9, 9),
    SparseFixed(70, 3),
    SparseLongformer(9, 3),
    SparseLongformer(20, 0),
    SparseLongformer(1, 90),  # more global tokens than a block has rows
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


def test_fixed_sees_its_block_and_the_last_columns_of_all() -> None:
    assert drawn(weights_of(SparseFixed(3, 1), Workload(1, 1, 8, 8, causal=True))) == [
        "x.......",
        "xx......",
        "xxx.....",
        "..xx....",
        "..xxx...",
        "..xxxx..",
        "..x..xx.",
        "..x..xxx",
    ]
    assert drawn(weights_of(SparseFixed(3, 1), Workload(1, 1, 8, 8, causal=False))) == [
        *["xxx..x.."] * 3,
        *["..xxxx.."] * 3,
        *["..x..xxx"] * 2,
    ]


def test_longformer_adds_global_rows_and_columns_to_a_window() -> None:
    assert drawn(weights_of(SparseLongformer(3, 1), Workload(1, 1, 7, 7, causal=False))) == [
        "xxxxxxx",
        "xxx....",
        "xxxx...",
        "x.xxx..",
        "x..xxx.",
        "x...xxx",
        "x....xx",
    ]
    assert drawn(weights_of(SparseLongformer(2, 2), Workload(1, 1, 6, 6, causal=True))) == [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xx.xx.",
        "xx..xx",
    ]


@pytest.mark.parametrize("phase", ["forward", "forward_backward"])
def test_longformer_masks_of_wide_windows_and_many_blocks(phase: str) -> None:
    for window, first, causal in ((130, 70, True), (130, 70, False), (256, 1, True)):
        w = Workload(1, 2, 500, 8, causal, kv_heads=1, phase=phase)  # type: ignore[arg-type]
        q, k, v = (torch.randn(shape) for shape in (w.query_shape, w.key_shape, w.key_shape))
        variant = SparseLongformer(window, first)
        expected = variant.oracle(w)(q.double(), k.double(), v.double(), torch.arange(500))
        torch.testing.assert_close(variant.prepare(w)(q, k, v).double(), expected, atol=1e-5, rtol=0)


def test_the_largest_are_kept_and_of_equal_ones_the_first() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, keep in ((40, 7), (40, 39), (40, 40), (4000, 3), (2003, 50)):
        # Few distinct values, so that most rows have ties at the border.
        scores = torch.randint(0, 9, (6, size), generator=generator).float()
        scores[0] = 1.0
        scores[1, keep // 2 :] = -torch.inf
        best, index = largest(scores, keep)
        for row, values, places in zip(scores.tolist(), best.tolist(), index.tolist(), strict=True):
            ranked = sorted(range(size), key=lambda j: (-row[j], j))[:keep]
            seen = {j for j in ranked if row[j] > -torch.inf}
            assert {j for j, x in zip(places, values, strict=True) if x > -torch.inf} == seen
            assert [row[j] for j in places] == values
            assert len(set(places)) == keep


def test_topk_of_equal_scores_is_the_mean_of_the_first_keys() -> None:
    for causal in (False, True):
        weights = weights_of(SparseTopk(3), Workload(1, 1, 6, 6, causal))
        seen = ["x.....", "xx....", "xxx...", "xxx...", "xxx...", "xxx..."]
        assert drawn(weights) == (seen if causal else ["xxx..."] * 6)


def test_topk_counts_the_pairs_it_keeps() -> None:
    for causal, heads, ahead in ((False, 2, 0), (True, 1, 0), (True, 2, 30)):
        w = Workload(2, 2, 90, 8, causal, kv_heads=heads, kv_len=90 + ahead)
        q, k = torch.randn(w.query_shape), torch.randn(w.key_shape)
        rows = torch.arange(90)
        for keep in (1, 20, 200):
            visible = Selection.of(w, keep).visible(q, k, rows)
            assert (visible.sum((-2, -1)) == SparseTopk(keep).kept_pairs(w)).all()
            some = torch.tensor([3, 50, 89])
            assert torch.equal(Selection.of(w, keep).visible(q, k, some), visible[:, :, some])


def seen_by_hash(w: Workload, query: list[int], key: list[int], chunk: int) -> set[tuple[int, int]]:
    """The definition, pair by pair, for one head."""
    pairs = set()
    for i, bucket in enumerate(query):
        mine = [j for j, other in enumerate(key) if other == bucket]
        before = sum(j <= i if w.causal else j < i for j in mine)
        own = max(0, before - 1) // chunk if w.causal else before // chunk
        for rank, j in enumerate(mine):
            if abs(rank // chunk - own) <= 1 and (j <= i or not w.causal):
                pairs.add((i, j))
    return pairs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 60])
def test_a_plan_of_hashes_has_each_pair_of_the_definition_once(causal: bool, chunk: int) -> None:
    n, generator = 57, torch.Generator().manual_seed(chunk)
    w = Workload(2, 2, n, 4, causal, kv_heads=1)
    variant = SparseLsh(buckets=4, chunk=chunk)
    # The second round repeats many pairs of the first; one bucket of three holds most keys.
    query, key = (
        torch.randint(0, 3, (2, 2, heads, n), generator=generator).clamp(max=1 + chunk % 2)
        for heads in (2, 1)
    )
    rounds = [Round.of(w, q, k, chunk) for q, k in zip(query, key, strict=True)]
    plan = Plan(n, 2, variant.span(w), rounds, limit=1000)
    found: list[tuple[int, int, int]] = []
    for step in plan.steps():
        block, row, place = (~step.hidden).nonzero().T
        rows, keys = step.rows[block, row], step.keys[block, place]
        assert torch.equal(rows // (2 * n), keys // n)  # the same batch element
        found += zip((rows // n).tolist(), (rows % n).tolist(), (keys % n).tolist(), strict=True)
    assert len(found) == len(set(found))
    for a in range(4):
        wanted = set()
        for r in range(2):
            lists = query[r, a // 2, a % 2].tolist(), key[r, a // 2, 0].tolist()
            wanted |= seen_by_hash(w, *lists, chunk)
        assert {(i, j) for head, i, j in found if head == a} == {(i, j) for i, j in wanted if i != j}


def test_near_vectors_share_a_bucket_and_opposite_ones_do_not() -> None:
    variant = SparseLsh(buckets=8, rounds=3, seed=1)
    w = Workload(1, 1, 200, 16, causal=False)
    x = torch.randn(w.query_shape)
    found, near, scaled, opposite = (
        buckets_of(y, variant.rotations(w)) for y in (x, x + 1e-3 * torch.randn(x.shape), 5 * x, -x)
    )
    assert (found == near).double().mean() > 0.95
    assert torch.equal(found, scaled)
    assert torch.equal((found + 4) % 8, opposite)
    other = SparseLsh(buckets=8, rounds=3, seed=2)
    assert not torch.equal(found, buckets_of(x, other.rotations(w)))


def test_work_of_hashes_is_bounded_when_all_fall_in_one_bucket() -> None:
    n, chunk = 4096, 32
    w = Workload(1, 1, n, 4, causal=True)
    bucket = torch.zeros(1, 1, n, dtype=torch.int64)
    rounds = [Round.of(w, bucket, bucket, chunk)]
    assert rounds[0].blocks.numel() <= 2 * n
    assert int((rounds[0].high - rounds[0].low).max()) <= 2 * chunk


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


@pytest.mark.parametrize("n", [192, 193])  # whole blocks are copied as such, others key by key
@pytest.mark.parametrize("causal", [False, True])
def test_bigbird_gathers_whole_and_broken_blocks(n: int, causal: bool) -> None:
    w = Workload(2, 4, n, 8, causal, kv_heads=2)
    wide = torch.randn(3, 2, 2, n, 16)
    q = torch.randn(w.query_shape)
    k, v = wide[0, ..., :8], wide[1, ..., 8:]  # not contiguous
    variant = SparseBigbird(block=16)
    expected = variant.oracle(w)(q.double(), k.double(), v.double(), torch.arange(n))
    torch.testing.assert_close(variant.prepare(w)(q, k, v).double(), expected, atol=1e-5, rtol=0)


def test_the_seed_decides_the_draw() -> None:
    w = Workload(1, 1, 1000, 8, causal=False)
    first, same, other = (SparseBigbird(block=10, seed=s).visible_blocks(w) for s in (1, 1, 2))
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    "variant",
    [
        SparseBigbird(block=8),
        SparseStrided(),
        SparseStrided(20),
        SparseFixed(),
        SparseFixed(20, 5),
        SparseLongformer(10, 5),
        SparseTopk(5),
        SparseLsh(buckets=4, chunk=5),
    ],
    ids=lambda x: str(x),
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
        (lambda: SparseFixed(0), "stride must be >= 1, got 0"),
        (lambda: SparseLongformer(0), "window must be >= 1, got 0"),
        (lambda: SparseTopk(0), "keep must be >= 1, got 0"),
        (lambda: SparseLsh(buckets=3), "buckets must be 1 or even, got 3"),
    ],
)
def test_a_wrong_parameter_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
