"""Checkpoints of other programs, which hold a whole transformer with a LoRA, made into adapters."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig as PeftLoraConfig
from safetensors import safe_open
from torch import Tensor

from ecomap.adapter import TARGET_MODULES, save_adapter
from ecomap.adapter_card import AdapterCard
from ecomap.adapter_tools import refuse_full
from ecomap.card import BundleCard
from ecomap.errors import BundleError
from ecomap.inspect_model import read_head
from ecomap.model import Bundle, load_bundle
from ecomap.transformer_config import LoraConfig, LoraTarget
from ecomap.versions import fingerprint

LORA_NAME = re.compile(r"(?P<layer>.+)\.lora_(A|B|magnitude_vector)\.(?P<adapter>[^.]+)\.weight")
"""Names that peft gives to weights of a LoRA within a model."""

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|transformer\.)+")
"""What programs put before names when they save a wrapped model."""

MAX_LISTED = 8


@dataclass(frozen=True)
class Converted:
    """What a checkpoint held, and what became of it."""

    output: Path
    rank: int
    alpha: float
    adapted_layers: dict[str, int]
    """Number of layers by name within a block."""
    trained_whole: list[str]
    """Parameters that differ from the base's and are kept."""
    dropped_as_base: int
    """Tensors that are the base's own."""
    dropped_as_unknown: list[str]
    """Tensors that no transformer of this base has."""
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}

    def render(self) -> str:
        """Words for the terminal."""
        layers = ", ".join(f"{count} x {name}" for name, count in self.adapted_layers.items())
        unknown = len(self.dropped_as_unknown)
        return "\n".join(
            [
                f"LoRA of rank {self.rank}, alpha {self.alpha:g}: {layers}",
                f"Trained whole: {_listed(self.trained_whole)}",
                f"Dropped: {self.dropped_as_base} tensors that are the base's own, {unknown} that "
                f"no transformer has{': ' if unknown else ''}"
                f"{_listed(self.dropped_as_unknown) if unknown else ''}",
                *self.notes,
                f"Adapter: {self.output}",
            ]
        )


def convert_checkpoint(
    path: Path,
    output: Path,
    *,
    base: str,
    alpha: float | None = None,
    rslora: bool = False,
    name: str | None = None,
) -> Converted:
    """Make an adapter of a whole transformer that was saved with a LoRA in it, as EcoMapper's are.

    Such a file repeats the base beside what was trained, and does not state alpha. Its weights are
    compared with the base: what is the same is dropped, what differs was trained whole.

    Args:
        path: safetensors file, or a folder with one.
        output: Folder; new or empty.
        base: Bundle that was trained.
        alpha: Of the LoRA; by default its rank. EcoMapper's is 64.
        rslora: Whether its scale is ``alpha / sqrt(rank)``.
        name: Of the adapter; by default the file's folder.

    Raises:
        BundleError: If the file holds no LoRA, or one of another base, or ``output`` is not empty.
    """
    refuse_full(output)
    path = _checkpoint_file(path)
    if not any(".lora_A." in tensor for tensor in read_head(path)):
        raise BundleError(
            f"{path} holds no LoRA: none of its names has 'lora_A'. Expected the state of a "
            "transformer that peft adapted, such as EcoMapper's transformer.safetensors."
        )
    bundle = load_bundle(base, device="cpu")
    lora, whole, same, unknown = _compare(path, bundle)
    rank, layers = _rank_and_layers(path, lora)
    scale = float(rank if alpha is None else alpha)
    card = _card_of(path, bundle, name or path.parent.name or path.stem)
    settings = LoraConfig(
        rank=rank, alpha=scale, rslora=rslora, targets=_targets(path, layers),
        dora=any("lora_magnitude_vector" in n for n in lora),
    )  # fmt: skip
    about = AdapterCard.of(bundle, card, lora=settings)
    _put_back(path, bundle.transformer, lora, layers, settings)
    save_adapter(output, bundle.transformer, extra=whole, card=about)
    notes = [] if alpha is not None else [f"Alpha is not in the file; the rank, {rank}, was taken."]
    return Converted(
        output=output, rank=rank, alpha=scale, adapted_layers=_counts(layers),
        trained_whole=sorted(whole), dropped_as_base=same, dropped_as_unknown=unknown, notes=notes,
    )  # fmt: skip


def _compare(
    path: Path, bundle: Bundle
) -> tuple[dict[str, Tensor], dict[str, Tensor], int, list[str]]:
    """Divide a checkpoint: LoRA, trained whole, number of the base's own tensors, unknown names.

    One tensor at a time: the file may be as large as the base.
    """
    own = bundle.transformer.state_dict()
    learnable = {name for name, _ in bundle.transformer.named_parameters()}
    lora, whole, unknown, same = {}, {}, [], 0
    with safe_open(path, framework="pt") as file:
        for full_name in file.keys():  # noqa: SIM118  # it is no mapping
            name = WRAPPERS.sub("", full_name)
            plain = name.replace(".base_layer.", ".")
            if ".lora_" in name:
                lora[name] = file.get_tensor(full_name).float()
                continue
            if plain not in own:
                unknown.append(name)
                continue
            tensor = file.get_tensor(full_name)
            if tensor.shape == own[plain].shape and _is_same(tensor, own[plain]):
                same += 1
            elif tensor.shape == own[plain].shape and name in learnable:
                whole[name] = tensor.float()
            else:
                raise BundleError(
                    f"{path} was not trained on {bundle.name}: its {plain}, which LoRA leaves as "
                    "it was, differs from the base's. Give --base the model that was trained."
                )
    return lora, whole, same, sorted(unknown)


def _is_same(tensor: Tensor, own: Tensor) -> bool:
    """Whether weights are equal, or one is the other rounded to half precision."""
    is_half = tensor.dtype in (torch.float16, torch.bfloat16)
    return torch.equal(tensor, own.to(tensor.dtype) if is_half else own)


def _rank_and_layers(path: Path, lora: Mapping[str, Tensor]) -> tuple[int, list[str]]:
    """Rank and adapted layers of the one LoRA of a checkpoint."""
    found = {name: LORA_NAME.fullmatch(name) for name in lora}
    adapters = {match["adapter"] if match else name for name, match in found.items()}
    ranks = {tensor.shape[0] for name, tensor in lora.items() if ".lora_A." in name}
    if len(adapters) != 1 or len(ranks) != 1:
        raise BundleError(
            f"{path} holds LoRAs named {_listed(sorted(adapters))} of ranks {sorted(ranks)}. "
            "Expected one of one rank; take the others out first."
        )
    return ranks.pop(), sorted({match["layer"] for match in found.values() if match})


def _put_back(
    path: Path,
    transformer: SD3Transformer2DModel,
    lora: Mapping[str, Tensor],
    layers: Sequence[str],
    settings: LoraConfig,
) -> None:
    """Give a transformer the LoRA of a checkpoint."""
    names = dict(transformer.named_modules())
    if strays := [layer for layer in layers if layer not in names]:
        raise BundleError(
            f"{path} adapts {strays[0]}, which the base does not have. Give --base the model that "
            "was trained."
        )
    transformer.add_adapter(
        PeftLoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft declares whole numbers only
            target_modules=list(layers),
            use_rslora=settings.rslora,
            use_dora=settings.dora,
        )
    )
    state = {
        re.sub(r"\.(lora_\w+)\.[^.]+\.weight$", r".\1.default.weight", name): tensor
        for name, tensor in lora.items()
    }
    expected = {n for n in transformer.state_dict() if ".lora_" in n}
    if odd := sorted(expected ^ set(state)):
        raise BundleError(
            f"{path} is incomplete: {len(odd)} weights of its LoRA, such as {odd[0]}, are missing "
            "or unknown. Expected lora_A and lora_B of every layer; restore the file."
        )
    transformer.load_state_dict(state, strict=False)


def _card_of(path: Path, base: Bundle, name: str) -> BundleCard:
    """Card of base and converted weights: what the file does not say stays unsaid."""
    source = {"file": path.name, "sha256": fingerprint([path])}
    unsaid = f"Not stated in {path.name}, of which it was converted."
    training = {"converted_from": source, "started_from": base.card.training}
    return base.card.model_copy(
        update={
            "name": name, "version": "0", "imagery": unsaid, "limits": unsaid,
            "training": training,
        }
    )  # fmt: skip


def _targets(path: Path, layers: Sequence[str]) -> tuple[LoraTarget, ...]:
    """Kinds of layers that were adapted."""
    found = _counts(layers)
    known = {name for names in TARGET_MODULES.values() for name in names}
    if strays := sorted(set(found) - known):
        raise BundleError(
            f"{path} adapts {_listed(strays)}, which no LoRA target of ecomap names. Expected "
            f"layers of {', '.join(TARGET_MODULES)}; merge it with the program that made it."
        )
    return tuple(kind for kind, names in TARGET_MODULES.items() if any(n in found for n in names))


def _counts(layers: Sequence[str]) -> dict[str, int]:
    """Number of layers by name within a block."""
    return dict(Counter(re.sub(r"^transformer_blocks\.\d+\.", "", layer) for layer in layers))


def _checkpoint_file(path: Path) -> Path:
    """The safetensors file that is meant."""
    if path.is_file():
        return path
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if len(found) != 1:
        what = f"{len(found)} safetensors files" if path.is_dir() else "nothing"
        raise BundleError(f"{path} holds {what}; expected one. Give the path of the file itself.")
    return found[0]


def _listed(names: Sequence[str]) -> str:
    """Names as text, the first few of many."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "nothing") + more
