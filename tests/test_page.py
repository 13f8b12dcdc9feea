"""Pages: nothing leaves the file, nothing typed becomes markup, nothing is half written."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ecomap.errors import RequestError
from ecomap.page import Figure, Section, Table, write_page


def make_png(width: int = 3, height: int = 2) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 120, 60)).save(buffer, "PNG")
    return buffer.getvalue()


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of each element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.elements[-1][0], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def rendered(folder: Path, *sections: Section, **words: str) -> tuple[str, Parsed]:
    path = folder / "page.html"
    write_page(path, "Title & <more>", list(sections), **words)
    html = path.read_text(encoding="utf-8")
    return html, Parsed(html)


def test_a_figure_given_as_bytes_or_as_a_file_is_embedded_whole(tmp_path):
    (tmp_path / "plot.png").write_bytes(make_png(5, 4))
    section = Section(
        heading="Figures",
        figures=[
            Figure(caption="first", png=make_png(3, 2), alt="a"),
            Figure(caption="second", png=tmp_path / "plot.png", alt="b", is_tile=True),
        ],
    )
    _, page = rendered(tmp_path, section)
    sizes = []
    for image in page.all("img"):
        head, content = image["src"].split(",")
        assert head == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(content))).size)
    assert sizes == [(3, 2), (5, 4)]
    assert [image["alt"] for image in page.all("img")] == ["a", "b"]
    assert page.text("figcaption") == ["first", "second"]
    assert page.all("figure") == [{}, {"class": "tile"}]


def test_a_page_needs_no_network_and_no_script(tmp_path):
    section = Section(heading="One", figures=[Figure(caption="c", png=make_png(), alt="a")])
    html, page = rendered(tmp_path, section)
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in html
    assert "@import" not in html
    outside = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset") and not (value or "").startswith("data:")
    ]
    assert outside == []
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_page_fits_a_phone_and_knows_dark_mode(tmp_path):
    html, page = rendered(tmp_path, Section(heading="One"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in html
    assert "max-width: 40rem" in html


def test_markup_in_any_text_is_shown_not_obeyed(tmp_path):
    evil = "<b onclick='x'>&\"</b>"
    section = Section(
        heading=evil,
        text=evil,
        tables=[Table(columns=[evil], rows=[[evil]], caption=evil)],
        figures=[Figure(caption=evil, png=make_png(), alt=evil)],
    )
    _, page = rendered(tmp_path, section, intro=evil, footer=evil)
    assert not page.all("b")
    for tag in ("h2", "th", "td", "caption", "figcaption"):
        assert page.text(tag) == [evil]
    assert page.text("p") == [evil] * 3
    assert page.all("img")[0]["alt"] == evil
    assert page.text("title") == page.text("h1") == ["Title & <more>"]


def test_an_empty_line_starts_a_paragraph(tmp_path):
    _, page = rendered(tmp_path, Section(heading="One", text="first\nstill first\n\nsecond\n"))
    assert page.text("p") == ["first\nstill first", "second"]


def test_numbers_stand_right_with_three_digits_and_unknown_is_said(tmp_path):
    table = Table(
        columns=["name", "value"],
        rows=[["a", 0.123456], ["b", 2004], ["c", None], ["d", float("nan")], ["0.500", "text"]],
    )
    _, page = rendered(tmp_path, Section(heading="One", tables=[table]))
    assert page.text("td") == ["a", "0.123", "b", "2004", "c", "n/a", "d", "n/a", "0.500", "text"]
    assert [cell.get("class") for cell in page.all("td")] == [None, "number"] * 4 + [None, None]
    assert [cell.get("class") for cell in page.all("th")] == [None, "number"]


def test_sections_keep_their_order_and_a_bare_one_has_no_empty_parts(tmp_path):
    _, page = rendered(tmp_path, Section(heading="One"), Section(heading="Two"))
    assert page.text("h2") == ["One", "Two"]
    for tag in ("p", "table", "img", "footer"):
        assert not page.all(tag)


def test_a_ragged_table_is_refused():
    with pytest.raises(RequestError, match=re.escape("Row 1 of the table 'counts' has 1 cells")):
        Table(columns=["a", "b"], rows=[[1, 2], [3]], caption="counts")


@pytest.mark.parametrize(
    ("png", "message"),
    [(b"\xff\xd8\xff jpeg", "The figure 'alt words' is not a PNG"), (None, "does not exist")],
)
def test_a_wrong_figure_leaves_the_old_page_alone(tmp_path, png, message):
    path = tmp_path / "deep" / "page.html"
    write_page(path, "Old", [])
    before = path.read_bytes()
    figure = Figure(caption="", png=png or tmp_path / "absent.png", alt="alt words")
    with pytest.raises(RequestError, match=message):
        write_page(path, "New", [Section(heading="One", figures=[figure])])
    assert path.read_bytes() == before
    assert [child.name for child in path.parent.iterdir()] == ["page.html"]


def test_a_file_that_is_not_a_png_is_named(tmp_path):
    path = tmp_path / "plot.png"
    path.write_bytes(b"GIF89a")
    with pytest.raises(RequestError, match=re.escape(f"{path} is not a PNG")):
        _ = Figure(caption="", png=path, alt="").uri
