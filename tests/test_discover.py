"""Discovery finds plugins, lists what is broken, refuses names taken twice, imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from subquad.discover import discover

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from subquad.contract import Variant

@dataclass(frozen=True)
class Mine(Variant):
    name: ClassVar[str] = "{name}"
    family: ClassVar[str] = "local"
    computes: ClassVar[str] = "exact"
    source: ClassVar[str] = "a test"
    width{default}

    def prepare(self, w):
        return lambda q, k, v: v
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Makes an installed package of one module with an entry point, as pip would leave it."""

    def installed(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[subquad.variants]\n{module} = {module}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    discover.cache_clear()
    yield installed
    discover.cache_clear()


def test_an_entry_point_is_found(install) -> None:  # type: ignore[no-untyped-def]
    install("plugin_fine", PLUGIN.format(name="local_mine", default=": int = 3"))
    cls = discover()["local_mine"]
    assert cls.__module__ == "plugin_fine"
    (entry,) = (v for v in discover().describe()["variants"] if v["name"] == "local_mine")
    assert entry["params"] == {"width": 3}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError"),
        (PLUGIN.format(name="local_mine", default=": int"), "every parameter needs a default (width)"),
        (
            PLUGIN.format(name="local_mine", default=": int = 3").replace("frozen=True", ""),
            "frozen",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_raises_only_when_selected(install, source, reason) -> None:  # type: ignore[no-untyped-def]
    install("plugin_broken", source)
    catalog = discover()
    assert reason in catalog.broken["plugin_broken"].reason
    assert "full_naive" in catalog.variants
    with pytest.raises(LookupError, match=r"variant 'plugin_broken' \(plugin.broken\) did not load"):
        catalog["plugin_broken"]


def test_a_name_taken_twice_raises(install) -> None:  # type: ignore[no-untyped-def]
    install("plugin_twin", PLUGIN.format(name="full_naive", default=": int = 3"))
    with pytest.raises(ValueError, match="two variants are named 'full_naive'"):
        discover()


def test_listing_imports_no_optional_dependency() -> None:
    code = (
        "import sys; from subquad.discover import discover; discover();"
        "heavy = ('xformers', 'flash_attn', 'triton', 'pandas', 'hydra');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
