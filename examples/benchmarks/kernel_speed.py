"""Time of the DEQ kernels against scikit-learn's rbf_kernel, interleaved in one process.

    python examples/benchmarks/kernel_speed.py --n 4000 --d 100

prints, for every activation and kernel, the median of the ratio of times over the repetitions, on
rows of unit norm and on rows of any norms (log-normal, spread 0.3). The first call, which builds
tables that later calls reuse, is timed apart. ``--neural-tangents`` adds the NTK of a ReLU network
of depth 20 by that package, if it is installed.
"""

import argparse
import statistics
import time

import numpy as np
from sklearn.metrics.pairwise import rbf_kernel

from sk_deq.kernels import deq_kernel


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def neural_tangents_kernel(X, depth=20):
    import jax
    from neural_tangents import stax

    jax.config.update("jax_enable_x64", True)
    layers = [stax.Dense(512), stax.Relu()] * depth
    _, _, kernel = stax.serial(*layers, stax.Dense(1))
    kernel = jax.jit(kernel, static_argnames="get")
    return lambda: np.asarray(kernel(X, None, get="ntk"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--d", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--activations", nargs="+", default=["relu", "tanh", "erf", "gelu", "elu"])
    parser.add_argument("--kernels", nargs="+", default=["ck", "ntk"])
    parser.add_argument("--neural-tangents", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(options.n, options.d))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    spread = unit * np.exp(0.3 * rng.normal(size=(options.n, 1)))
    print(f"n={options.n} d={options.d} {options.dtype}, median of {options.repeat}")
    print(f"{'activation':12}{'kernel':8}{'rows':8}{'first s':>9}{'s':>9}{'rbf s':>9}{'ratio':>8}")
    rows = {"unit": unit.astype(options.dtype), "any": spread.astype(options.dtype)}
    for activation in options.activations:
        for kernel in options.kernels:
            for name, X in rows.items():

                def ours(X=X, activation=activation, kernel=kernel):
                    deq_kernel(
                        X,
                        activation=activation,
                        kernel=kernel,
                        recurrent_var=0.5,
                        device=options.device,
                    )

                first = seconds(ours)
                pairs = [(seconds(ours), seconds(lambda X=X: rbf_kernel(X)))
                         for _ in range(options.repeat)]  # fmt: skip
                mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                print(
                    f"{activation:12}{kernel:8}{name:8}{first:9.3f}{mine:9.3f}{theirs:9.3f}"
                    f"{ratio:8.2f}",
                    flush=True,
                )
    if options.neural_tangents:
        X = rows["any"]
        theirs = neural_tangents_kernel(X)
        theirs()
        ours = [seconds(lambda: deq_kernel(X, kernel="ntk", recurrent_var=0.5)) for _ in range(3)]
        other = [seconds(theirs) for _ in range(3)]
        ratio = statistics.median(b / a for a, b in zip(ours, other, strict=True))
        print(
            f"neural-tangents, ReLU NTK, depth 20: {statistics.median(other):.2f} s, {ratio:.1f} x"
        )


if __name__ == "__main__":
    main()
