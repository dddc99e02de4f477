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
    striding,
)
from prunus.operators.pointwise import find
from prunus.operators.table import TABLE, Call, Row, operator_name, tensors_among, unsupported
from prunus.operators.work import Work, work_of

__all__ = [
    "TABLE",
    "Call",
    "Row",
    "Work",
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
    "striding",
    "tensors_among",
    "unsupported",
    "work_of",
]
