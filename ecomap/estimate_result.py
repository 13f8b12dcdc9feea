"""The figures of a training that has not started, as JSON and as tables for the terminal."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

PEAK_TFLOPS = {"L4": 121, "A100": 312, "H100": 989}
"""Dense bfloat16 speed that the makers of GPUs state, for times on devices that are not here."""

ELSEWHERE_SHARE = 0.4
"""Share of that speed which a step is assumed to reach."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """One network."""

    parameters: int
    learning: int
    """Parameters of it that learn."""
    bytes: int
    """Of its weights as they are stored during training."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training will need."""

    model: str
    device: str
    image_px: tuple[int, int]
    """Height and width of what is learnt from."""
    samples: int
    """Training records."""
    pass_samples: int
    """Samples of one forward pass: the batch divided by processes and micro-batches."""
    steps: int
    batch_size: int
    parts: dict[str, PartSize]
    memory: dict[str, int]
    """Bytes during a step by what they are for."""
    available_bytes: int
    """Memory of the device; 0 where it is not here."""
    loading_bytes: int
    """Memory of this computer for all networks as they are loaded, encoders included, before any
    is rounded, quantised or let go of."""
    latent_bytes: int
    """Kept on disk for each window of a tile; likewise the next for each different prompt."""
    text_bytes: int
    disk_bytes: int
    """All that is kept, if no two prompts are the same."""
    step_flops: float
    """Of an optimiser step of one process, a multiplication with its addition counted as two."""
    device_flops: float
    """Measured speed of large matrix products, per second."""
    step_seconds: float
    elsewhere_seconds: dict[str, float]
    """Step on GPUs that are not here, at 0.4 of the speed that their makers state."""

    @property
    def total_bytes(self) -> int:
        """Memory during a step."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"total_bytes": self.total_bytes}

    def render(self) -> Group:
        """Tables for the terminal."""
        networks = _table("network", "parameters", "that learn", "weights")
        for name, part in self.parts.items():
            networks.add_row(
                name, _million(part.parameters), _million(part.learning), _gb(part.bytes)
            )
        memory = _table("memory of a step", "")
        for name, size in (*self.memory.items(), ("all", self.total_bytes)):
            memory.add_row(name, _gb(size))
        speed = _table("time", "")
        speed.add_row("step", f"{self.step_flops / 1e12:,.2f} TFLOP")
        speed.add_row(
            f"on this {self.device}",
            f"{_seconds(self.step_seconds)} ({self.device_flops / 1e12:,.2f} TFLOP/s measured)",
        )
        speed.add_row(
            f"{self.steps:,} steps of {self.batch_size}", _hours(self.steps * self.step_seconds)
        )
        for name, seconds in self.elsewhere_seconds.items():
            speed.add_row(f"step on {name}, assumed", _seconds(seconds))
        kept = _table("kept on disk", "")
        kept.add_row("latents of a window", f"{self.latent_bytes / 1e3:,.1f} kB")
        kept.add_row("a prompt", f"{self.text_bytes / 1e3:,.1f} kB")
        kept.add_row(f"all of {self.samples:,} tiles, at most", _gb(self.disk_bytes))
        return Group(
            f"{self.model}: {self.image_px[0]} x {self.image_px[1]} px, "
            f"{self.pass_samples} samples a pass",
            networks, memory, self._verdict(), speed, kept,
        )  # fmt: skip

    def _verdict(self) -> str:
        """Whether it fits, and what to change if not."""
        need = _gb(self.total_bytes)
        before = f"Loading takes {_gb(self.loading_bytes)} of this computer's memory."
        if not self.available_bytes:
            return f"{need} are needed on {self.device}. {before}"
        here = _gb(self.available_bytes)
        if self.total_bytes < 0.9 * self.available_bytes:
            return f"{need} fit into the {here} of this {self.device}. {before}"
        return (
            f"{need} do not fit into the {here} of this {self.device}. Set "
            "what is not set yet of gradient_checkpointing=true, base_bf16=true and text_variants "
            "above 0, lower batch_size or raise optim.micro_batches, or take optim.optimizer="
            "adafactor; FSDP divides all but activations among processes, which is not counted. "
            f"{before}"
        )


def _table(*headings: str) -> Table:
    """Names on the left, numbers on the right."""
    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def _million(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count else "-"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f} s"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h"
