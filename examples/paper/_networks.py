"""The three networks of the training experiments, on equal terms, and their training."""

import math
import time

import numpy as np
import torch
from _common import Clock

from sk_deq.modules import DEQ, ExplicitNetwork
from sk_deq.theory import explicit_coefficients, match_explicit

MODELS = ("DEQ", "matched", "unmatched")


def make_features(model, p, width, seed, activation="relu", recurrent_var=0.2):
    """Features as torch module: the DEQ, its match, or as many layers of the DEQ's activation."""
    generator = torch.Generator().manual_seed(seed)
    spec = {"activation": activation, "recurrent_var": recurrent_var}
    if model == "DEQ":
        return DEQ(p, width, **spec, contract=True, generator=generator)
    match = match_explicit(**spec)
    if model == "matched":
        return ExplicitNetwork(p, width, match.layers, generator=generator)
    layers = [activation] * match.n_layers
    # of the same size as the DEQ's features
    gain = math.sqrt(match.target.diagonal / explicit_coefficients(layers).diagonal)
    features = ExplicitNetwork(p, width, layers, generator=generator)
    features.register_forward_hook(lambda module, inputs, output: gain * output)
    return features


class Network(torch.nn.Module):
    """Features in standard parametrisation, dropout and a linear readout."""

    def __init__(self, features, n_classes, dropout=0.0, seed=0):
        super().__init__()
        self.features = features
        self.dropout = torch.nn.Dropout(dropout)
        self.readout = torch.nn.utils.skip_init(torch.nn.Linear, features.width, n_classes)
        generator = torch.Generator().manual_seed(seed + 1000)
        weight = torch.randn(n_classes, features.width, generator=generator)
        self.readout.weight = torch.nn.Parameter(weight / math.sqrt(features.width))
        torch.nn.init.zeros_(self.readout.bias)

    def forward(self, x):
        z = math.sqrt(self.features.width) * self.features(x)
        return self.readout(self.dropout(z))


def train(network, X, y, epochs, lr=1e-3, weight_decay=0.0, seed=0):
    """AdamW, cross entropy, batches of 128; returns losses and processor seconds so far by step."""
    X, y = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y, dtype=torch.long)
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    losses, seconds, begin = [], [], time.process_time()
    for _ in range(epochs):
        for batch in torch.randperm(len(X), generator=generator).split(128):
            loss = torch.nn.functional.cross_entropy(network(X[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            seconds.append(time.process_time() - begin)
    return np.array(losses), np.array(seconds)


@torch.no_grad()
def outputs(module, X, batch=1000):
    """Output of a module for rows, in evaluation mode."""
    module.eval()
    X = torch.as_tensor(X, dtype=torch.float32)
    return torch.cat([module(rows) for rows in X.split(batch)])


def accuracy(network, X, y):
    return float((outputs(network, X).argmax(1).numpy() == y).mean())


def latency(module, X, repeats=3):
    """Median milliseconds per 1000 rows."""
    seconds = []
    for _ in range(repeats):
        with Clock() as clock:
            outputs(module, X)
        seconds.append(clock.seconds)
    return 1e6 * float(np.median(seconds)) / len(X)


def cost(module, X, repeats=9):
    """Median milliseconds of the processor per 1,000 rows: what runs beside counts little."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        outputs(module, X)
        found.append(time.process_time() - begin)
    return 1e6 * float(np.median(found)) / len(X)
