"""The code of docs/masks.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "masks.md"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_page_on_masks_runs(tmp_path, capsys):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    names = {"folder": tmp_path}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    told = capsys.readouterr().out
    assert "Sparsifier(LeNet: 50.00% of" in told
    assert "chosen" in told
