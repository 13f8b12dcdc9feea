"""What a training will need, before it starts: memory, time of a step, and disk for what is kept.

Counted, not guessed: networks are set up as for training but without weights, and one step is run
on tensors without numbers. Assumed is only the share of its speed that a device reaches.
"""

import os
import time
from collections.abc import Iterable
from math import prod

import torch
from torch import nn

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.errors import ConfigError, DataError
from ecomap.estimate_result import ELSEWHERE_SHARE, PEAK_TFLOPS, Estimate, PartSize
from ecomap.learner import FlowLearner
from ecomap.meta_bundle import meta_bundle, meta_learner
from ecomap.model import Bundle
from ecomap.quantise import BYTES_PER_WEIGHT
from ecomap.schema import TileRecord, read_dataset
from ecomap.step_cost import BatchSizes, measure_step
from ecomap.train_config import OptimConfig
from ecomap.transformer_config import TrainConfig

SHARE_OF_SPEED = 0.5
"""Share of the speed of large matrix products that a whole step reaches: as measured with one step
of Stable Diffusion 3 medium on a CPU (`benchmarks.sd3_medium`), assumed elsewhere."""

MEASURE_S = 0.5
"""Time for which the speed of matrix products is measured."""

PROCESS_BYTES = 1_000_000_000
"""Python and its libraries; the context of a GPU is about as large."""


def estimate(config: TrainConfig, *, device: str = "cpu", processes: int = 1) -> Estimate:
    """Count what a training will need.

    Memory is that of one process. Measured against one real step of Stable Diffusion 3 medium on a
    CPU, it was within 13 % (`benchmarks.sd3_medium`); the fragments of a GPU are not counted.

    Args:
        config: Complete settings; the dataset is read, no weights are.
        device: Torch device that it will run on.
        processes: Number of processes that share a batch.

    Raises:
        BundleError: If the base is a model whose sizes are not known here.
        ConfigError: If processes and micro-batches do not divide the batch, or the base is for
            smaller tiles.
        DataError: If the dataset has no training tiles.
    """
    records = [record for record in read_dataset(config.dataset) if record.split == "train"]
    if not records:
        raise DataError(f"{config.dataset} has no training tiles. Run 'ecomap data split' on it.")
    share, rest = divmod(config.batch_size, processes * config.optim.micro_batches)
    if rest:
        raise ConfigError(
            f"batch_size {config.batch_size} is no multiple of {processes} processes times "
            f"optim.micro_batches {config.optim.micro_batches}. Choose one that is."
        )
    kind = torch.device(device).type
    bundle = meta_bundle(config)
    loading = _loading_bytes(bundle)
    learner = meta_learner(bundle, config)
    sizes = batch_sizes(config, bundle, _latent(config, bundle, records[0]), share)
    parts = _part_sizes(config, learner)
    learning = [p for p in learner.parameters() if p.requires_grad]
    cost = measure_step(learner, sizes, bf16=config.bf16, on_gpu=kind != "cpu")
    of_learning = 4 * sum(parameter.numel() for parameter in learning)
    memory = {
        "libraries": PROCESS_BYTES,
        "frozen weights": sum(part.bytes for part in parts.values()) - of_learning,
        "weights that learn": of_learning,
        "gradients": of_learning,
        f"state of {config.optim.optimizer}": optimizer_bytes(
            (tuple(parameter.shape) for parameter in learning), config.optim
        ),
        "averages": of_learning if config.optim.ema_decay else 0,
        "activations": cost.activation_bytes,
    }
    flops = cost.flops * config.optim.micro_batches
    speed = _speed_of(kind, torch.bfloat16 if config.bf16 else torch.float32)
    latent_bytes, text_bytes = _kept_bytes(sizes, has_text=config.text_variants > 0)
    return Estimate(
        model=config.base or config.name,
        device=kind,
        image_px=(sizes.latent[1] * LATENT_FACTOR, sizes.latent[2] * LATENT_FACTOR),
        samples=len(records),
        pass_samples=share,
        steps=config.optim.steps,
        batch_size=config.batch_size,
        parts=parts,
        memory=memory,
        available_bytes=_available(kind),
        loading_bytes=loading,
        latent_bytes=latent_bytes,
        text_bytes=text_bytes,
        disk_bytes=len(records)
        * (config.variants * latent_bytes + config.text_variants * text_bytes),
        step_flops=flops,
        device_flops=speed,
        step_seconds=flops / (SHARE_OF_SPEED * speed),
        elsewhere_seconds={
            name: flops / (ELSEWHERE_SHARE * peak * 1e12) for name, peak in PEAK_TFLOPS.items()
        },
    )


def optimizer_bytes(shapes: Iterable[tuple[int, ...]], optim: OptimConfig) -> int:
    """Float32 state of an optimizer: two numbers a parameter, or a row and a column a matrix."""
    if optim.optimizer == "adamw":
        return sum(8 * prod(shape) for shape in shapes)
    return sum(
        4 * (prod(shape[:-1]) + prod((*shape[:-2], shape[-1])) if len(shape) > 1 else prod(shape))
        for shape in shapes
    )


def batch_sizes(
    config: TrainConfig, bundle: Bundle, latent: tuple[int, int, int], samples: int
) -> BatchSizes:
    """Sizes of the batch of a pass.

    Args:
        config: Complete settings.
        bundle: Its networks may have no weights.
        latent: Channels, height and width of a sample.
        samples: Of a pass.
    """
    transformer = bundle.transformer.config
    t5_tokens = config.t5_tokens or bundle.card.t5_null_tokens
    extra = None if bundle.control is None else bundle.control.num_extra
    return BatchSizes(
        samples=samples,
        latent=latent,
        clip_tokens=int(bundle.text_encoders[0].config.max_position_embeddings),
        clip_width=sum(int(encoder.config.hidden_size) for encoder in bundle.text_encoders),
        pooled_width=int(transformer.pooled_projection_dim),
        joint_width=int(transformer.joint_attention_dim),
        t5_tokens=0 if bundle.text_encoder_3 is None else t5_tokens,
        null_tokens=t5_tokens,
        control_channels=0 if extra is None else latent[0] + extra,
        text_in_loop=config.text_variants == 0,
    )


def _latent(config: TrainConfig, bundle: Bundle, record: TileRecord) -> tuple[int, int, int]:
    """Channels, height and width of a sample's latents."""
    height, width = record.height_px, record.width_px
    if config.crop_px is not None:
        height = width = config.crop_px
    transformer = bundle.transformer.config
    largest = LATENT_FACTOR * transformer.patch_size * transformer.pos_embed_max_size
    if max(height, width) > largest:
        raise ConfigError(
            f"Tiles of {height} x {width} px are larger than the {largest} px that {bundle.name} "
            "has positions for. Set crop_px."
        )
    return int(transformer.in_channels), height // LATENT_FACTOR, width // LATENT_FACTOR


def _part_sizes(config: TrainConfig, learner: FlowLearner) -> dict[str, PartSize]:
    """Networks that a step runs."""
    return {
        name: PartSize(
            parameters=sum(p.numel() for p in network.parameters()),
            learning=sum(p.numel() for p in network.parameters() if p.requires_grad),
            bytes=_stored_bytes(network, config.quantise if name == "transformer" else None),
        )
        for name, network in learner.named_children()
    }


def _stored_bytes(network: nn.Module, kind: str | None) -> int:
    """Bytes of a network's weights; the frozen matrices of a quantised one are smaller."""
    total = float(sum(buffer.nbytes for buffer in network.buffers()))
    for name, parameter in network.named_parameters():
        size: float = parameter.element_size()
        if kind is not None and not parameter.requires_grad:
            is_matrix = name.startswith("transformer_blocks.") and name.endswith("weight")
            size = BYTES_PER_WEIGHT[kind] if is_matrix and parameter.ndim == 2 else 2
        total += size * parameter.numel()
    return round(total)


def _kept_bytes(sizes: BatchSizes, *, has_text: bool) -> tuple[int, int]:
    """Disk for the latents and weights of a window, and for the embeddings of a prompt."""
    channels, height, width = sizes.latent
    if not has_text:
        return 2 * (channels + 1) * height * width, 0
    clip = sizes.clip_tokens * sizes.clip_width + sizes.pooled_width
    return 2 * (channels + 1) * height * width, 2 * (clip + sizes.t5_tokens * sizes.joint_width)


def _loading_bytes(bundle: Bundle) -> int:
    """Weights of all networks of a base as they are loaded."""
    return sum(
        parameter.nbytes
        for network in (*bundle.modules().values(), bundle.vae, bundle.text_encoder_3)
        if network is not None
        for name, parameter in network.named_parameters()
        if "lora_" not in name
    )


def _speed_of(kind: str, dtype: torch.dtype) -> float:
    """Floating point operations a second of matrix products as large as those of a step."""
    rows, inner, columns = (1024, 1536, 6144) if kind == "cpu" else (8192, 8192, 8192)
    left = torch.randn(rows, inner, dtype=dtype, device=kind)
    right = torch.randn(inner, columns, dtype=dtype, device=kind)
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < MEASURE_S:
        start = time.perf_counter()
        # The sum of a row makes a GPU finish before the clock is read.
        float((left @ right)[0].sum())
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * rows * inner * columns / fastest


def _available(kind: str) -> int:
    """Memory of a device; 0 where it does not tell."""
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if kind == "cpu" else 0
