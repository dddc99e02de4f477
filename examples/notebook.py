"""A page of the documentation as an executed notebook: python examples/notebook.py docs/tutorial.md tutorial.ipynb"""

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

page, target = map(Path, sys.argv[1:])
CHOSEN = "from pathlib import Path\n\nepochs, ratios, folder = 10, (0.1, 0.3, 0.5, 0.7, 0.9), Path()"

cells = [nbformat.v4.new_code_cell(CHOSEN)]
for i, piece in enumerate(re.split(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
    make = nbformat.v4.new_code_cell if i % 2 else nbformat.v4.new_markdown_cell
    cells.append(make(piece.strip()))
notebook = nbformat.v4.new_notebook(cells=cells)
for number, cell in enumerate(notebook.cells):
    cell["id"] = f"cell-{number}"  # random ones would make every run a difference
with tempfile.TemporaryDirectory() as folder:
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
for cell in notebook.cells:
    cell.metadata.pop("execution", None)  # times of day
    if "outputs" in cell:  # without warnings, which tell of this machine
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
target.parent.mkdir(parents=True, exist_ok=True)
nbformat.write(notebook, target)
print(f"{target}: {len(notebook.cells)} cells, {target.stat().st_size:,} bytes")
