"""Small trainings with everything that a resumed or divided run must bring back.

``python -m tests.small_training FOLDER`` runs one of a LoRA on a tiny SD3 transformer, alone or as
one of the processes of `accelerate launch`, and leaves its averaged weights.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from ecomap import accelerators
from ecomap.accelerators import leave_processes, open_accelerator
from ecomap.loop import optimise
from ecomap.train_config import OptimConfig
from ecomap.training_draws import Part
from ecomap.training_state import learning_parameters

QUIET = Console(quiet=True)
FINAL_FILE = "final.safetensors"
ROWS = 8
"""Samples of a step."""


class Small(nn.Module):
    """Dropout, buffers that change, something frozen, and layers that learn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.net = nn.Sequential(
            nn.Linear(6, 12), nn.BatchNorm1d(12), nn.GELU(), nn.Dropout(0.2), nn.Linear(12, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.frozen(x))[:, 0]


class LoraLearner(nn.Module):
    """A tiny SD3 transformer of which a LoRA and the output layer learn."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.transformer = make_transformer()
        lora = LoraConfig(
            r=2, target_modules=["to_q", "to_v", "add_k_proj"], init_lora_weights=False,
            lora_dropout=dropout,
        )  # fmt: skip
        self.transformer.requires_grad_(False)
        self.transformer.add_adapter(lora)
        self.transformer.proj_out.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return small_velocity(self.transformer, x).square().mean((1, 2, 3))


def make_transformer() -> SD3Transformer2DModel:
    """Two joint blocks, all weights random."""
    transformer = SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=6,
        caption_projection_dim=16, pooled_projection_dim=5, pos_embed_max_size=4,
    )  # fmt: skip
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return transformer


def small_velocity(transformer: SD3Transformer2DModel, x: Tensor) -> Tensor:
    """Velocity at latents ``(B, 4, 4, 4)`` that a row of six numbers says."""
    latents = (x[:, :4, None, None] * torch.linspace(-1, 1, 16).view(4, 4)).contiguous()
    return transformer(
        latents,
        timestep=1000 * x[:, 0].sigmoid(),
        encoder_hidden_states=x[:, None].repeat(1, 3, 1) * torch.tensor([[1.0], [0.5], [-1]]),
        pooled_projections=x[:, :5],
        return_dict=False,
    )[0]


def draw_rows(step: int, part: Part) -> Tensor:
    """The part's rows ``(., 6)`` of a step's samples."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(ROWS, 6, generator=generator)[part.rows(ROWS)]


def small_loss(learner: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Distance of each row's answer to the mean of the row."""
    error = (learner(x) - x.mean(1)).square().mean()
    return error, {"error": float(error.detach())}


def settings(**changes: object) -> OptimConfig:
    """Settings in which everything happens within a few steps."""
    fields = {
        "steps": 12, "learning_rate": 1e-2, "warmup_steps": 3, "decay_steps": 4, "ema_decay": 0.8,
        "micro_batches": 1, "log_every": 2, "validate_every": 4, "checkpoint_every": 3,
    }  # fmt: skip
    return OptimConfig(**(fields | changes))


def train_small(
    folder: Path,
    optim: OptimConfig,
    *,
    learner: nn.Module | None = None,
    draw=draw_rows,
    loss=small_loss,
    validate=None,
    **more: object,
) -> nn.Module:
    """Run the loop on a small learner, by default `Small`; the learner with averaged weights."""
    learner = Small() if learner is None else learner
    held_out = torch.randn(20, 6, generator=torch.Generator().manual_seed(99))

    def val_loss(network: nn.Module) -> dict[str, float]:
        return {"val_loss": float(small_loss(network, held_out)[0])}

    optimise(
        learner, draw, loss, optim, folder, accelerator=open_accelerator(False, "cpu"),
        validate=validate or val_loss, console=QUIET, seed=3, **more,
    )  # fmt: skip
    return learner


def save_final(learner: nn.Module, folder: Path) -> None:
    """Write what was learnt."""
    tensors = {n: p.detach().contiguous() for n, p in learning_parameters(learner).items()}
    tensors |= {n: b.contiguous() for n, b in learner.named_buffers()}
    save_file(tensors, folder / FINAL_FILE)


def train_to_the_end(folder: Path, optim: OptimConfig, pause_s: float) -> None:
    """A run that can be killed: each step takes a moment; at its end it writes what it learnt."""

    def slow(learner: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        time.sleep(pause_s)
        return small_loss(learner, x)

    save_final(train_small(folder, optim, loss=slow), folder)


def share_weights() -> None:
    """Make `open_accelerator` share weights as FSDP does on GPUs.

    accelerate takes several processes on CPUs for DDP whatever it is asked; its FSDP runs on them.
    """

    def sharing(**settings: object) -> Accelerator:
        accelerator = Accelerator(**settings)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["JointTransformerBlock"],
            reshard_after_forward=True,
            cpu_ram_efficient_loading=False,
        )
        state = {"distributed_type": DistributedType.FSDP}
        PartialState._shared_state.update(state)
        AcceleratorState._shared_state.update(state | {"fsdp_plugin": plugin})
        return accelerator

    accelerators.Accelerator = sharing


def main() -> int:
    """Train as one process of however many there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--sharing", choices=("ddp", "fsdp"), default="ddp")
    given = parser.parse_args()
    if given.sharing == "fsdp":
        share_weights()
    learner = LoraLearner()
    optim = settings(
        micro_batches=given.micro_batches, steps=given.steps, optimizer=given.optimizer,
        checkpoint_every=2,
    )  # fmt: skip
    train_small(given.folder, optim, learner=learner)
    accelerator = open_accelerator(False, "cpu")
    if accelerator.is_main_process:
        save_final(learner, given.folder)
    accelerator.wait_for_everyone()
    leave_processes()
    return 0


if __name__ == "__main__":
    sys.exit(main())
