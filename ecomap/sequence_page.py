"""The page of a sequence: its film, its curves and maps, and how it was made, in one HTML file.

The file needs no network: pictures are inside it, and a content security policy allows no script
but its own. It says beside each picture whether it is synthetic.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ecomap.outputs import SYNTHETIC_STATEMENT, replacing, synthetic_name
from ecomap.page import TEMPLATE_FOLDER, Section
from ecomap.page import Figure as Picture
from ecomap.sequence import SequenceFolder, SequencePlan
from ecomap.sequence_maps import change_figures, difference_figures, spread_figures
from ecomap.sequence_measures import Measured, measure_sequence, write_measures
from ecomap.sequence_page_film import (
    FILM_BYTES,
    Film,
    climate_words,
    encode_jpeg,
    film_of,
    film_words,
    pair_position,
    read_words,
    scenario_data,
    spark_data,
    to_base64,
)
from ecomap.sequence_page_tables import (
    HOW_TO_READ,
    count_words,
    facts_of,
    file_table,
    footer_of,
    note_warnings,
    place_words,
    provenance_table,
    scenario_table,
    start_words,
    summary_table,
    support_warnings,
    value_table,
)
from ecomap.sequence_plots import (
    PLOTS_FOLDER,
    draw_curves,
    draw_seasons,
    draw_sheet,
    looks_of,
    save_plot,
)

PAGE_FILE = "index.html"

TEMPLATE, SCRIPT = "sequence.html.j2", "sequence.js"

PAGE_BYTES = 15_000_000
"""The page stays below it: the film takes what plots leave. Base64 makes a third more of both."""
TEXT_BYTES = 1_000_000
"""For words, tables, and what an estimate of sizes is wrong by."""
MIN_FILM_BYTES = 500_000

SMALL_PX = 300
"""Pictures with fewer pixels are enlarged by repeating pixels: nothing is interpolated."""


def write_sequence_page(folder: SequenceFolder) -> list[Path]:
    """Measure a sequence and write its tables, plots and page; the same frames, the same bytes.

    Returns:
        All files that were written, the page last.

    Raises:
        DataError: If frames are missing or damaged.
    """
    measured = measure_sequence(folder)
    written = write_measures(folder, measured)
    sections = list(_sections(folder, measured))
    written += [Path(f.png) for s in sections for f in s.figures if isinstance(f.png, Path)]
    path = folder.path / PAGE_FILE
    film = film_of(folder, most_bytes=room_for_film(written))
    html = render_page(folder, measured, film, sections)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return [*written, path]


def room_for_film(written: Sequence[Path]) -> int:
    """Bytes that the plots in a page leave for its film."""
    plots = sum(path.stat().st_size for path in written if path.suffix == ".png")
    room = (PAGE_BYTES - TEXT_BYTES) * 3 // 4 - plots
    return min(FILM_BYTES, max(room, MIN_FILM_BYTES))


def render_page(
    folder: SequenceFolder, measured: Measured, film: Film, sections: Sequence[Section]
) -> str:
    """The page as HTML."""
    plan = folder.plan
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script = (TEMPLATE_FOLDER / SCRIPT).read_text(encoding="utf-8")
    digest = to_base64(hashlib.sha256(script.encode()).digest())
    scenarios = count_words(len(plan.timelines), "scenario")
    return environment.get_template(TEMPLATE).render(
        title=f"Landscape under climate: {plan.name}",
        lead=f"{place_words(plan.start)}, under {scenarios} of climate.",
        statement=SYNTHETIC_STATEMENT,
        start_words=start_words(plan),
        warnings=[*support_warnings(plan), *note_warnings(plan)],
        facts=facts_of(plan, measured),
        sections=sections,
        values=value_table(measured),
        footer=footer_of(plan),
        script=script,
        script_hash=f"sha256-{digest}",
        **_start_context(folder, measured, film),
        **_film_context(plan, measured, film),
    )


def _start_context(folder: SequenceFolder, measured: Measured, film: Film) -> dict[str, Any]:
    """What the template shows of the start tile."""
    start, image, synthetic = (
        folder.plan.start,
        folder.read_start(),
        folder.plan.start_is_synthetic,
    )
    jpeg = to_base64(encode_jpeg(image, film.side_px, is_synthetic=synthetic))
    word = "Synthetic start" if synthetic else "Start tile"
    return {
        "start_uri": f"data:image/jpeg;base64,{jpeg}",
        "start_alt": f"{word}: {place_words(start)}, {start.month}",
        "start_label": f"{word} · {start.month}",
        "start_month": start.month,
        "start_is_synthetic": synthetic,
        "start_climate": climate_words(vars(start)),
        "start_read": read_words(measured.start.greenness, measured.start.snow_frac),
        "aspect": f"{image.shape[1]} / {image.shape[0]}",
    }


def _film_context(plan: SequencePlan, measured: Measured, film: Film) -> dict[str, Any]:
    """What the template and its script show of the frames."""
    looks, months = looks_of(plan), plan.timelines[0].months
    scenarios = [
        scenario_data(measured.frames, film, number, name)
        | {"title": look.title, "colour": look.colour}
        for number, (name, look) in enumerate(looks.items())
    ]
    return {
        "film": {"scenarios": scenarios},
        "film_words": film_words(plan, film),
        "sparks": spark_data(plan, measured, film),
        "is_small": film.side_px < SMALL_PX,
        "stage_rem": min(70, 24 * (len(looks) + 1)),
        "num_steps": len(film.positions),
        "num_members": film.members,
        "pair_position": pair_position(
            plan.start, [months[p] for p in film.positions if p < len(months)]
        ),
    }


def _sections(folder: SequenceFolder, measured: Measured) -> Iterator[Section]:
    """Parts of the page under the film."""
    plan, plots = folder.plan, folder.path / PLOTS_FOLDER
    yield Section("At a glance", tables=[summary_table(plan, measured)])
    yield Section("How to read greenness, snow and members", HOW_TO_READ)
    curves = save_plot(plots / "curves.png", draw_curves(folder, measured), is_synthetic=False)
    alt = "Curves over time by scenario: climate, greenness, snow, and distance from the training."
    figures = [Picture("", curves, alt)]
    if any(len(t.months) > len({m[5:] for m in t.months}) for t in plan.timelines):
        path = plots / "seasons.png"
        save_plot(path, draw_seasons(folder, measured), is_synthetic=False)
        alt = "Curves over the calendar months by scenario: climate, greenness and snow."
        words = "The mean year of each scenario: means of each calendar month over the years."
        figures.append(Picture(words, path, alt))
    yield Section("Climate, greenness and snow", figures=figures)
    if found := list(difference_figures(folder, measured.maps)):
        words = _maps_words(folder, measured)
        yield Section("Differences between scenarios", words, figures=found)
    if found := list(change_figures(folder, measured.maps)):
        yield Section("First years and last years", figures=found)
    if found := list(spread_figures(folder, measured.maps)):
        yield Section("Spread over members", figures=found)
    sheet = plots / synthetic_name("contact_sheet", ".png")
    save_plot(sheet, draw_sheet(folder), is_synthetic=True)
    alt = "The start tile, and rows of synthetic images by scenario and month."
    yield Section("Contact sheet", figures=[Picture("Member 0 of each scenario.", sheet, alt)])
    yield Section("Scenarios", tables=[scenario_table(plan)])
    yield Section("How it was made", tables=[provenance_table(plan), file_table()])


def _maps_words(folder: SequenceFolder, measured: Measured) -> str:
    """How maps are to be read."""
    block = measured.maps.block_px
    blocks = f" A pixel of a map is the mean of {block} x {block} pixels." if block > 1 else ""
    return (
        "Means over members and over the months that are shown of each season; the seasons count "
        f"alike in the mean of all.{blocks} Grey: water on the start tile, or black in a frame."
    )
