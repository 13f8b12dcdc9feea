"""All that training changes, as tensors by name: what a checkpoint holds.

Tensors are named after parameters and are whole, so that they depend neither on the order of
parameters nor on how many processes share them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from ecomap.errors import DataError

WEIGHTS, BUFFERS, AVERAGES, OPTIMIZER = "weights/", "buffers/", "averages/", "optimizer/"
"""What stands before the names of tensors."""


def training_state(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor],
    *,
    is_kept: bool = True,
) -> dict[str, Tensor]:
    """Everything that training changes, by name, whole and on the CPU.

    All processes of a run must call it together: those that share weights gather them.

    Args:
        learner: Its parameters that learn, and the buffers beside them.
        optimizer: State of each of these parameters.
        averages: Averaged weights by the name of their parameter.
        is_kept: Whether this process needs it; else the answer is empty.
    """
    parameters = learning_parameters(learner)
    state: dict[str, Tensor] = {WEIGHTS + name: parameter for name, parameter in parameters.items()}
    state |= {BUFFERS + name: buffer for name, buffer in _buffers(learner).items()}
    state |= {AVERAGES + name: average for name, average in averages.items()}
    state |= {
        f"{OPTIMIZER}{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    kept = {}
    for name, tensor in state.items():
        whole = whole_tensor(tensor)
        if is_kept:
            kept[name] = whole.cpu().contiguous()
    return kept


@torch.no_grad()
def load_training_state(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    source: Path,
) -> None:
    """Put back what `training_state` took; learning rates stay as the optimizer has them.

    Args:
        learner: As it was then; likewise ``averages``, which are overwritten.
        optimizer: Over the same parameters.
        averages: Averaged weights by the name of their parameter.
        tensors: What `load_checkpoint` read.
        source: Folder of the checkpoint, for messages.

    Raises:
        DataError: If a name or a shape differs.
    """
    parameters = learning_parameters(learner)
    places: dict[str, Tensor] = {
        WEIGHTS + name: parameter for name, parameter in parameters.items()
    }
    places |= {BUFFERS + name: buffer for name, buffer in _buffers(learner).items()}
    places |= {AVERAGES + name: average for name, average in averages.items()}
    given = {name: value for name, value in tensors.items() if not name.startswith(OPTIMIZER)}
    _require_fit(places, given, source)
    for name, value in sorted(given.items()):  # processes that share weights take them in one order
        places[name].copy_(_laid_out_like(value, places[name]))
    numbers = {name: number for number, name in enumerate(parameters)}
    content = optimizer.state_dict()
    content["state"] = {}
    for name in sorted(tensors.keys() - given.keys()):
        owner, key = name.removeprefix(OPTIMIZER).rsplit("/", 1)
        value = _laid_out_like(tensors[name], parameters[owner])
        content["state"].setdefault(numbers[owner], {})[key] = value
    optimizer.load_state_dict(content)


def learning_parameters(learner: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn, by name, each once."""
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor without its gradient; gathered, where processes hold parts of it."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    return tensor


def _buffers(learner: nn.Module) -> dict[str, Tensor]:
    """Persistent buffers of modules in which something learns: large frozen ones stay out."""
    learning: set[str] = set()
    for name in learning_parameters(learner):
        parts = name.split(".")[:-1]
        learning |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    kept = learner.state_dict().keys()
    return {
        name: buffer
        for name, buffer in learner.named_buffers()
        if name in kept and name.rpartition(".")[0] in learning | {""}
    }


def _laid_out_like(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor in the memory layout, and divided among processes, as one of its shape is."""
    if value.shape != place.shape:
        return value
    if isinstance(place, DTensor):
        mesh = place.device_mesh
        return distribute_tensor(value.to(mesh.device_type), mesh, place.placements)
    return torch.empty_like(place, dtype=value.dtype).copy_(value)


def _require_fit(places: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors of other names or shapes."""
    odd = sorted(places.keys() ^ given.keys()) or sorted(
        name for name, place in places.items() if place.shape != given[name].shape
    )
    if not odd:
        return
    shapes = [tuple(side[odd[0]].shape) if odd[0] in side else None for side in (given, places)]
    raise DataError(
        f"{source} does not fit {odd[0]}: its shape there is {shapes[0]}, here {shapes[1]}. It was "
        "written by another version of ecomap. Choose another --output."
    )


@contextmanager
def averaged(learner: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """Give a learner its averaged weights for a while, whole and in evaluation mode.

    Weights are exchanged, not copied there and back by way of another precision or device, so that
    training goes on with the same bits.

    Args:
        learner: Its parameters that learn are those of ``ema``.
        ema: ``None`` leaves the weights as they are.
    """
    modes = {module: module.training for module in learner.modules()}
    learner.eval()
    _exchange(learner, ema)
    for shared in _sharing(learner):
        shared.unshard()
    try:
        with torch.no_grad():
            yield
    finally:
        for shared in _sharing(learner):
            shared.reshard()
        _exchange(learner, ema)
        for module, is_training in modes.items():
            module.training = is_training


@torch.no_grad()
def keep_averages(learner: nn.Module, ema: EMAModel | None) -> None:
    """Give a learner its averaged weights for good, as plain whole tensors in every process."""
    _exchange(learner, ema)
    for module in learner.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                whole = nn.Parameter(whole_tensor(parameter), parameter.requires_grad)
                setattr(module, name, whole)


def _sharing(learner: nn.Module) -> list[FSDPModule]:
    """Modules whose weights are divided among processes."""
    return [module for module in learner.modules() if isinstance(module, FSDPModule)]


@torch.no_grad()
def _exchange(learner: nn.Module, ema: EMAModel | None) -> None:
    """Exchange weights and averages; twice is not at all."""
    if ema is None:
        return
    for parameter, average in zip(
        learning_parameters(learner).values(), ema.shadow_params, strict=True
    ):
        weights = parameter.detach().clone()
        parameter.copy_(average)
        average.copy_(weights)
