"""The pictures of the docs, out of a report: figures side by side, or its page at the widths of a desktop and a phone.

python -m tests.benchmarks.pictures docs/figures-of-cells.png report/heatmap.svg report/scaling.svg ...
python -m tests.benchmarks.pictures docs/report.png report/report.html
"""

import argparse
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as Xml

from PIL import Image

from tests.browser import Browser, browser

COLUMN = 440
"""CSS pixels of a figure: its 3.4 inches at 130 to the inch."""

ACROSS = 3
PAGE = (("", 1280), ("#figures", 390))
"""Which part of a report's page is shown at which width."""

HEIGHT = 1400
COLOURS = 256
"""In a third of the bytes; those that a picture has little of are kept."""


def figures(opened: Browser, folder: Path, files: Sequence[Path]) -> Image.Image:
    """Vector graphics in columns of one width, each in the column that is the shortest so far."""
    columns: list[list[str]] = [[] for _ in range(ACROSS)]
    heights = [0.0] * ACROSS
    for path in files:
        _, _, width, height = map(float, Xml.parse(path).getroot().attrib["viewBox"].split())  # noqa: S314 - our own
        shortest = heights.index(min(heights))
        heights[shortest] += height / width
        columns[shortest].append(f'<img width="{COLUMN}" src="{escape(path.resolve().as_uri())}">')
    divisions = "".join(f"<div>{''.join(images)}</div>" for images in columns)
    style = f"display: grid; grid-template-columns: repeat({ACROSS}, {COLUMN}px); gap: 12px; margin: 6px"
    page = folder / "figures.html"
    page.write_text(f'<!DOCTYPE html><body style="{style}">{divisions}</body>')
    opened.size(ACROSS * (COLUMN + 12), int(max(heights) * COLUMN) + 40)
    opened.open(page)
    return _picture(opened, folder)


def page(opened: Browser, folder: Path, report: Path) -> Image.Image:
    """The page at both widths, side by side."""
    shots = []
    for part, width in PAGE:
        opened.size(width, HEIGHT)
        opened.open(report)
        opened.run("if (arguments[0]) document.querySelector(arguments[0]).scrollIntoView()", part)
        shots.append(_picture(opened, folder))
    whole = Image.new("RGB", (sum(shot.width for shot in shots) + 20, HEIGHT), "#777777")
    left = 0
    for shot in shots:
        whole.paste(shot, (left, 0))
        left += shot.width + 20
    return whole


def _picture(opened: Browser, folder: Path) -> Image.Image:
    """What is seen, without scroll bars."""
    path = folder / "shot.png"
    opened.run("document.documentElement.style.scrollbarWidth = 'none'")
    opened.picture(path)
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def main() -> int:
    """Write one picture and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+", help="SVGs of a report, or its report.html alone")
    given = parser.parse_args()
    with TemporaryDirectory() as name, browser(Path(name)) as opened:
        folder = Path(name)
        alone = given.files[0].suffix == ".html"
        made = page(opened, folder, given.files[0]) if alone else figures(opened, folder, given.files)
    made.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(given.out, optimize=True)
    print(f"{given.out}: {made.width} x {made.height}, {given.out.stat().st_size // 1000} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
