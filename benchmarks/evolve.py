"""A year or two of a tile: ours beside one call of the stock ControlNet pipeline a month.

    python -m benchmarks.evolve --output evolve.json

Both use the same transformer, a ControlNet without extra channels (the stock pipeline can feed no
others), the same prompts, noise, levels and Euler steps. Months are batched by us, the control
image and the prompts are encoded once, and the 256 zero tokens that stand for an absent T5 are one
token with a bias. ``exact`` is in float32 as the stock pipeline is; the other ways give up
exactness, and their largest and mean difference from it stands beside their speed.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import (
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    TaylorSeerCacheConfig,
)
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from benchmarks.evaluate import say
from ecomap import denoiser
from ecomap.controlnet import build_controlnet
from ecomap.controlnet_files import load_controlnet, save_controlnet
from ecomap.controls import ControlSpec, encode_control
from ecomap.evolution import BATCH_SIZE
from ecomap.model import Bundle, load_bundle
from ecomap.prompt import Prompt
from ecomap.request import place_record
from ecomap.sample import generate_images, prompt_of

GUIDANCE = 3.0
TOLERANCE = 1e-2
"""Largest difference of a pixel in [0, 1] between the stock pipeline's frames and ours."""
GOAL = 3.0
SEED = 11
OUTLET_STD = 0.02
"""Of the outlets, zero in an untrained ControlNet: it is to have a say."""


def make_world(folder: Path, base: str) -> tuple[Bundle, StableDiffusion3ControlNetPipeline]:
    """Our model with a ControlNet, and the stock pipeline of the same weights."""
    bundle = load_bundle(base, device="cpu")
    torch.manual_seed(0)
    net = build_controlnet(bundle.transformer)
    for name, parameter in net.named_parameters():
        if name.startswith(("controlnet_blocks", "pos_embed_input")):
            torch.nn.init.normal_(parameter, std=OUTLET_STD)
    save_controlnet(
        net, ControlSpec(), {}, folder / "net", base=bundle.transformer, dtype=torch.float32
    )
    loaded, spec = load_controlnet(folder / "net", bundle.transformer)
    pipeline = StableDiffusion3ControlNetPipeline.from_pretrained(
        bundle.path,
        local_files_only=True,
        torch_dtype=torch.float32,
        controlnet=SD3ControlNetModel.from_pretrained(folder / "net", local_files_only=True),
    )
    pipeline.set_progress_bar_config(disable=True)
    own = replace(bundle, controlnet=loaded.eval().requires_grad_(False), control=spec)
    return own, pipeline


class Ways:
    """Every way of making the same months."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.bundle, self.pipeline = make_world(folder, options.base)
        self.steps, self.batch_size = options.steps, options.batch_size
        card = self.bundle.card
        months = [f"{2012 + i // 12}-{i % 12 + 1:02d}" for i in range(options.months)]
        records = [place_record(14.5, -4.2, month, bundle_card=card) for month in months]
        # Both read the short text: without T5 the stock pipeline sees no other.
        self.prompts = [Prompt(prompt_of(record).short, "unused") for record in records]
        side = card.image_size_px
        self.frame = generate_images(self.bundle, [records[0]], seeds=[1], steps=4)[0]
        latent = (1, int(self.bundle.transformer.config.in_channels), side // 8, side // 8)
        self.noise = torch.randn(latent, generator=torch.Generator().manual_seed(SEED))

    @torch.inference_mode()
    def stock(self, **changes: Any) -> np.ndarray:
        """One call a month, each on its own."""
        side = self.frame.shape[0]
        frames = [
            self.pipeline(
                prompt.short,
                **({"num_inference_steps": self.steps, "guidance_scale": GUIDANCE} | changes),
                height=side, width=side, control_image=Image.fromarray(self.frame),
                latents=self.noise.clone(), output_type="np",
            ).images[0]
            for prompt in self.prompts
        ]  # fmt: skip
        return np.stack(frames)

    def ours(self, *, exact: bool = False, **changes: Any) -> np.ndarray:
        """All months together."""
        assert self.bundle.control is not None
        control = encode_control(self.bundle.control, self.bundle.vae, self.frame[None])
        settings = {"steps": self.steps, "guidance": GUIDANCE, "solver": "euler"} | changes
        count = len(self.prompts)
        exactly = patch.object(denoiser, "compute_dtype", lambda device: torch.float32)
        with exactly if exact else patch.object(self, "steps", self.steps):
            made = generate_images(
                self.bundle, [None] * count, seeds=[SEED] * count, prompts=self.prompts,
                control=control.expand(count, -1, -1, -1), batch_size=self.batch_size, **settings,
            )  # fmt: skip
        return made / 255.0

    def taylorseer(self) -> np.ndarray:
        """The stock pipeline with the cache of Liu et al. (2025), https://arxiv.org/abs/2503.06923.

        The base's blocks answer by extrapolation in every second step.
        """
        self.pipeline.transformer.enable_cache(
            TaylorSeerCacheConfig(cache_interval=2, taylor_factors_dtype=torch.float32)
        )
        try:
            return self.stock()
        finally:
            self.pipeline.transformer.disable_cache()

    def all(self) -> dict[str, Callable[[], np.ndarray]]:
        """Ways by name, the stock one first."""
        few = max(2, self.steps // 2)
        return {
            "stock": self.stock,
            "exact": lambda: self.ours(exact=True),
            "bfloat16": self.ours,
            "guidance_interval": lambda: self.ours(interval=(0.2, 0.9)),
            "half_the_steps": lambda: self.ours(steps=few),
            "half_the_steps_2nd_order": lambda: self.ours(steps=few, solver="dpmpp_2m"),
            "no_guidance": lambda: self.ours(guidance=1.0),
            "stock_half_the_steps": lambda: self.stock(num_inference_steps=few),
            "stock_taylorseer": self.taylorseer,
        }


def measure(ways: Ways, turns: int, names: Sequence[str] | None) -> dict[str, Any]:
    """Seconds and differences of some ways, by default of all, in turns."""
    seconds: dict[str, list[float]] = {}
    frames: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    for turn in range(turns):
        for name, make in ways.all().items():
            if names and name not in ("stock", "exact", *names):
                continue
            begin = time.perf_counter()
            try:
                frames[name] = make()
            except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
                faults[name] = f"{type(error).__name__}: {error}"
                continue
            seconds.setdefault(name, []).append(time.perf_counter() - begin)
            say(f"turn {turn + 1}: {name} {seconds[name][-1]:.1f} s")
    table = {}
    for name, taken in seconds.items():
        difference = np.abs(frames[name] - frames["stock"])
        table[name] = {
            "seconds": median(taken),
            "faster": median(s / own for s, own in zip(seconds["stock"], taken, strict=True)),
            "largest_difference": float(difference.max()),
            "mean_difference": float(difference.mean()),
        }
    exact = table["exact"]
    return {
        "ways": table,
        "faults": faults,
        "passed": exact["faster"] >= GOAL and exact["largest_difference"] <= TOLERANCE,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="ecomap-tiny", help="bundle: a name, or a folder")
    parser.add_argument("--months", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="months at a time")
    parser.add_argument("--ways", type=lambda text: text.split(","), help="by default all")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    with TemporaryDirectory() as folder:
        report = measure(Ways(Path(folder), options), options.turns, options.ways)
    report |= {n: getattr(options, n) for n in ("months", "steps", "batch_size")}
    for name, row in report["ways"].items():
        print(
            f"{name:<26} {row['seconds']:7.1f} s  {row['faster']:5.2f}x  largest difference "
            f"{row['largest_difference']:.4f}, mean {row['mean_difference']:.4f}"
        )
    for name, fault in report["faults"].items():
        print(f"{name:<26} does not work: {fault}")
    print("passed" if report["passed"] else "FAILED")
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
