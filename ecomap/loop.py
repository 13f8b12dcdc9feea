"""The optimisation loop that every kind of training shares: one visible function.

Everything random in a step is drawn from (seed, step, part), so a run that was interrupted and
resumed gives the same weights as one that was not: to the last bit, where one process computes on
a CPU.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ecomap import checkpoint
from ecomap.accelerators import prepare
from ecomap.errors import ConfigError, DivergenceError
from ecomap.progress import progress_bar
from ecomap.run_folder import CHECKPOINT_FOLDER, alone_in
from ecomap.run_log import RunLog
from ecomap.train_config import OptimConfig
from ecomap.training_draws import Part
from ecomap.training_state import (
    averaged,
    keep_averages,
    learning_parameters,
    load_training_state,
    training_state,
    whole_tensor,
)

NETWORK_STREAM = 4
"""Number of the random stream of the networks themselves, beside those of `training_draws`."""

B = TypeVar("B")


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Warm-up, a constant stretch, and a linear fall to zero at the end.

    In a run shorter than both, they keep their proportion and the peak is still reached.

    Args:
        step: Number of the step, from 0.
        optim: Peak rate, total steps, and lengths of warm-up and fall.
    """
    shrink = min(1.0, optim.steps / max(1, optim.warmup_steps + optim.decay_steps))
    rise = min(1.0, (step + 1) / max(1, shrink * optim.warmup_steps))
    fall = min(1.0, (optim.steps - step) / max(1, shrink * optim.decay_steps))
    return optim.learning_rate * rise * fall


def optimise(
    learner: nn.Module,
    draw: Callable[[int, Part], B],
    loss: Callable[[nn.Module, B], tuple[Tensor, dict[str, float]]],
    optim: OptimConfig,
    folder: Path,
    *,
    accelerator: Accelerator,
    validate: Callable[[nn.Module], dict[str, float]],
    console: Console,
    show: Callable[[nn.Module, int], None] | None = None,
    show_every: int | None = None,
    seed: int = 0,
) -> None:
    """Train what learns of a module until the last step, resuming from the newest checkpoint.

    A step's gradient is the mean over equal parts of its batch: processes times micro-batches.

    Args:
        learner: Parameters with ``requires_grad`` are trained and averaged. At the end it holds the
            averaged weights, whole in every process.
        draw: (Step, part) -> batch on the accelerator's device. Called ahead of its use in another
            thread, so it must depend on nothing but its arguments, and use no global generator.
        loss: (Prepared learner, batch) -> mean loss of the batch, and numbers to log. Like the two
            below it runs under the accelerator's autocast.
        optim: Steps, rates and intervals.
        folder: Run folder; checkpoints and ``metrics.jsonl`` go there.
        accelerator: As `ecomap.accelerators.open_accelerator` makes it.
        validate: Numbers of the averaged learner, the same in every process; called every
            ``optim.validate_every`` steps and after the last. The checkpoint with the lowest
            ``val_loss`` stays.
        console: Where progress is shown.
        show: Makes pictures of the averaged learner after so many steps, in every process.
        show_every: Steps between pictures; by default at every validation.
        seed: Of what networks draw themselves, such as dropout.

    Raises:
        ConfigError: If another run works in the folder, or what learns is not in float32.
        DataError: If the newest checkpoint is damaged or does not fit, or the disk is full.
            Checkpoints stay as they were.
        DivergenceError: If a loss or a gradient is not finite. The last checkpoint stays.
        OSError: If the disk fails otherwise.
    """
    model, optimizer = prepare(accelerator, learner, _optimizer(learner, optim, accelerator))
    parameters = learning_parameters(learner)
    ema = EMAModel(parameters.values(), decay=optim.ema_decay) if optim.ema_decay else None
    averages = dict(zip(parameters, ema.shadow_params, strict=True)) if ema else {}
    parts, is_main = _own_parts(accelerator, optim.micro_batches), accelerator.is_main_process
    log, checkpoints = RunLog(folder, is_writer=is_main), folder / CHECKPOINT_FOLDER
    with alone_in(folder, is_main=is_main), progress_bar(console, disable=not is_main) as progress:
        newest = _resume(checkpoints, log, learner, optimizer, averages)
        if ema is not None:
            ema.optimization_step = log.step
        task = progress.add_task("training", total=optim.steps, completed=log.step, loss=np.nan)
        steps = range(log.step, optim.steps)
        with closing(_Ahead(draw, steps, parts)) as ahead:
            for step in steps:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, optim)
                said, waited_s = [], 0.0
                for part in parts:
                    batch, seconds = ahead.take()
                    waited_s += seconds
                    torch.manual_seed(_network_seed(seed, step, part))
                    with nullcontext() if part is parts[-1] else accelerator.no_sync(model):
                        with accelerator.autocast():
                            value, numbers = loss(model, batch)
                        accelerator.backward(value / len(parts))
                    said.append(numbers | {"loss": float(value.detach())})
                numbers = _means(said, accelerator) | {"norm": _gradient_norm(parameters)}
                if not np.isfinite([numbers["loss"], numbers["norm"]]).all():
                    raise _divergence(step, numbers, parameters, newest)
                norm = torch.tensor(numbers["norm"])
                clip_grads_with_norm_(parameters.values(), optim.max_grad_norm, norm)
                optimizer.step()
                optimizer.zero_grad()
                if ema is not None:
                    ema.step(parameters.values())

                is_spike, done = log.add_step(numbers, waited_s), step + 1
                if is_spike:
                    progress.console.print(_spike(step, numbers["norm"], optim))
                progress.update(task, completed=done, loss=log.running("loss"))
                is_last, is_best = done == optim.steps, False
                if is_last or done % optim.log_every == 0:
                    log.write_running(learning_rate=learning_rate(step, optim))
                if is_last or done % optim.validate_every == 0:
                    ahead.rest()
                    with averaged(learner, ema), accelerator.autocast():
                        is_best = log.write_validation(validate(learner))
                if show and (is_last or done % (show_every or optim.validate_every) == 0):
                    ahead.rest()
                    with averaged(learner, ema), accelerator.autocast():
                        show(learner, done)
                if is_last or is_best or done % optim.checkpoint_every == 0:
                    tensors = training_state(learner, optimizer, averages, is_kept=is_main)
                    newest = checkpoints / checkpoint.name_of(done)
                    if is_main:
                        checkpoint.save_checkpoint(
                            newest, tensors, log.state(), keep=optim.keep_checkpoints
                        )
                    del tensors  # up to four times what learns
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    accelerator.free_memory()
    keep_averages(learner, ema)


def _resume(
    checkpoints: Path,
    log: RunLog,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor],
) -> Path | None:
    """Put everything back as the newest checkpoint has it, if there is one."""
    newest = checkpoint.latest_checkpoint(checkpoints)
    if newest is None:
        log.resume(None)
        return None
    tensors, state = checkpoint.load_checkpoint(newest)
    load_training_state(learner, optimizer, averages, tensors, source=newest)
    log.resume(state)
    return newest


def _optimizer(
    learner: nn.Module, optim: OptimConfig, accelerator: Accelerator
) -> torch.optim.Optimizer:
    """Optimizer of what learns, whose weights must not be rounded between steps."""
    parameters = learning_parameters(learner)
    if not parameters:
        raise ConfigError("Nothing learns: no parameter requires a gradient. Choose what learns.")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"{name} learns and is stored as {parameter.dtype}, in which small steps are lost. "
                "Store what learns as torch.float32."
            )
    rate, decay = optim.learning_rate, optim.weight_decay
    if optim.optimizer == "adamw":
        betas = (0.9, optim.beta2)
        return torch.optim.AdamW(parameters.values(), rate, betas, weight_decay=decay, fused=True)
    if accelerator.is_fsdp2:
        raise ConfigError(
            "optim.optimizer is adafactor, whose state FSDP cannot divide among processes. Choose "
            "adamw, or configs/accelerate_ddp.yaml."
        )
    return torch.optim.Adafactor(parameters.values(), lr=rate, weight_decay=decay)


def _own_parts(accelerator: Accelerator, micro_batches: int) -> list[Part]:
    """What this process computes of each batch."""
    first, count = accelerator.process_index * micro_batches, accelerator.num_processes
    return [Part(first + k, count * micro_batches) for k in range(micro_batches)]


class _Ahead(Generic[B]):
    """Batches in their order, each drawn in another thread while the one before is computed."""

    def __init__(
        self, draw: Callable[[int, Part], B], steps: Iterable[int], parts: Sequence[Part]
    ) -> None:
        self._draw, self._order = draw, ((step, part) for step in steps for part in parts)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._begin()

    def take(self) -> tuple[B, float]:
        """The next batch, and the seconds that it was waited for."""
        began = time.monotonic()
        batch = self._next.result()
        waited_s = time.monotonic() - began
        self._begin()
        return batch, waited_s

    def rest(self) -> None:
        """Wait until nothing is being drawn: not all that draws may be used by two threads."""
        wait([self._next])

    def close(self) -> None:
        """Draw no more."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        following = next(self._order, None)
        if following is not None:
            self._next = self._pool.submit(self._draw, *following)


def _network_seed(seed: int, step: int, part: Part) -> int:
    """Seed of what the networks draw while they compute a part."""
    stream = np.random.SeedSequence([seed, NETWORK_STREAM, step, part.index])
    return int(stream.generate_state(1, np.uint64)[0])


def _means(said: Sequence[Mapping[str, float]], accelerator: Accelerator) -> dict[str, float]:
    """Mean of each number over the parts of all processes."""
    means = {key: float(np.mean([numbers[key] for numbers in said])) for key in said[0]}
    if accelerator.num_processes == 1:
        return means
    own = torch.tensor(list(means.values()), device=accelerator.device)
    return dict(zip(means, accelerator.reduce(own, "mean").tolist(), strict=True))


def _gradient_norm(parameters: Mapping[str, nn.Parameter]) -> float:
    """Length of the gradient of some parameters, over all processes."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    return float(whole_tensor(get_total_norm(gradients)))


def _divergence(
    step: int,
    numbers: Mapping[str, float],
    parameters: Mapping[str, nn.Parameter],
    newest: Path | None,
) -> DivergenceError:
    """What is not finite, where the gradient is longest, and what to do."""
    norms = {name: _gradient_norm({name: p}) for name, p in parameters.items()}
    longest = sorted(norms, key=lambda name: (np.isfinite(norms[name]), -norms[name]))[:3]
    kept = "No checkpoint was written yet." if newest is None else f"{newest} is as it was."
    return DivergenceError(
        f"Step {step} has loss {numbers['loss']:.4g} and a gradient of length "
        f"{numbers['norm']:.4g}, the longest in "
        f"{', '.join(f'{name} ({norms[name]:.3g})' for name in longest)}. Both must be finite. "
        f"{kept} Start another --output with a lower optim.learning_rate, a longer "
        "optim.warmup_steps or a lower optim.max_grad_norm."
    )


def _spike(step: int, norm: float, optim: OptimConfig) -> str:
    """Words for a gradient that is much longer than usual."""
    return f"step {step}: gradient of length {norm:.3g}, clipped to {optim.max_grad_norm:g}"
