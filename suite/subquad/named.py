"""A variant by the words of a command: a name, a module, or a file that no catalog knows."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import subquad.variants
from subquad.config import ConfigError, configured
from subquad.contract import Variant
from subquad.discover import checked, discover, variants_of


def variants(words: Sequence[str]) -> list[Variant]:
    """The variants that the words name, each with the parameters that other words set.

    A variant is a name of the catalog, `module:Class`, `path/to/file.py` or `path/to/file.py:Class`;
    `local_window.window=64` sets a parameter of one of them.

    Raises:
        ConfigError: what a word names is not there, in one line.
    """
    named = [word for word in words if "=" not in word]
    if not named:
        raise ConfigError("name a variant: `subquad variants` lists them all")
    classes = {cls.name: cls for word in named for cls in _classes(word)}
    params: dict[str, dict[str, str]] = {name: {} for name in classes}
    for word in words:
        if "=" not in word:
            continue
        target, _, value = word.partition("=")
        name, _, param = target.partition(".")
        if not param:
            raise ConfigError(f"cannot read {word!r}: write NAME.PARAMETER=VALUE")
        if name not in classes:
            raise ConfigError(f"{word!r} sets a parameter of {name}, which is not checked here")
        params[name][param] = value
    return [_made(cls, params[name]) for name, cls in classes.items()]


def _made(cls: type[Variant], params: Mapping[str, str]) -> Variant:
    return configured(cls, params) if params else cls()


def _classes(word: str) -> list[type[Variant]]:
    path, _, name = word.partition(":")
    if path.endswith(".py"):
        return _of_module(_loaded(word, Path(path)), name, word)
    if name:
        return _of_module(_loaded(word, path), name, word)
    try:
        return [discover()[word]]
    except (LookupError, ValueError) as error:
        raise ConfigError(str(error.args[0])) from error


def _loaded(word: str, source: Path | str) -> ModuleType:
    """A module by its name or its file."""
    if isinstance(source, Path) and not source.is_file():
        raise ConfigError(f"{source}: no such file")
    try:
        return _of_file(source) if isinstance(source, Path) else importlib.import_module(source)
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"{word} did not load: {type(error).__name__}: {said}") from error


def _of_file(path: Path) -> ModuleType:
    """A file of the catalog keeps its one identity; another one becomes a module of its own."""
    if str(path.resolve().parent) in subquad.variants.__path__:
        return importlib.import_module(f"{subquad.variants.__name__}.{path.stem}")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None, "the file ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if path.stem in sys.modules:
        raise ImportError(f"a module {path.stem!r} is loaded already: rename the file")
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _of_module(module: ModuleType, name: str, word: str) -> list[type[Variant]]:
    """The variants of a module, or the one of that class."""
    if name and not hasattr(module, name):
        known = ", ".join(cls.__name__ for cls in variants_of(module)) or "none"
        raise ConfigError(f"{word}: no class {name!r}; variants there: {known}")
    try:
        found = [checked(cls) for cls in variants_of(getattr(module, name) if name else module)]
    except TypeError as error:
        raise ConfigError(f"{word}: {error}") from error
    if not found:
        raise ConfigError(f"{word}: no variant there; a variant is a subclass of subquad.Variant")
    return found
