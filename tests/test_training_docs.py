"""The code of docs/training.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "training.md"


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_training_runs(tmp_path):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names = {"folder": tmp_path}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert list((tmp_path / "run").glob("step-*"))
    assert (tmp_path / "log.csv").read_text().startswith("step,loss,lr")
