"""The captured sample: what it holds, what it refuses, and that late is nearer to low rank."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tomllib
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from subquad.contract import Workload
from subquad.inputs.captured import LAYERS, STORED, Captured, load_sample

WHOLE = Workload(batch=1, heads=12, seq_len=512, head_dim=32, causal=False)
SAMPLE = files("subquad.inputs") / "captured_minilm.safetensors"


def test_the_sample_holds_what_the_refusals_say():
    sample = load_sample()
    assert set(sample) == {f"{layer}.{part}" for layer in LAYERS for part in "qkv"}
    for x in sample.values():
        assert x.shape == STORED
        assert x.dtype == torch.float16
        assert x.isfinite().all()


def test_the_sample_says_where_it_comes_from():
    with as_file(SAMPLE) as path, safe_open(path, framework="pt") as f:
        metadata = f.metadata()
    for key in ("model", "package", "layers", "text", "text_licence", "transformers", "torch"):
        assert metadata[key]


def test_the_sample_is_small():
    assert len(SAMPLE.read_bytes()) <= 5_000_000


def test_the_page_was_written_with_the_sample():
    sample = load_sample()
    digest = hashlib.sha256(b"".join(sample[name].numpy().tobytes() for name in sorted(sample)))
    page = (files("subquad.inputs") / "captured_minilm.md").read_text("utf-8")
    assert digest.hexdigest() in page
    assert f"{len(SAMPLE.read_bytes())} bytes" in page


def test_the_sample_is_declared_as_package_data():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    declared = pyproject["tool"]["setuptools"]["package-data"]["subquad.inputs"]
    assert {"*.safetensors", "*.md"} <= set(declared)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_dim": 64}, "captured inputs have head_dim 32, got 64: sweep head_dim=32"),
        (
            {"seq_len": 513},
            "captured inputs have 512 positions, got seq_len=513: keep seq_len <= 512",
        ),
        ({"kv_len": 1024}, "captured inputs have 512 positions, got kv_len=1024: keep kv_len <= 512"),
        ({"heads": 16}, "captured inputs have 12 heads, got heads=16: keep heads <= 12"),
        ({"batch": 2}, "captured inputs have 1 text, got batch=2: keep batch <= 1"),
    ],
)
def test_what_is_not_stored_is_refused_with_its_reason(change, reason):
    w = dataclasses.replace(WHOLE, **change)
    assert Captured().unmet(w) == [reason]
    with pytest.raises(ValueError, match=reason.split(",")[0]):
        Captured().draw(w, 0)


def test_every_reason_is_named_at_once():
    assert len(Captured().unmet(Workload(4, 16, 1024, 64, False))) == 4
    assert Captured().unmet(WHOLE) == []


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="layer must be one of early, late, got 'middle'"):
        Captured("middle")


def test_the_seed_is_ignored():
    for a, b in zip(Captured().draw(WHOLE, 0), Captured().draw(WHOLE, 1), strict=True):
        assert a.equal(b)


def test_the_layers_differ():
    assert not Captured("early").draw(WHOLE, 0)[0].equal(Captured("late").draw(WHOLE, 0)[0])


def test_takes_the_first_heads_and_positions():
    sample = load_sample()
    w = Workload(1, 6, 100, 32, False, kv_heads=2, kv_len=70, dtype="float16")
    q, k, v = Captured("late").draw(w, 0)
    assert q.equal(sample["late.q"][:, :6, :100])
    assert k.equal(sample["late.k"][:, [0, 3], :70])
    assert v.equal(sample["late.v"][:, [0, 3], :70])


def test_causal_queries_sit_at_the_last_keys():
    sample = load_sample()
    q, k, _ = Captured().draw(Workload(1, 12, 10, 32, True, kv_len=300, dtype="float16"), 0)
    assert q.equal(sample["early.q"][:, :, 290:300])
    assert k.equal(sample["early.k"][:, :, :300])


def test_drawn_tensors_are_contiguous_and_nobodys_else():
    w = Workload(1, 3, 17, 32, False)
    for x in Captured().draw(w, 0):
        assert x.is_contiguous()
        x.zero_()
    assert Captured().draw(w, 0)[0].any()


def attention_matrices(layer: str) -> torch.Tensor:
    q, k, _ = (x.double() for x in Captured(layer).draw(WHOLE, 0))
    return (q @ k.transpose(-2, -1) / 32**0.5).softmax(-1)


def test_late_is_nearer_to_low_rank_than_early():
    """By effective rank (exp of the entropy of the normalised singular values) and by energy in 32.

    Means over heads; the sample's page has 253.5 against 34.4, and 63 % against 99.5 %.
    """
    rank, energy = {}, {}
    for layer in LAYERS:
        s = torch.linalg.svdvals(attention_matrices(layer))
        rank[layer] = torch.special.entr(s / s.sum(-1, keepdim=True)).sum(-1).exp().mean()
        squared = s.square()
        energy[layer] = (squared[..., :32].sum(-1) / squared.sum(-1)).mean()
    assert rank["late"] < rank["early"] / 5
    assert energy["early"] < 0.7
    assert energy["late"] > 0.99


@pytest.mark.parametrize("layer", LAYERS)
def test_the_mean_of_the_values_is_no_answer(layer):
    v = Captured(layer).draw(WHOLE, 0)[2].double()
    out = attention_matrices(layer) @ v
    error = (v.mean(-2, keepdim=True) - out).norm() / out.norm()
    assert 0.5 < error < 1.0


def test_importing_the_family_does_not_import_safetensors():
    code = "import sys, subquad.inputs; assert 'safetensors' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
