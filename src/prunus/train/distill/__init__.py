"""Distillation: learn from the unpruned model, from any other, from several, or from oneself."""

from prunus.train.distill.distiller import Distill, SelfTeacher, with_outputs
from prunus.train.distill.features import attention, fitnet, relational, similarity
from prunus.train.distill.logits import dist, dkd, hinton
from prunus.train.distill.taps import kept_channels
from prunus.train.distill.terms import Features, Logits, Term

__all__ = [
    "Distill",
    "Features",
    "Logits",
    "SelfTeacher",
    "Term",
    "attention",
    "dist",
    "dkd",
    "fitnet",
    "hinton",
    "kept_channels",
    "relational",
    "similarity",
    "with_outputs",
]
