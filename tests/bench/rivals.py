"""Attention of other packages as variants, for `speed.py` alone: the same tensors in, the same work.

Each is called at its core, without projections of its own, and set up as its authors advise. What it
needs beyond q, k and v is made in `prepare`, outside the timed call. Nothing here is discovered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad import answer
from subquad.contract import AttentionFn, Variant, Workload
from subquad.discover import discover
from subquad.variants.linear_performer import draw_directions


@dataclass(frozen=True)
class Rival(Variant):
    """Not held against a definition: only its time and workspace are of interest."""

    family: ClassVar[str] = "rival"
    computes: ClassVar = "different"
    source: ClassVar[str] = "PyPI"


@dataclass(frozen=True)
class LocalAttention(Rival):
    """local-attention: windows of `size`, looking back 256 keys and the own one."""

    name: ClassVar[str] = "local-attention"
    requires: ClassVar[tuple[str, ...]] = ("local-attention",)
    size: int = 128

    def prepare(self, w: Workload) -> AttentionFn:
        from local_attention import LocalAttention as Module

        return Module(
            window_size=self.size,
            look_backward=256 // self.size,
            causal=True,
            exact_windowsize=True,
            use_rotary_pos_emb=False,
        )


@dataclass(frozen=True)
class FlexWindow(Rival):
    """Compiled flex_attention with a causal window of 256 keys; its best block size is tried for."""

    name: ClassVar[str] = "flex_attention"
    block: int = 128

    def prepare(self, w: Workload) -> AttentionFn:
        def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query - key < 256)

        return _flex(w, sees, self.block)


@dataclass(frozen=True)
class FlexBlocks(Rival):
    """Compiled flex_attention with the block mask of a variant of ours."""

    name: ClassVar[str] = "flex_attention"
    like: str = "sparse_bigbird"
    block: int = 64

    def prepare(self, w: Workload) -> AttentionFn:
        visible = torch.cat(
            [
                _mask(self.like, w, rows)
                for rows in torch.arange(w.seq_len).split(1024)  # never n x n in more than a bit
            ]
        )

        def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return visible[query, key]

        return _flex(w, sees, self.block)


def _mask(name: str, w: Workload, rows: Tensor) -> Tensor:
    mask = (OURS.get(name) or discover()[name]()).mask(w, rows)
    assert mask is not None
    return mask


def _flex(w: Workload, sees: object, block: int) -> AttentionFn:
    import torch._dynamo.config
    import torch._inductor.config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = w.seq_len
    blocks = create_block_mask(sees, None, None, n, n, device="cpu", BLOCK_SIZE=block)  # type: ignore[arg-type]
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.no_grad():
            return compiled(q, k, v, block_mask=blocks)

    with torch._inductor.config.patch(compile_threads=1):
        attend(*(torch.randn(w.query_shape) for _ in range(3)))
    return attend


@dataclass(frozen=True)
class FastTransformers(Rival):
    """pytorch-fast-transformers: its C++ kernel for causal linear attention with elu + 1."""

    name: ClassVar[str] = "pytorch-fast-transformers"
    requires: ClassVar[tuple[str, ...]] = ("pytorch-fast-transformers",)

    def prepare(self, w: Workload) -> AttentionFn:
        from fast_transformers.causal_product import causal_dot_product

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k = F.elu(q) + 1, F.elu(k) + 1
            total = torch.einsum("bhld,bhld->bhl", q, k.cumsum(2)) + 1e-6
            return causal_dot_product(q, k, v) / total[..., None]

        return attend


@dataclass(frozen=True)
class PerformerPytorch(Rival):
    """performer-pytorch: its linear attention, not causal, on features elu + 1 or FAVOR+."""

    name: ClassVar[str] = "performer-pytorch"
    requires: ClassVar[tuple[str, ...]] = ("performer-pytorch",)
    features: str = "elu"

    def prepare(self, w: Workload) -> AttentionFn:
        from performer_pytorch.performer_pytorch import linear_attention, softmax_kernel

        directions = draw_directions(256, w.head_dim, 0).float()

        def elu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return linear_attention(F.elu(q) + 1, F.elu(k) + 1, v)

        def favor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q = softmax_kernel(q, projection_matrix=directions, is_query=True)
            k = softmax_kernel(k, projection_matrix=directions, is_query=False)
            return linear_attention(q, k, v)

        return elu if self.features == "elu" else favor


@dataclass(frozen=True)
class TransformersBigBird(Rival):
    """transformers: the block-sparse core of BigBird; 2 global, 3 window and 3 random blocks of 64."""

    name: ClassVar[str] = "transformers BigBird"
    requires: ClassVar[tuple[str, ...]] = ("transformers",)

    def prepare(self, w: Workload) -> AttentionFn:
        from transformers import BigBirdConfig
        from transformers.models.big_bird.modeling_big_bird import (
            BigBirdBlockSparseAttention,
            BigBirdModel,
        )

        width = w.heads * w.head_dim
        config = BigBirdConfig(
            hidden_size=width, num_attention_heads=w.heads, block_size=64, num_random_blocks=3,
            max_position_embeddings=w.seq_len,
        )  # fmt: skip
        core = BigBirdBlockSparseAttention(config, seed=0).eval()
        blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(
            torch.ones(w.batch, w.seq_len), 64
        )
        sizes = (w.heads, 3, w.head_dim, 64, 64, w.batch, w.seq_len, w.seq_len)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return core.bigbird_block_sparse_attention(
                q, k, v, band, rows, columns, blocked, blocked, *sizes,
                seed=0, plan_from_length=None, plan_num_rand_blocks=None, output_attentions=False,
            )[0]  # fmt: skip

        return attend


@dataclass(frozen=True)
class TransformersLongformer(Rival):
    """transformers: the sliding-chunks core of Longformer, 128 keys to either side, no global token."""

    name: ClassVar[str] = "transformers Longformer"
    requires: ClassVar[tuple[str, ...]] = ("transformers",)

    def prepare(self, w: Workload) -> AttentionFn:
        from transformers.models.longformer.modeling_longformer import LongformerSelfAttention as Core

        core = Core.__new__(Core)
        nn.Module.__init__(core)
        core.config = SimpleNamespace(onnx_export=False)
        scale = 1 / math.sqrt(w.head_dim)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            scores = core._sliding_chunks_query_key_matmul(q * scale, k, 128)
            return core._sliding_chunks_matmul_attn_probs_value(scores.softmax(-1), v, 128)

        return attend


@dataclass(frozen=True)
class Nystrom(Rival):
    """nystrom-attention: 64 landmarks, 6 iterations, without its convolution and projections."""

    name: ClassVar[str] = "nystrom-attention"
    requires: ClassVar[tuple[str, ...]] = ("nystrom-attention",)

    def prepare(self, w: Workload) -> AttentionFn:
        from nystrom_attention import NystromAttention

        width = w.heads * w.head_dim
        core = NystromAttention(
            width, w.head_dim, w.heads, num_landmarks=64, pinv_iterations=6, residual=False
        ).eval()
        core.to_out, core.to_qkv = nn.Identity(), Given()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if core.to_qkv.held is None:  # as its own projection leaves them, by the first call
                core.to_qkv.held = torch.cat([_merge(x) for x in (q, k, v)], dim=-1)
            return core(core.to_qkv.held[..., :width])

        return attend


@dataclass(frozen=True)
class Linformer(Rival):
    """linformer: rank 256, without its projections to heads."""

    name: ClassVar[str] = "linformer"
    requires: ClassVar[tuple[str, ...]] = ("linformer",)

    def prepare(self, w: Workload) -> AttentionFn:
        from linformer import LinformerSelfAttention

        width = w.heads * w.head_dim
        core = LinformerSelfAttention(width, w.seq_len, k=256, heads=w.heads).eval()
        core.to_q, core.to_k, core.to_v, core.to_out = Given(), Given(), Given(), nn.Identity()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if core.to_q.held is None:
                for given, x in zip((core.to_q, core.to_k, core.to_v), (q, k, v), strict=True):
                    given.held = _merge(x).contiguous()
            return core(core.to_q.held)

        return attend


class Given(nn.Module):
    """In the place of a projection: what it would give, whatever it is given."""

    held: Tensor | None = None

    def forward(self, _: Tensor) -> Tensor:
        assert self.held is not None
        return self.held


def _merge(x: Tensor) -> Tensor:
    """[B, H, L, D] to [B, L, H D]."""
    return x.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Loop(Rival):
    """A variant's own recurrent form, one position after the other."""

    name: ClassVar[str] = "its recurrent loop"
    of: str = "linear_gla"

    def extra_inputs(self, w: Workload) -> dict:
        return discover()[self.of]().extra_inputs(w)

    def prepare(self, w: Workload) -> AttentionFn:
        decoder = discover()[self.of]().decoder(w)
        shared = answer.learned(discover()[self.of](), w)

        def attend(q: Tensor, k: Tensor, v: Tensor, **extra: Tensor) -> Tensor:
            out, state = torch.empty_like(q), decoder.start()
            for t in range(w.seq_len):
                at = slice(t, t + 1)
                token = (x[:, :, at] for x in (q, k, v))
                out[:, :, at], state = decoder.step(state, *token, **answer.cut(extra, shared, at))
            return out

        return attend


OURS: dict[str, Variant] = {name: discover()[name]() for name in ("sparse_bigbird",)}
"""Ours at the rivals' settings: the same number of blocks, or of keys."""
OURS["sparse_bigbird"] = discover()["sparse_bigbird"](global_blocks=2)  # type: ignore[call-arg]
