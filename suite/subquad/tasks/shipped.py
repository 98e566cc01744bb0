"""Real data inside an installed package: read as a file, nothing is imported or downloaded."""

from __future__ import annotations

import hashlib
from importlib import metadata, util
from pathlib import Path


def shipped(module: str, package: str, file: str) -> bytes:
    """The bytes of `file` below `module`, which the distribution `package` installs.

    Raises:
        ValueError: the package is missing, or does not hold the file.
    """
    spec = util.find_spec(module)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise ValueError(f'needs {package}: pip install "subquad[tasks]"')
    path = Path(places[0], file)
    if not path.is_file():
        raise ValueError(
            f"{package} {metadata.version(package)} has no {file}: "
            f'pip install --force-reinstall "{package}"'
        )
    return path.read_bytes()


def fingerprint(content: bytes) -> str:
    """What tells two data sets apart: the SHA-256."""
    return hashlib.sha256(content).hexdigest()
