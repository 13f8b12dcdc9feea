"""Numbers of a training run as it goes: running means, and the lines of ``metrics.jsonl``."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"

MEMORY = 0.98
"""What a running mean keeps of itself in a step."""

SPIKE_FACTOR = 10.0
"""A gradient so many times longer than the running mean is a spike."""


class RunLog:
    """What a run has shown so far; goes on where a checkpoint left it.

    Attributes:
        step: Number of finished steps.
        best: Step and ``val_loss`` of the best validation; ``None`` before the first.
    """

    def __init__(self, folder: Path, *, is_writer: bool) -> None:
        """Start at step 0.

        Args:
            folder: Run folder.
            is_writer: Whether lines are written; one process does.
        """
        self.step = 0
        self.best: dict[str, float] | None = None
        self._path, self._is_writer = folder / METRICS_FILE, is_writer
        self._running: dict[str, float] = {}
        self._norm_max = self._waited_s = 0.0
        self._began = self._line_began = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of it, as JSON."""
        return {
            "step": self.step,
            "best": self.best,
            "running": self._running,
            "norm_max": self._norm_max,
            "seconds": time.monotonic() - self._began,
        }

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`, and drop lines of steps that will be done again."""
        if state is not None:
            self.step, self.best = int(state["step"]), state["best"]
            self._running, self._norm_max = dict(state["running"]), float(state["norm_max"])
            self._began = time.monotonic() - float(state["seconds"])
        if self._is_writer:
            _truncate(self._path, self.step)

    def add_step(self, numbers: Mapping[str, float], waited_s: float) -> bool:
        """Take in a step's numbers, of which ``norm`` is the gradient's length before clipping.

        Returns:
            Whether the gradient was a spike.
        """
        self.step += 1
        usual = self._running.get("norm", math.inf)
        for key, value in numbers.items():
            self._running[key] = MEMORY * self._running.get(key, value) + (1 - MEMORY) * value
        self._norm_max = max(self._norm_max, numbers["norm"])
        self._waited_s += waited_s
        return numbers["norm"] > SPIKE_FACTOR * usual

    def running(self, key: str) -> float:
        """Running mean of a number of steps."""
        return self._running.get(key, math.nan)

    def write_running(self, **more: float) -> None:
        """Write a line: running means, longest gradient and share of waiting since the last one."""
        now = time.monotonic()
        times = {"seconds": round(now - self._began, 1)}
        times["data_wait"] = round(self._waited_s / max(1e-9, now - self._line_began), 4)
        self._write(times | self._running | {"norm_max": self._norm_max} | more)
        self._norm_max, self._waited_s, self._line_began = 0.0, 0.0, now

    def write_validation(self, figures: Mapping[str, float]) -> bool:
        """Write a line with what a validation gave.

        Returns:
            Whether its ``val_loss`` is the lowest so far.
        """
        self._write(figures)
        loss = figures.get("val_loss", math.inf)
        is_best = loss < (self.best["val_loss"] if self.best else math.inf)
        if is_best:
            self.best = {"step": self.step, "val_loss": loss}
        return is_best

    def _write(self, numbers: Mapping[str, float]) -> None:
        """Add one line of JSON."""
        if self._is_writer:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": self.step} | dict(numbers)) + "\n")


def _truncate(path: Path, step: int) -> None:
    """Drop lines of later steps, and one that was being written when the run was killed."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        if content["step"] <= step:
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)
