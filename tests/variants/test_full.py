"""What conformance cannot say of full attention: which kernel ran, memory at length, refusals."""

import pytest
import torch

from subquad.conformance import draw
from subquad.contract import Variant, Workload
from subquad.oracle import relative_error
from subquad.probes.memory import allocator_peak
from subquad.variants.full_chunked import FullChunked
from subquad.variants.full_flex import FullFlex
from subquad.variants.full_sdpa import FullSdpaFlash, FullSdpaMath
from subquad.variants.full_xformers import FullXformers


def operators(variant: Variant, w: Workload) -> set[str]:
    inputs, _ = draw(variant, w)
    attend = variant.prepare(w)
    with torch.profiler.profile() as profiler:
        attend(*inputs)
    return {event.name for event in profiler.events() if "attention" in event.name}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kv_len", [None, 48])
@pytest.mark.parametrize("head_dim", [3, 64, 512])
def test_the_kernel_named_is_the_kernel_that_runs(
    dtype: str, kv_len: int | None, head_dim: int
) -> None:
    w = Workload(1, 4, 32, head_dim, causal=True, kv_heads=2, kv_len=kv_len, dtype=dtype)
    assert operators(FullSdpaMath(), w) == {"aten::_scaled_dot_product_attention_math"}
    assert operators(FullSdpaFlash(), w) == {"aten::_scaled_dot_product_flash_attention_for_cpu"}


def test_math_and_flash_are_what_torch_runs_under_these_names() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    w = Workload(1, 4, 40, 16, causal=True)
    (q, k, v), _ = draw(FullSdpaMath(), w)
    for variant, backend in (
        (FullSdpaMath(), SDPBackend.MATH),
        (FullSdpaFlash(), SDPBackend.FLASH_ATTENTION),
    ):
        with sdpa_kernel([backend]):
            expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        assert torch.equal(variant.prepare(w)(q, k, v), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_chunked_stays_small_and_exact_at_16384(causal: bool) -> None:
    w = Workload(1, 1, 16384, 64, causal=causal)
    inputs, _ = draw(FullChunked(), w)
    attend = FullChunked().prepare(w)
    outputs: list[torch.Tensor] = []
    peak, _ = allocator_peak(lambda: outputs.append(attend(*inputs)))
    assert peak - inputs[0].nbytes < 40e6
    rows = torch.arange(0, w.seq_len, 127)
    expected = FullChunked().oracle(w)(*(x.double() for x in inputs), rows)
    assert relative_error(outputs[0][:, :, rows], expected) < 1e-6


def test_chunked_backward_memory_grows_with_length_not_its_square() -> None:
    peaks = []
    for n in (1024, 4096):
        w = Workload(1, 1, n, 16, causal=True, phase="forward_backward")
        inputs, _ = draw(FullChunked(), w)
        attend = FullChunked(256, 256).prepare(w)
        leaves = [x.requires_grad_() for x in inputs]
        peaks.append(allocator_peak(lambda a=attend, x=leaves: a(*x).sum().backward())[0])
    assert peaks[1] < 4.5 * peaks[0]


@pytest.mark.parametrize("field", ["query_chunk", "key_chunk"])
def test_chunk_sizes_are_at_least_one(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be >= 1, got 0"):
        FullChunked(**{field: 0})


def test_refusals_say_why() -> None:
    w = Workload(1, 2, 32, 65, causal=False, device="cuda")
    assert FullSdpaFlash().unmet(w) == [
        "dtype=float32 (flash on CUDA supports bfloat16, float16)",
        "head_dim=65 (flash on CUDA needs a multiple of 8 up to 256)",
    ]
    here = Workload(1, 2, 32, 64, causal=False, phase="forward_backward")
    assert FullXformers().unmet(here) == ["device=cpu (xformers has no CPU operator)"]
    assert "phase=forward_backward (FlexAttention has no backward pass on a CPU)" in FullFlex().unmet(
        here
    )


def test_flex_compiles_in_prepare_and_never_after() -> None:
    w = Workload(1, 2, 40, 16, causal=True)
    inputs, _ = draw(FullFlex(), w)
    attend = FullFlex().prepare(w)
    with torch.compiler.set_stance("fail_on_recompile"):
        outside = attend(*inputs)
        with torch.no_grad():
            assert torch.equal(attend(*inputs), outside)


def test_flex_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (reason,) = FullFlex().unmet(Workload(1, 2, 32, 64, causal=False))
    assert reason.startswith("no C++ compiler")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("variant", [FullSdpaFlash(), FullXformers(), FullFlex()], ids=lambda v: v.name)
def test_on_cuda_causal_attention_ends_at_the_last_key(variant: Variant) -> None:
    w = Workload(1, 4, 128, 64, causal=True, kv_len=256, dtype="float16", device="cuda")
    inputs, _ = draw(variant, w)
    expected = variant.oracle(w)(*(x.double() for x in inputs), torch.arange(128, device="cuda"))
    assert relative_error(variant.prepare(w)(*inputs), expected) < 1e-2
