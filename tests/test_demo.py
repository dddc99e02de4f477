"""The main job in small: every step runs, its files hold what it says, and nothing is decided on the test digits."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import prunus
from prunus.demo import budget, job
from prunus.demo.data import Digits, Part, accuracy, batches, load_digits
from prunus.demo.lenet import LeNet
from prunus.demo.masks import masked_table
from prunus.demo.outcome import Settings
from prunus.errors import InputError, PlanError
from prunus.report.terminal import Terminal
from prunus.sensitivity import Row, Sensitivity
from tests.test_report import browser

QUICK = Settings(seed=3, epochs=1, finetune_epochs=1, examples=600, repeats=6)
EXAMPLE = Path(__file__).parent.parent / "examples" / "lenet.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The outcome, its folder, and what the terminal showed, of one quick run."""
    out = tmp_path_factory.mktemp("demo")
    stream = io.StringIO()
    outcome = job.run(out, QUICK, Terminal(Console(file=stream, width=200)))
    return outcome, out, stream.getvalue()


def weights(count: int) -> LeNet:
    torch.manual_seed(count)
    return LeNet().eval()


def test_the_digits_are_real_and_their_parts_never_meet():
    digits = load_digits()
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (7000, 1000, 2000)
    seen = [{image.numpy().tobytes() for image in part.images} for part in (digits.train, digits.validation)]
    assert not seen[0] & seen[1]
    assert torch.bincount(digits.test.labels, minlength=10).min() > 150
    assert abs(float(digits.train.images.mean())) < 0.05 and abs(float(digits.train.images.std()) - 1) < 0.05


def test_batches_cover_every_digit_once_and_move_it_by_a_pixel_at_most():
    part = load_digits().train.head(200)
    marked = Part(part.images, torch.arange(200))
    met = []
    for images, indices in batches(marked, 64):
        for image, index in zip(images, indices, strict=True):
            original = part.images[index, 0]
            moved = [
                torch.equal(image[0, 2:-2, 2:-2], original[2 - down : 26 - down, 2 - right : 26 - right])
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
            ]
            assert any(moved)
        met += indices.tolist()
    assert sorted(met) == list(range(200))


def test_accuracy_is_the_share_of_right_answers():
    part = load_digits().test.head(600)  # more than one batch of 500
    model = weights(0).train()
    with torch.no_grad():
        right = [
            int(scores.argmax()) == int(label) for scores, label in zip(model(part.images), part.labels, strict=True)
        ]
    expected = 100 * np.mean(right)
    assert accuracy(model, part) == pytest.approx(expected)
    assert model.training


def test_masks_change_nothing_but_zeros():
    digits = load_digits().validation.head(200)
    table = masked_table(weights(0), digits, digits.images[:4], repeats=6)
    rows = {row["conv1 with"]: row for row in table.as_json()}
    zeros = [row["zeros"] for row in rows.values()]
    assert zeros == ["0/54", "16/54", "27/54", "27/54"]
    assert {row["shape"] for row in rows.values()} == {"6×1×3×3"}
    assert {row["MACs"] for row in rows.values()} == {"199,968"}
    sizes = [float(row["weights file"].split()[0]) for row in rows.values()]
    assert sizes[1] > sizes[0] and sizes[2] > sizes[0] and sizes[3] == sizes[0]


def test_the_choice_is_the_gentlest_within_the_budget():
    model, x = weights(0), torch.zeros(1, 1, 28, 28)
    graph, dense = prunus.trace(model, x), prunus.profile(model, x, latency=False)
    sizes = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}
    drops = {"conv1": 9.0, "conv2": 2.0, "fc1": 1.0, "fc2": 3.0}
    rows = tuple(Row(g, 0.5, n, n // 2, {"score": 90 - drops[g]}) for g, n in sizes.items())
    curves = Sensitivity({"score": 90.0}, rows, sizes)
    found = budget.choose(graph, curves, dense, max_parameters=0.4, max_macs=1.0)
    assert (found.max_drop, found.ratios) == (2.0, {"conv2": 0.5, "fc1": 0.5})  # 1.0 cuts fc1 alone: 51 % are left
    with pytest.raises(PlanError, match="no measured cut leaves at most 5%"):
        budget.choose(graph, curves, dense, max_parameters=0.05, max_macs=1.0)


def test_the_budget_is_met_and_the_cut_proven(done):
    outcome, _, _ = done
    assert outcome.proof.ok and outcome.proof.max_rel_error < 1e-9
    assert outcome.parameters_left <= 0.25 and outcome.macs_left <= 0.45
    small = outcome.choice.plan.apply(LeNet())
    assert sum(p.numel() for p in small.parameters()) == outcome.small.profile.parameters


def test_the_files_hold_what_the_outcome_says(done):
    outcome, out, _ = done
    digits = load_digits()
    dense = LeNet().eval()
    dense.load_state_dict(load_file(out / "dense.safetensors"))
    small = prunus.load(out / "small", LeNet)
    assert accuracy(dense, digits.test) == outcome.dense.test
    assert accuracy(small, digits.test) == outcome.small.test
    assert accuracy(outcome.choice.plan.apply(dense), digits.validation) == outcome.validation_after_cut
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["small"]["test_accuracy"] == outcome.small.test
    assert results["small"]["weights_bytes"] == (out / "small" / "model.safetensors").stat().st_size
    assert results["dense"]["onnx_bytes"] == (out / "dense.onnx").stat().st_size
    with open(out / "sensitivity.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 1 + len(outcome.sensitivity.rows)


def test_onnx_takes_any_batch_and_agrees(done):
    _, out, _ = done
    small = prunus.load(out / "small", LeNet)
    session = onnxruntime.InferenceSession(out / "small.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 5):
        images = load_digits().test.images[:size]
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), small(images).detach(), rtol=1e-4, atol=1e-4)


def test_page_and_terminal_show_the_result(done):
    outcome, out, shown = done
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in (f"{outcome.small.profile.parameters:,}", f"{outcome.small.test:.2f} %", "60,074"):
        assert text in page and text in shown
    assert page.count("<svg") == 4
    assert all(f"\n{step}  " in shown for step in range(1, 8))


def test_a_seed_repeats_and_the_test_digits_decide_nothing(done, tmp_path, monkeypatch):
    """The same seed with other test digits: the same decisions and weights to the bit, another test accuracy."""
    outcome, out, _ = done
    real = load_digits()
    blank = Part(torch.zeros_like(real.test.images), real.test.labels)
    monkeypatch.setattr(job, "load_digits", lambda: Digits(real.train, real.validation, blank))
    other = job.run(tmp_path, QUICK, Terminal(Console(file=io.StringIO())))
    assert other.choice == outcome.choice and other.sensitivity == outcome.sensitivity
    first, second = (load_file(folder / "small" / "model.safetensors") for folder in (out, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert other.small.test != outcome.small.test


def test_out_must_be_a_folder(tmp_path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is a file; give a folder"):
        job.run(tmp_path / "out", QUICK, Terminal(Console(file=io.StringIO())))


def test_the_example_is_short_and_runs(tmp_path, monkeypatch, capfd):
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lenet.py", "1"])
    threads = torch.get_num_threads()
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    torch.set_num_threads(threads)
    shown = capfd.readouterr().out
    assert "proven" in shown and "small: 14," in shown
    assert {file.name for file in tmp_path.iterdir()} >= {"sensitivity.svg", "small", "dense.onnx", "small.onnx"}


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_example_in_the_readme_runs(name, tmp_path, monkeypatch):
    text = (EXAMPLE.parent.parent / name).read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code.replace("224, 224", "64, 64"), name, "exec"), names)
    parameters = sum(p.numel() for p in names["small"].parameters())
    assert f"{parameters / 1e6:.2f} M" in code and "11.69 M" in code
    assert (tmp_path / "small.onnx").is_file()


NAMES = r"LeNet|torch|ONNX Runtime|Conv2d|Linear|(conv|fc)\d( \(\d+\))?|(random_un|ln_)structured [\d.]+|\*\{.*\}"


def test_the_page_says_everything_in_chinese_too(done):
    page = (done[1] / "report.zh-CN.html").read_text(encoding="utf-8")
    body = re.sub(r"<pre>.*?</pre>", "", page[page.index("<main>") :], flags=re.DOTALL)
    texts = {text.strip() for text in re.findall(r">([^<>]+)<", body)}
    left = {t for t in texts if re.search("[A-Za-z]{3}", t) and not re.search("[\u4e00-\u9fff]", t)}
    assert {t for t in left if not re.fullmatch(NAMES, t)} == set()
    numbers = [re.findall(r"\d[\d,.]*\d", (done[1] / name).read_text("utf-8").split("<section>")[1]) for name in PAGES]
    assert numbers[0] == numbers[1]  # the first table's, none lost or moved


PAGES = ("report.html", "report.zh-CN.html")
WIDTHS = (1200, 360)
LOOK = """<script>addEventListener('load', () => {
  const told = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, width = frame.contentWindow.innerWidth;
    const wide = [...page.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, svg'));
    return {
      width, overflow: page.documentElement.scrollWidth - width,
      cut: wide.filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.tagName + ' ' + e.className),
      figures: [...page.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().height > 60).length,
      loads: frame.contentWindow.performance.getEntriesByType('resource').length,
      back: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    };
  });
  document.body.setAttribute('data-seen', JSON.stringify(told));
});</script>"""


@pytest.mark.parametrize("dark", [False, True])
def test_a_real_browser_shows_both_pages_on_a_desk_and_on_a_phone(done, tmp_path, dark):
    pages = [(done[1] / name).read_text(encoding="utf-8") for name in PAGES]
    frames = [
        f'<iframe width="{w}" height="900" style="border:0" srcdoc="{html.escape(text)}"></iframe>'
        for text in pages
        for w in WIDTHS
    ]
    (tmp_path / "all.html").write_text(f"<!DOCTYPE html><body>{''.join(frames)}{LOOK}</body>", encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={int(not dark)}"
    dom = browser(scheme, "--dump-dom", (tmp_path / "all.html").as_uri(), profile=tmp_path / "profile")
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert [each["width"] for each in seen] == [*WIDTHS, *WIDTHS]
    for each in seen:
        assert each["overflow"] <= 0 and each["cut"] == [], each
        assert each["figures"] >= 3 and each["loads"] == 0
        assert each["back"] == ("rgb(18, 22, 27)" if dark else "rgb(246, 247, 249)")
