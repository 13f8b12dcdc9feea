"""Where a training runs: one process, or several that `accelerate launch` started."""

from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ecomap.errors import ConfigError

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: the main one may encode a large dataset first."""

SUPPORTED = (
    DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP
)  # fmt: skip


def open_accelerator(bf16: bool, device: str) -> Accelerator:
    """Accelerator of this process; a second call gives one with its own settings.

    Args:
        bf16: Whether networks run under bfloat16 autocast. Weights stay in float32, and gradients
            need no scaling.
        device: Torch device; of several processes on GPUs each takes its own.

    Raises:
        ConfigError: If the launch asks for what the loop cannot do, or the device for what it
            cannot.
    """
    is_alone = not torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=is_alone)
    GradientState._reset_state()
    wanted = torch.device(device)
    if wanted.type == "cuda" and wanted.index is not None:
        torch.cuda.set_device(wanted)
    try:
        accelerator = Accelerator(
            mixed_precision="bf16" if bf16 else "no",
            cpu=wanted.type == "cpu",
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
    except ValueError as error:
        raise ConfigError(
            f"accelerate cannot start on {device} with bf16={bf16}: {error} Set bf16=false, or "
            "choose another --device."
        ) from None
    _require_support(accelerator, wanted)
    return accelerator


def prepare(
    accelerator: Accelerator, learner: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Bring a learner to its device, divided among processes as the launch says.

    Returns:
        The module to call, and the optimizer over its parameters.
    """
    model, prepared = accelerator.prepare(learner, optimizer)
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False  # tables of positions are large, and never change
    return model, prepared.optimizer


def leave_processes() -> None:
    """End the exchange with other processes, where there was one."""
    if torch.distributed.is_initialized():
        PartialState().destroy_process_group()


def require_one_process(accelerator: Accelerator, task: str, micro_batches: int) -> None:
    """Refuse to divide the batches of a task whose samples depend on each other.

    Raises:
        ConfigError: If there are several processes or micro-batches.
    """
    if accelerator.num_processes > 1 or micro_batches > 1:
        raise ConfigError(
            f"Task {task} runs as {accelerator.num_processes} processes with "
            f"optim.micro_batches={micro_batches}. It draws each batch as a whole: use one process "
            "and optim.micro_batches=1."
        )


def _require_support(accelerator: Accelerator, wanted: torch.device) -> None:
    """Refuse launches that would train something else than the config says."""
    kind = accelerator.distributed_type
    if kind not in SUPPORTED or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise ConfigError(
            f"accelerate was launched for {kind.value}. The loop knows one process, several with "
            "whole models (DDP), and FSDP version 2. Take configs/accelerate_ddp.yaml or "
            "configs/accelerate_fsdp.yaml."
        )
    if accelerator.device.type != wanted.type:
        raise ConfigError(
            f"accelerate runs on {accelerator.device}, and --device is {wanted}. Give both the "
            "same."
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            f"accelerate was launched with gradient_accumulation_steps "
            f"{accelerator.gradient_accumulation_steps}. Leave it at 1, and set "
            "optim.micro_batches."
        )
    if kind == DistributedType.FSDP:
        # Weights are shared as they are kept: autocast alone decides what is computed in bfloat16,
        # as in one process.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
