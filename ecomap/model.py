"""A bundle: Stable Diffusion 3's parts and our climate encoder, whatever their size.

A bundle is a folder in diffusers layout that the stock ``StableDiffusion3Pipeline`` loads as it is;
beside the stock parts lie ``climate_encoder/`` and the card. Here the parts become one function:
(latents, sigma, condition) -> velocity.

Longer than the budget because a bundle's parts, loading, saving and conditions are one interface.
"""

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)
from transformers.utils import logging as transformers_logging

from ecomap.attention import use_biased_attention
from ecomap.bundle_paths import CONTROLNET_FOLDER, bundle_path
from ecomap.card import BundleCard, read_card, write_card
from ecomap.climate_encoder import PLACE_FEATURE_NAMES, ClimateBatch, ClimateEncoder
from ecomap.conditions import Condition, KeptTexts, embed_text, join_condition, tokenize
from ecomap.controls import ControlSpec
from ecomap.edit import EditHead
from ecomap.errors import BundleError
from ecomap.feature_network import FOLDER as FEATURE_NETWORK_FOLDER
from ecomap.model_card import README_FILE, bundle_readme
from ecomap.prompt import Prompt
from ecomap.schema import write_json
from ecomap.silent_t5 import build_silent_t5, is_silent
from ecomap.solver import NUM_TRAIN_TIMESTEPS
from ecomap.versions import fingerprint
from ecomap.whole_folders import written_whole

CLIMATE_ENCODER_FOLDER = "climate_encoder"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""A model hub's ``owner/name``; a folder of that name goes first."""


@dataclass(frozen=True)
class Bundle:
    """The parts of a model and its card."""

    path: Path
    card: BundleCard
    transformer: SD3Transformer2DModel
    vae: AutoencoderKL
    scheduler: FlowMatchEulerDiscreteScheduler
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]
    tokenizer_3: PreTrainedTokenizerBase | None = None
    text_encoder_3: T5EncoderModel | None = None
    climate_encoder: ClimateEncoder | None = None
    controlnet: SD3ControlNetModel | None = None
    controlnet_path: Path | None = None
    """Folder that the ControlNet came from."""
    control: ControlSpec | None = None
    """What the ControlNet's control is."""
    edit_head: EditHead | None = None
    """Where the ControlNet edits its reference."""
    texts: KeptTexts | None = None
    """Embeddings to look up in place of encoding: then the text encoders never run."""
    adapter: Mapping[str, str] = field(default_factory=dict)
    """Identity of the adapter that was applied after loading (`ecomap.adapter.load_adapter`)."""

    @property
    def name(self) -> str:
        """Name on the card."""
        return self.card.name

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return torch.device(self.transformer.device)

    @property
    def shift(self) -> float:
        """Resolution shift of the sampling schedule."""
        return float(self.scheduler.config.shift)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name, version, and a hash of all files that decide images, or the revision of a hub.

        With an adapter, its own name, version, hash and scale too.
        """
        found = {"name": self.card.name, "version": self.card.version, **self.adapter}
        if self.path.parent.name == "snapshots":
            return found | {"revision": self.path.name}
        files = [] if self.path == Path() else sorted(self.path.rglob("*"))
        apart = {self.path / name for name in (FEATURE_NETWORK_FOLDER, CONTROLNET_FOLDER)}
        files = [f for f in files if not apart.intersection(f.parents) and f.name != README_FILE]
        return found | {"sha256": fingerprint(files)}

    def modules(self) -> dict[str, nn.Module]:
        """Networks that turn a condition into a velocity, by folder name, T5 excepted."""
        found: dict[str, nn.Module] = {
            "transformer": self.transformer,
            "text_encoder": self.text_encoders[0],
            "text_encoder_2": self.text_encoders[1],
        }
        if self.climate_encoder is not None:
            found[CLIMATE_ENCODER_FOLDER] = self.climate_encoder
        return found


def is_hub_id(name: str) -> bool:
    """Whether a name is an id on a model hub, and no folder."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def load_bundle(
    name_or_path: str | Path = "ecomap-tiny",
    *,
    device: str = "auto",
    use_t5: bool = True,
    half_t5: bool = False,
) -> Bundle:
    """Load a bundle by the name of a shipped one, a folder, or a model hub's id.

    Args:
        name_or_path: ``ecomap-tiny``, a folder in diffusers layout, or ``owner/name`` on the hub.
        device: ``auto`` takes a GPU if there is one.
        use_t5: Whether a T5 is loaded, where there is one.
        half_t5: Whether T5, the largest part, is held in bfloat16; its activations leave the range
            of float16.

    Raises:
        BundleError: If there is no such bundle, or parts of it are missing.
    """
    for package in (diffusers_logging, transformers_logging):
        package.disable_progress_bar()
    name = str(name_or_path)
    is_on_hub = is_hub_id(name)
    try:
        folder = StableDiffusion3Pipeline.download(name) if is_on_hub else bundle_path(name)
        path = Path(folder)
        parts = {} if use_t5 else {"text_encoder_3": None, "tokenizer_3": None}
        small = {"text_encoder_3": torch.bfloat16} if half_t5 else {}
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            path, local_files_only=True, dtype={"default": torch.float32} | small, **parts
        )
        encoder = None
        if (path / CLIMATE_ENCODER_FOLDER).is_dir():
            encoder = load_climate_encoder(path / CLIMATE_ENCODER_FOLDER)
    except BundleError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if is_on_hub:
            raise _not_on_hand(name, error) from None
        raise BundleError(
            f"Bundle {name!r} cannot be loaded: {error}. Expected a whole folder in the layout of "
            "StableDiffusion3Pipeline, of this version of ecomap. Restore it, or train it again."
        ) from None
    use_biased_attention(pipeline.transformer)
    no_t5 = pipeline.text_encoder_3 is None or is_silent(pipeline.text_encoder_3)
    bundle = Bundle(
        path=path,
        card=read_card(path, name=name),
        transformer=pipeline.transformer,
        vae=pipeline.vae,
        scheduler=pipeline.scheduler,
        tokenizers=(pipeline.tokenizer, pipeline.tokenizer_2),
        text_encoders=(pipeline.text_encoder, pipeline.text_encoder_2),
        tokenizer_3=None if no_t5 else pipeline.tokenizer_3,
        text_encoder_3=None if no_t5 else pipeline.text_encoder_3,
        climate_encoder=encoder,
    )
    target = resolve_device(device)
    for module in (*bundle.modules().values(), bundle.vae, bundle.text_encoder_3):
        if module is not None:
            module.to(target).eval().requires_grad_(False)
    return bundle


def _not_on_hand(name: str, error: Exception) -> BundleError:
    """A model that cannot be had from the hub, with all ways to get it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    reason = next((e for e in chain if isinstance(e, HfHubHTTPError)), chain[-1])
    return BundleError(
        f"Model {name!r} can be had neither from the hub nor from its cache: "
        f"{' '.join(str(reason).split()).rstrip('.')}. If it is gated, accept its licence on "
        f"https://huggingface.co/{name} and run 'hf auth login'; without a network, copy its "
        "folder here and give that. The bundle ecomap-tiny ships with ecomap and needs neither."
    )


def load_climate_encoder(folder: Path) -> ClimateEncoder:
    """Load a climate encoder, all of it.

    Raises:
        BundleError: If it does not fit this version of ecomap.
    """
    encoder, found = ClimateEncoder.from_pretrained(folder, output_loading_info=True)
    features = list(encoder.config.place_features)
    if features != PLACE_FEATURE_NAMES:
        raise BundleError(
            f"{folder} reads {', '.join(features)} of a place; this version of ecomap gives "
            f"{', '.join(PLACE_FEATURE_NAMES)}. Train it again, or use the version on its card."
        )
    strays = [*found["missing_keys"], *found["unexpected_keys"]]
    if strays:
        raise BundleError(
            f"{folder} does not fit this version of ecomap: {len(strays)} weights, such as "
            f"{strays[0]}, are missing or unknown. Train it again, or use the version on its card."
        )
    loaded: ClimateEncoder = encoder
    return loaded


def save_bundle(bundle: Bundle, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a bundle so that the stock pipeline and `load_bundle` read it, whole or not at all.

    Args:
        bundle: Parts and card.
        folder: Where to; a former bundle there is replaced, and what else lies with it stays.
        dtype: Of the stored weights of what diffusers loads: half precision halves the folder, and
            it loads as float32. Text encoders stay in float32: transformers loads them as they
            are, and the stock pipeline would mix the two.

    Raises:
        DataError: If the disk has no room; ``folder`` is as it was.
    """
    tokenizer_3, text_encoder_3 = bundle.tokenizer_3, bundle.text_encoder_3
    if text_encoder_3 is None:
        width = int(bundle.transformer.config.joint_attention_dim)
        tokenizer_3, text_encoder_3 = build_silent_t5(width)
    transformer, vae = (_rounded(part, dtype) for part in (bundle.transformer, bundle.vae))
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=bundle.scheduler,
        vae=vae,
        text_encoder=bundle.text_encoders[0],
        tokenizer=bundle.tokenizers[0],
        text_encoder_2=bundle.text_encoders[1],
        tokenizer_2=bundle.tokenizers[1],
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )
    parts = [*pipeline.components, CLIMATE_ENCODER_FOLDER]
    weights = ("diffusion_pytorch_model*", "model*.safetensors*")
    former = [f"{part}/{name}" for part in parts for name in weights]
    if bundle.climate_encoder is None:
        former.append(CLIMATE_ENCODER_FOLDER)
    with written_whole(folder, replaces=former) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        if bundle.climate_encoder is not None:
            encoder = temporary / CLIMATE_ENCODER_FOLDER
            bundle.climate_encoder.save_pretrained(encoder, safe_serialization=True)
        for path in temporary.glob("*/config.json"):
            # Where a part came from is a path of the machine that trained it.
            config = json.loads(path.read_text())
            write_json(path, {k: v for k, v in config.items() if k != "_name_or_path"})
        write_card(temporary, bundle.card)
        (temporary / README_FILE).write_text(bundle_readme(bundle.card), encoding="utf-8")


def _rounded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy in another dtype, without diffusers' warning that an empty list of modules suffers."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        return deepcopy(network).to(dtype)
    finally:
        diffusers_logging.set_verbosity(level)


def resolve_device(device: str) -> torch.device:
    """Turn ``auto`` into the best device at hand.

    Raises:
        BundleError: If the device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if available[d]))
    if not available.get(device.split(":")[0], False):
        choices = ", ".join(["auto", *(d for d, is_here in available.items() if is_here)])
        raise BundleError(f"Device {device!r} is not available here. Choose one of {choices}.")
    return torch.device(device)


def encode_condition(
    bundle: Bundle,
    prompts: Sequence[Prompt],
    climate: ClimateBatch | None = None,
    *,
    has_tokens: Tensor | None = None,
    null_tokens: float | None = None,
) -> Condition:
    """Turn prompts and climate series into what the transformer reads.

    A record without tokens is told exactly what the stock pipeline would tell it.

    Args:
        bundle: The model.
        prompts: One a record; `EMPTY_PROMPT` for no text.
        climate: Inputs of the climate encoder, one a record; ``None`` for no tokens at all.
        has_tokens: bool ``(B,)``: whose tokens are there; all by default.
        null_tokens: How many zero tokens stand for an absent T5; by default the card's number.

    Raises:
        BundleError: If climate tokens are asked of a bundle that has no climate encoder.
    """
    length = bundle.card.t5_null_tokens if null_tokens is None else null_tokens
    tokens = None
    if climate is not None:
        if bundle.climate_encoder is None:
            raise BundleError(
                f"Bundle {bundle.name!r} has no climate encoder. Use its text door only "
                "(doors=text)."
            )
        tokens = bundle.climate_encoder(climate)
    if bundle.texts is not None:
        text = bundle.texts.read(prompts)
    else:
        ids = tokenize(prompts, bundle.tokenizers, bundle.tokenizer_3, t5_tokens=round(length))
        text = embed_text(ids.to(bundle.device), bundle.text_encoders, bundle.text_encoder_3)
    return join_condition(
        text.to(bundle.device),
        width=int(bundle.transformer.config.joint_attention_dim),
        null_tokens=length,
        climate=tokens,
        has_tokens=has_tokens,
    )


def lost_tokens(bundle: Bundle, prompt: Prompt) -> int:
    """Tokens at the end of a short prompt that the text encoders do not read."""
    lost = [
        len(tokenizer(prompt.short).input_ids) - int(tokenizer.model_max_length)
        for tokenizer in bundle.tokenizers
    ]
    return max(0, *lost)


def predict_velocity(
    transformer: SD3Transformer2DModel,
    latents: Tensor,
    sigma: Tensor,
    condition: Condition,
    *,
    residuals: Sequence[Tensor] | None = None,
) -> Tensor:
    """Velocity at noisy latents.

    Args:
        transformer: With biased attention (`use_biased_attention`).
        latents: ``(B, 16, h, w)``.
        sigma: Noise level of each image ``(B,)``.
        condition: One entry an image.
        residuals: What a ControlNet adds after blocks (`ecomap.controlnet.run_controlnet`).

    Returns:
        Shaped like ``latents``.
    """
    velocity: Tensor = transformer(
        hidden_states=latents,
        timestep=sigma * NUM_TRAIN_TIMESTEPS,
        encoder_hidden_states=condition.context,
        pooled_projections=condition.pooled,
        block_controlnet_hidden_states=residuals,
        joint_attention_kwargs={"key_bias": condition.key_bias},
        return_dict=False,
    )[0]
    return velocity
