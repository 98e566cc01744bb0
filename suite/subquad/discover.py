"""The catalog: built-in variants, plugins by entry point, and what did not load and why."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache, partial
from importlib import metadata
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement

import subquad.variants
from subquad.contract import Variant

GROUP = "subquad.variants"
REQUIRED = ("name", "family", "computes", "source")


@dataclass(frozen=True)
class Broken:
    """Something that was found and could not be loaded."""

    name: str
    origin: str
    reason: str


@dataclass(frozen=True)
class Catalog:
    """Variants by name, and what is broken by name (of the entry point or module)."""

    variants: Mapping[str, type[Variant]]
    broken: Mapping[str, Broken]

    def __getitem__(self, name: str) -> type[Variant]:
        """The class of that name.

        Raises:
            LookupError: there is none, with the nearest names, or it is broken, with the reason.
        """
        if name in self.variants:
            return self.variants[name]
        if name in self.broken:
            broken = self.broken[name]
            raise LookupError(f"variant {name!r} ({broken.origin}) did not load: {broken.reason}")
        near = difflib.get_close_matches(name, self.variants, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise LookupError(f"unknown variant {name!r}: {hint}`subquad variants` lists them all")

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """The catalog as plain data: every variant with its parameters, and what is broken."""
        return {
            "variants": [
                {
                    "name": name,
                    "family": cls.family,
                    "computes": cls.computes,
                    "source": cls.source,
                    "module": cls.__module__,
                    "causal": list(cls.supports.causal),
                    "decode": "decode" in cls.supports.phases,
                    "params": {f.name: f.default for f in fields(cls)},
                    "missing": missing_requirements(cls()),
                }
                for name, cls in self.variants.items()
            ],
            "broken": [asdict(broken) for broken in self.broken.values()],
        }


@cache
def discover() -> Catalog:
    """Load modules of subquad.variants, then entry points of group `subquad.variants`.

    Raises:
        ValueError: two variants share a name.
    """
    variants: dict[str, type[Variant]] = {}
    broken: dict[str, Broken] = {}
    for name, origin, load in _sources():
        try:
            found = [checked(cls) for cls in variants_of(load())]
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way; the text is kept
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            broken[name] = Broken(name, origin, reason)
            continue
        for cls in found:
            if cls.name in variants:
                other = variants[cls.name]
                raise ValueError(
                    f"two variants are named {cls.name!r}: {other.__module__}.{other.__qualname__} and "
                    f"{cls.__module__}.{cls.__qualname__}; rename or uninstall one"
                )
            variants[cls.name] = cls
    return Catalog(dict(sorted(variants.items())), broken)


def missing_requirements(variant: Variant) -> list[str]:
    """What `requires` asks for and is not installed, each with the way out; imports nothing."""
    missing = []
    for text in variant.requires:
        requirement = Requirement(text)
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(f"needs {text}: pip install '{text}'")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            missing.append(f"needs {text}, found {installed}: pip install '{text}'")
    return missing


def _sources() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name, where it comes from, and a function that loads it."""
    for module in pkgutil.iter_modules(subquad.variants.__path__):
        full = f"{subquad.variants.__name__}.{module.name}"
        yield module.name, full, partial(importlib.import_module, full)
    for entry in metadata.entry_points(group=GROUP):
        origin = entry.dist.name if entry.dist else entry.value
        yield entry.name, origin, entry.load


def variants_of(loaded: object) -> list[type[Variant]]:
    """The variant itself, or those that a module defines."""
    if inspect.isclass(loaded) and issubclass(loaded, Variant):
        return [loaded]
    if not isinstance(loaded, ModuleType):
        raise TypeError(f"expected a Variant class or a module, got {type(loaded).__name__}")
    return [
        value
        for value in vars(loaded).values()
        if inspect.isclass(value)
        and issubclass(value, Variant)
        and not inspect.isabstract(value)
        and value.__module__ == loaded.__name__
    ]


def checked(cls: type[Variant]) -> type[Variant]:
    """The class, if it keeps the form of the contract."""
    for attribute in REQUIRED:
        if not isinstance(getattr(cls, attribute, None), str):
            raise TypeError(f"{cls.__qualname__} has no {attribute}: set it as a ClassVar[str]")
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"{cls.__qualname__} is no frozen dataclass: add @dataclass(frozen=True)")
    try:
        cls()
    except TypeError as error:
        names = ", ".join(f.name for f in fields(cls))
        raise TypeError(f"every parameter needs a default ({names}): {error}") from error
    return cls
