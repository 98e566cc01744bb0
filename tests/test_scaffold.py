"""What `subquad new` writes runs and passes its own check; what cannot be written is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from subquad import conformance, named, scaffold
from subquad.config import ConfigError
from subquad.discover import discover
from test_cli import subquad


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", ["local", "linear"])
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.name)
def test_each_template_passes(family: str, check: conformance.Check, elsewhere: Path) -> None:
    name = f"{family}_scaffolded_{check.name}"
    scaffold.new(name, None, package=False)
    (variant,) = named.variants([f"{name}.py"])
    assert (variant.name, variant.family) == (name, family)
    check(variant)


@pytest.mark.parametrize("family", sorted({v.family for v in discover().variants.values()}))
def test_every_family_has_a_template(family: str, elsewhere: Path) -> None:
    wrote, check, _ = scaffold.new("thing_new", family, package=False)
    assert wrote == f"wrote {family}_thing_new.py"
    assert check == f"next: subquad check {family}_thing_new.py"
    source = (elsewhere / f"{family}_thing_new.py").read_text()
    assert f'family: ClassVar[str] = "{family}"' in source
    assert f"class {family.capitalize()}ThingNew(Variant):" in source
    assert "_mine" not in source
    assert "Mine" not in source
    compile(source, "scaffolded", "exec")


def test_inside_the_checkout_it_goes_to_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "variants").mkdir()
    (tmp_path / "suite/subquad").mkdir(parents=True)
    monkeypatch.setattr("subquad.variants.__path__", [str(tmp_path / "variants")])
    monkeypatch.chdir(tmp_path / "suite")
    wrote = scaffold.new("local_mine", None, package=False)
    assert (tmp_path / "variants/local_mine.py").is_file()
    assert wrote[1] == "next: subquad check local_mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine", "nope"), "unknown family 'nope': known are"),
        (("mine", None), "of which family is mine? --family is one of"),
        (("Mine Two", "local"), "not a name: 'local_Mine Two'"),
        (("window", "local"), "a variant local_window exists"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: tuple[str, str | None], message: str, elsewhere: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        scaffold.new(*arguments, package=False)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("package", [False, True])
def test_nothing_is_overwritten(package: bool, elsewhere: Path) -> None:
    scaffold.new("local_mine", None, package)
    files = {p: p.read_text() for p in elsewhere.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="exists: nothing was written"):
        scaffold.new("local_mine", None, package)
    assert {p: p.read_text() for p in elsewhere.rglob("*") if p.is_file()} == files


@pytest.mark.slow
def test_a_package_passes_its_own_tests(elsewhere: Path) -> None:
    done = subquad("new", "mine", "--family", "linear", "--package", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    folder = elsewhere / "subquad-linear-mine"
    tested = subprocess.run(
        [sys.executable, "-c", f"import sys, pytest; sys.exit(pytest.main({command[3:]}))"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout
    assert f"{len(conformance.CHECKS) - 2} passed, 2 skipped" in tested.stdout
