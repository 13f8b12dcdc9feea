"""The verbs of data preparation: plan, fetch, build, and run for all of them.

Each verb may be given again at any time: what is there is kept, what is missing is made. A plan is
made once; it freezes places and scenes, so that a dataset made again from it is the same dataset.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data_prep import engine, steps
from data_prep.build import BuildSummary, build_dataset
from data_prep.catalogue import no_items_message, read_items, search, write_items
from data_prep.manifest import failures_of, read_manifest, write_manifest
from data_prep.place import Place, read_places, write_places
from data_prep.plan_pages import write_plan_pages
from data_prep.plan_store import (
    ITEMS_FILE,
    PLACES_FILE,
    PLAN_FILE,
    PLAN_FOLDER,
    check_same_plan,
    planned_settings,
    stored_plan,
)
from data_prep.power import last_month_of
from data_prep.prep_config import PrepConfig, resolved
from data_prep.prep_report import write_report
from data_prep.prep_summaries import FetchSummary, PlanSummary, RunSummary
from data_prep.regions import read_region
from data_prep.sampling import choose_places
from data_prep.scene import Scene
from data_prep.scenes import SceneRefused, dedupe, index_scenes, scene_of
from data_prep.tasks import STATES, TASKS_FOLDER, Task, TaskFunction, remove_leftovers
from ecomap.config import dump_config
from ecomap.errors import RequestError
from ecomap.schema import write_json

CONFIG_FILE, LOCK_FILE = "config.yaml", ".lock"
OWN_FOLDERS = (PLAN_FOLDER, TASKS_FOLDER, steps.IMAGES_FOLDER, steps.CLIMATE_FOLDER, "report")
"""Where a run that was killed may have left temporary files."""
Progress = Callable[[str, int, int], None]
"""Called with (step, done, total)."""


def plan(config: PrepConfig, *, progress: Progress | None = None) -> PlanSummary:
    """Choose places, find their scenes, and freeze both; show them on a page.

    Raises:
        DataError: If a file or the catalogue cannot be used.
        RequestError: If the region holds no place, no scene was found, or the folder holds the
            plan of other settings.
    """
    config = resolved(config)
    with _locked(config):
        return _plan(config, progress)


def fetch(config: PrepConfig, *, progress: Progress | None = None) -> FetchSummary:
    """Do what the plan asks for and is not done yet: imagery, land cover, climate, scenarios.

    Raises:
        DataError: If there is no plan, or a worker dies. What was done is kept.
    """
    config = resolved(config)
    with _locked(config), engine.Engine(config.engine) as workers:
        return _fetch(config, workers, progress)


def build(config: PrepConfig, *, progress: Progress | None = None) -> BuildSummary:
    """Join what was fetched to a dataset; see `build_dataset`."""
    config = resolved(config)
    with _locked(config), engine.Engine(config.engine) as workers:
        return _build(config, workers, progress)


def run(config: PrepConfig, *, progress: Progress | None = None) -> RunSummary:
    """Plan, fetch, build, and report."""
    config = resolved(config)
    with _locked(config), engine.Engine(config.engine) as workers:
        planned = _plan(config, progress)
        fetched = _fetch(config, workers, progress)
        if fetched.failures and "done" not in fetched.states["imagery"]:
            return RunSummary(plan=planned, fetch=fetched, build=None, report=None)
        built = _build(config, workers, progress)
        report = write_report(config.output)
        return RunSummary(plan=planned, fetch=fetched, build=built, report=report)


def _plan(config: PrepConfig, progress: Progress | None) -> PlanSummary:
    folder = config.output / PLAN_FOLDER
    settings = planned_settings(config)
    stored = stored_plan(folder)
    if stored is not None:
        check_same_plan(stored["settings"], settings, config)
        return PlanSummary(**stored["summary"] | {"output": config.output, "page": _page(config)})
    places, dropped, notes = choose_places(config)
    last_month = last_month_of(config.climate.source)
    if last_month is not None and config.last_month > last_month:
        notes.append(
            f"Climate is known to {last_month}, imagery is asked for to {config.last_month}: later "
            "records will have none, until it is there. climate.source=power-daily knows more."
        )
    items = search(places, config.months, config.imagery, progress=_of(progress, "search"))
    if not items:
        raise RequestError(no_items_message(places, config.months, config.imagery))
    scenes, refused = _scenes(items, config)
    _check_bands(scenes, config)
    by_month = Counter(scene.month for scene in scenes)
    folder.mkdir(parents=True, exist_ok=True)
    dump_config(config, config.output / CONFIG_FILE)
    write_places(folder / PLACES_FILE, places)
    write_items(folder / ITEMS_FILE, items)
    write_plan_pages(
        folder,
        places=places,
        region=read_region(config.region) if config.region.points is None else None,
        dropped=dropped,
        notes=notes,
        items_by_month={month: by_month[month] for month in config.months},
        page_title=f"Plan of {config.name}",
    )
    summary = PlanSummary(
        output=config.output,
        places=len(places),
        months=len(config.months),
        tiles=len(places) * len(config.months),
        tiles_without_scene=_num_without_scene(places, scenes, config),
        scenes=len(scenes),
        splits=dict(sorted(Counter(place.split for place in places).items())),
        strata=dict(sorted(Counter(place.stratum or "unknown" for place in places).items())),
        dropped=dropped | refused,
        notes=notes,
        page=_page(config),
    )
    content = summary.to_dict()
    del content["output"], content["page"]
    write_json(folder / PLAN_FILE, {"settings": settings, "summary": content})  # last: it is whole
    return summary


def _fetch(config: PrepConfig, workers: engine.Engine, progress: Progress | None) -> FetchSummary:
    places = _places(config)
    dump_config(config, config.output / CONFIG_FILE)
    scenes, _ = _scenes(read_items(config.output / PLAN_FOLDER / ITEMS_FILE), config)
    index = index_scenes(scenes)
    cells = steps.climate_cells(places, config)
    num_cells = len({cell.cell_id for cell in cells.values()})
    num_tiles, num_covers = len(places) * len(config.months), len(places)
    if config.land_cover.source == "none":
        num_covers = 0
    jobs: list[tuple[str, Callable[[], Iterator[Task]], TaskFunction, int]] = [
        (
            "imagery",
            partial(steps.imagery_tasks, places, index, config),
            steps.do_imagery,
            num_tiles,
        ),
        (
            "land_cover",
            partial(steps.land_cover_tasks, places, config),
            steps.do_land_cover,
            num_covers,
        ),
        ("climate", partial(steps.climate_tasks, cells, config), steps.do_climate, num_cells),
        (
            "scenario",
            partial(steps.scenario_tasks, cells, config),
            steps.do_scenario,
            num_cells * len(config.scenarios),
        ),
    ]
    remove_leftovers(config.output, OWN_FOLDERS)
    try:
        for kind, make_tasks, function, num_tasks in jobs:
            workers.run(
                make_tasks(),
                function,
                config.output,
                num_tasks=num_tasks,
                progress=_of(progress, kind),
            )
    finally:  # also after an interrupt: the manifest says how far it came
        all_tasks: Iterator[Task] = chain.from_iterable(
            make_tasks() for _, make_tasks, _, _ in jobs
        )
        counts = write_manifest(config.output, all_tasks, config)
    states: dict[str, dict[str, int]] = {}
    for (kind, state), number in sorted(counts.items(), key=lambda i: STATES.index(i[0][1])):
        states.setdefault(kind, {})[state] = number
    reasons: dict[str, Counter[str]] = {}
    for row in read_manifest(config.output):
        if row.state in ("empty", "failed"):
            reasons.setdefault(row.kind, Counter())[row.reason] += 1
    return FetchSummary(
        output=config.output,
        states=states,
        reasons={kind: dict(sorted(counts.items())) for kind, counts in reasons.items()},
        failures=failures_of(read_manifest(config.output)),
    )


def _build(config: PrepConfig, workers: engine.Engine, progress: Progress | None) -> BuildSummary:
    return build_dataset(_places(config), config, workers, progress=_of(progress, "inspection"))


def _scenes(items: list[dict[str, Any]], config: PrepConfig) -> tuple[list[Scene], dict[str, int]]:
    """Scenes of items, each pass of the satellite once; items refused or dropped, by reason."""
    scenes, refused = [], Counter[str]()
    for item in items:
        try:
            scenes.append(scene_of(item, config.imagery.provider))
        except SceneRefused as error:
            refused[error.reason] += 1
    kept, dropped = dedupe(scenes)
    return kept, dict(sorted((refused + Counter(dropped)).items()))


def _num_without_scene(places: list[Place], scenes: list[Scene], config: PrepConfig) -> int:
    index = index_scenes(scenes)
    return sum(not index.at(place, month) for place in places for month in config.months)


def _check_bands(scenes: list[Scene], config: PrepConfig) -> None:
    """Refuse bands that no scene has, before anything is fetched."""
    known = {band for scene in scenes for band in scene.assets}
    missing = [band for band in config.imagery.bands if band not in known]
    if scenes and missing:
        raise RequestError(
            f"No scene of the catalogue has {', '.join(missing)}; there are "
            f"{', '.join(sorted(known))}. Change imagery.bands or imagery.provider."
        )


def _of(progress: Progress | None, step: str) -> engine.Progress | None:
    """Progress of one step."""
    return partial(progress, step) if progress else None


def _places(config: PrepConfig) -> list[Place]:
    return read_places(config.output / PLAN_FOLDER / PLACES_FILE)


def _page(config: PrepConfig) -> Path:
    return config.output / PLAN_FOLDER / "index.html"


@contextmanager
def _locked(config: PrepConfig) -> Iterator[None]:
    """Keep a second run out of the folder; the system frees the lock when a process dies."""
    config.output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.output / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(
            f"Another run works in {config.output}. Wait for its end, or choose another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()
