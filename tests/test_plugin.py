"""A plugin is found where it is installed, with its variant and its experiment, and gone without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from subquad import scaffold

EXAMPLE = Path(__file__).parents[1] / "examples/plugin"


def installed(package: Path, site: Path) -> Path:
    """A folder that, on the path, is what pip leaves of the package: its entry points."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


def subquad(
    *arguments: str, cwd: Path, path: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "subquad.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=300,
    )


def names(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stderr
    return {v["name"] for v in json.loads(done.stdout)["variants"]}


def test_the_example_is_listed_and_composed_where_installed_and_gone_without(tmp_path: Path) -> None:
    path = (installed(EXAMPLE, tmp_path / "site"), EXAMPLE)
    assert "local_alibi" in names(subquad("variants", "--json", cwd=tmp_path, path=path))
    assert "local_alibi" not in names(subquad("variants", "--json", cwd=tmp_path))
    composed = subquad("run", "experiment=alibi", "--cfg", "job", cwd=tmp_path, path=path)
    assert composed.returncode == 0, composed.stderr
    assert "local_alibi:\n    window: 128" in composed.stdout
    gone = subquad("run", "experiment=alibi", cwd=tmp_path)
    assert gone.returncode == 2
    assert gone.stderr.startswith("subquad: unknown experiment 'alibi': known are catalog, decode")


@pytest.mark.slow
def test_a_package_of_the_scaffold_is_found_with_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scaffold.new("local_mine", None, package=True)
    package = tmp_path / "subquad-local-mine"
    path = (installed(package, tmp_path / "site"), package)
    assert "local_mine" in names(subquad("variants", "--json", cwd=tmp_path, path=path))
    composed = subquad("run", "experiment=local_mine", "--cfg", "job", cwd=tmp_path, path=path)
    assert composed.returncode == 0, composed.stderr


def test_configs_that_are_not_there_break_nothing_else(tmp_path: Path) -> None:
    info = tmp_path / "gone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[subquad.configs]\ngone = no_such_package.configs\n")
    done = subquad("run", "experiment=smoke", "--cfg", "job", cwd=tmp_path, path=(tmp_path,))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_passes_its_check_and_is_measured(tmp_path: Path) -> None:
    path = (installed(EXAMPLE, tmp_path / "site"), EXAMPLE)
    checked = subquad("check", "local_alibi", cwd=tmp_path, path=path)
    assert checked.returncode == 0, checked.stdout
    small = ("hardware=cpu_1thread", "seq_len=[128]", "probe=[gate]", "report=false")
    measured = subquad("run", "experiment=alibi", *small, cwd=tmp_path, path=path)
    assert measured.returncode == 0, measured.stderr
    assert "local_alibi" in (tmp_path / "results/alibi/cpu_1thread.jsonl").read_text()
