"""Time until a DEQ's training reaches the loss that torchdeq reaches in ten epochs.

    pip install torchdeq==0.1.0
    python examples/benchmarks/torchdeq_training.py --data-dir DIR [--rows 10000] [--width 512]

DIR holds mnist.npz. Model, start, batches, optimiser and learning rates are the same; only how the
fixed point is solved for, and its gradient, differs: as DEQClassifier does in training, or by each
of torchdeq's solvers at torchdeq's default tolerances, by implicit differentiation. The sides take
turns, epoch by epoch, and only epochs are timed.
"""

import argparse
import time
from collections import OrderedDict

import torch
from mnist_networks import load
from torch import nn
from torchdeq import get_deq

from sk_deq._nets import training
from sk_deq._nets.tasks import cross_entropy, hits
from sk_deq.modules import DEQ

SOLVERS = ("fixed_point_iter", "anderson", "broyden")


class ByTorchDEQ(DEQ):
    """A DEQ whose fixed point a solver of torchdeq finds."""

    def by(self, name):
        self.solve = get_deq(core="sliced", ift=True, f_solver=name, b_solver=name)
        return self

    def forward(self, x):
        W, u = self.effective_recurrent_weight(), self._drive(x)

        def layer(z):
            return self.activation(torch.addmm(u, z, W.T)) - self.mean

        return self.solve(layer, torch.zeros_like(u))[0][-1] / self.width**0.5


def network(features, n_classes):
    readout = nn.Linear(features.width, n_classes)
    nn.init.zeros_(readout.weight)
    nn.init.zeros_(readout.bias)
    return nn.Sequential(OrderedDict(features=features, readout=readout))


def epochs(module, data, settings):
    """Train; after each epoch give its loss and seconds so far."""
    net = training.make_net(module, criterion=cross_entropy, accuracy=hits, **settings)
    net.generator, net.valid, seconds = torch.Generator().manual_seed(1), None, 0.0
    by_torchdeq = isinstance(module.features, ByTorchDEQ)
    net.solving = {} if by_torchdeq else training.options_of_training(
        module.features, len(data[0]), settings["max_epochs"]
    )[0]  # fmt: skip
    for _ in range(settings["max_epochs"]):
        net.history.new_epoch()
        begin = time.perf_counter()
        net.run_single_epoch(net.get_iterator(data, training=True), True, "train", None)
        seconds += time.perf_counter() - begin
        yield net.history[-1]["train_loss"], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=SOLVERS)
    args = parser.parse_args()
    X, y, *_ = load(args.data_dir, "mnist")
    X, y = torch.tensor(X[: args.rows]) / 255, torch.tensor(y[: args.rows]).long()
    X = X / X.square().sum(1).mean().sqrt()
    data = X, y, torch.ones(len(X))
    settings = {"max_epochs": 10, "batch_size": 256, "lr": 0.005, "weight_decay": 0.1}

    def features(kind):
        return kind(X.shape[1], args.width, generator=torch.Generator().manual_seed(0))

    modules = {"sk_deq": features(DEQ)}
    modules |= {f"torchdeq, {name}": features(ByTorchDEQ).by(name) for name in args.solvers}
    sides = {name: epochs(network(module, 10), data, settings) for name, module in modules.items()}
    found = {name: [] for name in sides}
    for _ in range(settings["max_epochs"]):
        for name, side in sides.items():
            found[name].append(next(side))
    print(f"{len(X)} rows, width {args.width}, {settings['max_epochs']} epochs")
    for name, path in found.items():
        print(f"{name:<28} loss {path[-1][0]:.5f} after {path[-1][1]:6.1f} s")
    fastest = min(list(found)[1:], key=lambda name: found[name][-1][1])
    loss, theirs = found[fastest][-1]
    reached = [seconds for own, seconds in found["sk_deq"] if own <= loss]
    if reached:
        print(f"loss of {fastest} reached after {reached[0] / theirs:.2f} of its time")
    else:
        print(f"loss of {fastest} not reached")


if __name__ == "__main__":
    main()
