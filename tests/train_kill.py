"""Kill a training again and again, and compare what it learns with one that was left alone.

``python -m tests.train_kill`` kills at many random moments, every other time while a checkpoint is
being written, and leaves with 1 unless weights and checkpoint are the same byte for byte. Tests
call `kill_and_compare` with fewer kills.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ecomap.checkpoint import TEMPORARY_PREFIX, latest_checkpoint, load_checkpoint
from tests.small_training import FINAL_FILE, settings, train_to_the_end

PAUSE_S = 0.002
"""What a step takes at least, so that kills strike in steps and between."""
LIMIT_S = 120.0
"""A run that takes longer hangs."""

# A process that has imported everything starts the runs: each kill would cost seconds otherwise.
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.small_training"])


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What a killed run left."""

    step: int
    """Of its newest checkpoint; 0 for none."""
    num_leftovers: int
    """Checkpoints that it had begun to write or to remove."""
    is_hit: bool
    """False where the run had ended before."""


def start(folder: Path, num_steps: int) -> ForkServerProcess:
    """Start a run."""
    optim = settings(
        steps=num_steps, micro_batches=2, checkpoint_every=3, validate_every=10, decay_steps=20
    )
    run = CONTEXT.Process(target=train_to_the_end, args=(folder, optim, PAUSE_S))
    run.start()
    return run


def finish(run: ForkServerProcess) -> None:
    """Wait for the end of a run.

    Raises:
        AssertionError: If it failed.
    """
    run.join(LIMIT_S)
    assert run.exitcode == 0, f"exit {run.exitcode}"


def kill_one(folder: Path, num_steps: int, *, draw: random.Random, in_saving: bool) -> Kill:
    """Start a run and kill it: some time after its first new line, or while it saves."""
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    size = metrics.stat().st_size if metrics.exists() else 0
    run = start(folder, num_steps)
    end = time.monotonic() + LIMIT_S
    while run.is_alive() and time.monotonic() < end:
        if metrics.exists() and metrics.stat().st_size > size:
            break
        size = min(size, metrics.stat().st_size) if metrics.exists() else 0
    if in_saving:
        skipped = draw.randrange(3)
        is_saving = was_saving = False
        while run.is_alive() and time.monotonic() < end and skipped >= 0:
            was_saving, is_saving = is_saving, any(checkpoints.glob(f"{TEMPORARY_PREFIX}*"))
            skipped -= is_saving and not was_saving
        time.sleep(draw.uniform(0, 0.003))
    else:
        time.sleep(draw.uniform(0, 0.1))
    is_hit = run.is_alive()
    run.kill()
    run.join(LIMIT_S)
    newest = latest_checkpoint(checkpoints)
    step = 0 if newest is None else int(load_checkpoint(newest)[1]["step"])
    leftovers = list(checkpoints.glob(f"{TEMPORARY_PREFIX}*"))
    return Kill(step=step, num_leftovers=len(leftovers), is_hit=is_hit)


def kill_and_compare(
    root: Path, *, num_kills: int, num_steps: int, seed: int = 0
) -> tuple[list[Kill], list[str]]:
    """Kill a run so often, let it finish, and compare it with one that was left alone.

    Args:
        root: Folder of both runs.
        num_kills: Number of kills.
        num_steps: Steps of a whole run.
        seed: Decides the moments.

    Returns:
        What the kills left, and names of files that differ.
    """
    whole, killed = root / "whole", root / "killed"
    peaceful = start(whole, num_steps)
    draw = random.Random(seed)
    kills = [
        kill_one(killed, num_steps, draw=draw, in_saving=bool(number % 2))
        for number in range(num_kills)
    ]
    finish(start(killed, num_steps))
    finish(peaceful)
    last = f"checkpoints/step_{num_steps:08d}/state.safetensors"
    names = sorted({p.name for f in (whole, killed) for p in (f / "checkpoints").iterdir()})
    differing = [
        name
        for name in (FINAL_FILE, last)
        if (whole / name).read_bytes() != (killed / name).read_bytes()
    ]
    differing += [
        name for name in names
        if not all((folder / "checkpoints" / name).exists() for folder in (whole, killed))
    ]  # fmt: skip
    return kills, differing


def main() -> int:
    """Kill often, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        kills, differing = kill_and_compare(
            Path(root), num_kills=options.kills, num_steps=options.steps, seed=options.seed
        )
    for number, one in enumerate(kills, 1):
        hit = "killed" if one.is_hit else "had ended"
        print(f"{number:3d} {hit} at checkpoint {one.step}, {one.num_leftovers} unfinished")
    num_hits, num_torn = sum(k.is_hit for k in kills), sum(k.num_leftovers > 0 for k in kills)
    print(f"{num_hits} runs killed, {num_torn} of them while saving; differing: {differing}")
    return int(bool(differing) or num_hits < len(kills))


if __name__ == "__main__":
    sys.exit(main())
