"""Checkpoints of a training run: safetensors and JSON only, written whole or not at all."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecomap.errors import DataError
from ecomap.schema import write_json

TENSORS_FILE = "state.safetensors"
META_FILE = "state.json"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write a checkpoint beside the others and remove all but the last few.

    Args:
        folder: Folder of the run's checkpoints.
        step: Number of finished optimiser steps.
        tensors: Everything that training needs to go on, by name.
        meta: What is not a tensor; ``step`` is added.
        keep: Number of checkpoints that stay.

    Returns:
        Folder of the new checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    temporary = folder / f".tmp_{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        temporary / TENSORS_FILE,
    )
    write_json(temporary / META_FILE, meta | {"step": step})
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """Newest complete checkpoint; ``None`` if there is none. Unfinished ones are not looked at."""
    found = sorted(folder.glob("step_*"))
    return found[-1] if found else None


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        DataError: If the files are missing or damaged.
    """
    try:
        return load_file(folder / TENSORS_FILE), json.loads((folder / META_FILE).read_text())
    except Exception as error:  # safetensors raises its own type, which is no public name
        raise DataError(
            f"{folder} is not a readable checkpoint ({error}). Delete it to go on from the one "
            "before."
        ) from None


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """State of several modules under ``name/key``."""
    return {
        f"{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def load_module_tensors(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `module_tensors` took.

    Raises:
        DataError: If a key or a shape differs.
    """
    for name, module in modules.items():
        prefix = f"{name}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise DataError(
                f"The checkpoint does not fit {name}: {str(error).splitlines()[-1].strip()} It was "
                "written by another version of ecomap. Choose another --output."
            ) from None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as tensors under ``optimizer/<parameter>/<key>``."""
    return {
        f"optimizer/{index}/{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; learning rates stay as the optimiser has them."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
    content = optimizer.state_dict()
    content["state"] = state
    optimizer.load_state_dict(content)


def ema_tensors(shadow: Iterable[Tensor]) -> dict[str, Tensor]:
    """Averaged weights under ``ema/<index>``."""
    return {f"ema/{index}": value for index, value in enumerate(shadow)}


def load_ema_tensors(shadow: list[Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `ema_tensors` took, in place."""
    for index, value in enumerate(shadow):
        value.copy_(tensors[f"ema/{index}"])
