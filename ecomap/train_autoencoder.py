"""Train the small autoencoder: reconstruct satellite frames inside SD3's latent space.

The encoder learns the teacher's latents, the decoder learns to read them back to pixels, and on
``own_frac`` of each batch both learn together. Distances are absolute plus squared: with the
absolute one alone, smooth frames stayed many dB behind the teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from rich.console import Console
from torch import Tensor, nn

from ecomap.accelerators import open_accelerator, require_one_process
from ecomap.autoencoder import LATENT_FACTOR, Teacher, build_autoencoder, load_vae
from ecomap.errors import ConfigError, DataError
from ecomap.imagery import FrameReader
from ecomap.latents import decode, encode, to_pixels
from ecomap.loop import optimise
from ecomap.progress import open_console
from ecomap.run_folder import open_run
from ecomap.schema import TileRecord, read_dataset
from ecomap.train_config import AutoencoderTrainConfig
from ecomap.training_draws import Part
from ecomap.training_report import write_training_page
from ecomap.whole_folders import written_whole

SKIP_FLAGS = {"black", "blank", "duplicate"}
"""Frames with these flags hold no image to reconstruct."""

MAX_GAIN, MAX_TINT = 2.0, 1.6
"""Largest factor (and smallest, inverted) of all channels of a crop, and of each on top of it: a
desert of 120 to 80 becomes one that is clipped in red, as some products stretch it."""


@dataclass(frozen=True)
class Frames:
    """Frames of one dataset and one side of its split."""

    name: str
    reader: FrameReader
    records: list[TileRecord]

    def require(self, size_px: int) -> None:
        """Refuse crops that do not fit into every frame.

        Raises:
            DataError: If a frame is smaller.
        """
        smallest = min(min(record.height_px, record.width_px) for record in self.records)
        if smallest < size_px:
            raise DataError(
                f"{self.name} has frames of {smallest} px, smaller than crops of {size_px} px. "
                "Choose smaller crops."
            )

    def crop(self, rng: np.random.Generator, size_px: int) -> np.ndarray:
        """A random crop, aligned with nothing, as uint8 ``(size_px, size_px, 3)``."""
        record = self.records[int(rng.integers(len(self.records)))]
        image = self.reader.read(record)
        row, column = (
            int(rng.integers(side - size_px + 1)) for side in (record.height_px, record.width_px)
        )
        return image[row : row + size_px, column : column + size_px]


def open_frames(folders: Sequence[Path], split: str) -> list[Frames]:
    """Usable frames of datasets on one side of their split.

    Raises:
        DataError: If a dataset has none.
    """
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(f"Datasets are told apart by their folders' names; got {names}.")
    found = []
    for folder in folders:
        records = [
            r for r in read_dataset(folder) if r.split == split and not SKIP_FLAGS & set(r.flags)
        ]
        if not records:
            raise DataError(
                f"{folder} has no usable frame with split {split!r}. Run 'ecomap data split' on it."
            )
        found.append(Frames(folder.name, FrameReader(folder, num_cached=512), records))
    return found


def draw_batch(sources: Sequence[Frames], config: AutoencoderTrainConfig, step: int) -> Tensor:
    """Pixels ``(B, 3, S, S)`` of a step; the same step always gives the same batch.

    Now and then few large crops replace many small ones, so that the network's normalisation also
    meets the statistics of whole tiles.
    """
    rng = np.random.default_rng([config.seed, step])
    large = rng.random() < config.large_crop_probability
    size_px = config.image_size_px if large else config.crop_px
    count = config.batch_size
    if large:
        count = max(1, config.batch_size * config.crop_px**2 // config.image_size_px**2)
    weights = np.array(config.dataset_weights, float)
    chosen = rng.choice(len(sources), size=count, p=weights / weights.sum())
    crops = np.stack([sources[i].crop(rng, size_px) for i in chosen])
    if config.gain_probability:
        crops = _with_gains(crops, config.gain_probability, rng)
    if rng.random() < 0.5:
        crops = crops[:, :, ::-1]
    if rng.random() < 0.5:
        crops = crops.transpose(0, 2, 1, 3)
    return to_pixels(torch.from_numpy(np.ascontiguousarray(crops)))


def _with_gains(crops: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Brighten or darken the channels of some crops, clipped as stretched products are."""
    count = len(crops)
    log_gain = rng.uniform(-1, 1, (count, 1)) * np.log(MAX_GAIN)
    log_gain = log_gain + rng.uniform(-1, 1, (count, 3)) * np.log(MAX_TINT)
    log_gain[rng.random(count) >= probability] = 0.0
    gained = crops * np.exp(log_gain)[:, None, None, :]
    return np.asarray(np.clip(gained.round(), 0, 255), np.uint8)


def autoencoder_loss(
    vae: AutoencoderKL, teacher: Teacher, pixels: Tensor, config: AutoencoderTrainConfig
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch and its parts.

    Args:
        vae: The network in training.
        teacher: Where SD3's latents come from.
        pixels: ``(B, 3, S, S)`` in [-1, 1].
        config: Weights of the parts.
    """
    num_own = max(1, round(len(pixels) * config.own_frac))
    target = teacher.encode(pixels).float()
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    z = vae.encoder(pixels)[:, : target.shape[1]].float()
    latent = _distance((z - shift) * scale, target, config.squared_weight)
    decoded = vae.decoder(torch.cat([target / scale + shift, z[:num_own]])).float()
    read = _distance(decoded[: len(pixels)], pixels, config.squared_weight)
    own = _distance(decoded[len(pixels) :], pixels[:num_own], config.squared_weight)
    loss = read + config.own_frac * own + config.latent_weight * latent
    return loss, {"own": own.item(), "read": read.item(), "latent": latent.item()}


def _distance(output: Tensor, target: Tensor, squared_weight: float) -> Tensor:
    """Mean absolute difference plus the weighted mean square, which is what PSNR counts."""
    difference = output - target
    return difference.abs().mean() + squared_weight * difference.square().mean()


@torch.no_grad()
def reconstruction_psnr(network: AutoencoderKL | Teacher, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image's reconstruction, dB, on uint8 levels.

    Args:
        network: Autoencoder or teacher.
        pixels: ``(B, 3, H, W)`` in [-1, 1].
    """
    if isinstance(network, Teacher):
        output = network.decode(network.encode(pixels))
    else:
        output = decode(network, encode(network, pixels))
    levels = ((output + 1) * 127.5).round() - ((pixels + 1) * 127.5).round()
    return 10 * torch.log10(255**2 / levels.square().mean((1, 2, 3)).clamp(min=1e-10))


def validation_pixels(
    sources: Sequence[Frames], num_images: int, size_px: int
) -> dict[str, Tensor]:
    """Fixed centre crops by dataset, evenly spread over its records.

    Raises:
        DataError: If a frame is smaller than the crop.
    """
    batches = {}
    for frames in sources:
        frames.require(size_px)
        index = np.linspace(0, len(frames.records) - 1, num_images).round().astype(int)
        crops = []
        for record in (frames.records[i] for i in np.unique(index)):
            image = frames.reader.read(record)
            row, column = (image.shape[0] - size_px) // 2, (image.shape[1] - size_px) // 2
            crops.append(image[row : row + size_px, column : column + size_px])
        batches[frames.name] = to_pixels(torch.from_numpy(np.stack(crops)))
    return batches


def _check_config(config: AutoencoderTrainConfig) -> None:
    """Refuse sizes off the latent grid and weights that do not pair up."""
    if config.crop_px % LATENT_FACTOR or config.image_size_px % LATENT_FACTOR:
        raise ConfigError(
            f"crop_px {config.crop_px} and image_size_px {config.image_size_px} must be multiples "
            f"of {LATENT_FACTOR}."
        )
    if len(config.datasets) != len(config.dataset_weights):
        raise ConfigError(
            f"dataset_weights gives {len(config.dataset_weights)} weights for "
            f"{len(config.datasets)} datasets; give one each."
        )


def _start_weights(config: AutoencoderTrainConfig) -> dict[str, Tensor]:
    """Weights of the autoencoder that training starts from."""
    given = load_vae(config.start or Path())
    if tuple(given.config.block_out_channels) != config.channels:
        raise ConfigError(
            f"start {config.start} has widths {tuple(given.config.block_out_channels)}, not "
            f"{config.channels}; give its widths as channels."
        )
    weights: dict[str, Tensor] = given.state_dict()
    return weights


def train(
    config: AutoencoderTrainConfig,
    output: Path,
    *,
    device: str = "cpu",
    console: Console | None = None,
) -> Path:
    """Train the autoencoder and save it in diffusers layout.

    Args:
        config: Complete settings.
        output: Run folder; resumed if it holds the same run.
        device: Torch device.
        console: Where progress is shown.

    Returns:
        Folder of the averaged weights, ``output/vae``.

    Raises:
        ConfigError: If sizes do not fit, the folder holds another run, or several processes were
            launched.
        DataError: If a dataset lacks usable frames of a size.
    """
    console = console or open_console()
    _check_config(config)
    accelerator = open_accelerator(config.bf16, device)
    require_one_process(accelerator, config.task, config.optim.micro_batches)
    with open_run(output, config, config.datasets):
        return _train(config, output, accelerator=accelerator, device=device, console=console)


def _train(
    config: AutoencoderTrainConfig,
    output: Path,
    *,
    accelerator: Accelerator,
    device: str,
    console: Console,
) -> Path:
    """Train in a folder that no other run gets into."""
    torch.manual_seed(config.seed)
    vae = build_autoencoder(config.channels, image_size_px=config.image_size_px)
    if config.start is not None:
        vae.load_state_dict(_start_weights(config))
    vae = vae.to(device, memory_format=torch.channels_last)
    teacher = Teacher(config.teacher).to(device).to(memory_format=torch.channels_last)
    sources = open_frames(config.datasets, "train")
    for frames in sources:
        frames.require(max(config.crop_px, config.image_size_px))
    held_out = validation_pixels(open_frames(config.datasets, "val"), 32, config.image_size_px)

    def draw(step: int, _: Part) -> Tensor:
        return draw_batch(sources, config, step).to(device, memory_format=torch.channels_last)

    def validate(_: nn.Module) -> dict[str, float]:
        with torch.autocast(accelerator.device.type, enabled=False):  # as it will be used
            return {
                f"val_psnr_{name}": float(reconstruction_psnr(vae, pixels.to(device)).mean())
                for name, pixels in held_out.items()
            }

    optimise(
        vae, draw, lambda _, pixels: autoencoder_loss(vae, teacher, pixels, config), config.optim,
        output, accelerator=accelerator, validate=validate, console=console, seed=config.seed,
    )  # fmt: skip
    write_training_page(output)
    folder = output / "vae"
    with written_whole(folder, replaces=("diffusion_pytorch_model*",)) as temporary:
        vae.save_pretrained(temporary, safe_serialization=True)
    return folder
