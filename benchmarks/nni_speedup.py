"""NNI 3.0's speedup, on a graph of `torch.fx`: its own tracer doesn't run on today's torch."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from torch import nn


def nni_speedup(model: nn.Module, inputs: Any, masks: Any) -> None:
    """Cut ``model`` in place where its masks are empty; what NNI tells of each module that it leaves isn't shown."""
    import torch.fx
    from nni.compression.speedup import ModelSpeedup

    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            ModelSpeedup(model, inputs, masks, graph_module=torch.fx.symbolic_trace(model)).speedup_model()
    finally:
        logging.disable(logging.NOTSET)
