"""Cards of adapters: what they are, which base they belong to, and where they lie.

Read without torch, so that requests can be checked before anything heavy is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ecomap.bundle_paths import ADAPTER_FILE
from ecomap.card import BundleCard
from ecomap.errors import BundleError
from ecomap.model_card import bullets, front_matter, sections
from ecomap.schema import describe_validation, write_json
from ecomap.transformer_config import LoraConfig
from ecomap.versions import fingerprint

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

    from ecomap.model import Bundle

ADAPTERS_FOLDER = Path(__file__).parent / "adapters"
"""Each folder in it is an adapter; its name is the adapter's name."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Name under which the stock pipeline looks for a LoRA."""

LAYERS_FILE = "extra_layers.safetensors"
"""Parameters of the transformer that were trained whole, by name."""

SIZES = (
    "num_layers", "num_attention_heads", "attention_head_dim", "joint_attention_dim",
    "caption_projection_dim", "pooled_projection_dim", "in_channels", "out_channels", "patch_size",
    "qk_norm", "dual_attention_layers", "pos_embed_max_size",
)  # fmt: skip
"""Sizes of a transformer that its weights have the shape of."""

NUM_MARKS = 64
"""Weights, of as many layers, by which a base is known again."""

MARK_ROUNDING = 0.01
"""Relative difference that they may have: storage in half precision leaves 0.004 at most, while
even a short fine-tuning moves some weight further."""


class BaseIdentity(BaseModel):
    """The transformer that an adapter was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str = "0"
    files: dict[str, str] = {}
    """Hash of the bundle's files, or the revision of a model hub, and adapters merged into it."""
    sizes: dict[str, Any]
    marks: dict[str, float]
    """The middle element of some weights, by name."""

    def check(self, bundle: Bundle, adapter: str) -> None:
        """Refuse a bundle that is not this base.

        Raises:
            BundleError: If its transformer has other sizes, or is of another training.
        """
        merged = self.files.get("adapter_sha256")
        if merged is not None and merged != merged_adapter(bundle).get("adapter_sha256"):
            raise BundleError(
                f"Adapter {adapter!r} was trained on {self.name} with the adapter "
                f"{self.files.get('adapter')} merged into it. Make that bundle by 'ecomap model "
                "merge' and give its folder as --bundle."
            )
        own = _sizes(bundle.transformer)
        if other := [name for name in SIZES if own[name] != self.sizes.get(name)]:
            raise BundleError(
                f"Adapter {adapter!r} was trained on {self.name}, whose {other[0]} is "
                f"{self.sizes.get(other[0])}; that of {bundle.name} is {own[other[0]]}. "
                f"Give --bundle {self.name}, or an adapter of {bundle.name}."
            )
        found = _marks(bundle.transformer, list(self.marks))
        if any(abs(found[n] - v) > MARK_ROUNDING * abs(v) + 1e-6 for n, v in self.marks.items()):
            raise BundleError(
                f"Adapter {adapter!r} was trained on {self.name} {self.version}; {bundle.name} "
                "has the same sizes and other weights. "
                f"Give --bundle {self.name}, or an adapter of {bundle.name}."
            )


class AdapterCard(BaseModel):
    """Facts about an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: BaseIdentity
    bundle_card: BundleCard
    """Of base and adapter together; name and version are the adapter's."""
    lora: LoraConfig | None = None
    """``None`` where no LoRA was trained."""
    shift: float = 1.0
    """Resolution shift of its training, for the sampling schedule."""
    parts: tuple[str, ...] = ()
    """Files and folders of weights."""

    @property
    def name(self) -> str:
        """Name of the adapter."""
        return self.bundle_card.name

    @classmethod
    def of(
        cls,
        base: Bundle,
        bundle_card: BundleCard,
        *,
        lora: LoraConfig | None = None,
        shift: float | None = None,
    ) -> AdapterCard:
        """Card of an adapter.

        Args:
            base: What it belongs to.
            bundle_card: Of base and adapter together.
            lora: Settings of its LoRA.
            shift: By default the base's.
        """
        if lora is not None and lora.alpha is None:
            lora = lora.model_copy(update={"alpha": float(lora.rank)})
        shift = base.shift if shift is None else shift
        return cls(base=base_identity(base), bundle_card=bundle_card, lora=lora, shift=shift)


def base_identity(bundle: Bundle) -> BaseIdentity:
    """What a bundle can be known by as the base of an adapter."""
    files = {k: v for k, v in bundle.identity.items() if k not in ("name", "version", "base")}
    return BaseIdentity(
        name=bundle.adapter.get("base", bundle.card.name),
        version=bundle.card.version,
        files=merged_adapter(bundle) | files,
        sizes=_sizes(bundle.transformer),
        marks=_marks(bundle.transformer),
    )


def adapter_names() -> list[str]:
    """Names of the adapters that ship with the package, sorted."""
    return sorted(path.parent.name for path in ADAPTERS_FOLDER.glob(f"*/{ADAPTER_FILE}"))


def adapter_path(name_or_path: str | Path) -> Path:
    """Folder of an adapter.

    Args:
        name_or_path: Name of a shipped adapter, or a folder that holds one, with or without a
            card; a name goes first.

    Raises:
        BundleError: If there is none.
    """
    name = str(name_or_path)
    if name in adapter_names():
        return ADAPTERS_FOLDER / name
    folder = Path(name_or_path)
    if (folder / ADAPTER_FILE).is_file() or (folder / LORA_FILE).is_file():
        return folder
    choices = ", ".join(repr(choice) for choice in adapter_names()) or "none is installed"
    fault = "is no adapter and no folder"
    if folder.is_dir():
        fault = f"is a folder with neither {ADAPTER_FILE} nor {LORA_FILE}"
    raise BundleError(
        f"{name!r} {fault}. Choose one of {choices}, or give the folder of a trained adapter."
    )


def read_adapter_card(folder: Path) -> AdapterCard | None:
    """Card of an adapter; ``None`` where a folder holds a bare LoRA.

    Raises:
        BundleError: If the card is damaged or breaks its rules.
    """
    path = folder / ADAPTER_FILE
    if not path.exists():
        return None
    try:
        return AdapterCard(**json.loads(path.read_text()))
    except ValidationError as error:
        raise BundleError(f"{path}: {describe_validation(error, AdapterCard)}") from None
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{path} is damaged: {error}. Restore the adapter.") from None


def write_adapter_card(folder: Path, card: AdapterCard) -> None:
    """Write a card into an adapter."""
    write_json(folder / ADAPTER_FILE, card.model_dump(mode="json"))


def adapter_identity(
    folder: Path, card: AdapterCard | None, base: Bundle, *, scale: float
) -> dict[str, str]:
    """What an image must say of the adapters that it was made with, and of the base beneath."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix != ".md"]
    found = {
        "adapter": folder.name if card is None else card.name,
        "adapter_version": "0" if card is None else card.bundle_card.version,
        "adapter_sha256": fingerprint(files),
        "adapter_scale": f"{scale:g}",
    }
    before = base.adapter
    found = {k: f"{before[k]} + {v}" if k in before else v for k, v in found.items()}
    return {"base": before.get("base", base.card.name)} | found


def adapter_readme(card: AdapterCard) -> str:
    """Card in words: what the adapter is, how to use it, and what any model card must say."""
    about, base = card.bundle_card, card.base
    command = f"ecomap generate --bundle {base.name} --adapter FOLDER"
    how = (
        f"An adapter of {base.name} {base.version} for ecomap.\n\n"
        f"```\n{command} --lat 14.5 --lon -4.2 --month 8\n```\n\n"
    )
    others = [part for part in card.parts if part != LORA_FILE]
    if card.lora is not None:
        how += "`pipe.load_lora_weights(FOLDER)` reads its LoRA in diffusers"
        how += f", and nothing of {', '.join(others)}: " if others else ". "
    else:
        how += "diffusers cannot read it alone: "
    how += f"`ecomap model merge FOLDER --base {base.name} --output BUNDLE` makes one of all parts."
    parts = bullets(_part_words(card, part) for part in card.parts)
    head = [front_matter(about, base_model=base.name), f"# {about.name} {about.version}", how]
    return "\n\n".join([*head, f"## Parts\n\n{parts}", *sections(about)]) + "\n"


def _part_words(card: AdapterCard, part: str) -> str:
    """One part of an adapter in words."""
    if part == LORA_FILE and (lora := card.lora) is not None:
        kinds = [name for name, is_so in (("DoRA", lora.dora), ("rsLoRA", lora.rslora)) if is_so]
        kind = " and ".join(kinds) or "LoRA"
        return f"`{part}`: {kind} of rank {lora.rank}, alpha {lora.alpha:g}, of " + ", ".join(
            lora.targets
        )
    if part == LAYERS_FILE:
        return f"`{part}`: layers of the transformer that were trained whole"
    return f"`{part}`: trained whole"


def _sizes(transformer: SD3Transformer2DModel) -> dict[str, Any]:
    """Sizes of a transformer as JSON has them."""
    sizes = {name: transformer.config[name] for name in SIZES}
    return sizes | {"dual_attention_layers": list(sizes["dual_attention_layers"] or [])}


def _marks(
    transformer: SD3Transformer2DModel, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Middle elements of weights, by name.

    Args:
        transformer: What learns in it is passed over: it has left the base.
        names: Of the weights; by default `NUM_MARKS` of them, spread over the transformer.
    """
    weights = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in transformer.named_parameters()
        if parameter.ndim > 1 and "lora_" not in name
    }
    if names is None:
        # Quantised weights are of other classes, and have no elements to look at.
        usable = [
            name for name, p in weights.items()
            if not p.requires_grad and type(p).__name__ == "Parameter"
        ]  # fmt: skip
        step = max(1, len(usable) // NUM_MARKS)
        names = usable[::step][:NUM_MARKS]
    middle = {name: weights[name].detach().flatten()[weights[name].numel() // 2] for name in names}
    return {name: float(f"{float(value):.6g}") for name, value in middle.items()}


def merged_adapter(bundle: Bundle) -> dict[str, str]:
    """Name, hash and scale of the adapter that is merged into a bundle; empty for none."""
    told = bundle.adapter or (bundle.card.training.get("merged") or {}).get("adapter", {})
    return {k: told[k] for k in ("adapter", "adapter_sha256", "adapter_scale") if k in told}
