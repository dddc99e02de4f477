"""The oldest versions: what pyproject.toml promises is what `make floor` installs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
UNTESTED = {"lightning", "openvino", "torchao", "hatchling", "mypy", "ruff", "pytest-xdist"}
"""Checked with their newest versions alone: docs/security.md says so of those that users install."""


def test_every_lower_bound_is_the_version_that_is_tested():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = dict(re.findall(r'"([a-z][\w-]*)>=([\d.]+)"', text.replace("[python]", "").partition("docs = [")[0]))
    asked |= dict(re.findall(r'"([a-z][\w-]*)>=([\d.]+)"', text.partition("dev = [")[2]))
    tested = dict(re.findall(r"^([a-z][\w-]*)==([\d.]+)$", (ROOT / "requirements-floor.txt").read_text("utf-8"), re.M))
    assert len(asked) > 15 and {"torch", "numpy", "safetensors"} <= asked.keys()
    for name in asked.keys() - UNTESTED:
        assert f"{tested[name]}.".startswith(f"{asked[name]}."), f"{name}: {asked[name]} asked, {tested[name]} tested"
