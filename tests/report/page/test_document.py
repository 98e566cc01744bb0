"""The page as a file: whole, closed to the world, the same each time, never too large."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from subquad.record import Run, Status
from subquad.report.page import document as pages
from subquad.report.page.document import document
from subquad.report.render import render
from synthetic import ALL, LINEAR, MEAN, NAIVE, SDPA, build_run
from synthetic_quality import recall


def page(run, tmp_path) -> str:
    return render(run, tmp_path / "report").html.read_text(encoding="utf-8")


def data(text: str):
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_the_page_holds_all_it_needs_and_nothing_foreign(tmp_path):
    run = build_run(ALL, (256, 512, 1024, 2048, 4096))
    text = page(
        replace(run, measurements=(*run.measurements, recall(LINEAR, {4: 1.0, 64: 0.5}))), tmp_path
    )
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert addresses
    assert all(a.startswith(("#", "data:image/svg+xml;base64,")) and len(a) > 1 for a in addresses)
    for target in (a[1:] for a in addresses if a.startswith("#")):
        assert f'id="{target}"' in text
    assert "http-equiv" in text
    outside = re.sub(r"data:[^\"]*", "", text)
    assert "url(" not in outside
    assert "@import" not in outside


@pytest.mark.parametrize(("kind", "start"), [("style", "<style>"), ("script", "<script>")])
def test_the_policy_names_what_may_run_by_its_hash(tmp_path, kind, start):
    text = page(build_run((NAIVE, SDPA), (256, 512)), tmp_path)
    content = text.split(start)[1].split(f"</{kind}>")[0]
    told = re.search(rf"{kind}-src 'sha256-([^']+)'", text).group(1)
    assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() == told
    assert "unsafe" not in text.split("<style>")[0]
    assert " style=" not in text.split("</style>")[1].split("<script")[0]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = build_run(ALL, (256, 512, 1024))
    assert page(run, tmp_path / "a") == page(run, tmp_path / "b")


def test_hostile_names_stay_text(tmp_path):
    evil = replace(LINEAR, name="</script><script>alert(1)</script>", family="<b>")
    text = page(build_run((NAIVE, SDPA, evil), (256, 512)), tmp_path)
    assert text.count("<script") == 2  # the data and the page's own
    assert "alert(1)</script>" not in text
    assert evil.name in {v["label"] for v in data(text)["variants"]}


def test_ids_are_unique_and_headings_do_not_skip(tmp_path):
    text = page(build_run(ALL, (256, 512, 1024), causal=(False, True)), tmp_path)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    levels = [int(n) for n in re.findall(r"<h([1-6])", text.split("<script")[0])]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_what_has_no_room_is_left_out_and_said_so(monkeypatch):
    blocks = ["# T", "## Small", "words", "## Every workload", "x" * 5000]
    whole = document(blocks, [], {"slices": []})
    assert "x" * 5000 in whole
    monkeypatch.setattr(pages, "MOST_BYTES", len(whole) + 20_000 - 3000)
    short = document(blocks, [], {"slices": []})
    assert "x" * 5000 not in short
    assert "words" in short
    assert "Too long for this page" in short


def test_runs_without_a_time_make_a_page_that_says_so(tmp_path):
    assert "There are no cells in these runs." in page(Run("empty", ()), tmp_path / "a")
    failures = {(v.name, 256): (Status.OOM, "no memory") for v in (NAIVE, MEAN)}
    failed = page(build_run((NAIVE, MEAN), (256,), failures=failures), tmp_path / "b")
    assert "None of the 2 cells has a time" in failed
    assert "no memory" in failed
    assert data(failed)["slices"] == []
