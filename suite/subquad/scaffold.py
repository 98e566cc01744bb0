"""`subquad new`: a variant to start from, as one file or as a package of its own."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import subquad.variants
from subquad.config import ConfigError
from subquad.discover import discover

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
KINDS = ("local", "linear")  # what the templates say they are
WINDOWED = ("local", "sparse")  # families of softmax over a subset of pairs

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{dist}"
version = "0.1.0"
description = "{name}, an attention variant for subquad"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["subquad"]

# A variant class, or a module that holds some; this makes `subquad variants` list it.
[project.entry-points."subquad.variants"]
{name} = "{module}.{name}"

# A package that holds YAML; this makes `subquad run experiment={name}` find it.
[project.entry-points."subquad.configs"]
{name} = "{module}.configs"

[tool.setuptools]
include-package-data = false # package-data below says it all
packages = ["{module}", "{module}.configs"]

[tool.setuptools.package-data]
"{module}.configs" = ["**/*.yaml"]
"""

README = """\
# {dist}

`{name}`: an attention variant for subquad.

```
pip install -e .
subquad check {name}
subquad run experiment={name}
pytest
```
"""

EXPERIMENT = """\
# @package _global_
# subquad run experiment={name}
defaults:
  - override /variant: [full_naive, {name}]

name: {name}
seq_len: [256, 512, 1024]
heads: 4
head_dim: 32
causal: [false, true]
"""

TEST = """\
from subquad.conformance import conformance

from {module}.{name} import {cls}

test_{name} = conformance({cls}())
"""


def new(name: str, family: str | None, package: bool) -> list[str]:
    """Write the file or package; what was written and what to do next, line by line.

    Raises:
        ConfigError: a name that cannot be used, an unknown family, or something that stands there.
    """
    name, family = _identity(name, family)
    cls = "".join(part.capitalize() for part in name.split("_"))
    source = _source(name, family, cls)
    if not package:
        return _write_file(name, source)
    module = f"subquad_{name}"
    words = {"name": name, "cls": cls, "module": module, "dist": module.replace("_", "-")}
    folder = Path(words["dist"])
    if folder.exists():
        raise ConfigError(f"{folder} exists: nothing was written; choose another name or remove it")
    configs = f"{module}/configs"
    files = {
        "pyproject.toml": PYPROJECT.format(**words),
        "README.md": README.format(**words),
        f"{module}/__init__.py": "",
        f"{module}/{name}.py": source,
        f"{configs}/__init__.py": "",
        f"{configs}/experiment/{name}.yaml": EXPERIMENT.format(**words),
        f"tests/test_{name}.py": TEST.format(**words),
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return [
        *(f"wrote {folder / path}" for path in files),
        f"next: pip install -e {folder} && subquad check {name} && subquad run experiment={name}",
    ]


def _identity(name: str, family: str | None) -> tuple[str, str]:
    """The whole name and its family."""
    catalog = discover()
    families = sorted({cls.family for cls in catalog.variants.values()})
    if family is None:
        family = name.partition("_")[0]
        if family not in families:
            raise ConfigError(f"of which family is {name}? --family is one of {', '.join(families)}")
    if family not in families:
        raise ConfigError(f"unknown family {family!r}: known are {', '.join(families)}")
    if not name.startswith(f"{family}_"):
        name = f"{family}_{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"not a name: {name!r}; use small letters, digits and single underscores")
    if name in catalog.variants or name in catalog.broken:
        raise ConfigError(f"a variant {name} exists: choose another name")
    return name, family


def _source(name: str, family: str, cls: str) -> str:
    """The template of the family's kind under its new name."""
    kind = "window" if family in WINDOWED else "definition"
    text = resources.files("subquad.templates").joinpath(f"{kind}.py").read_text()
    for old, changed in (
        ("local_mine", name),
        ("linear_mine", name),
        ("LocalMine", cls),
        ("LinearMine", cls),
        *((f'family: ClassVar[str] = "{old}"', f'family: ClassVar[str] = "{family}"') for old in KINDS),
    ):
        text = text.replace(old, changed)
    return text


def _write_file(name: str, source: str) -> list[str]:
    """Into variants/ where this folder belongs to the checkout that runs, else right here."""
    here, variants = Path.cwd(), Path(subquad.variants.__path__[0])
    checkout = variants.parent
    inside = (checkout / "suite/subquad").is_dir() and here.is_relative_to(checkout)
    path = variants / f"{name}.py" if inside else here / f"{name}.py"
    if path.exists():
        raise ConfigError(f"{path} exists: nothing was written; choose another name or remove it")
    path.write_text(source)
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    check = f"subquad check {name if inside else shown}"
    lines = [f"wrote {shown}", f"next: {check}"]
    if not inside:
        lines.append("a sweep finds it in a package: subquad new NAME --package")
    return lines
