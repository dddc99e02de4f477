"""The other process: load the saved model with nothing but the architecture's factory, and run it.

python -m prunus.demo.reload FOLDER INPUTS OUTPUTS
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunus.demo.lenet import LeNet
from prunus.deploy.saving import load


def outputs_elsewhere(folder: Path, inputs: Tensor) -> Tensor:
    """What the model saved in ``folder`` answers to ``inputs`` when a new Python process loads it."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "inputs"), Path(scratch, "outputs")
        save_file({"x": inputs}, asked)
        command = [sys.executable, "-m", "prunus.demo.reload", str(folder), str(asked), str(answered)]
        subprocess.run(command, check=True)
        return load_file(answered)["y"]


def _main(folder: str, inputs: str, outputs: str) -> None:
    torch.set_num_threads(1)
    small = load(folder, LeNet)
    with torch.inference_mode():
        save_file({"y": small(load_file(inputs)["x"])}, outputs)


if __name__ == "__main__":
    _main(*sys.argv[1:])
