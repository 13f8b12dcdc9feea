"""Where model bundles are: by the names that ship with the package, or a folder of one's own."""

from pathlib import Path

from ecomap.errors import BundleError

BUNDLES_FOLDER = Path(__file__).parent / "bundles"
"""Each folder in it is a bundle; its name is the bundle's name."""

INDEX_FILE = "model_index.json"
"""The file that makes a folder a bundle: diffusers' list of its parts."""

CONTROLNET_FOLDER = "controlnet"
"""Folder in a bundle with the ControlNet that ships with it."""

ADAPTER_FILE = "adapter.json"
"""The file that makes a folder an adapter: its card."""


def bundle_names() -> list[str]:
    """Names of the bundles that ship with the package, sorted."""
    return sorted(path.parent.name for path in BUNDLES_FOLDER.glob(f"*/{INDEX_FILE}"))


def bundle_path(name_or_path: str | Path) -> Path:
    """Folder of a bundle.

    Args:
        name_or_path: Name of a shipped bundle, or a folder that holds one; a name goes first.

    Raises:
        BundleError: If there is no bundle of that name and no folder at that path.
    """
    name = str(name_or_path)
    if name in bundle_names():
        return BUNDLES_FOLDER / name
    folder = Path(name_or_path)
    if (folder / INDEX_FILE).is_file():
        return folder
    choices = ", ".join(repr(choice) for choice in bundle_names()) or "none is installed"
    fault = f"is a folder without {INDEX_FILE}" if folder.is_dir() else "is no bundle and no folder"
    if (folder / ADAPTER_FILE).is_file():
        raise BundleError(
            f"{name!r} is an adapter, not a bundle. Give it as --adapter, or merge it into its "
            "base with 'ecomap model merge'."
        )
    raise BundleError(
        f"{name!r} {fault}. Choose one of {choices}, or give the folder of a trained bundle."
    )
