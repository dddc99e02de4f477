"""The operator table. One file per family, rows only; import this package to have them all."""

from prunus.operators import (
    attention,
    contraction,
    convolution,
    creation,
    indexing,
    normalization,
    pooling,
    recurrent,
    reduction,
    regions,
    shape,
    spectral,
)
from prunus.operators.pointwise import find
from prunus.operators.table import TABLE, Call, Row, operator_name, unsupported

__all__ = [
    "TABLE",
    "Call",
    "Row",
    "attention",
    "contraction",
    "convolution",
    "creation",
    "find",
    "indexing",
    "normalization",
    "operator_name",
    "pooling",
    "recurrent",
    "reduction",
    "regions",
    "shape",
    "spectral",
    "unsupported",
]
