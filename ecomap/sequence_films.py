"""Films of a sequence, GIF and MP4: one for each scenario, and all scenarios side by side.

Every picture stands over the word "synthetic" and its month; the first one is the start tile. The
files say inside what they are: in a comment, and in the XMP packet of all generated images. An MP4
has every month; a GIF, which is meant for mails and slides, at most `GIF_PICTURES` of them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecomap.errors import RequestError
from ecomap.outputs import (
    DIGITAL_SOURCE_TYPE,
    LABELS,
    SYNTHETIC_STATEMENT,
    XMP,
    replacing,
    synthetic_name,
)
from ecomap.sequence import SequenceFolder, Timeline
from ecomap.sequence_cube import require_same_months

if TYPE_CHECKING:
    from av.container import OutputContainer

FILMS_FOLDER = "films"
SIDE_BY_SIDE = "side_by_side"

MONTHS_PER_SECOND = 4
HELD = 4
"""How often the start and the last month are shown."""
COLUMNS = 4
"""Scenarios in a row of the side-by-side film."""
MP4_WIDTH_PX = 1920
GIF_WIDTH_PX = 480
"""Widths for which wider films are made smaller, as far as their tiles stay readable."""
GIF_PICTURES = 120
"""A GIF is put together in memory: of more months every second, third ... is shown."""

X264 = {
    "crf": "18",  # hardly to be told from the pictures themselves
    "preset": "medium",
    "g": "12",  # players move quickly to any month
    "threads": "1",  # the same bytes on any number of cores
    "flags": "+bitexact",
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
    "color_range": "tv",
}
"""Options of the encoder."""

XMP_UUID = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
"""Kind of the MP4 box that holds XMP (XMP specification part 3, ISO base media files)."""
XMP_BLOCK = b"!\xff\x0bXMP DataXMP"
XMP_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
"""Head and end of the GIF block that holds XMP (part 3, GIF 89a). A reader that takes a byte of
the packet for the length of a piece is led to the end by the trailer."""


def write_films(
    folder: SequenceFolder, *, member: int = 0, months_per_second: int = MONTHS_PER_SECOND
) -> list[Path]:
    """Write ``films/SCENARIO_synth.gif`` and ``.mp4``, and ``side_by_side_synth`` of several.

    Args:
        folder: A finished sequence.
        member: Member of the ensemble that is shown.
        months_per_second: Speed of the films, at least 1.

    Returns:
        The files in the order of the scenarios, the side-by-side films last.

    Raises:
        DataError: If frames are missing or damaged.
        RequestError: If there is no such member, the films would stand still, or the scenarios
            show different months.
    """
    plan = folder.plan
    if not 0 <= member < plan.members or months_per_second < 1:
        raise RequestError(
            f"A film of member {member} with {months_per_second} months in a second cannot be "
            f"made. Ask for a member from 0 to {plan.members - 1} and at least one month."
        )
    folder.require_complete()
    require_same_months(plan)
    stems = [folder.path / FILMS_FOLDER / line.name for line in plan.timelines]
    films = [Film(folder, (line,), member) for line in plan.timelines]
    if len(plan.timelines) > 1:
        stems.append(folder.path / SIDE_BY_SIDE)
        films.append(Film(folder, plan.timelines, member))
    written = []
    for stem, film in zip(stems, films, strict=True):
        gif = stem.with_name(synthetic_name(stem.name, ".gif"))
        write_gif(gif, film, months_per_second)
        mp4 = stem.with_name(synthetic_name(stem.name, ".mp4"))
        write_mp4(mp4, film, months_per_second)
        written += [gif, mp4]
    return written


@dataclass(frozen=True)
class Film:
    """One or more scenarios of a sequence as a row of pictures for every month."""

    folder: SequenceFolder
    timelines: tuple[Timeline, ...]
    """What is shown, all with the same months."""
    member: int

    @property
    def num_months(self) -> int:
        """Months of the scenarios."""
        return len(self.timelines[0].months)

    def pictures(self, max_width_px: int, step: int = 1) -> Iterator[Image.Image]:
        """The start, then every ``step``-th month, all of one size with even sides.

        Args:
            max_width_px: Tiles are made smaller until their row fits.
            step: 1 for all months; the last one is always there.
        """
        shown = range(self.num_months - 1, -1, -step)[::-1]
        sheets = chain(
            [self._start(max_width_px)], (self._month(index, max_width_px) for index in shown)
        )
        first = [next(sheets), next(sheets)]
        width, height = (max(side) for side in zip(*(sheet.size for sheet in first), strict=True))
        for sheet in chain(first, sheets):
            # Colours of H.264 are stored for squares of four pixels.
            canvas = Image.new("RGB", (width + width % 2, height + height % 2), "white")
            canvas.paste(sheet)
            yield canvas

    def _start(self, max_width_px: int) -> Image.Image:
        """The start tile, once for each scenario."""
        image, month = self.folder.read_start(), self.folder.plan.start.month
        captions = [f"start {month} · {line.title}" for line in self.timelines]
        is_real = not self.folder.plan.start_is_synthetic
        return self._sheet([image] * len(captions), captions, max_width_px, is_real=is_real)

    def _month(self, index: int, max_width_px: int) -> Image.Image:
        """The frames of one month."""
        month = self.timelines[0].months[index]
        images = [self.folder.read(line.name, self.member, month) for line in self.timelines]
        captions = [f"{month} · {line.title}" for line in self.timelines]
        return self._sheet(images, captions, max_width_px, is_real=False)

    def _sheet(
        self,
        images: list[NDArray[np.uint8]],
        captions: list[str],
        max_width_px: int,
        *,
        is_real: bool,
    ) -> Image.Image:
        """Pictures over their labels, all on one sheet."""
        from ecomap.figures import (  # matplotlib is slow to import
            SHEET_GAP_PX,
            SHEET_PICTURE_MIN_PX,
            draw_sheet,
        )

        columns = min(COLUMNS, len(images))
        side_px = max(SHEET_PICTURE_MIN_PX, max_width_px // columns - 2 * SHEET_GAP_PX)
        texts = [(LABELS[is_real], caption) for caption in captions]
        return draw_sheet([_reduced(image, side_px) for image in images], texts, columns=columns)


def _reduced(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """An image whose longer side is at most so long, by averaging pixels."""
    picture = Image.fromarray(image)
    longer = max(picture.size)
    if longer <= side_px:
        return image
    width, height = (max(1, round(side * side_px / longer)) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def write_gif(path: Path, film: Film, months_per_second: int) -> None:
    """Write a film as GIF that repeats for ever, each picture with its own 256 colours."""
    step = -(-film.num_months // GIF_PICTURES)
    comment = SYNTHETIC_STATEMENT + (f" Of {step} months one is shown." if step > 1 else "")
    pictures = (
        picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for picture in film.pictures(GIF_WIDTH_PX, step)
    )
    num_months = -(-film.num_months // step)
    held_ms, shown_ms = HELD * 1000 // months_per_second, 1000 // months_per_second
    with replacing(path) as temporary:
        next(pictures).save(
            temporary,
            "GIF",
            save_all=True,
            append_images=pictures,
            duration=[held_ms, *[shown_ms] * (num_months - 1), held_ms],
            loop=0,
            comment=comment.encode("ascii"),
        )
        content = temporary.read_bytes()
        xmp = XMP_BLOCK + XMP.encode() + XMP_TRAILER
        temporary.write_bytes(content[:-1] + xmp + content[-1:])  # before the end mark


def write_mp4(path: Path, film: Film, months_per_second: int) -> None:
    """Write a film as MP4 (H.264, 8 bit, 4:2:0), which every player and browser shows."""
    import av

    with replacing(path) as temporary:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(temporary, "w", format="mp4", container_options=options) as container:
            container.metadata["title"] = f"{film.folder.plan.name}, member {film.member}"
            container.metadata["comment"] = f"{SYNTHETIC_STATEMENT} {DIGITAL_SOURCE_TYPE}"
            _encode(container, film, months_per_second)
        packet = XMP.encode()
        with temporary.open("ab") as file:
            file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + XMP_UUID + packet)


def _encode(container: "OutputContainer", film: Film, months_per_second: int) -> None:
    """Encode all pictures of a film into an open file."""
    import av

    stream = container.add_stream("libx264", rate=months_per_second, options=X264)
    stream.pix_fmt = "yuv420p"
    for number, picture in enumerate(film.pictures(MP4_WIDTH_PX)):
        if number == 0:
            stream.width, stream.height = picture.size
        for _ in range(HELD if number in (0, film.num_months) else 1):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
    container.mux(stream.encode(None))
