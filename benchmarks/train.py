"""Training steps beside two usual ways, in one run: same model, tiles, batch and LoRA.

    python -m benchmarks.train data/bluemarble --output train.json

The model is a shipped bundle without its climate encoder, with a random T5 that is to its
transformer what T5-XXL is to Stable Diffusion 3 medium: 2.35 times as many parameters. Ways take
turns, so that whatever else runs on the machine falls on all of them; look at the ratios.

- ``ours``: `ecomap train` on kept latents and texts.
- ``every_step``: as EcoMapper trains (https://openreview.net/forum?id=YUtJsxQjv3): files are read,
  and the autoencoder and all three text encoders run, in every step.
- ``latents_kept``: in the manner of diffusers' ``train_dreambooth_lora_sd3.py`` with
  ``--cache_latents``. That script encodes text once only where all images share one prompt; with a
  prompt for each image, as here, it encodes texts in every step.
- ``all_kept``: the same with embeddings kept in memory as well, which that script cannot do.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from diffusers.training_utils import cast_training_params
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig as PeftLoraConfig
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from benchmarks.evaluate import say
from ecomap.accelerators import open_accelerator
from ecomap.adapter import lora_targets
from ecomap.batches import open_sampler, training_batch
from ecomap.conditions import embed_text, tokenize
from ecomap.imagery import FrameReader
from ecomap.model import Bundle, load_bundle, save_bundle
from ecomap.prompt import MASKS, Prompt, draw_prompt
from ecomap.run_metrics import SECONDS, STEP, read_lines
from ecomap.samples import open_samples, read_sides
from ecomap.schema import TileRecord, read_dataset, write_dataset
from ecomap.train_config import OptimConfig
from ecomap.train_transformer import open_bundles, train
from ecomap.transformer_config import LearnConfig, LoraConfig, ShowConfig, TrainConfig

T5_SHARE = 4762.3 / 2028.3
"""Parameters of T5-XXL's encoder to those of SD3 medium's transformer."""
T5_TOKENS = 77
"""``--max_sequence_length`` of the script, for all ways."""
RANK = 16
GOALS = {"every_step": 3.0, "latents_kept": 1.25}
WAIT_GOAL = 0.03
"""Largest share of time that waiting for data may take."""


# -- the same for all ways


@dataclass(frozen=True)
class World:
    """Model and tiles of a run."""

    dataset: Path
    bundle: Path
    cache: Path
    batch_size: int
    steps: int
    """Steps of ours in a turn; the others take a third of them."""

    @property
    def config(self) -> TrainConfig:
        """Our settings."""
        return TrainConfig(
            dataset=self.dataset,
            base=str(self.bundle),
            learn=LearnConfig(lora=LoraConfig(rank=RANK)),
            cache=self.cache,
            text_variants=1,
            t5_tokens=T5_TOKENS,
            batch_size=self.batch_size,
            base_bf16=True,
            num_validation=8,
            require_climate=False,
            optim=OptimConfig(
                steps=self.steps, log_every=5, validate_every=self.steps, ema_decay=0.0,
                checkpoint_every=self.steps,
            ),
            show=ShowConfig(num_tiles=0, sweep=()),
        )  # fmt: skip


def write_world(dataset: Path, folder: Path, options: argparse.Namespace) -> World:
    """Copy some tiles to files of their own, and give a bundle a T5."""
    records = read_dataset(dataset)
    reader, kept = FrameReader(dataset), []
    (folder / "tiles" / "images").mkdir(parents=True)
    for split, count in (("train", options.tiles), ("val", 8)):
        of_side = [record for record in records if record.split == split]
        for place in np.linspace(0, len(of_side) - 1, min(count, len(of_side))).round():
            record = of_side[int(place)]
            path = f"images/{len(kept)}.png"
            Image.fromarray(reader.read(record)).save(folder / "tiles" / path)
            kept.append(record.model_copy(update={"image_path": path, "window_px": None}))
    write_dataset(folder / "tiles", kept)
    bundle = with_t5(load_bundle(options.base, device="cpu"), options.t5_layers)
    save_bundle(bundle, folder / "bundle")
    return World(
        folder / "tiles", folder / "bundle", folder / "cache", options.batch_size, options.steps
    )


def with_t5(bundle: Bundle, layers: int | None) -> Bundle:
    """A bundle of the text door alone, with a random T5 of letters."""
    width = int(bundle.transformer.config.joint_attention_dim)
    letters = [(chr(code), -2.0) for code in range(33, 127)]
    tokenizer = T5TokenizerFast(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *letters],
        extra_ids=0,
        model_max_length=256,
    )
    sizes = {"d_model": width, "d_kv": 64, "num_heads": max(1, width // 64), "d_ff": 8 * width}
    of_layer = 4 * width * 64 * sizes["num_heads"] + 3 * width * sizes["d_ff"]
    wanted = T5_SHARE * sum(p.numel() for p in bundle.transformer.parameters())
    torch.manual_seed(0)
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            num_layers=layers or round(wanted / of_layer),
            feed_forward_proj="gated-gelu",
            **sizes,
        )
    )
    card = bundle.card.model_copy(update={"doors": ("text",), "t5_null_tokens": T5_TOKENS})
    return replace(
        bundle,
        card=card,
        tokenizer_3=tokenizer,
        text_encoder_3=encoder.eval().requires_grad_(False),
        climate_encoder=None,
    )


# -- ours


def ours(world: World, turn: int) -> dict[str, float]:
    """Samples per second of `ecomap train` once it runs, and its share of waiting for data."""
    folder = world.cache.parent / f"run_{turn}"
    train(world.config, folder, device="cpu", console=Console(quiet=True))
    lines, _ = read_lines(folder / "metrics.jsonl")
    told = [line for line in lines if SECONDS in line]
    first, last = told[0], told[-1]
    steps = last[STEP] - first[STEP]
    return {
        "rate": steps * world.batch_size / (last[SECONDS] - first[SECONDS]),
        "data_wait": sum(line["data_wait"] for line in told[1:]) / len(told[1:]),
    }


def measure_data(world: World) -> dict[str, float]:
    """Time to fill the caches, and to gather a batch from them while nothing else runs."""
    console, config = Console(quiet=True), world.config
    sides = read_sides(config, console)
    _, bundle = open_bundles(config, sides[0])
    start = time.perf_counter()
    samples, _ = open_samples(config, bundle, sides, device="cpu", console=console)
    filled = time.perf_counter() - start
    sampler = open_sampler(config, sides[0])
    gather = partial(training_batch, config, bundle, samples)
    gather(sampler.draw(0))
    start = time.perf_counter()
    for step in range(1, 21):
        gather(sampler.draw(step))
    return {"fill_s": filled, "batch_s": (time.perf_counter() - start) / 20}


# -- the usual ways


@dataclass(frozen=True)
class Usual:
    """A training loop as scripts have it."""

    keep_latents: bool
    keep_texts: bool
    shuffle: bool = True
    lora_in_float32: bool = False


USUAL = {
    "every_step": Usual(False, False, shuffle=False, lora_in_float32=True),
    "latents_kept": Usual(True, False),
    "all_kept": Usual(True, True),
}


class TileFiles:
    """Frames and prompts by number, read from their files."""

    def __init__(self, world: World) -> None:
        records = read_dataset(world.dataset)
        self.records: list[TileRecord] = [r for r in records if r.split == "train"]
        self.reader = FrameReader(world.dataset)

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Prompt]:
        """Pixels in [-1, 1] and the prompt of a tile."""
        record = self.records[index]
        frame = torch.tensor(self.reader.read(record)).permute(2, 0, 1)
        prompt = draw_prompt(record, MASKS["ecomap"], seed=0, sample_index=index, epoch=0)
        return index, frame.float() / 127.5 - 1, prompt


def collate(items: list[tuple[int, Tensor, Prompt]]) -> tuple[list[int], Tensor, list[Prompt]]:
    """Tiles as a batch."""
    index, pixels, prompts = zip(*items, strict=True)
    return list(index), torch.stack(pixels), list(prompts)


class UsualLoop:
    """A usual loop, set up; each call takes a turn."""

    def __init__(self, world: World, way: Usual) -> None:
        self.world, self.way = world, way
        self.accelerator = open_accelerator(True, "cpu")
        self.bundle = load_bundle(world.bundle, device="cpu")
        for encoder in (*self.bundle.text_encoders, self.bundle.text_encoder_3):
            assert encoder is not None
            encoder.to(torch.bfloat16)
        transformer = stock_transformer(world.bundle, in_float32=way.lora_in_float32)
        self.learning = [p for p in transformer.parameters() if p.requires_grad]
        loader = DataLoader(
            TileFiles(world), world.batch_size, shuffle=way.shuffle, collate_fn=collate,
            drop_last=True,
        )  # fmt: skip
        self.transformer, self.optimizer, self.loader = self.accelerator.prepare(
            transformer, torch.optim.AdamW(self.learning, lr=1e-4, weight_decay=1e-4), loader
        )
        self.latents: dict[int, Tensor] = {}
        self.texts: dict[int, tuple[Tensor, Tensor]] = {}
        for index, pixels, prompts in self.loader if way.keep_latents else ():
            self.latents.update(zip(index, self.encode_images(pixels), strict=True))
            if way.keep_texts:
                pairs = zip(*self.encode_texts(prompts), strict=True)
                self.texts.update(zip(index, pairs, strict=True))
        self.endless = self.batches()

    def __call__(self) -> dict[str, float]:
        """Samples per second, after a first step."""
        self.step(*next(self.endless))
        count = max(2, self.world.steps // 3)
        start = time.perf_counter()
        for _ in range(count):
            self.step(*next(self.endless))
        return {"rate": count * self.world.batch_size / (time.perf_counter() - start)}

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """A draw of the latents of pixels."""
        latents = self.bundle.vae.encode(pixels).latent_dist.sample()
        config = self.bundle.vae.config
        return (latents - config.shift_factor) * config.scaling_factor

    @torch.no_grad()
    def encode_texts(self, prompts: list[Prompt]) -> tuple[Tensor, Tensor]:
        """Context and pooled embedding of prompts."""
        bundle = self.bundle
        ids = tokenize(prompts, bundle.tokenizers, bundle.tokenizer_3, t5_tokens=T5_TOKENS)
        text = embed_text(ids, bundle.text_encoders, bundle.text_encoder_3)
        assert text.t5 is not None
        clip = F.pad(text.clip, (0, text.t5.shape[-1] - text.clip.shape[-1]))
        return torch.cat([clip, text.t5], dim=1), text.pooled

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Latents, contexts and pooled embeddings, without end."""
        while True:
            for index, pixels, prompts in self.loader:
                if self.way.keep_texts:
                    pairs = zip(*(self.texts[i] for i in index), strict=True)
                    context, pooled = (torch.stack(each) for each in pairs)
                else:
                    context, pooled = self.encode_texts(prompts)
                if self.way.keep_latents:
                    latents = torch.stack([self.latents[i] for i in index])
                else:
                    latents = self.encode_images(pixels)
                yield latents.to(torch.bfloat16), context, pooled

    def step(self, latents: Tensor, context: Tensor, pooled: Tensor) -> None:
        """Noise, forward pass, loss on the clean estimate, backward pass, update."""
        noise = torch.randn_like(latents)
        levels = torch.sigmoid(torch.randn(len(latents)))
        sigma = levels[:, None, None, None].to(latents.dtype)
        noisy = sigma * noise + (1 - sigma) * latents
        velocity = self.transformer(
            hidden_states=noisy,
            timestep=levels * 1000,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        clean = velocity * (-sigma) + noisy
        error = (clean.float() - latents.float()).square()
        loss = error.reshape(len(latents), -1).mean(1).mean()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not math.isfinite(loss.detach().item()):
            raise ArithmeticError("The usual loop has diverged.")


def stock_transformer(folder: Path, *, in_float32: bool) -> SD3Transformer2DModel:
    """A bundle's transformer as diffusers loads it, in bfloat16, with a LoRA."""
    transformer = SD3Transformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.bfloat16
    )
    transformer.requires_grad_(False)
    transformer.add_adapter(
        PeftLoraConfig(
            r=RANK,
            lora_alpha=RANK,
            init_lora_weights="gaussian",
            target_modules=lora_targets(transformer, ["image"]),
        )
    )
    if in_float32:
        cast_training_params(transformer, torch.float32)
    return transformer.train()


# -- report


def measure(world: World, turns: int) -> dict[str, Any]:
    """All ways in turns."""
    data = measure_data(world)
    say(f"caches filled in {data['fill_s']:.1f} s")
    ways: dict[str, Callable[[], dict[str, float]]] = {
        name: UsualLoop(world, way) for name, way in USUAL.items()
    }
    found: dict[str, list[dict[str, float]]] = {"ours": [], **{name: [] for name in ways}}
    for number in range(turns):
        found["ours"].append(ours(world, number))
        for name, turn in ways.items():
            found[name].append(turn())
        rates = ", ".join(f"{name} {taken[-1]['rate']:.1f}" for name, taken in found.items())
        say(f"turn {number + 1} of {turns}, samples a second: {rates}")
    ratios = {
        name: median(
            own["rate"] / other["rate"] for own, other in zip(found["ours"], taken, strict=True)
        )
        for name, taken in found.items()
        if name != "ours"
    }
    rate = median(taken["rate"] for taken in found["ours"])
    wait = median(taken["data_wait"] for taken in found["ours"])
    return {
        "samples_per_s": {n: median(t["rate"] for t in taken) for n, taken in found.items()},
        "turns": found,
        "ratios": ratios,
        "data_wait": wait,
        "fill_s": data["fill_s"],
        "batch_s": data["batch_s"],
        "batch_share": data["batch_s"] * rate / world.batch_size,
        "passed": wait < WAIT_GOAL and all(ratios[n] >= goal for n, goal in GOALS.items()),
    }


def facts(world: World) -> dict[str, Any]:
    """Sizes of what is trained."""
    bundle = load_bundle(world.bundle, device="cpu")
    networks = {**bundle.modules(), "text_encoder_3": bundle.text_encoder_3, "vae": bundle.vae}
    records = [r for r in read_dataset(world.dataset) if r.split == "train"]
    return {
        "tiles": len(records),
        "size_px": records[0].width_px,
        "batch_size": world.batch_size,
        "million_parameters": {
            name: round(sum(p.numel() for p in network.parameters()) / 1e6, 2)
            for name, network in networks.items()
            if network is not None
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="dataset folder with splits")
    parser.add_argument("--base", default="ecomap-tiny", help="bundle: a name, or a folder")
    parser.add_argument("--tiles", type=int, default=256, help="training tiles")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60, help="our steps in a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--t5-layers", type=int, help="by default as many as SD3's share asks for")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(options.dataset, Path(folder), options)
        report = facts(world) | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
        report |= measure(world, options.turns)
    for name, ratio in report["ratios"].items():
        goal = f" (goal {GOALS[name]})" if name in GOALS else ""
        print(f"ours / {name:<13} {ratio:5.2f}{goal}")
    print(
        f"waiting for data {report['data_wait']:.1%} (goal {WAIT_GOAL:.0%}); gathering a batch "
        f"takes {report['batch_share']:.1%} of a step, beside it"
    )
    print("passed" if report["passed"] else "FAILED")
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
