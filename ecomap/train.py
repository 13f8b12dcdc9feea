"""Train whatever a config file says: one verb for every task."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ecomap.config import Config, load_config, read_yaml
from ecomap.errors import ConfigError
from ecomap.train_config import AutoencoderTrainConfig, FeatureTrainConfig, TrainConfig

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
    task = read_yaml(config).get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(f"{config}: task is {task!r}; choose one of {', '.join(TASKS)}.")
    kind, module = TASKS[task]
    changes = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    settings = load_config(config, kind, changes)
    folder = output or Path("runs") / config.stem
    from ecomap.model import resolve_device

    work = import_module(module).train
    result = work(settings, folder, device=str(resolve_device(device)))
    return TrainResult(task=task, run=folder, result=result)
