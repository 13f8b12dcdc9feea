"""Batches: dataclasses of tensors that are cut and moved as one."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class Rows:
    """Base of dataclasses of tensors whose first axis counts the samples of a batch.

    Fields may also be other `Rows`, or something that is the same for all samples.
    """

    def rows(self, index: slice | Tensor) -> Self:
        """Some of the samples."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Self:
        """Copy on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, Rows):
                changed[field.name] = value._map(change)
        return replace(self, **changed)  # type: ignore[type-var]
