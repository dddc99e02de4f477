"""The operator table. One file per family, rows only; import this package to have them all."""

from prunus.operators import (
    attention,
    contraction,
    convolution,
    creation,
    indexing,
    normalization,
    pooling,
    reduction,
    regions,
    shape,
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
    "reduction",
    "regions",
    "shape",
    "unsupported",
]
