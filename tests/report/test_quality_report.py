"""What a report says of quality, joined: files where there is something, nothing where there is not."""

from __future__ import annotations

from pathlib import Path

from subquad.record import Run
from subquad.report.quality_report import Quality
from subquad.report.render import render
from synthetic import LINEAR, NAIVE, WINDOW, build_run


def test_fidelity_brings_its_tables_and_fronts(tmp_path: Path) -> None:
    report = render(build_run((NAIVE, LINEAR, WINDOW), (256, 512)), tmp_path)
    names = {path.name for path in report.tables if path.suffix == ".csv"}
    assert names == {"cells.csv", "quality.csv", "fidelity.csv", "fronts.csv"}
    text = report.page.read_text(encoding="utf-8")
    assert text.index("## Quality against cost") < text.index("### Fidelity to full attention")
    for figure in report.figures:
        assert all(path.exists() for path in figure.files)
        assert figure.files[0].name in text


def test_a_run_without_quality_has_none_of_it(tmp_path: Path) -> None:
    quality = Quality.of([Run("nothing", ())])
    assert quality.tables(tmp_path) == {}
    assert quality.blocks(quality.draw("", tmp_path)) == []


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = build_run((NAIVE, LINEAR), (256, 512))
    first, second = render(run, tmp_path / "a"), render(run, tmp_path / "b")
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()
