"""Tests run side by side: one thread each, or the threads of one test wait for those of another."""

import torch

torch.set_num_threads(1)
