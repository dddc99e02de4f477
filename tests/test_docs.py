"""The code in the documentation runs as it stands, each page from top to bottom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
# What a page's reader is asked to choose, chosen small; a page that isn't here needs nothing.
GIVEN = {"epochs": 1, "ratios": (0.5,)}
TOLD = {
    "deploy.md": ("any batch size", "INT8 static", "speed", "bound"),
    "budgets.md": ("unit ", "latency", "values in parameters and buffers"),
    "masks.md": ("Sparsifier(LeNet: 50.00% of", "chosen"),
    "tutorial.md": ("proven: relative error", "units gone"),
    "large-models.md": ("21 weights pruned by sparsegpt, 50.00% zeros",),
    "recipes.md": ("model.safetensors", "01-train 1 epochs of 8 batches, rigl cached"),
}
PAGES = sorted(page for page in DOCS.rglob("*.md") if "```python" in page.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"folder": tmp_path, **GIVEN}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
    told = capsys.readouterr().out
    assert all(words in told for words in TOLD.get(page.name, ()))


def test_both_tutorials_hold_the_same_code() -> None:
    english, chinese = ((DOCS / name).read_text(encoding="utf-8") for name in ("tutorial.md", "tutorial.zh-CN.md"))
    blocks = [
        [_bare(code) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)] for text in (english, chinese)
    ]
    assert blocks[0] == blocks[1]


@pytest.mark.parametrize("name", ["tutorial", "tutorial.zh-CN"])
def test_the_notebook_is_the_page_run_to_the_end(name: str) -> None:
    """`make notebooks` writes them anew."""
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    notebook = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][1:]  # the first chooses epochs and such
    blocks = [block.strip() for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    assert ["".join(cell["source"]) for cell in cells] == blocks
    assert all(cell["execution_count"] for cell in cells)
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


def _bare(code: str) -> str:
    """Without comments and the words of messages, which are translated."""
    return re.sub(r'\s+#.*|f?"[^"]*"', "", code)
