"""The shape of the code: layers import one way, the public names are these, and importing prunus stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import prunus

SOURCE = Path(prunus.__file__).parent

# Each layer may import itself and the layers above it in this list, no other.
LAYERS = [
    {"columns", "errors", "documents", "disk", "state"},
    {"running", "sharing", "axes", "caches", "precision", "naming"},
    {"operators", "created"},
    {"sizes", "skip", "settings"},
    {"foreign", "surgery", "spread", "accounts"},
    {"trace", "heads"},
    {"plan", "residual"},
    {"counting", "layers", "contractions", "matching"},
    {"importance", "limits"},
    {"selection", "fitting"},
    {"budget"},
    {"planning", "profile", "depth"},
    {"prove", "compensation"},
    {"prune", "report", "extraction"},
    {"sensitivity"},
    {"train", "masks", "searching"},
    {"deploy"},
    {"iterating"},
    {"blockwise"},
    {"demo", "comparison"},
    {"recipes"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """The rooms of prunus that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "prunus":
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("prunus.")}
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def wrong_arrows(files: list[Path]) -> list[str]:
    wrong = []
    for path in files:
        here = room(path)
        if here == "__init__":
            continue
        for target in imports(path):
            if target in LEVEL and target != here and LEVEL[target] >= LEVEL[here]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {target}")
    return wrong


def test_every_room_has_a_level() -> None:
    rooms = {room(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(LEVEL)


def test_imports_go_one_way() -> None:
    assert wrong_arrows(sorted(SOURCE.rglob("*.py"))) == []


def test_the_arrow_check_can_fail(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "axes").mkdir()
    bad = tmp_path / "axes" / "bad.py"
    bad.write_text("from prunus.plan import Plan\n")
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    assert wrong_arrows([bad]) == ["axes/bad.py imports plan"]


def test_axes_know_no_modules() -> None:
    for path in (SOURCE / "axes").glob("*.py"):
        assert "torch" not in path.read_text().replace("# torch", ""), path.name


def test_public_names() -> None:
    assert sorted(prunus.__all__) == prunus.__all__
    for name in prunus.__all__:
        assert getattr(prunus, name).__doc__, name
    core = "trace plan prune prove save load export profile sensitivity Plan Graph Proof PrunusError".split()
    assert set(core) <= set(prunus.__all__)


def test_import_is_light() -> None:
    heavy = "onnx onnxruntime onnxscript matplotlib accelerate typer rich jinja2 pandas torchvision timm".split()
    code = f"import prunus, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_stay_functions_after_submodules_are_imported() -> None:
    code = (
        "import prunus, prunus.profile, prunus.plan, prunus.trace.graph, prunus.sensitivity, prunus.deploy.saving\n"
        "print(all(callable(getattr(prunus, n)) for n in ('profile', 'plan', 'trace', 'sensitivity', 'save', 'prune')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


MAKERS = "arange as_tensor asarray empty eye full linspace ones rand randint randn randperm tensor zeros".split()


def test_whoever_makes_a_tensor_says_where() -> None:
    """What prunus computes with must not follow the user's ``torch.set_default_device``."""
    silent = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            made = isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}
            if made and not any(keyword.arg == "device" for keyword in node.keywords):
                silent.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert not silent
