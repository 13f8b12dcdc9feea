"""What one training step costs, found by running it on tensors that have shapes but no numbers.

Every operation of the forward and backward pass goes through torch's dispatcher; there its floating
point operations are counted and the memory that it takes is followed until it is given back.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ecomap import attention
from ecomap.climate import CHANNELS
from ecomap.climate_encoder import PLACE_FEATURE_NAMES, ClimateBatch
from ecomap.conditions import TextEmbedding, TextIds
from ecomap.learner import FlowBatch, FlowLearner
from ecomap.rows import Rows
from ecomap.schema import CLIMATE, SERIES_MONTHS

FLOPS_OF_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_counter.sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        flop_counter.sdpa_backward_flop
    ),
}
"""torch counts the fused attention of GPUs only."""


@dataclass(frozen=True)
class StepCost:
    """Cost of one forward and backward pass."""

    flops: float
    """Floating point operations, a multiplication with its addition counted as two."""
    activation_bytes: int
    """Most memory at once beyond weights, gradients of weights and the batch."""


@dataclass(frozen=True)
class BatchSizes:
    """Sizes of the batch of a pass."""

    samples: int
    latent: tuple[int, int, int]
    """Channels, height, width."""
    clip_tokens: int
    clip_width: int
    """Sum of both CLIP encoders' widths."""
    pooled_width: int
    joint_width: int
    t5_tokens: int
    """Tokens of T5; 0 where there is none."""
    null_tokens: int
    """Zero tokens that stand for an absent T5."""
    control_channels: int
    """0 without a ControlNet."""
    text_in_loop: bool
    """Whether the encoders read token ids in every step."""


def measure_step(learner: FlowLearner, sizes: BatchSizes, *, bf16: bool, on_gpu: bool) -> StepCost:
    """Count a forward and a backward pass.

    Args:
        learner: On the ``meta`` device, with what learns set up; its parameters are replaced by
            ones without numbers.
        sizes: Of the batch.
        bf16: Whether the networks run under bfloat16 autocast.
        on_gpu: Whether attention is the fused one of a GPU at every length.
    """
    with FakeTensorMode(), _attention_of(on_gpu), torch.autograd.set_multithreading_enabled(False):
        _without_numbers(learner)
        batch = _blank_batch(sizes)
        tensors = [*learner.parameters(), *learner.buffers(), *_tensors_of(batch)]
        tensors += [p.grad for p in learner.parameters() if p.grad is not None]
        meter = _Meter(tensors)
        with meter, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            # The learner's own forward pass checks values, and here there are none.
            condition = learner.condition(batch)
            velocity = learner.velocity(batch.clean, batch.sigma, condition, batch.control)
            loss = velocity.float().square().mean()
        with meter:
            loss.backward()  # type: ignore[no-untyped-call]
    return StepCost(float(meter.flops), meter.peak)


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the bytes of all that they made and that is still held."""

    def __init__(self, uncounted: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.live, self.peak = 0, 0, 0
        self._uncounted = {tensor.untyped_storage()._cdata for tensor in uncounted}
        self._held: dict[int, weakref.ref[Any]] = {}
        self._formulas = flop_counter.flop_registry | FLOPS_OF_ATTENTION_ON_CPU

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        made = func(*args, **(kwargs or {}))
        if func._overloadpacket in self._formulas:
            formula = self._formulas[func._overloadpacket]
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        """Count memory until its last owner lets go of it."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._held or key in self._uncounted:
            return

        def give_back(_: Any) -> None:
            del self._held[key]
            self.live -= size

        self._held[key] = weakref.ref(storage, give_back)
        self.live += size
        self.peak = max(self.peak, self.live)


@contextmanager
def _attention_of(on_gpu: bool) -> Iterator[None]:
    """Let attention take the way that it takes on a GPU, where it is to be counted so."""
    limit = attention.EXPLICIT_MAX_TOKENS
    if on_gpu:
        attention.EXPLICIT_MAX_TOKENS = 0
    try:
        yield
    finally:
        attention.EXPLICIT_MAX_TOKENS = limit


def _without_numbers(module: nn.Module) -> None:
    """Replace parameters and buffers by tensors of the CPU that hold nothing; gradients too."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None and id(old) not in made:
                new = nn.Parameter(
                    torch.empty(old.shape, dtype=old.dtype), requires_grad=old.requires_grad
                )
                if old.requires_grad:
                    # There from the start, as in the second micro-batch: counted apart.
                    new.grad = torch.empty_like(new)
                made[id(old)] = new
            part._parameters[name] = None if old is None else made[id(old)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _tensors_of(batch: Rows) -> list[Tensor]:
    """All tensors of a batch."""
    values = [getattr(batch, field.name) for field in fields(batch)]  # type: ignore[arg-type]
    found = [value for value in values if isinstance(value, Tensor)]
    return found + [t for value in values if isinstance(value, Rows) for t in _tensors_of(value)]


def _blank_batch(sizes: BatchSizes) -> FlowBatch:
    """A batch that holds nothing."""
    count = sizes.samples
    clean = torch.zeros(count, *sizes.latent)
    series = torch.zeros(count, SERIES_MONTHS, len(CLIMATE), len(CHANNELS))
    text: TextEmbedding | TextIds
    if sizes.text_in_loop:
        clip = torch.zeros(count, sizes.clip_tokens, dtype=torch.int64)
        t5 = torch.zeros(count, sizes.t5_tokens, dtype=torch.int64) if sizes.t5_tokens else None
        text = TextIds(clip, clip, t5)
    else:
        text = TextEmbedding(
            torch.zeros(count, sizes.clip_tokens, sizes.clip_width),
            torch.zeros(count, sizes.pooled_width),
            torch.zeros(count, sizes.t5_tokens, sizes.joint_width) if sizes.t5_tokens else None,
        )
    return FlowBatch(
        clean=clean,
        noise=clean,
        sigma=torch.zeros(count),
        text=text,
        climate=ClimateBatch(
            series, series.bool(), torch.zeros(count, len(PLACE_FEATURE_NAMES)),
            torch.zeros(count, dtype=torch.int64),
        ),
        has_tokens=torch.ones(count, dtype=torch.bool),
        control=(
            torch.zeros(count, sizes.control_channels, *sizes.latent[1:])
            if sizes.control_channels
            else None
        ),
        null_tokens=float(sizes.null_tokens),
    )  # fmt: skip
