"""The optimisation loop that every kind of training shares: one visible function.

Everything random in a step is drawn from (seed, step) by the step itself, so a run that was
interrupted and resumed gives the same weights as one that was not.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ecomap import checkpoint
from ecomap.config import Config, dump_config
from ecomap.errors import ConfigError, DivergenceError
from ecomap.schema import RECORDS_FILE, write_json
from ecomap.train_config import OptimConfig
from ecomap.versions import fingerprint, versions

DATA_FILE = "data.json"
"""Hash of the records of each dataset of a run."""

StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Step number -> loss to minimise and numbers to log."""
Validate = Callable[[], dict[str, float]]


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Warm-up, a constant stretch, and a linear fall to zero at the end.

    Args:
        step: Number of the step, from 0.
        optim: Peak rate, total steps, and lengths of warm-up and fall.
    """
    rise = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    fall = min(1.0, (optim.steps - step) / max(1, optim.decay_steps))
    return optim.learning_rate * rise * fall


def open_run(folder: Path, config: Config, datasets: Sequence[Path]) -> None:
    """Start or reopen a run's folder: complete config, data and versions before the first step.

    Args:
        folder: Run folder.
        config: Complete settings.
        datasets: Dataset folders; a run goes on only while their records stay as they are, for
            another split would mix what was learnt with what is held out.

    Raises:
        ConfigError: If the folder holds a run with another config or on other records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = {str(path): fingerprint([path / RECORDS_FILE]) for path in datasets}
    path = folder / "config.yaml"
    if path.exists() and checkpoint.latest_checkpoint(folder / "checkpoints") is not None:
        previous = path.read_text()
        dump_config(config, folder / "config.new.yaml")
        same = previous == (folder / "config.new.yaml").read_text()
        (folder / "config.new.yaml").unlink()
        if not same:
            raise ConfigError(
                f"{folder} holds a run with another config. Choose another --output, or delete it."
            )
        if json.loads((folder / DATA_FILE).read_text()) != records:
            raise ConfigError(
                f"{folder} holds a run on other records of {', '.join(records)}: they were "
                "imported or split again since. Choose another --output, or delete it."
            )
    else:
        dump_config(config, path)
        write_json(folder / DATA_FILE, records)
    path = folder / "versions.json"
    used = json.loads(path.read_text()) if path.exists() else []
    if versions() not in used:
        write_json(path, [*used, versions()])


def optimise(
    step_loss: StepLoss,
    modules: Mapping[str, nn.Module],
    optim: OptimConfig,
    folder: Path,
    *,
    validate: Validate,
    console: Console,
) -> EMAModel:
    """Train modules until the last step, resuming from the newest checkpoint.

    Args:
        step_loss: Loss of one step; must depend on nothing but the step number and the weights.
        modules: What is trained, by name; parameters with ``requires_grad`` only.
        optim: Steps, rates and intervals.
        folder: Run folder; checkpoints and ``metrics.jsonl`` go there.
        validate: Numbers of the averaged weights; called every ``optim.validate_every`` steps.
        console: Where progress is shown.

    Returns:
        Averaged weights, over the trained parameters in the order of ``modules``.
    """
    parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=optim.learning_rate,
        betas=(0.9, optim.beta2),
        weight_decay=optim.weight_decay,
    )
    ema = EMAModel(parameters, decay=optim.ema_decay)
    start, running = _resume(folder, modules, optimizer, ema)
    began, metrics_path = time.monotonic(), folder / "metrics.jsonl"
    _truncate_metrics(metrics_path, start)
    with progress_bar(console) as progress:
        task = progress.add_task("training", total=optim.steps, completed=start, loss=float("nan"))
        for step in range(start, optim.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, optim)
            loss, numbers = step_loss(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(parameters, optim.max_grad_norm)
            if not torch.isfinite(norm):
                raise DivergenceError(
                    f"The gradient at step {step} is {norm.item()}. Start another --output with a "
                    "lower optim.learning_rate."
                )
            optimizer.step()
            ema.step(parameters)
            for key, value in (
                numbers | {"loss": float(loss.detach()), "norm": float(norm)}
            ).items():
                running[key] = 0.98 * running.get(key, value) + 0.02 * value
            done = step + 1
            progress.update(task, completed=done, loss=running["loss"])
            if done % optim.log_every == 0 or done == optim.steps:
                elapsed = time.monotonic() - began
                _append(metrics_path, {"step": done, "seconds": round(elapsed, 1)} | running)
            if done % optim.validate_every == 0 or done == optim.steps:
                ema.store(parameters)
                ema.copy_to(parameters)
                _append(metrics_path, {"step": done} | validate())
                ema.restore(parameters)
            if done % optim.checkpoint_every == 0 or done == optim.steps:
                state = checkpoint.module_tensors(modules) | checkpoint.optimizer_tensors(optimizer)
                state |= checkpoint.ema_tensors(ema.shadow_params)
                meta = {"ema_step": ema.optimization_step, "running": running}
                checkpoint.save_checkpoint(folder / "checkpoints", done, state, meta)
    return ema


def _resume(
    folder: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, ema: EMAModel
) -> tuple[int, dict[str, float]]:
    """Load the newest checkpoint; number of finished steps and running means."""
    newest = checkpoint.latest_checkpoint(folder / "checkpoints")
    if newest is None:
        return 0, {}
    tensors, meta = checkpoint.load_checkpoint(newest)
    checkpoint.load_module_tensors(modules, tensors)
    checkpoint.load_optimizer_tensors(optimizer, tensors)
    checkpoint.load_ema_tensors(ema.shadow_params, tensors)
    ema.optimization_step = meta["ema_step"]
    return int(meta["step"]), dict(meta["running"])


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop lines of steps that will be done again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if content["step"] <= step:
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)


def _append(path: Path, numbers: dict[str, Any]) -> None:
    """Add one line of JSON."""
    with path.open("a") as file:
        file.write(json.dumps(numbers) + "\n")


def progress_bar(console: Console) -> Progress:
    """Bar with count, running loss and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
        console=console,
    )
