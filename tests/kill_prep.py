"""Kill ``ecomap prep run`` again and again, and compare what is left with a run in peace.

``python -m tests.kill_prep SHARED/data/stac_s2_mini`` kills at every moment of `MOMENTS`, from the
first file of the plan to the last of the report, prints a line for each, and leaves with 1 unless
both folders are the same byte for byte. Tests call `kill_and_compare` with fewer moments.
"""

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.local_world import LocalWorld

REPOSITORY = Path(__file__).parents[1]
CONFIG = REPOSITORY / "configs" / "prep_example.yaml"
SMALL = ("first_month=2023-08", "grid.spacing_km=16", "engine.num_threads=4")
"""A region of a few places in one month: most of a run is the start of Python."""
POLL_S = 0.002
PAUSE_S = 0.05
"""Longest time between a moment and the kill: drawn at random, it strikes in files and between."""
LIMIT_S = 240.0
"""A run that takes longer hangs."""


@dataclass(frozen=True)
class Moment:
    """When a share of the files of a pattern is there."""

    step: str
    pattern: str
    share: float = 0.0
    """Of the files that a whole run leaves, [0, 1]; one file at least."""
    is_anew: bool = False
    """Whether every run writes these files, so that those of earlier runs do not count."""


MOMENTS = (
    Moment("plan", ".lock"),
    Moment("plan", "plan/places.parquet"),
    Moment("plan", "plan/items.parquet"),
    Moment("plan", "plan/map.png"),
    Moment("plan", "plan/summary.json"),
    Moment("fetch", "config.yaml", is_anew=True),
    Moment("fetch", "tasks/imagery/*/*.json"),
    Moment("fetch", "images/*/*.tif", 0.3),
    Moment("fetch", "images/*/*.tif", 0.7),
    Moment("fetch", "tasks/land_cover/*.json"),
    Moment("fetch", "tasks/land_cover/*.json", 0.5),
    Moment("fetch", "climate/*.json"),
    Moment("fetch", "manifest.parquet", is_anew=True),
    Moment("build", "tasks/inspection/*.json"),
    Moment("build", "prompts.parquet", is_anew=True),
    Moment("build", "records.parquet", is_anew=True),
    Moment("build", "dataset.json", is_anew=True),
    Moment("report", "report/map.png", is_anew=True),
    Moment("report", "report/climate.png", is_anew=True),
    Moment("report", "report/index.html", is_anew=True),
)
EVERY_FETCH = Moment("fetch", "config.yaml", is_anew=True)
"""Early in every run that finds a plan."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What a killed run left."""

    moment: Moment
    after_s: float
    num_files: int
    leftovers: tuple[str, ...]
    """Temporary files, relative to the folder."""
    is_hit: bool
    """False where the run had ended before."""


def start(output: Path, overrides: Sequence[str], verb: str = "run") -> subprocess.Popen[str]:
    """Start a run whose processes are a group of their own."""
    command = [Path(sys.executable).with_name("ecomap"), "prep", verb, CONFIG, f"output={output}"]
    output.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [*map(str, command), *SMALL, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(run: subprocess.Popen[str]) -> str:
    """Wait for the end of a run and give what it said.

    Raises:
        AssertionError: If it failed.
    """
    said, complaints = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 0, f"exit {run.returncode}: {complaints}"
    return said


def kill(run: subprocess.Popen[str]) -> bool:
    """Kill a run and its workers; whether there was something to kill."""
    is_running = run.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=LIMIT_S)
    return is_running


def wait_for(
    output: Path, pattern: str, run: subprocess.Popen[str], *, number: int = 1, since_ns: int = 0
) -> None:
    """Wait until so many files were written since a time, or the run ends.

    Raises:
        AssertionError: If neither happens in time.
    """
    end = time.monotonic() + LIMIT_S
    while run.poll() is None:
        if sum(path.stat().st_mtime_ns >= since_ns for path in output.glob(pattern)) >= number:
            return
        assert time.monotonic() < end, f"no {number} x {pattern} in {output} after {LIMIT_S:g} s"
        time.sleep(POLL_S)


def kill_at(
    moment: Moment, output: Path, overrides: Sequence[str], *, number: int, pause_s: float
) -> Kill:
    """Start a run, and kill it so long after a number of files is there."""
    begin, since_ns = time.monotonic(), time.time_ns() if moment.is_anew else 0
    run = start(output, overrides)
    wait_for(output, moment.pattern, run, number=number, since_ns=since_ns)
    time.sleep(pause_s)
    is_hit = kill(run)
    files = [str(p.relative_to(output)) for p in sorted(output.rglob("*")) if p.is_file()]
    return Kill(
        moment=moment,
        after_s=time.monotonic() - begin,
        num_files=len(files),
        leftovers=tuple(name for name in files if ".tmp" in name),
        is_hit=is_hit,
    )


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file; of the config without the line that names the folder."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.name == "config.yaml":
            data = re.sub(rb"^output: .*\n", b"", data, flags=re.MULTILINE)
        digests[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return digests


def differences(first: Path, second: Path) -> list[str]:
    """Files that are in one folder only, or not the same."""
    one, other = contents(first), contents(second)
    return [
        f"{name}: {'differs' if name in one and name in other else 'only once'}"
        for name in sorted(one | other)
        if one.get(name) != other.get(name)
    ]


def kill_and_compare(
    moments: Sequence[Moment],
    overrides: Sequence[str],
    *,
    whole: Path,
    output: Path,
    seed: int = 0,
) -> tuple[list[Kill], list[str]]:
    """Kill a run at each moment, let it finish, and compare it with one that was left alone.

    A moment that an earlier run had passed when it was killed becomes `EVERY_FETCH`.

    Args:
        moments: In the order in which a run reaches them.
        overrides: Where the services are.
        whole: Folder of the run in peace; the last part of its name is the title of the report,
            so that ``output`` must have the same.
        output: Folder of the runs that are killed.
        seed: Decides the pauses between moments and kills.

    Returns:
        What the kills left, and `differences`.
    """
    draw = random.Random(seed)
    kills = []
    for moment in moments:
        number = max(1, round(moment.share * count(whole, moment)))
        is_past = count(output, moment) >= number and not moment.is_anew
        chosen, number = (EVERY_FETCH, 1) if is_past else (moment, number)
        pause_s = draw.uniform(0, PAUSE_S)
        kills.append(kill_at(chosen, output, overrides, number=number, pause_s=pause_s))
    finish(start(output, overrides))
    return kills, differences(whole, output)


def count(folder: Path, moment: Moment) -> int:
    """Files of a moment's pattern."""
    return sum(1 for _ in folder.glob(moment.pattern))


def main() -> int:
    """Kill at every moment, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("items", type=Path, help="folder of STAC items and their files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where both folders stay; by default nowhere")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalWorld(options.items, Path(scratch)) as world,
    ):
        folder = options.output or Path(scratch)
        whole, output = folder / "whole" / "dataset", folder / "killed" / "dataset"
        finish(start(whole, world.overrides))
        kills, differing = kill_and_compare(
            MOMENTS, world.overrides, whole=whole, output=output, seed=options.seed
        )
        before = contents(output)
        finish(start(output, world.overrides))
        again = contents(output)
        differing += [f"{n} after another run: differs" for n in before if again[n] != before[n]]
        for number, one in enumerate(kills, 1):
            hit = "killed" if one.is_hit else "had ended"
            left = f", left {', '.join(one.leftovers)}" if one.leftovers else ""
            print(
                f"{number:2d} {one.moment.step:6s} {one.moment.pattern:25s} {hit} after "
                f"{one.after_s:5.1f} s with {one.num_files} files{left}"
            )
        num_files = len(before)
    num_hits = sum(one.is_hit for one in kills)
    print(f"{num_hits} runs killed; {num_files} files, {len(differing)} of them differ.")
    print("\n".join(differing), end="\n" if differing else "")
    return int(bool(differing) or num_hits < len(kills))


if __name__ == "__main__":
    sys.exit(main())
