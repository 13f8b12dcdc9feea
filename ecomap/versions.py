"""What a run or an image depends on: versions of packages, and a hash of files."""

import hashlib
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("ecomap", "torch", "diffusers", "transformers", "peft", "accelerate")


def versions() -> dict[str, str]:
    """Versions by name: Python, `PACKAGES` (or "not installed"), and a hash of our code."""
    code = sorted(Path(__file__).parent.glob("*.py"))
    found = {"python": platform.python_version(), "ecomap_code": fingerprint(code)[:12]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over names and contents of files, in their order; folders are passed over."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
