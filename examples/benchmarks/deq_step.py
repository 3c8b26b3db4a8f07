"""One training step of a DEQ against torchdeq's solvers, and the cost of the batch loop.

    pip install torchdeq==0.1.0
    python examples/benchmarks/deq_step.py [--width 1024] [--batch 256] [--device cuda]

A step is forward and backward of sum(z * direction) at equal weights, inputs and tolerance, by
implicit differentiation on both sides. torchdeq is given the input injection computed once, as ours
is, and each of its solvers forward and backward. The sides take turns; the table holds medians.

The second table times one batch of a 784-256-10 perceptron in DEQClassifier's own loop (the private
skorch net) and in a loop written by hand: same model, optimiser, schedule and data.
"""

import argparse
import statistics
import time
from collections import OrderedDict

import torch
from torch import nn

from sk_deq._nets.tasks import cross_entropy, hits
from sk_deq._nets.training import make_net
from sk_deq.modules import DEQ, ExplicitNetwork


def timed(function, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def in_turns(sides, repeats, device):
    """Median seconds of each side, the sides taking turns."""
    seconds = {name: [] for name in sides}
    for repeat in range(repeats + 2):
        for name, side in sides.items():
            elapsed = timed(side, device)
            if repeat >= 2:
                seconds[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items()}


def step_sides(args, device):
    generator = torch.Generator().manual_seed(0)
    deq = DEQ(784, args.width, tol=args.tol, max_iter=200, generator=generator, device=device)
    x = torch.randn(args.batch, 784, generator=generator).to(device) / 28
    direction = torch.randn(args.batch, args.width, generator=generator).to(device)
    n_iter = {}
    deq.report = lambda solved, stage: n_iter.update({stage: solved.n_iter})
    gradients = {}

    def ours():
        deq.zero_grad()
        (deq(x) * direction).sum().backward()
        gradients["sk_deq"] = deq.recurrent_weight.grad

    sides = {"sk_deq": ours}
    try:
        from torchdeq import get_deq
    except ImportError:
        print("torchdeq is not installed: no comparison")
        return sides, n_iter, gradients
    W = deq.effective_recurrent_weight().detach().clone().requires_grad_()
    U = deq.input_weight.detach().clone().requires_grad_()
    b = deq.bias.detach().clone().requires_grad_()

    def torchdeq_side(name, solver):
        def step():
            for parameter in (W, U, b):
                parameter.grad = None
            u = torch.addmm(b, x, U.T)

            def f(z):
                return torch.relu(torch.addmm(u, z, W.T)) - deq.mean

            z, _ = solver(f, torch.zeros_like(u))
            (z[-1] / args.width**0.5 * direction).sum().backward()
            gradients[name] = W.grad

        return step

    # "rel" is the tolerance that ours means; "abs", torchdeq's default, asks for more iterations
    methods = [(m, "rel") for m in ("fixed_point_iter", "anderson", "broyden")]
    for method, mode in [*methods, ("fixed_point_iter", "abs")]:
        solver = get_deq(
            core="sliced",
            ift=True,
            f_solver=method,
            b_solver=method,
            f_max_iter=200,
            b_max_iter=200,
            f_tol=args.tol,
            b_tol=args.tol,
            f_stop_mode=mode,
            b_stop_mode=mode,
        )
        name = f"torchdeq {method}, {mode}"
        sides[name] = torchdeq_side(name, solver)
    return sides, n_iter, gradients


def products_side(args, device, n_products):
    """The matrix products of one step alone."""
    W = torch.randn(args.width, args.width, device=device)
    z = torch.randn(args.batch, args.width, device=device)
    x = torch.randn(args.batch, 784, device=device)
    U = torch.randn(args.width, 784, device=device)

    def products():
        x @ U.T
        for _ in range(n_products):
            z @ W
        z.T @ z
        z.T @ x

    return products


def loop_sides(device, batch=128, n_batches=200):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(batch * n_batches, 784, generator=generator).to(device)
    y = torch.randint(10, (batch * n_batches,), generator=generator).to(device)
    weight = torch.ones(len(X), device=device)

    def network():
        features = ExplicitNetwork(784, 256, ["relu"], generator=torch.Generator().manual_seed(1))
        readout = nn.Linear(256, 10)
        return nn.Sequential(OrderedDict(features=features, readout=readout)).to(device)

    def by_hand():
        module, order = network(), torch.Generator().manual_seed(2)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.002, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, n_batches)

        def epoch():
            total, correct = 0.0, 0
            for rows in torch.randperm(len(X), generator=order).to(device).split(batch):
                X_batch, y_batch = X[rows], y[rows]
                logits = module(X_batch)
                loss = nn.functional.cross_entropy(logits, y_batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total = total + loss.detach() * len(rows)
                correct = correct + (logits.detach().argmax(1) == y_batch).sum()
            return float(total), float(correct)

        return epoch

    def by_skorch():
        net = make_net(
            network(),
            criterion=cross_entropy,
            max_epochs=1,
            batch_size=batch,
            lr=0.002,
            weight_decay=0.01,
            accuracy=hits,
        )
        net.generator = torch.Generator().manual_seed(2)
        return lambda: net.partial_fit((X, y, weight))

    def fresh(make):
        # a new network each time, its making left out of the time by making it ahead
        epochs = [make() for _ in range(40)]
        return lambda: epochs.pop()()

    return {"by hand": fresh(by_hand), "sk_deq's skorch net": fresh(by_skorch)}, n_batches


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tol", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)

    sides, n_iter, gradients = step_sides(args, device)
    sides["sk_deq"]()
    products = int(n_iter["forward"].max() + n_iter["backward"].max())
    sides["matrix products alone"] = products_side(args, device, products)
    medians = in_turns(sides, args.repeats, device)
    print(f"one step, width {args.width}, batch {args.batch}, tol {args.tol:g}, {device}")
    print(
        f"iterations {products}: forward {n_iter['forward'].double().mean():.1f} per row, ", end=""
    )
    print(f"backward {n_iter['backward'].double().mean():.1f}")
    for name, median in medians.items():
        ratio = medians["sk_deq"] / median
        line = f"{name:<32}{1000 * median:9.2f} ms   sk_deq / this {ratio:5.2f}"
        if name in gradients and name != "sk_deq":
            error = torch.linalg.norm(gradients[name] - gradients["sk_deq"])
            error = error / torch.linalg.norm(gradients["sk_deq"])
            line += f"   gradients differ by {float(error):.1e}"
        print(line)

    sides, n_batches = loop_sides(device)
    medians = in_turns(sides, args.repeats, device)
    print("\none batch of a 784-256-10 perceptron, batch 128")
    for name, median in medians.items():
        ratio = median / medians["by hand"]
        print(f"{name:<32}{1000 * median / n_batches:9.3f} ms   this / by hand {ratio:5.2f}")


if __name__ == "__main__":
    main()
