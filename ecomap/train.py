"""Train whatever a config file says: one verb for every task."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ecomap.config import Config, load_config, read_yaml
from ecomap.errors import ConfigError
from ecomap.train_config import AutoencoderTrainConfig, FeatureTrainConfig
from ecomap.transformer_config import TrainConfig

if TYPE_CHECKING:
    from ecomap.estimate_result import Estimate

PAGE_FILE = "index.html"

TASKS: dict[str, tuple[type[Config], str]] = {
    "autoencoder": (AutoencoderTrainConfig, "ecomap.train_autoencoder"),
    "features": (FeatureTrainConfig, "ecomap.train_features"),
    "transformer": (TrainConfig, "ecomap.train_transformer"),
}
"""Settings and module of each task."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left behind."""

    task: str
    run: Path
    """Run folder: config, versions, metrics, checkpoints."""
    result: Path
    """Folder of the averaged weights."""

    def to_dict(self) -> dict[str, str]:
        """JSON form."""
        return {"task": self.task, "run": str(self.run), "result": str(self.result)}

    def render(self) -> str:
        """Words for the terminal."""
        page = self.run / PAGE_FILE
        look = f"\nLook at {page}" if page.exists() else ""
        use = _command(self.result)
        return f"{self.result}{look}" + (f"\nTry it: {use} ..." if use else "")


def train(
    config: Path,
    overrides: Sequence[str] = (),
    *,
    output: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> TrainResult:
    """Train an autoencoder, a feature network or a transformer as a config file says.

    Args:
        config: YAML file with a ``task`` and what it changes of that task's defaults.
        overrides: ``key=value`` settings that win over the file.
        output: Run folder, resumed if it holds the same run; by default ``runs/CONFIG``.
        seed: Wins over the seed of the file.
        device: Torch device or ``auto``.

    Raises:
        ConfigError: If the file is missing, or names an unknown task or setting.
        DataError: If a dataset is missing or too small.
        DivergenceError: If the loss stops being finite.
    """
    changes = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    task, settings = train_settings(config, changes)
    folder = output or Path("runs") / config.stem
    from ecomap.accelerators import leave_processes
    from ecomap.model import resolve_device

    work = import_module(TASKS[task][1]).train
    try:
        result = work(settings, folder, device=str(resolve_device(device)))
    finally:
        leave_processes()
    return TrainResult(task=task, run=folder, result=result)


def dry_run(
    config: Path,
    overrides: Sequence[str] = (),
    *,
    seed: int | None = None,
    device: str = "auto",
    processes: int = 1,
) -> "Estimate":
    """Count parameters, memory, disk and time of a training, and start nothing.

    Args:
        config: As in `train`; likewise those below.
        overrides: ``key=value`` settings.
        seed: Of no influence but on the config.
        device: Torch device or ``auto``.
        processes: Number of processes that would share a batch.

    Raises:
        ConfigError: If the config is of another task than ``transformer``.
    """
    changes = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    _, settings = train_settings(config, changes)
    if not isinstance(settings, TrainConfig):
        raise ConfigError(
            f"{config} is no config of task transformer; --dry-run counts no others. Leave it out."
        )
    from ecomap.model import resolve_device
    from ecomap.train_estimate import estimate

    return estimate(settings, device=str(resolve_device(device)), processes=processes)


def train_settings(config: Path, overrides: Sequence[str] = ()) -> tuple[str, Config]:
    """Task and complete settings of a config file.

    Raises:
        ConfigError: If the file is missing, or names an unknown task or setting.
    """
    task = read_yaml(config).get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(f"{config}: task is {task!r}; choose one of {', '.join(TASKS)}.")
    return task, load_config(config, TASKS[task][0], overrides)


def _command(result: Path) -> str:
    """The command that makes images with what a training left; empty if there is none."""
    if result.name in ("adapter", "bundle"):
        return f"ecomap generate --{result.name} {result}"
    if result.name != "controlnet":
        return ""
    from ecomap.control_request import fitting_command
    from ecomap.controlnet_files import read_control_spec

    command = fitting_command(read_control_spec(result))
    image = " --control-image FILE" if command == "generate" else ""
    return f"ecomap {command} --controlnet {result}{image}" if command else ""
