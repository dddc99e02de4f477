"""The report: text as data, and the page as a real browser sees it."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from jinja2 import UndefinedError

import prunus
from prunus.demo.lenet import LeNet
from prunus.report import Report, Section, Table, Tile, write_report
from prunus.report.charts import sensitivity_figure, speedup_figure, training_figure, widths_figure
from prunus.report.groups import network
from prunus.report.page import render
from prunus.report.svg import inline_svg
from prunus.report.tables import change, count, kilobytes, milliseconds, times
from prunus.report.terminal import Terminal

TABLE = Table("Sizes", ("layer", "before", "after"), (("conv1", "6", "3"), ("a <b> & c", "1,200", "600")), strong=2)
CURVES = {"conv1": [(0.0, 98.0), (0.5, 90.0)], "fc1": [(0.0, 98.0), (0.9, 60.0)]}


def page() -> Report:
    figures = [
        inline_svg(sensitivity_figure(CURVES, ylabel="accuracy (%)"), "sensitivity", 'curves of "conv1"'),
        inline_svg(widths_figure({"conv1": (6, 3), "fc1": (120, 48)}), "widths", "widths"),
        inline_svg(training_figure({"dense": [90.0, 97.0]}, ylabel="accuracy"), "training", "training"),
        inline_svg(speedup_figure({"torch": 1.5, "onnx": 0.9}), "speed", "speed"),
    ]
    sections = [Section(title="All & more", text=("One <sentence>.",), figures=figures, tables=(TABLE,), code="a < b")]
    return Report(title="A <title>", summary="In short.", tiles=(Tile("size", "4", "1", "−75 %"),), sections=sections)


class Reader(HTMLParser):
    """Collects the elements, their ids and what they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "srcset", "action", "xlink:href"):
                self.links.append(value)
            if value and "url(" in value:
                self.links += re.findall(r"url\(['\"]?([^)'\"]+)", value)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_nothing_points_outside_the_page():
    text = render(page())
    found = read(text)
    assert "svg" in found.tags and "table" in found.tags
    outside = [link for link in found.links if not link.startswith(("#", "data:"))]
    assert outside == []
    assert "http:" not in text and "https:" not in text and "@import" not in text and "<script" not in text


def test_a_link_outside_would_be_seen():
    assert read('<img src="x.png"><g clip-path="url(http://a/b)">').links == ["x.png", "http://a/b"]


def test_ids_are_unique_and_references_resolve():
    found = read(render(page()))
    assert len(found.ids) == len(set(found.ids)) > 20
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_text_is_escaped_and_figures_follow_the_theme():
    text = render(page())
    assert "A &lt;title&gt;" in text and "One &lt;sentence&gt;." in text and "a &lt;b&gt; &amp; c" in text
    assert "<sentence>" not in text
    assert 'aria-label="curves of &quot;conv1&quot;"' in text
    figure = text[text.index('<svg role="img"') : text.index("</svg>")]
    assert "var(--series-0)" in figure and "var(--ink)" in figure
    assert not re.search(r"#[0-9a-f]{6}\b", figure.replace("#ffffff", ""))


def test_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(UndefinedError):
        write_report(replace(page(), tiles=(object(),)), target)
    assert target.read_text(encoding="utf-8") == "old"
    write_report(page(), target)
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_numbers():
    assert count(1234567.0) == "1,234,567"
    assert (kilobytes(240296), kilobytes(2_500_000)) == ("240.3 kB", "2.50 MB")
    assert [milliseconds(x) for x in (0.07124, 1.2345, 12.345, 123.45)] == [
        "0.0712 ms", "1.234 ms", "12.35 ms", "123.5 ms",
    ]  # fmt: skip
    assert (change(100, 25), change(4, 5), change(3, 3), change(0, 1)) == ("−75.0 %", "+25.0 %", "±0 %", "new")
    assert (times(10, 4), times(1, 0)) == ("2.50×", "–")


def test_plain_table():
    assert TABLE.plain().splitlines() == [
        "Sizes",
        "layer      before  after",
        "---------  ------  -----",
        "conv1           6      3",
        "a <b> & c   1,200    600",
    ]
    assert TABLE.as_json()[0] == {"layer": "conv1", "before": "6", "after": "3"}


def test_the_terminal_writes_plain_text_to_a_pipe_and_frames_to_a_person():
    from rich.console import Console

    def shown(live: bool) -> str:
        stream = io.StringIO()
        terminal = Terminal(Console(file=stream, force_terminal=live, width=60, highlight=False))
        terminal.heading("Head [1]")
        terminal.table(TABLE)
        with terminal.progress("working") as tick:
            tick(1, 2, "half [2]")
        return stream.getvalue()

    piped, live = shown(False), shown(True)
    assert "Head [1]" in piped and TABLE.plain() in piped and "\x1b" not in piped and "half" not in piped
    assert "\x1b[" in live and "a <b> & c" in live and "half [2]" in live


FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --log-level=0"
).split()


def browser(*arguments: str, profile) -> str:
    """What headless Chromium prints; it fails where a page writes to the console."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    command = [found, *FLAGS, f"--user-data-dir={profile}", *arguments]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    return shown.stdout


PROBE = """<script>addEventListener('load', () => {
  const wide = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
  const seen = {
    overflow: document.documentElement.scrollWidth - innerWidth,
    figures: wide.filter(r => r.width > 200 && r.height > 60 && r.right <= innerWidth).length,
    rows: document.querySelectorAll('tbody tr').length,
    loads: performance.getEntriesByType('resource').length,
    mode: document.compatMode,
    ink: getComputedStyle(document.querySelector('svg text')).fill,
  };
  document.body.setAttribute('data-seen', JSON.stringify(seen));
});</script>"""


@pytest.mark.parametrize("width", [1200, 500])
def test_a_real_browser_shows_it(tmp_path, width):
    import html
    import json

    text = render(page()).replace("</body>", PROBE + "</body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()
    dom = browser(f"--window-size={width},900", "--dump-dom", address, profile=tmp_path / "profile")
    match = re.search(r'data-seen="([^"]*)"', dom)
    assert match, "the page's script didn't run"
    seen = json.loads(html.unescape(match[1]))
    assert seen["overflow"] <= 0, "the page scrolls sideways"
    assert (seen["figures"], seen["rows"], seen["loads"], seen["mode"]) == (4, 2, 0, "CSS1Compat")


def test_what_a_page_writes_to_the_console_is_noticed(tmp_path):
    (tmp_path / "page.html").write_text("<!DOCTYPE html><script>console.error('loud')</script>", encoding="utf-8")
    with pytest.raises(AssertionError, match="loud"):
        browser("--dump-dom", (tmp_path / "page.html").as_uri(), profile=tmp_path / "profile")


def test_dark_and_light_differ(tmp_path):
    text = render(page()).replace("</body>", PROBE + "</body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    inks = set()
    for scheme in (0, 1):
        dom = browser(
            f"--blink-settings=preferredColorScheme={scheme}",
            "--dump-dom",
            (tmp_path / "page.html").as_uri(),
            profile=tmp_path / f"profile{scheme}",
        )
        match = re.search(r"ink&quot;:&quot;(rgb[^&]*)&quot;", dom)
        assert match
        inks.add(match[1])
    assert len(inks) == 2


def test_the_drawing_of_groups_has_a_link_for_each_weight_between_two() -> None:
    found = network(prunus.trace(LeNet(), torch.zeros(1, 1, 28, 28)))
    names = [node.name for node in found.nodes]
    free = [node.name for node in found.nodes if node.kind == "free"]
    assert free == ["conv1", "conv2", "fc1", "fc2"]
    links = {(names[a], names[b]): tensor for a, b, tensor in found.links}
    assert links["conv2", "fc1"] == "fc1.weight" and ("conv1", "fc1") not in links
    share = {node.name: node.share for node in found.nodes}
    assert share["fc1"] == pytest.approx((120 * 400 + 120 + 84 * 120) / 60074)  # fc1 whole, and fc2's matrix
