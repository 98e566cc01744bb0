"""The wheel holds every file of the tree that a user needs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def expected() -> set[str]:
    """Files as they must stand in the wheel."""
    rooms = {"suite/subquad": "subquad", "variants": "subquad/variants", "configs": "subquad/configs"}
    kinds = {".py", ".yaml", ".typed", ".safetensors", ".md", ".css", ".js"}
    return {
        f"{target}/{path.relative_to(ROOT / source)}"
        for source, target in rooms.items()
        for path in (ROOT / source).rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }


@pytest.mark.slow
def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "suite", "variants", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("subquad-*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert names == expected()
