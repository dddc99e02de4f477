"""A LeNet from trained to small, proven, retrained, saved, exported and measured: python examples/lenet.py [EPOCHS]"""

import subprocess
import sys

import torch
from torch.nn.utils import prune as masks

import prunus
from prunus.demo.data import accuracy, batches, load_digits
from prunus.demo.lenet import LeNet
from prunus.deploy.measure import measure, onnx_runner, torch_runner
from prunus.train import distillation, fit

torch.manual_seed(0)
torch.set_num_threads(1)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
digits = load_digits()
x = digits.train.images[:64]

# 1  Train, and see where the parameters and the work are.
dense = LeNet()
fit(dense, batches(digits.train), epochs=epochs, lr=4e-3, on_progress=lambda p: print(f"\r{p}", end="", flush=True))
print("\n", prunus.profile(dense, x[:1]), sep="")

# 2  A mask alone: the same shape, the same arithmetic, one more tensor.
masked = LeNet()
masked.load_state_dict(dense.state_dict())
masks.ln_structured(masked.conv1, "weight", amount=0.5, n=2, dim=0)
print("masked:", masked.conv1.weight.shape, f"{prunus.profile(masked, x[:1], latency=False).macs:,} MACs")

# 3  Which layers can lose how much?
curves = prunus.sensitivity(dense, x[:1], evaluate=lambda net: accuracy(net, digits.validation))
curves.plot("sensitivity.svg")
print(curves, "no layer alone may lose 3 points:", curves.table(max_drop=3.0), sep="\n")

# 4  Cut, prove, retrain.
plan = prunus.plan(dense, x[:1], ratio={"conv1": 0.4, "conv2": 0.4, "fc1": 0.6, "fc2": 0.6})
small = plan.apply(dense)
print(plan, prunus.prove(dense, small, plan, x), sep="\n")
teacher = distillation(dense, temperature=2.0, weight=0.2)
fit(small, batches(digits.train), epochs=2 * epochs, lr=4e-3, loss=teacher)

# 5  Save without pickle; a new process needs the architecture's factory alone.
prunus.save(small, "small", overwrite=True)
code = "import prunus; from prunus.demo.lenet import LeNet; print(prunus.load('small', LeNet))"
subprocess.run([sys.executable, "-c", code], check=True)

# 6  Export, checked in ONNX Runtime; then time both, in turns.
print(prunus.export(dense, x, "dense.onnx"), prunus.export(small, x, "small.onnx"), sep="\n")
for batch in (x[:1], x):
    runners = {"torch dense": torch_runner(dense, batch), "torch small": torch_runner(small, batch)}
    runners |= {f"onnx {name}": onnx_runner(f"{name}.onnx", batch) for name in ("dense", "small")}
    print(len(batch), *(f"{name}: {latency}" for name, latency in measure(runners).items()), sep="\n  ")

# 7  Before and after.
for name, net in (("dense", dense), ("small", small)):
    cost = prunus.profile(net, x[:1])
    print(f"{name}: {cost.parameters:,} parameters, {cost.macs:,} MACs, {accuracy(net, digits.test):.2f} % on the test")
