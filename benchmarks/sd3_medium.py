"""One training step at the real size of Stable Diffusion 3 medium, on the CPU, without its weights.

    python -m benchmarks.sd3_medium --output sd3_medium.json

Two steps, each in a process of its own: a LoRA with whole output layers, as EcoMapper trains it,
and a ControlNet of 12 blocks. Networks, learner, loss and optimisers are those of a training;
weights and inputs are random, the base in bfloat16. Beside the measured memory and time stands
what `ecomap train --dry-run` says of the same settings. It needs about 20 GB of memory and a
quarter of an hour on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from benchmarks.evaluate import peak_mb, say
from ecomap.conditions import TextEmbedding
from ecomap.learner import FlowBatch, FlowLearner
from ecomap.meta_bundle import meta_bundle, meta_learner
from ecomap.schema import make_record, write_dataset
from ecomap.train_config import OptimConfig
from ecomap.train_estimate import batch_sizes, estimate
from ecomap.transformer_config import ControlNetConfig, LearnConfig, LoraConfig, TrainConfig

BASE = "stabilityai/stable-diffusion-3-medium-diffusers"
KINDS = ("lora", "controlnet")
SAMPLES = 1
MEMORY_GOAL = 0.15
"""Largest share by which the estimated memory may miss the measured one."""


def settings(kind: str, base: str, size_px: int, dataset: Path) -> TrainConfig:
    """Config of a training without T5, on embeddings that are kept."""
    if kind == "lora":
        learn = LearnConfig(lora=LoraConfig(rank=64), layers=("norm_out", "proj_out"))
        optim = OptimConfig(ema_decay=0.0)
    else:
        learn = LearnConfig(controlnet=ControlNetConfig())
        optim = OptimConfig(ema_decay=0.0, optimizer="adafactor")
    return TrainConfig(
        dataset=dataset,
        base=base,
        learn=learn,
        crop_px=size_px,
        use_t5=False,
        text_variants=1,
        batch_size=SAMPLES,
        base_bf16=True,
        gradient_checkpointing=kind == "controlnet",
        optim=optim,
    )


def write_one_tile(folder: Path, size_px: int) -> Path:
    """A dataset of one record, whose frame nothing reads."""
    values = {
        "source": "made", "batch": "a", "location_id": "1", "month": "2021-03", "lat": 10.0,
        "lon": 20.0, "ground_sampling_distance_m": 10.0, "width_px": size_px,
        "height_px": size_px, "split": "train", "license": "none",
    }  # fmt: skip
    write_dataset(folder, [make_record(values, where="made")])
    return folder


# -- in the child process


def one_step(config: TrainConfig, size_px: int) -> dict[str, Any]:
    """Set a training up, take a step, and say what it took."""
    start_mb = peak_mb()
    bundle = meta_bundle(config)
    learner = meta_learner(bundle, config)
    fill(learner)
    sizes = batch_sizes(config, bundle, (16, size_px // 8, size_px // 8), SAMPLES)
    learning = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(list(learning.values()), config.optim)
    batch = random_batch(sizes.latent, sizes.clip_width, sizes.pooled_width)
    if config.learn is not None and config.learn.controlnet is not None:
        batch = replace(batch, control=torch.randn(SAMPLES, *sizes.latent))
    times = [time.perf_counter()]
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner(batch).mean()
    times.append(time.perf_counter())
    loss.backward()
    times.append(time.perf_counter())
    norm = nn.utils.clip_grad_norm_(learning.values(), config.optim.max_grad_norm)
    before = {name: parameter.detach().sum() for name, parameter in learning.items()}
    optimizer.step()
    times.append(time.perf_counter())
    moved = [name for name, p in learning.items() if p.detach().sum() != before[name]]
    seconds = [later - earlier for earlier, later in pairwise(times)]
    return {
        "parameters": sum(p.numel() for p in learner.parameters()),
        "learning": sum(p.numel() for p in learning.values()),
        "loss": float(loss.detach()),
        "gradient_norm": float(norm),
        "moved_tensors": len(moved),
        "forward_s": seconds[0],
        "backward_s": seconds[1],
        "optimizer_s": seconds[2],
        "step_s": sum(seconds),
        "start_mb": start_mb,
        "peak_mb": peak_mb(),
    }


def fill(learner: FlowLearner) -> None:
    """Give a learner random weights where it has none; what starts at zero in a training does."""
    learner.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*learner.named_parameters(), *learner.named_buffers()):
        is_zero = any(part in name for part in ("lora_B", "controlnet_blocks", "pos_embed_input"))
        with torch.no_grad():
            if is_zero:
                tensor.zero_()
            else:
                tensor.normal_(std=0.02, generator=generator)


def random_batch(latent: tuple[int, int, int], clip_width: int, pooled_width: int) -> FlowBatch:
    """A batch of text embeddings and latents, with one token for the absent T5."""
    clean = torch.randn(SAMPLES, *latent)
    return FlowBatch(
        clean=clean,
        noise=torch.randn(clean.shape),
        sigma=torch.full((SAMPLES,), 0.6),
        text=TextEmbedding(
            torch.randn(SAMPLES, 77, clip_width), torch.randn(SAMPLES, pooled_width)
        ),
        climate=None,
        has_tokens=torch.zeros(SAMPLES, dtype=torch.bool),
    )


def make_optimizer(parameters: list[Tensor], optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of `ecomap.loop.optimise`."""
    if optim.optimizer == "adafactor":
        return torch.optim.Adafactor(
            parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=optim.learning_rate, fused=True)


# -- in the parent process


def measure(kind: str, base: str, size_px: int) -> dict[str, Any]:
    """Estimate a step, then take it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_one_tile(Path(folder), size_px)
        told = estimate(settings(kind, base, size_px, dataset), device="cpu")
        free = psutil.virtual_memory().available
        if free < 1.1 * told.total_bytes:
            sys.exit(
                f"{kind} needs {told.total_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
                "End what uses memory, or take a smaller --size-px."
            )
        say(f"{kind}: {told.total_bytes / 1e9:.1f} GB and {told.step_seconds:.0f} s estimated")
        command = [sys.executable, "-m", "benchmarks.sd3_medium", "--step", kind]
        command += ["--base", base, "--size-px", str(size_px), "--dataset", str(dataset)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stderr}")
    took = json.loads(done.stdout.splitlines()[-1])
    return {
        "size_px": size_px,
        "measured": took,
        "estimated": told.to_dict(),
        "memory_ratio": told.total_bytes / 1e6 / took["peak_mb"],
        "time_ratio": told.step_seconds / took["step_s"],
        "share_of_speed": told.step_flops / took["step_s"] / told.device_flops,
        "passed": took["moved_tensors"] > 0
        and abs(told.total_bytes / 1e6 / took["peak_mb"] - 1) <= MEMORY_GOAL,
    }


def line(kind: str, part: dict[str, Any]) -> str:
    """A step as a row of a table."""
    took, told = part["measured"], part["estimated"]
    return (
        f"{kind:<11} {took['learning'] / 1e6:8.1f} M of {took['parameters'] / 1e6:7.0f} M learn"
        f" | peak {took['peak_mb'] / 1e3:5.1f} GB (estimated {told['total_bytes'] / 1e9:5.1f})"
        f" | step {took['step_s']:5.1f} s (estimated {told['step_seconds']:5.1f};"
        f" {told['step_flops'] / 1e12:.1f} TFLOP at {part['share_of_speed']:.2f} of"
        f" {told['device_flops'] / 1e12:.2f} TFLOP/s)"
        f" {'passed' if part['passed'] else 'FAILED'}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="only these")
    parser.add_argument("--base", default=BASE, help="model of known sizes, or a bundle")
    parser.add_argument("--size-px", type=int, default=512, help="side of the images")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--step", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        config = settings(options.step, options.base, options.size_px, options.dataset)
        print(json.dumps(one_step(config, options.size_px)))
        return
    report: dict[str, Any] = {"base": options.base, "threads": torch.get_num_threads()}
    for kind in options.kinds:
        report[kind] = measure(kind, options.base, options.size_px)
        print(line(kind, report[kind]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
