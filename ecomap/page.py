"""One self-contained HTML page of text, tables and figures.

Images are data URIs and the style is inline, so the file can be mailed, archived or opened without
a network; a content security policy in the page makes the browser refuse anything else. There is
no script. Colours follow the reader's light or dark setting, and the layout a phone's width.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ecomap.errors import RequestError

TEMPLATE_FOLDER = Path(__file__).parent / "resources"
TEMPLATE = "page.html.j2"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of every PNG file (W3C PNG specification, section 5.2)."""

UNKNOWN = "n/a"
"""What a table shows for a value that is not known."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """A picture with a caption."""

    caption: str
    png: bytes | Path
    """PNG file, or its content."""
    alt: str
    """What the picture shows, for readers who cannot see it."""
    is_tile: bool = False
    """Whether the picture is small: tiles stand side by side, other figures fill the width."""

    @property
    def uri(self) -> str:
        """The picture as a data URI.

        Raises:
            RequestError: If the file does not exist or the content is not a PNG.
        """
        if isinstance(self.png, Path) and not self.png.is_file():
            raise RequestError(f"{self.png} does not exist. Write the figure before its page.")
        content = self.png.read_bytes() if isinstance(self.png, Path) else self.png
        if not content.startswith(PNG_SIGNATURE):
            where = str(self.png) if isinstance(self.png, Path) else f"The figure {self.alt!r}"
            raise RequestError(f"{where} is not a PNG. Pages hold PNG figures only.")
        return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


@dataclass(frozen=True)
class Table:
    """Rows of values under column names; numbers are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """One cell per column. Floats show three significant digits; give text for another format.
    None and NaN show as `UNKNOWN`."""
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse ragged rows, which would put values under the wrong name."""
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise RequestError(
                    f"Row {index} of the table {self.caption!r} has {len(row)} cells. Expected "
                    f"{len(self.columns)}, one for each of {list(self.columns)}."
                )


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it: text, then tables, then figures."""

    heading: str
    text: str = ""
    """Plain text; an empty line starts a new paragraph. Markup is shown as it is typed."""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def write_page(
    path: Path, title: str, sections: Sequence[Section], *, intro: str = "", footer: str = ""
) -> None:
    """Write a page by an atomic rename; missing folders are made.

    Args:
        path: HTML file.
        title: Heading of the page and name of the browser's tab.
        sections: Parts of the page in their order.
        intro: Plain text under the title, in paragraphs like `Section.text`.
        footer: Plain text at the end: sources, licences.

    Raises:
        RequestError: If a figure is missing or is not a PNG; no page is written then.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"paragraphs": _paragraphs, "show": _show, "is_number": _is_number}
    html = environment.get_template(TEMPLATE).render(
        title=title, sections=sections, intro=intro, footer=footer
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)


def _paragraphs(text: str) -> list[str]:
    """Parts of a text between empty lines."""
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _show(cell: Cell) -> str:
    """Text of a cell."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return UNKNOWN
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _is_number(cell: Cell) -> bool:
    """Whether a cell is set to the right; what is not known stands where a number would."""
    return cell is None or isinstance(cell, int | float)
