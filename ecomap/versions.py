"""Versions of what a run or an image depends on, without importing any of it."""

import platform
from importlib import metadata

PACKAGES = ("ecomap", "torch", "diffusers", "transformers", "peft", "accelerate")


def versions() -> dict[str, str]:
    """Versions by name: `PACKAGES` as installed ("not installed" where absent), and Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
