"""Latency as a cost: layers timed one by one on the user's runtime, kept on disk, checked on the whole model."""

from prunus.deploy.latency.backends import Backend, Compiled, Cuda, Onnx, Torch
from prunus.deploy.latency.layers import Layer
from prunus.deploy.latency.runtime import Runtime

__all__ = ["Backend", "Compiled", "Cuda", "Layer", "Onnx", "Runtime", "Torch"]
