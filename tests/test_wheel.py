"""The wheel and the source distribution: what is in them, and that they work without the repository and a network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import prunus

pytest.importorskip("hatchling", reason="builds need hatchling: pip install -e '.[dev]'")
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
USE = """
import socket
def refused(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refused
import sys
import prunus
from prunus import recipes
from prunus.cli import app
from prunus.demo.data import load_digits
from prunus.demo.lenet import LeNet
from prunus.report import Report, write_report
assert prunus.__file__.startswith(sys.argv[1]), prunus.__file__
digits = load_digits()
assert recipes.read_recipe("lenet-digits").stages
write_report(Report(title="t", summary="s", tiles=[], sections=[]), "page.html")
small = prunus.prune(LeNet(), digits.train.images[:2])
prunus.save(small, "small")
prunus.load("small", LeNet)
app(["--version"])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    folder = str(tmp_path_factory.mktemp("dist"))
    return next(WheelBuilder(str(ROOT)).build(directory=folder)), next(SdistBuilder(str(ROOT)).build(directory=folder))


def contents(wheel: Path | str) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built):
    held = contents(built[0])
    listed = subprocess.run(["git", "ls-files", "src/prunus"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {name.removeprefix("src/") for name in listed.stdout.split()}
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert {"prunus/py.typed", "prunus/report/page.html.jinja", "prunus/recipes/ready/agp.yaml"} <= expected
    about = held[f"prunus-{prunus.__version__}.dist-info/METADATA"].decode()
    assert f"\nVersion: {prunus.__version__}\n" in about and "\nLicense-Expression: Apache-2.0\n" in about
    assert b"prunus = prunus.cli:main" in held[f"prunus-{prunus.__version__}.dist-info/entry_points.txt"]


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(built[1]) as file:
        file.extractall(tmp_path, filter="data")
    again = next(WheelBuilder(str(tmp_path / f"prunus-{prunus.__version__}")).build(directory=str(tmp_path)))
    assert contents(again) == contents(built[0])


def test_it_is_installed_alone_and_works_without_the_repository_and_a_network(built, tmp_path):
    """pip installs the wheel in an environment of its own, which takes only what others wrote from this one."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", built[0]]
    subprocess.run(install, check=True, timeout=120)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ([python, "-c", USE, str(site)], [python.with_name("prunus"), "--version"]):
        told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert told.returncode == 0, told.stderr
        assert told.stdout == f"prunus {prunus.__version__}\n"
