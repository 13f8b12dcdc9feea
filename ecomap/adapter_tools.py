"""Adapters made into bundles."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ecomap.adapter import merge_adapter
from ecomap.errors import BundleError
from ecomap.model import load_bundle, save_bundle


@dataclass(frozen=True)
class Merged:
    """A bundle that was made of a base and an adapter."""

    output: Path
    base: dict[str, str]
    adapter: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}

    def render(self) -> str:
        """Words for the terminal."""
        return f"{self.output}  {self.base['name']} with {self.adapter['adapter']} merged into it"


def merge_to_folder(
    adapter: str | Path,
    output: Path,
    *,
    base: str = "ecomap-tiny",
    scale: float = 1.0,
    full_precision: bool = False,
) -> Merged:
    """Write a base with an adapter merged into it as a bundle that any pipeline of diffusers loads.

    Args:
        adapter: As in `ecomap.adapter.load_adapter`.
        output: Folder; new or empty.
        base: Bundle that the adapter belongs to.
        scale: As in `ecomap.adapter.load_adapter`.
        full_precision: Whether to store float32 in place of float16, which rounds updates that are
            small beside their weights.

    Raises:
        BundleError: If base or adapter cannot be had, do not fit, or ``output`` is not empty.
        DataError: If the disk has no room.
    """
    refuse_full(output)
    bundle = load_bundle(base, device="cpu")
    merged = merge_adapter(bundle, adapter, scale=scale)
    save_bundle(merged, output, dtype=torch.float32 if full_precision else torch.float16)
    return Merged(output=output, base=bundle.identity, adapter=dict(merged.adapter))


def refuse_full(output: Path) -> None:
    """Leave what is there.

    Raises:
        BundleError: If ``output`` is a file or a folder that is not empty.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise BundleError(f"{output} is there already and stays. Give a folder that is new.")
