"""Bytes on disk, and milliseconds of sparse kernels on this machine."""

from __future__ import annotations

import copy
import gzip
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import prunus
from prunus.report.tables import Table, kilobytes, milliseconds

SHAPES = ((384, 1536, 1), (384, 1536, 128), (1024, 4096, 1), (1024, 4096, 64))


def sizes(models: dict[str, nn.Module]) -> Table:
    """The dense file, the same after gzip -9, and that of save_sparse."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, dense in models.items():
            for sparsity in (0.0, 0.5, 0.8, 0.9, 0.95):
                model = copy.deepcopy(dense)
                if sparsity:
                    prunus.Sparsifier(model).prune(sparsity, "l1", scope="global")
                plain = Path(folder) / "plain"
                save_file(model.state_dict(), plain)
                small = prunus.save_sparse(model, Path(folder) / "small", overwrite=True).stat().st_size
                data = plain.read_bytes()
                zipped = len(gzip.compress(data, 9))
                cells = (kilobytes(len(data)), kilobytes(zipped), kilobytes(small), f"{small / zipped:.2f}")
                rows.append((f"{name}, {sparsity:.0%}", *cells))
    columns = ("model", "safetensors", "gzip -9 of it", "save_sparse", "of gzip")
    return Table(
        "Sparse files", columns, tuple(rows), note="Lossless: every bit is compared in tests/test_masks_deploy.py."
    )


def kernels(seed: int = 0) -> Table:
    """Unstructured zeros in a linear layer: CSR against dense, one thread."""
    rows = []
    torch.manual_seed(seed)
    for inputs, outputs, batch in SHAPES:
        for sparsity in (0.5, 0.8, 0.9, 0.95):
            model = nn.Sequential(nn.Linear(inputs, outputs)).eval()
            prunus.Sparsifier(model).prune(sparsity)
            layer = prunus.accelerate_sparse(model, torch.randn(batch, inputs), crossover=sparsity == 0.9).layers[0]
            assert layer.dense is not None
            rows.append(
                (
                    f"{outputs}×{inputs}, {batch} rows, {sparsity:.0%}",
                    milliseconds(layer.dense.median_ms),
                    milliseconds(layer.sparse["csr"].median_ms),
                    layer.chosen,
                    f"{layer.crossover:.0%}" if layer.crossover else "",
                )
            )
    columns = ("layer", "dense", "CSR", "chosen", "pays off from")
    note = "Medians on the machine that ran the command, one thread; the crossover is searched once a shape."
    return Table("Unstructured zeros in a linear layer on a CPU", columns, tuple(rows), note=note)
