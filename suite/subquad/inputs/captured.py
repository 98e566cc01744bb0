"""Captured inputs: queries, keys and values of a trained model on real text, stored with the package.

How the sample was made, its licence, checks and spectrum: captured_minilm.md beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from torch import Tensor

from subquad.contract import Workload, one_of
from subquad.inputs.family import InputFamily

LAYERS = ("early", "late")
STORED = (1, 12, 512, 32)  # [B, H, L, D] of every tensor in the sample


@dataclass(frozen=True)
class Captured(InputFamily):
    """q, k and v of MiniLM-L6 on 512 word pieces of a novel; `layer` is far from low rank or near it.

    "early" is the layer whose attention matrices are the farthest from low rank, "late" the one whose
    are the nearest. There is one sample and nothing is drawn: the seed is ignored.

    A workload takes the first `heads` heads and the first positions. Cut this way:
    - causal attention runs on tensors of a model that was trained bidirectional;
    - causal attention with kv_len > seq_len takes the last `seq_len` of the first `kv_len` positions
      as queries, since the contract puts the last query at the last key;
    - grouped queries share the keys and values of the first head of their group, so that one head
      of every group keeps the keys it was trained with.

    Raises:
        ValueError: an unknown layer; in `draw`, a workload that `unmet` refuses.
    """

    name: ClassVar[str] = "captured"

    layer: str = "early"

    def __post_init__(self) -> None:
        one_of("layer", self.layer, LAYERS)

    def unmet(self, w: Workload) -> list[str]:
        batch, heads, positions, head_dim = STORED
        reasons = []
        if w.head_dim != head_dim:
            reasons.append(
                f"captured inputs have head_dim {head_dim}, got {w.head_dim}: sweep head_dim={head_dim}"
            )
        for name, have, asked, limit in (
            ("seq_len", "positions", w.seq_len, positions),
            ("kv_len", "positions", w.kv_len, positions),
            ("heads", "heads", w.heads, heads),
            ("batch", "texts", w.batch, batch),
        ):
            if asked is not None and asked > limit:
                what = have if limit > 1 else have.removesuffix("s")
                reasons.append(
                    f"captured inputs have {limit} {what}, got {name}={asked}: keep {name} <= {limit}"
                )
        return reasons

    def draw(self, w: Workload, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        reasons = self.unmet(w)
        if reasons:
            raise ValueError("; ".join(reasons))
        sample = load_sample()
        first = w.key_len - w.seq_len if w.causal else 0
        q = sample[f"{self.layer}.q"][: w.batch, : w.heads, first : first + w.seq_len]
        group = w.heads // w.key_heads
        k, v = (
            sample[f"{self.layer}.{part}"][: w.batch, : w.heads : group, : w.key_len]
            for part in ("k", "v")
        )
        to = (w.device, w.torch_dtype)
        # Contiguous and its own storage: every family hands out plain tensors.
        return q.to(*to).contiguous(), k.to(*to).contiguous(), v.to(*to).contiguous()


def load_sample() -> dict[str, Tensor]:
    """The stored tensors: early.q ... late.v, each float16 of shape `STORED`."""
    from safetensors.torch import load

    sample: dict[str, Tensor] = load((files(__package__) / "captured_minilm.safetensors").read_bytes())
    return sample
