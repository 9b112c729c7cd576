"""The HTML report: what it holds, and what a browser makes of it, hostile texts included."""

import io
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from analysis.findings import find
from analysis.report import Detail, Sources, load_details, watch, write_report
from analysis.report.details import EXAMPLES, LONGEST_TEXT, cut
from analysis.report.page import MOST_SHOWN
from analysis.report.untrusted import script_json, visible
from analysis.report.vector import inline
from analysis.stores import Reading
from harness.errors import PrefsweepError
from harness.positions import PAIRS
from harness.store import StoreError
from tests import browser
from tests.analysis.synthetic import join, make_frames, undo
from tests.benchmarks.synthetic_store import Shape, build

HOSTILE = " ".join(
    (
        "<script>window.hacked = 1; document.title = 'hacked'</script>",
        "</script><script>window.hacked = 1</script>",
        '<img src=x onerror="window.hacked = 1">',
        "<svg onload='window.hacked = 1'>",
        '" onmouseover="window.hacked = 1" x="',
        "<a href='http://example.com/'>link</a> [link](javascript:window.hacked=1) ![picture](http://example.com/x.png)",
        "<!-- <style>* { display: none }</style> <meta http-equiv=refresh content=0>",
        "{{ 7 * 7 }} {% raw %} &lt;script&gt; $\\frac{1}{0}$ `code` | cell | **bold**",
        "=HYPERLINK(1)",
        "left \u202etfel\u202c \u2066x\u2069 \u200bzero \u2028line",
    )
)
WORST = f"=cmd \x00\x1b[31m \ud800 {HOSTILE} {'x' * 20_000}"
"""What only texts of a model or of a manifest can hold."""

ENTER = "\ue007"
"""WebDriver's code point of the key."""

REFERENCE = re.compile(r"url\(#([^)]+)\)")


def detail(text: str) -> Detail:
    """A detail with the text in every field."""
    return Detail(
        keys={"train": text, text: "key"},
        rows=[{"stage": text, "taken": 3, "kept": 2, "dropped": {text: 1}}],
        pairs=[{"prompt": text, "chosen": text, "rejected": text, "chosen_reward": 1.0, "rejected_reward": None}],
        answers=[
            {"instruction": text, "answer": text, "reference": text, "preference": 0.5, "failure": None},
            {"instruction": text, "answer": text, "reference": "", "preference": None, "failure": text},
        ],
    )


def page(
    frames: tuple[pd.DataFrame, pd.DataFrame], out: Path, text: str = "an example", refresh: int | None = None
) -> Path:
    """The page of a report whose cells all have that text in their details."""

    def details(_: Collection[str]) -> Mapping[str, Detail]:
        return {str(name): detail(text) for name in frames[0]["result"]}

    provenance = {"sweep": "grid", "commit": text[:5000]}
    console = Console(file=io.StringIO())
    sources = Sources(details=details, findings=find)
    write_report(*frames, out, sources, provenance=provenance, console=console, refresh=refresh)
    return out / "report.html"


class Parsed(HTMLParser):
    """Elements with their attributes, and the data of the page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: Any = None
        self._json = False
        self.text = page.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._json = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self._json:
            self.data, self._json = json.loads(data), False

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four heatmaps and two curves, with cells that are not done."""
    pairs = PAIRS[:3]
    frames = join(
        make_frames(pairs, sizes=(8, 64), seeds=(0, 1)),
        make_frames(pairs, sizes=(8, 64), seeds=(0, 1), settings={"policy.name": "another"}),
    )
    results = undo(undo(frames[0], [0, 1], "failed", "no memory left"), [4, 5], "missing")
    return page((results, frames[1]), tmp_path_factory.mktemp("page"), refresh=20)


def test_page_holds_the_cells_with_what_stands_behind_them(sweep: Path) -> None:
    data = Parsed(sweep).data
    assert len(data["rows"]) == len(data["cells"]) == 12
    titles = [column["title"] for column in data["columns"]]
    assert titles[:2] == ["construction", "n"]
    assert [column["numeric"] for column in data["columns"]][:2] == [False, True]
    names = [cell["name"] for cell in data["cells"]]
    assert len(set(names)) == 12
    assert all("policy.name=" in name for name in names)
    shared, varying = dict(data["shared"]), [dict(cell["settings"]) for cell in data["cells"]]
    assert shared["loss.beta"] == "0.1"
    assert {settings["policy.name"] for settings in varying} == {"another", "smollm2_135m"}
    assert all(len(cell["results"]) == 2 for cell in data["cells"])  # its keys, whether or not it is done
    assert data["cells"][0]["rows"] == [["an example", 3, 2, [["an example", 1]]]]
    assert data["cells"][0]["degenerate"] == 33.3
    assert any(cell["against"] for cell in data["cells"])


def test_page_is_one_outline_without_a_second_file(sweep: Path) -> None:
    parsed = Parsed(sweep)
    assert len(parsed.all("h1")) == 1
    assert not [a for tag in ("script", "img", "iframe", "object") for a in parsed.all(tag) if "src" in a]
    assert [a["href"] for a in parsed.all("link")] == ["data:,"]
    assert all(str(a["href"]).startswith("#") for a in parsed.all("a"))
    ids = [attributes["id"] for _, attributes in parsed.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in parsed.all("a")} <= set(ids)
    assert set(REFERENCE.findall(" ".join(str(v) for _, a in parsed.elements for v in a.values()))) <= set(ids)
    assert [name for name, _ in parsed.elements if name in ("header", "nav", "main")] == ["header", "nav", "main"]


def test_figures_have_names_for_readers_and_the_rest_unfolds(sweep: Path) -> None:
    parsed = Parsed(sweep)
    drawn = [a for a in parsed.all("svg") if a.get("role") == "img"]
    assert len(drawn) == 9
    assert "Not drawn, and why" in parsed.text
    assert "policy.name = another, n = 64" in " ".join(str(a["aria-label"]) for a in drawn)
    assert len([a for a in parsed.all("details") if a.get("class") == "folded"]) == 4 - MOST_SHOWN + 1


def test_words_are_those_of_the_markdown_report(sweep: Path) -> None:
    written = (sweep.parent / "report.md").read_text()
    shown = Parsed(sweep).text
    for text in ("Highest win rate", "Not told apart from it", "How these numbers may be compared", "no memory left"):
        assert text in written
        assert text in shown
    assert "Not complete" in shown
    assert "every 20 seconds" in shown
    assert '<meta http-equiv="refresh" content="20">' in shown
    assert 'http-equiv="refresh"' not in page(make_frames(PAIRS[:1]), sweep.parent / "done").read_text()


def test_misleading_characters_stand_there_by_name() -> None:
    assert visible("a\u202eb\x00\ud800\n\tc") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩\n\tc"
    assert visible("שלום Grüße 日本") == "שלום Grüße 日本"
    text = script_json({"a": "</script><!-- & \u2028\u202e\ud800\x00"})
    assert not set(text) & set("<>&\u2028\u202e\ud800")
    assert json.loads(text) == {"a": "</script><!-- & ⟨U+2028⟩⟨U+202E⟩⟨U+D800⟩⟨U+0000⟩"}


def test_vector_graphics_keep_only_graphics_under_names_of_their_own() -> None:
    link = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {link}><metadata>m</metadata><style>s</style><path id="p"/>'
    svg += '<use xlink:href="#p" clip-path="url(#c)"/><clipPath id="c"/></svg>'
    shown = inline(svg, "f1-", 'say "x" <y>')
    assert "metadata" not in shown
    assert "style" not in shown
    assert re.findall(r'="(#?f1-[a-z]|url\(#f1-c\))"', shown) == ["f1-p", "#f1-p", "url(#f1-c)", "f1-c"]
    assert 'aria-label="say &quot;x&quot; &lt;y&gt;"' in shown


def test_long_texts_say_how_much_is_left_out() -> None:
    assert cut("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert cut("x" * (LONGEST_TEXT + 7)).endswith("x […7 more characters]")


def test_details_come_from_the_store(tmp_path: Path) -> None:
    shape = Shape(
        pairs=[("max", "min"), ("max", "mu")], sizes=(16,), policies=1, seeds=1, prompts=6, instructions=5, failed=1
    )
    build(tmp_path / "store", shape)
    found = load_details(tmp_path / "store")
    done = [own for own in found.values() if own.answers]
    assert (len(found), len(done)) == (2, 1)
    (own,) = done
    assert [row["stage"] for row in own.rows] == ["select", "pairs", "train", "respond", "judge"]
    assert own.degenerate == pytest.approx(1 - own.rows[1]["kept"] / 6)
    assert len(own.pairs) == len(own.answers) == EXAMPLES
    assert {"prompts", "pairs", "train"} - own.keys.keys() == {"prompts"}
    table = Reading(tmp_path / "store").find("pairs", own.keys["pairs"])
    assert table is not None
    first = table.table("pairs").to_pandas().sort_values("prompt_id").iloc[0]
    assert own.pairs[0]["chosen"] == first["chosen_text"]
    assert own.pairs[0]["rejected_reward"] == first["rejected_reward"]
    assert str(own.pairs[0]["prompt"]).startswith("How would you describe")
    assert str(own.answers[0]["instruction"]).startswith("Please explain")
    assert own.answers[0]["reference"]
    assert own.answers[0]["preference"] in (0.0, 0.5, 1.0)
    (undone,) = [own for own in found.values() if not own.answers]
    assert [row["stage"] for row in undone.rows] == ["select", "pairs"]
    assert not load_details(tmp_path / "store", examples_of=[])[next(iter(found))].pairs


def test_watching_writes_when_the_store_has_changed_until_nothing_is_missing(tmp_path: Path) -> None:
    store, asked = tmp_path / "store", list[Path]()

    def write(opened: Reading) -> bool:
        asked.append(opened.root)
        if len(asked) == 1:
            raise StoreError("no such sweep yet")
        return len(asked) == 3

    pauses: Iterator[str] = iter(["", "train", "", "judge", "", "respond"])

    def sleep(_: float) -> None:
        if folder := next(pauses):
            (store / folder).mkdir(parents=True)

    assert watch(store, write, seconds=1, sleep=sleep) == 2
    assert asked == [store] * 3
    assert next(pauses, None) is None


def test_watching_stops_at_what_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()

    def write(_: Reading) -> bool:
        raise PrefsweepError("results are not comparable")

    with pytest.raises(PrefsweepError, match="comparable"):
        watch(tmp_path, write, seconds=1, sleep=lambda _: None)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    if browser.MISSING:
        pytest.skip(browser.MISSING)
    with browser.browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def read(opened: browser.Browser, page: Path) -> None:
    """Open a page; nothing may be asked for but itself, and nothing complained of."""
    opened.requests()
    opened.open(page)
    assert opened.requests() == [page.resolve().as_uri()]
    assert opened.console() == []


def test_hostile_texts_stay_text(chromium: browser.Browser, tmp_path: Path) -> None:
    results, verdicts = make_frames(PAIRS[:2], settings={"policy.name": HOSTILE, "construction.x": HOSTILE})
    for label in ("judge_label", "reward_label", "decoding", "reference", "versions"):
        results[label] = HOSTILE
    results = undo(results, [1], "failed", HOSTILE)
    frames = join((results, verdicts), make_frames(PAIRS[:2]))
    path = page(frames, tmp_path, WORST)
    read(chromium, path)
    count = len(Parsed(path).data["cells"])
    for index in range(count):
        chromium.run("document.querySelectorAll('button.open')[arguments[0]].click()", index)
        assert "tfel" in chromium.run("return document.getElementById('cell').textContent")
    chromium.run("for (const one of document.querySelectorAll('details')) one.open = true")
    chromium.run("for (const one of document.querySelectorAll('*')) one.dispatchEvent(new Event('mouseover'))")
    state = chromium.run(
        "return [window.hacked ?? null, document.title, document.querySelectorAll('img, iframe, object, form').length,"
        " document.querySelectorAll('main script, [onerror], [onload], [onmouseover], a[href^=http]').length,"
        " document.querySelectorAll('main meta, main style').length]"
    )
    assert state == [None, "Sweep grid", 0, 0, 0]
    shown = chromium.run("return document.body.textContent")
    assert "<script>window.hacked = 1; document.title = 'hacked'</script>" in shown
    assert "⟨U+202E⟩" in shown
    assert not set(shown) & {"\u202e", "\u200b", "\x00"}
    assert chromium.requests() == []
    assert chromium.console() == []


def test_page_is_used_with_the_keyboard_and_fits_a_phone(chromium: browser.Browser, sweep: Path) -> None:
    chromium.size(1280, 900)
    read(chromium, sweep)
    column = [each["title"] for each in Parsed(sweep).data["columns"]].index("win rate % [95 %]")
    rates = (
        f"return [...document.querySelectorAll('.tabulator-cell[tabulator-field=c{column}]')].map(c => c.textContent)"
    )

    def shown() -> list[float]:
        return [float(text.split()[0]) for text in chromium.run(rates) if text.strip()]

    chromium.run(f"document.querySelectorAll('button.sort')[{column}].focus()")
    chromium.press(ENTER)
    ascending = shown()
    assert len(ascending) == 10  # two cells have none
    assert ascending == sorted(ascending)
    chromium.press(ENTER)
    assert shown() == ascending[::-1]
    assert "descending" in chromium.run("return [...document.querySelectorAll('[aria-sort]')].map(c => c.ariaSort)")

    chromium.run("document.querySelector('input[aria-label=\"filter status\"]').focus()")
    for letter in "fail":
        chromium.press(letter)
    counted = "return document.getElementById('count').textContent"
    deadline = time.monotonic() + 30
    while chromium.run(counted) != "1 of 12 cells shown." and time.monotonic() < deadline:
        time.sleep(0.05)  # the table waits for the next key
    assert chromium.run(counted) == "1 of 12 cells shown."
    chromium.run("document.querySelector('button.open').focus()")
    chromium.press(ENTER)
    focused, hidden, fragment = chromium.run(
        "return [document.activeElement.id, document.getElementById('cell').hidden, location.hash]"
    )
    assert (focused, hidden) == ("cell", False)
    assert re.fullmatch(r"#cell-\d+", fragment)

    chromium.size(390, 844)
    read(chromium, sweep)
    assert chromium.run("return document.documentElement.scrollWidth") <= 390
    assert chromium.run("return Math.max(...[...document.querySelectorAll('svg')].map(s => s.clientWidth))") <= 390


def test_kinds_with_one_figure_share_the_width_of_a_wide_page(chromium: browser.Browser, tmp_path: Path) -> None:
    """A heatmap, and small multiples and a scaling curve where there are several n."""
    path = page(make_frames([("max", "min"), ("max", "mu-2s")], sizes=(8, 16, 32)), tmp_path)
    chromium.size(1280, 900)
    read(chromium, path)
    boxes = (
        "return [...document.querySelectorAll('.kind')].map(k => [k.classList.contains('several'),"
        " ...['x', 'y', 'width'].map(side => Math.round(k.getBoundingClientRect()[side]))])"
    )
    (_, left, _, whole), *alone = sorted(chromium.run(boxes), key=lambda box: not box[0])
    assert not any(several for several, *_ in alone)
    assert len(alone) >= 2
    (_, x, y, width), (_, other_x, other_y, other_width) = alone[:2]
    assert (x, y, width) == (left, other_y, other_width)
    assert 2 * width < whole < 2.2 * width
    assert other_x > x + width
    chromium.size(390, 844)
    assert {box[1] for box in chromium.run(boxes)} == {chromium.run(boxes)[0][1]}


def test_page_prints_the_whole_table(chromium: browser.Browser, sweep: Path) -> None:
    read(chromium, sweep)
    chromium.devtools("Emulation.setEmulatedMedia", media="print")
    seen = "return [...document.querySelectorAll('#table, .plain-table')].map(e => e.getClientRects().length > 0)"
    assert chromium.run(seen) == [False, True]
    chromium.devtools("Emulation.setEmulatedMedia", media="")
    assert chromium.run(seen) == [True, False]
    assert chromium.run("return document.querySelectorAll('.plain-table tbody tr').length") == 12
