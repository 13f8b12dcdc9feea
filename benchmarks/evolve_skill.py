"""How well a bundle takes places to other months, beside copying and other simple methods.

    python benchmarks/evolve_skill.py DATASET --output DIR
    python benchmarks/evolve_skill.py DATASET --bundle ecomap-tiny --members 8 --output DIR

Without a bundle only the rivals are scored, which takes minutes and no network but that of the
perceptual distance. Places are those of the test side, as far from each other as can be; with
--one-per-block none overlaps another, so that there are as many blocks as places. Images and
measures are kept in DIR, and a run that was interrupted goes on.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecomap.blocks import with_blocks
from ecomap.errors import EcomapError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evolution import BATCH_SIZE, STEPS
from ecomap.evolution_ensemble import RankHistogram, ensemble_scores
from ecomap.evolution_gains import GENERATED, gains, goals
from ecomap.evolution_making import CHAINED, EvolutionMaker, check_size
from ecomap.evolution_page import write_evolution_page
from ecomap.evolution_pairs import ArrayImages, PairSets, choose_pairs
from ecomap.evolution_report import EvolutionReport, write_numbers
from ecomap.evolution_scores import error_by_step, measure_pairs, score_pairs
from ecomap.evolution_structure import identity_scores, structure_scores, structure_table
from ecomap.image_sets import FileImageSet, open_image_set
from ecomap.image_subsets import take
from ecomap.schema import write_json
from ecomap.scores import OBSERVED, Score
from ecomap.tiles import ImageSet, Measured
from ecomap.versions import fingerprint

if TYPE_CHECKING:
    from ecomap.model import Bundle

MEAN = "ensemble_mean"
IMAGES_FOLDER, MEASURED_FOLDER = "generated", "measured"


@dataclass
class Run:
    """What a run has found so far."""

    config: EvaluateConfig
    output: Path
    sets: PairSets
    systems: list[ImageSet] = field(default_factory=list)
    """By pair."""
    shared: list[ImageSet] = field(default_factory=list)
    """By target."""
    scores: list[Score] = field(default_factory=list)
    histograms: list[RankHistogram] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the clock, by step."""
    busy_s: dict[str, float] = field(default_factory=dict)
    """Of a core: what else runs on the machine does not count."""

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work, and tell how long it took."""
        started, busy = time.monotonic(), time.process_time()
        print(f"{name} ...", flush=True)
        found = work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.busy_s[name] = round(time.process_time() - busy, 1)
        print(f"{name}: {self.seconds[name]} s, {self.busy_s[name]} s of a core", flush=True)
        return found


def open_model(run: Run, arguments: argparse.Namespace) -> tuple["Bundle", EvolutionMaker]:
    """Load a bundle; gives what makes images with it."""
    from ecomap.card import parse_doors
    from ecomap.denoiser import computing
    from ecomap.evaluate_bundle import training_note
    from ecomap.evolution import SOLVER, evolve_pairs
    from ecomap.sequence_frames import open_evolver
    from ecomap.versions import versions

    bundle = open_evolver(
        arguments.bundle, controlnet=arguments.controlnet, adapter=arguments.adapter,
        device=arguments.device,
    )  # fmt: skip
    check_size(run.sets, bundle.card)
    if note := training_note(bundle.card, run.sets.history.tiles):
        run.notes.append(note)
    found = versions()
    code = found.pop("ecomap_code", None)
    settings = {
        "bundle": bundle.identity, "steps": arguments.steps, "guidance": arguments.guidance,
        "solver": SOLVER, "doors": arguments.doors, **computing(bundle.device), "versions": found,
    }  # fmt: skip
    assert bundle.controlnet_path is not None
    folder = bundle.controlnet_path
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    settings["controlnet"] = fingerprint(files)
    frames, digest = run.sets.frames(), hashlib.sha256()
    for index in range(len(frames.tiles)):
        digest.update(frames.read(index).rgb.tobytes())
    settings["starts"] = digest.hexdigest()

    doors = None if arguments.doors is None else parse_doors(arguments.doors)

    def evolve(
        starts: Sequence[Any], targets: Sequence[Any], seeds: Sequence[int]
    ) -> NDArray[np.uint8]:
        return evolve_pairs(
            bundle, list(starts), list(targets), seeds=list(seeds), steps=arguments.steps,
            guidance=arguments.guidance, batch_size=arguments.batch_size, doors=doors,
        )  # fmt: skip

    maker = EvolutionMaker(
        sets=run.sets, evolve=evolve, card=bundle.card, folder=run.output / IMAGES_FOLDER,
        settings=settings, notes={"code": code, "attribution": list(bundle.card.attribution)},
        seed=run.config.seed,
    )  # fmt: skip
    return bundle, maker


def add_model(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make all images of a bundle; gives what identifies it."""
    from ecomap.evaluate_bundle import autoencoder_floor

    bundle, maker = open_model(run, arguments)
    for member in range(arguments.members):
        made = run.timed(f"make member {member}", partial(maker.generated, member))
        run.systems.append(made)
    if arguments.members > 1:
        run.systems.append(ensemble_mean(run.systems[-arguments.members :]))
    if not arguments.no_nulls:
        run.systems.append(run.timed("make shuffled climate", maker.shuffled))
    if not arguments.no_chain:
        run.systems.append(run.timed("make chains", maker.chained))
    run.shared.append(autoencoder_floor(bundle, run.sets.frames()))
    starts, returned = run.timed("make identity", maker.identity)
    floor = autoencoder_floor(bundle, starts)
    run.scores += run.timed(
        "score identity",
        lambda: identity_scores(starts, returned, floor, run.config, system=GENERATED),
    )
    if run.config.num_cases:
        run.scores += run.timed("sweeps", lambda: sweep(run, maker, is_wide=arguments.wide_sweeps))
    told = {"bundle": dict(bundle.identity), "steps": arguments.steps}
    return {**told, "guidance": arguments.guidance, "members": arguments.members}


def sweep(run: Run, maker: EvolutionMaker, *, is_wide: bool) -> list[Score]:
    """Sweeps of climate at the scored places, or at all places of their sides of the split."""
    from ecomap.evolution_sweeps import sweep_scores

    history = run.sets.history
    used = {history.tiles[i].place for i in run.sets.chosen}
    sides = {pair.tile.split for pair in run.sets.pairs}
    chosen = [t for t in history.tiles if t.place in used or (is_wide and t.split in sides)]
    (pool,) = with_blocks(chosen)
    return sweep_scores(
        maker.sweeps(pool), pool, history, run.config, num_cases=run.config.num_cases
    )


def ensemble_mean(members: Sequence[ImageSet]) -> ImageSet:
    """The mean image of all members, made when it is read."""
    tiles = members[0].tiles

    def mean(index: int) -> NDArray[np.uint8]:
        rgb = np.stack([member.read(index).rgb for member in members])
        return np.asarray(np.rint(rgb.mean(0)), np.uint8)

    words = f"Mean of {len(members)} members, pixel by pixel."
    return ArrayImages(name=MEAN, tiles=tiles, images=mean, description=words)


def score(run: Run) -> tuple[dict[str, Measured], list[Any]]:
    """Measure and score all systems; gives the measures and the gains."""
    measured = run.timed(
        "measure",
        lambda: measure_pairs(
            run.sets, run.systems, run.shared, run.config, folder=run.output / MEASURED_FOLDER
        ),
    )
    run.scores += run.timed("score", lambda: score_pairs(measured, run.config))
    tables = {name: one.table for name, one in measured.items()}
    real = tables[OBSERVED]
    shown = [s for s in run.systems if s.name in (GENERATED, MEAN, CHAINED)]
    structure = run.timed(
        "structure", lambda: structure_table(run.sets, [*shown, run.sets.persistence()], real)
    )
    if len(structure):
        run.scores += structure_scores(structure, real, run.config)
    names = [name for name in (GENERATED, CHAINED, "persistence") if name in tables]
    run.scores += error_by_step(tables, names, run.config)
    members = [t for n, t in tables.items() if n.startswith(GENERATED)]
    if len(members) > 1:
        own, histograms = ensemble_scores(real, members, tables, run.config)
        run.scores += own
        run.histograms += histograms
    return measured, run.timed("gains", lambda: gains(tables, run.config))


def pictures_of(run: Run, rivals: Sequence[ImageSet]) -> Callable[[str, str], NDArray[np.uint8]]:
    """Pixels by system and key of a pair."""
    of_pairs = [run.sets.real(), run.sets.persistence(), *run.systems]
    where = {
        s.name: (s, {tile.key: i for i, tile in enumerate(s.tiles)}) for s in [*of_pairs, *rivals]
    }
    tiles = run.sets.history.tiles
    target = {pair.tile.key: tiles[pair.target].key for pair in run.sets.pairs}
    own = {images.name for images in of_pairs}

    def picture(name: str, key: str) -> NDArray[np.uint8]:
        images, index = where[name]
        return images.read(index[key if name in own else target[key]]).rgb

    return picture


def open_real(arguments: argparse.Namespace, config: EvaluateConfig) -> FileImageSet:
    """All real frames of the dataset."""
    return open_image_set(
        arguments.dataset, name="reference", kind="reference", masks=arguments.masks,
        max_masked_frac=config.max_masked_frac, size_px=config.size_px,
    )  # fmt: skip


def evaluate(arguments: argparse.Namespace) -> Run:
    """Do all that was asked."""
    config = EvaluateConfig(
        num_places=arguments.places, seed=arguments.seed, groups=("land_cover",),
        num_cases=arguments.cases, splits=arguments.splits, size_px=arguments.size,
    )  # fmt: skip
    started, busy = time.monotonic(), time.process_time()
    sets = choose_pairs(
        open_real(arguments, config), config, start_months=arguments.starts,
        one_per_block=arguments.one_per_block,
    )  # fmt: skip
    run = Run(config, arguments.output, sets)
    run.seconds["open"] = round(time.monotonic() - started, 1)
    run.busy_s["open"] = round(time.process_time() - busy, 1)
    print(f"{len(sets.pairs)} pairs", flush=True)
    rivals, missing = sets.rivals(config)
    run.notes += [f"{name} cannot be made: {why}." for name, why in missing.items()]
    run.shared += rivals
    settings: dict[str, Any] = {
        "dataset": arguments.dataset.name, "places": arguments.places,
        "starts": arguments.starts, "one_per_block": arguments.one_per_block,
        "level": config.level, "draws": config.num_draws, "seed": config.seed,
    }  # fmt: skip
    if arguments.bundle:
        settings |= add_model(run, arguments)
    measured, found = score(run)
    tables = {name: one.table for name, one in measured.items()}
    unread = {
        f"{name}: {why}": len(keys)
        for name, one in measured.items() for why, keys in one.problems.items()
    }  # fmt: skip
    report = EvolutionReport(
        settings=settings,
        systems={n: (one.kind, one.description) for n, one in measured.items() if n != OBSERVED},
        scores=run.scores, gains=found,
        claims=goals(found, run.scores) if arguments.bundle else (),
        histograms=run.histograms, dropped={**sets.dropped, **unread}, notes=run.notes,
    )  # fmt: skip
    write_numbers(run.output, report, tables)
    rivals_by_target = [take(one, range(len(one.tiles))) for one in run.shared]
    run.timed(
        "page",
        lambda: write_evolution_page(
            run.output, report, tables, pictures_of(run, rivals_by_target)
        ),
    )
    write_json(run.output / "seconds.json", {"clock": run.seconds, "core": run.busy_s})
    return run


def _months(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="dataset folder with records and images")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    parser.add_argument("--bundle", help="name or folder; without one only rivals are scored")
    parser.add_argument("--controlnet", type=Path, help="folder, in place of the bundle's own")
    parser.add_argument("--adapter", help="name or folder of an adapter of the bundle")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--places", type=int, default=24)
    parser.add_argument("--starts", type=_months, default=[1, 4, 7, 10], help="such as 1,4,7,10")
    parser.add_argument("--splits", type=lambda t: tuple(t.split(",")), help="by default test")
    parser.add_argument("--one-per-block", action="store_true", help="no two places overlap")
    parser.add_argument("--masks", type=Path, help="folder of masks, 0 is clear")
    parser.add_argument("--size", type=int, help="side to which all frames are brought, px")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--doors", help="text, tokens, text,tokens or none; by default all")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--cases", type=int, default=0, help="cases of each climate sweep")
    parser.add_argument(
        "--wide-sweeps", action="store_true", help="cases from all places of the scored sides"
    )
    parser.add_argument("--no-nulls", action="store_true", help="no images of a shuffled climate")
    parser.add_argument("--no-chain", action="store_true", help="no chained months")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main() -> None:
    """Evaluate, and print where the report is."""
    arguments = parse()
    try:
        run = evaluate(arguments)
    except EcomapError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    print(f"{sum(run.seconds.values()):.0f} s; read {arguments.output / 'index.html'}")


if __name__ == "__main__":
    main()
