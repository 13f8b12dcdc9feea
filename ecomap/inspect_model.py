"""What a folder or file of weights is: a bundle, an adapter, a ControlNet or a checkpoint.

Only cards and the heads of safetensors files are read, so that the answer comes at once.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ecomap.adapter_card import (
    ADAPTERS_FOLDER,
    LORA_FILE,
    adapter_names,
    read_adapter_card,
)
from ecomap.bundle_paths import ADAPTER_FILE, BUNDLES_FOLDER, INDEX_FILE, bundle_names
from ecomap.card import BundleCard, read_card
from ecomap.errors import BundleError

LORA_METADATA = "lora_adapter_metadata"
"""Key under which diffusers keeps the settings of a LoRA."""

# As `ecomap.controlnet` and `ecomap.checkpoint` have them, which would bring torch.
CONTROL_FILE = "ecomap_control.json"
CHECKPOINT_FILE = "state.json"

MAX_HEAD_BYTES = 100_000_000
"""Of a safetensors file, as its format says."""


@dataclass(frozen=True)
class Part:
    """Weights of one file, or of one folder of a bundle."""

    name: str
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    """Number of parameters by how they are stored."""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    kind: str
    path: Path
    facts: dict[str, Any]
    """What its card or its weights say, in the order of a reader's interest."""
    parts: list[Part] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"path": str(self.path)}

    def render(self) -> str:
        """Words for the terminal."""
        lines = [f"{self.kind}  {self.path}"]
        lines += [f"  {name}: {_words(value)}" for name, value in self.facts.items()]
        for part in self.parts:
            stored = ", ".join(part.dtypes)
            lines.append(
                f"  {part.name}: {part.parameters:,} parameters, {part.bytes / 1e6:,.1f} MB "
                f"({stored})"
            )
        return "\n".join(lines)


def inspect_model(name_or_path: str | Path) -> Inspection:
    """Say what weights are, and what is known of them.

    Args:
        name_or_path: Name of a shipped bundle or adapter, a folder, or a safetensors file.

    Raises:
        BundleError: If there is nothing, nothing known, or a damaged file.
    """
    path = _find(name_or_path)
    if path.is_file():
        return Inspection("weights", path, _of_weights(read_head(path)), [_part(path.name, [path])])
    if (path / INDEX_FILE).is_file():
        return Inspection("bundle", path, _of_card(read_card(path)), _folder_parts(path))
    if (path / ADAPTER_FILE).is_file() or (path / LORA_FILE).is_file():
        return Inspection("adapter", path, _of_adapter(path), _folder_parts(path))
    if (path / CONTROL_FILE).is_file():
        described = _read_json(path / CONTROL_FILE)
        card = described.pop("card", {})
        facts = {k: v for k, v in described.items() if k != "base_marks"}
        facts |= {k: v for k, v in card.items() if k not in ("training", "attribution")}
        return Inspection("controlnet", path, facts, _folder_parts(path))
    if (path / CHECKPOINT_FILE).is_file():
        state = _read_json(path / CHECKPOINT_FILE)
        facts = {k: v for k, v in state.items() if isinstance(v, str | int | float)}
        return Inspection("checkpoint", path, facts, _folder_parts(path))
    raise BundleError(
        f"{path} holds none of {INDEX_FILE} (a bundle), {ADAPTER_FILE} or {LORA_FILE} (an "
        f"adapter), {CONTROL_FILE} (a ControlNet) and {CHECKPOINT_FILE} (a checkpoint). Give a "
        "folder that ecomap wrote, or a safetensors file."
    )


def read_head(path: Path) -> dict[str, Any]:
    """Names, shapes and types of the tensors of a safetensors file, and its metadata.

    Raises:
        BundleError: If it is no such file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEAD_BYTES:
                raise ValueError(f"its head would have {length:,} bytes")
            head: dict[str, Any] = json.loads(file.read(length))
        if not isinstance(head, dict):
            raise ValueError("its head is no JSON object")
    except (ValueError, struct.error) as error:
        raise BundleError(
            f"{path} is no safetensors file: {error}. Pickled weights are not read: convert them "
            "with safetensors first."
        ) from None
    return head


def _read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is damaged: {error}. Restore it.") from None
    return content


def _find(name_or_path: str | Path) -> Path:
    """Folder or file of a name or path."""
    name = str(name_or_path)
    for names, folder in ((bundle_names(), BUNDLES_FOLDER), (adapter_names(), ADAPTERS_FOLDER)):
        if name in names:
            return folder / name
    path = Path(name_or_path)
    if path.exists():
        return path
    choices = ", ".join(map(repr, (*bundle_names(), *adapter_names())))
    raise BundleError(
        f"{name!r} is no bundle, no adapter, no folder and no file. Choose one of {choices}, or "
        "give a path."
    )


def _of_card(card: BundleCard) -> dict[str, Any]:
    """What matters of a bundle's card."""
    told = card.model_dump(mode="json", exclude={"training", "attribution"})
    training = card.training
    kept = ("tiles", "places", "places_sha256", "metrics", "merged", "converted_from")
    return {**told, **{k: training[k] for k in kept if k in training}}


def _of_adapter(folder: Path) -> dict[str, Any]:
    """What matters of an adapter: its base first, for nothing works without it."""
    facts: dict[str, Any] = {}
    if (card := read_adapter_card(folder)) is not None:
        facts["base"] = f"{card.base.name} {card.base.version}"
        facts |= _of_card(card.bundle_card) | {"shift": card.shift}
        facts["targets"] = list(card.lora.targets) if card.lora else []
    if (folder / LORA_FILE).is_file():
        facts |= _of_weights(read_head(folder / LORA_FILE))
    return facts


def _of_weights(head: Mapping[str, Any]) -> dict[str, Any]:
    """What the names and shapes of tensors say of a LoRA among them."""
    downs = {n: t["shape"] for n, t in head.items() if ".lora_A." in n}
    if not downs:
        return {"lora": "none", "tensors": sum(1 for n in head if n != "__metadata__")}
    ranks = sorted({shape[0] for shape in downs.values()})
    text = head.get("__metadata__", {}).get(LORA_METADATA)
    settings = {} if text is None else json.loads(text)
    settings = {k.removeprefix("transformer."): v for k, v in settings.items()}
    return {
        "rank": ranks[0] if len(ranks) == 1 else ranks,
        "alpha": settings.get("lora_alpha", "not stated: readers take the rank"),
        "rslora": bool(settings.get("use_rslora")),
        "dora": any("lora_magnitude_vector" in name for name in head),
        "adapted_layers": len(downs),
        "layers_by_name": dict(Counter(_layer(name) for name in downs).most_common()),
        "whole_checkpoint": any(".base_layer." in name for name in head),
    }


def _layer(name: str) -> str:
    """Name of an adapted layer within its block."""
    parts = name.split(".lora_A")[0].split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal() and i < len(parts) - 1]
    return ".".join(parts[numbers[0] + 1 :] if numbers else parts)


def _folder_parts(folder: Path) -> list[Part]:
    """Parts of a folder: its own files, and each folder of files in it."""
    found = [_part(path.name, [path]) for path in sorted(folder.glob("*.safetensors"))]
    for sub in sorted(path for path in folder.iterdir() if path.is_dir()):
        if files := sorted(sub.glob("*.safetensors")):
            found.append(_part(sub.name, files))
    return found


def _part(name: str, files: Iterable[Path]) -> Part:
    """Sum of the tensors of some files."""
    dtypes: Counter[str] = Counter()
    num_bytes = 0
    for file in files:
        num_bytes += file.stat().st_size
        for tensor, about in read_head(file).items():
            if tensor != "__metadata__":
                dtypes[about["dtype"]] += prod(about["shape"])
    return Part(name, dtypes.total(), num_bytes, dict(dtypes.most_common()))


def _words(value: object) -> str:
    """A fact as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "yes" if value is True else "no" if value is False else str(value)
