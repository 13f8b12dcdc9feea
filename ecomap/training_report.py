"""What a person watches of a training run: a page with curves and pictures, and TensorBoard.

Both are made from the run's folder alone, so they cannot say anything else than it, and a run that
was killed and resumed shows no step twice.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecomap.card import BundleCard
from ecomap.config import read_yaml
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.page import Cell, Figure, Section, Table, write_page
from ecomap.run_log import METRICS_FILE
from ecomap.run_metrics import HELD_OUT, SECONDS, STEP, Series, collect, read_lines
from ecomap.training_curves import LEVEL, draw_curves

PAGE_FILE = "index.html"
CURVES_FILE = "curves.png"
IMAGES_FOLDER = "images"
EVENTS_FOLDER = "tensorboard"
NOT_SET = "not set"
PICTURES_ON_PAGE = 4
"""Grids that the page holds: the newest, and others evenly from the first on."""
PICTURE_WIDTH_PX = 1400
"""Wider grids are shown smaller on the page."""

ABOUT_LOSS = """
Held-out loss is of the averaged weights, at eight equally spaced noise levels with noise that is
the same at every validation, and all that is known is told. Training loss is at noise levels as
they are drawn, with facts withheld, and mixes about the last fifty steps. So each line can be
compared with itself, and the two held-out lines with each other; that training and held-out loss
differ does not show that training tiles were learnt by heart, but a held-out loss that rises does.

The gap between the two held-out lines is what text and climate are worth to the model: where there
is none, it does not use them."""

ABOUT_PICTURES = (
    "Real frames are labelled so. All other pictures are synthetic, made by the averaged weights. "
    "A row has one noise, the same at every step: within a row pictures differ by climate alone, "
    "from step to step by training alone."
)


class RunReport:
    """Page and TensorBoard events of a run, brought up to date whenever it is asked for.

    Only one process of a run makes one.
    """

    def __init__(self, folder: Path, *, facts: Mapping[str, Cell] | None = None) -> None:
        """Write nothing yet.

        Args:
            folder: Run folder.
            facts: What the page tells of the model, such as `card_facts`.
        """
        self.folder, self.facts = folder, facts or {}
        self._writer: Any = None
        self._read = 0
        self._shown: set[Path] = set()

    def update(self) -> None:
        """Take in what the folder has got since the last time.

        Raises:
            DataError: If a line of the metrics is damaged.
        """
        if self._writer is None:
            self._writer = _open_events(self.folder / EVENTS_FOLDER)
        lines, self._read = read_lines(self.folder / METRICS_FILE, self._read)
        for line in lines:
            for key, value in line.items():
                if key not in (STEP, SECONDS):
                    self._writer.add_scalar(_tag(key), value, int(line[STEP]))
        for path in pictures_of(self.folder):
            if path not in self._shown:
                _add_picture(self._writer, path)
                self._shown.add(path)
        self._writer.flush()
        write_training_page(self.folder, facts=self.facts)

    def close(self) -> None:
        """Bring both up to date for the last time."""
        self.update()
        self._writer.close()
        self._writer = None


def write_training_page(folder: Path, *, facts: Mapping[str, Cell] | None = None) -> Path:
    """Write a run's page and curves, whatever its task and however far it is.

    Args:
        folder: Run folder.
        facts: What the page tells of the model.

    Returns:
        The page.

    Raises:
        DataError: If a line of the metrics is damaged.
    """
    lines, _ = read_lines(folder / METRICS_FILE)
    series = collect(lines)
    config = read_yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    curves = draw_curves(series)
    if curves is not None:
        _write_whole(folder / CURVES_FILE, curves)
    last = int(lines[-1][STEP]) if lines else 0
    sections = [_summary(lines, series, config), *_curves(series, curves), *_pictures(folder)]
    if facts:
        sections.append(_table("What is trained", list(facts.items())))
    if config:
        sections.append(_table("Settings", _flat(config)))
    sections += _versions(folder)
    name = config.get("name") or config.get("task") or folder.name
    path = folder / PAGE_FILE
    write_page(path, f"Training: {name}", sections, intro=f"As of step {last:,}. Run {folder}.")
    return path


def card_facts(card: BundleCard) -> dict[str, Cell]:
    """What a page tells of a model card."""
    fields = card.model_dump(mode="json", exclude={"training"})
    counts = {k: v for k, v in card.training.items() if isinstance(v, int | float)}
    told = {name: _plain(value) for name, value in (fields | counts).items()}
    return {name.replace("_", " "): value for name, value in told.items() if value != NOT_SET}


def pictures_of(folder: Path) -> list[Path]:
    """Sample grids of a run, by step."""
    return sorted((folder / IMAGES_FOLDER).glob("step_*.png"))


def _summary(
    lines: Sequence[Mapping[str, float]], series: Mapping[str, Series], config: Mapping[str, Any]
) -> Section:
    """Where the run stands, in a few lines."""
    if not lines:
        return Section(heading="Where it stands", text="No step is logged yet.")
    optim = config.get("optim") or {}
    total = f" of {optim['steps']:,}" if "steps" in optim else ""
    rows: list[tuple[str, Cell]] = [("steps", f"{int(lines[-1][STEP]):,}{total}")]
    if "step_time" in series:
        rows.append(("time of a step, median", f"{np.median(series['step_time'].values):.3g} s"))
    if "data_wait" in series:
        waited = float(np.mean(series["data_wait"].values))
        rows.append(("time spent waiting for data", f"{waited:.1%}"))
    if "loss" in series:
        rows.append(("training loss, running mean", f"{series['loss'].values[-1]:.4g}"))
    rows += _held_out_rows(series)
    return _table("Where it stands", rows)


def _held_out_rows(series: Mapping[str, Series]) -> list[tuple[str, Cell]]:
    """Held-out loss: last, lowest, and with another's climate."""
    own, other = series.get("val_loss"), series.get("val_loss_shuffled")
    if own is None:
        return []
    rows: list[tuple[str, Cell]] = [("held-out loss, last", f"{own.values[-1]:.4g}")]
    if lowest := own.lowest:
        rows.append(("held-out loss, lowest", f"{lowest[1]:.4g} at step {lowest[0]:,}"))
    if other is not None and other.steps[-1] == own.steps[-1]:
        more = other.values[-1] / own.values[-1] - 1
        words = f"{other.values[-1]:.4g} ({more:+.1%})"
        rows.append(("the last, told another frame's text and climate", words))
    return rows


def _curves(series: Mapping[str, Series], png: bytes | None) -> list[Section]:
    """Curves, with what must be known to read them."""
    if png is None:
        return []
    has_levels = any(LEVEL.fullmatch(key) for key in series)
    figure = Figure(caption="", png=png, alt="Curves of the run's numbers over its steps")
    return [Section(heading="Curves", text=ABOUT_LOSS if has_levels else "", figures=[figure])]


def _pictures(folder: Path) -> list[Section]:
    """The newest sample grid, and earlier ones evenly from the first on."""
    paths = pictures_of(folder)
    if not paths:
        return []
    spread = np.linspace(len(paths) - 1, 0, min(PICTURES_ON_PAGE, len(paths)))
    shown = [paths[i] for i in spread.round().astype(int)]
    count = f"{len(shown)} of {len(paths)} grids, newest first; all lie in {IMAGES_FOLDER}/."
    figures = [
        Figure(f"Step {_step_of(path):,}", _for_page(path), f"Samples after {_step_of(path)} steps")
        for path in shown
    ]
    text = f"{SYNTHETIC_STATEMENT}\n\n{ABOUT_PICTURES} {count}"
    return [Section(heading="Samples", text=text, figures=figures)]


def _versions(folder: Path) -> list[Section]:
    """Versions that worked on the run, and hashes of its data."""
    found = []
    for file, heading in (("versions.json", "Versions"), ("data.json", "Records (SHA-256)")):
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        for entry in content if isinstance(content, list) else [content]:
            if entry:
                found.append(_table(heading, [(name, str(v)) for name, v in entry.items()]))
    return found


def _table(heading: str, rows: Sequence[tuple[str, Cell]]) -> Section:
    """A section of names and values."""
    return Section(heading=heading, tables=[Table(("name", "value"), rows)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Cell]]:
    """Settings by dotted names."""
    rows: list[tuple[str, Cell]] = []
    for name, value in values.items():
        nested = isinstance(value, dict) and bool(value)
        rows += _flat(value, f"{prefix}{name}.") if nested else [(prefix + name, _plain(value))]
    return rows


def _plain(value: Any) -> str:
    """A setting as text."""
    if value is None or value in ("", (), [], {}):
        return NOT_SET
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return str(value)


def _for_page(path: Path) -> bytes | Path:
    """A grid, smaller where it is wider than the page can show."""
    with Image.open(path) as image:
        if image.width <= PICTURE_WIDTH_PX:
            return path
        size = (PICTURE_WIDTH_PX, round(image.height * PICTURE_WIDTH_PX / image.width))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


def _step_of(path: Path) -> int:
    """Step of a sample grid."""
    return int(path.stem.split("_")[1])


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file by an atomic rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _open_events(folder: Path) -> Any:
    """Writer of a new event file in place of all before.

    Steps of a run that was killed may be in no event file, or in one though they are done again.
    So a resumed run tells everything anew. Older files are emptied, not removed: an open
    TensorBoard would wait for a removed one for ever. The purge makes it forget what it has read.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    for old in folder.glob("events.out.tfevents.*"):
        old.write_bytes(b"")
    return SummaryWriter(str(folder), purge_step=0)


def _add_picture(writer: Any, path: Path) -> None:
    """Add a PNG as it is, with its marks; `SummaryWriter.add_image` would encode it anew."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    with Image.open(path) as image:
        width, height = image.size
    content = Summary.Image(
        width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
    )
    summary = Summary(value=[Summary.Value(tag="samples", image=content)])
    writer.file_writer.add_summary(summary, _step_of(path))


def _tag(key: str) -> str:
    """Name of a number in TensorBoard: one group for training, held out, and its noise levels."""
    if level := LEVEL.fullmatch(key):
        return f"held_out_by_noise_level/{level[1]}"
    return f"held_out/{key[len(HELD_OUT) :]}" if key.startswith(HELD_OUT) else f"training/{key}"
