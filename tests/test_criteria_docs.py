"""The code of docs/criteria.md runs as it stands, and its table holds every criterion."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from prunus.importance import CRITERIA

PAGE = (Path(__file__).parent.parent / "docs" / "criteria.md").read_text(encoding="utf-8")


def test_the_page_runs() -> None:
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/criteria.md", "exec"), names)


def test_the_table_is_whole() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(CRITERIA)
