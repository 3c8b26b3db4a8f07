"""Time of the DEQ kernels against scikit-learn's rbf_kernel, interleaved in one process.

    python examples/benchmarks/kernel_speed.py --n 4000 --d 100

prints, for every activation and kernel, the median of the ratio of times over the repetitions, on
rows of unit norm and on rows of any norms (log-normal, spread 0.3). The first call, which builds
tables that later calls reuse, is timed apart. ``--neural-tangents`` adds the NTK of a ReLU network
of depth 20 by that package, if it is installed. ``--memory`` measures instead how much the peak of
the process's memory rises, over the size of the result.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from sklearn.metrics.pairwise import rbf_kernel

from sk_deq.kernels import deq_kernel


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory(X, activation, kernel):
    """How far the peak of this process's memory rises, over the size of the kernel matrix."""
    spec = {"activation": activation, "kernel": kernel, "recurrent_var": 0.5, "tau0": 1.0}
    by_norm = np.argsort(np.linalg.norm(X, axis=1))
    deq_kernel(X[np.r_[by_norm[:100], by_norm[::50], by_norm[-100:]]], **spec)  # builds all tables
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = status("VmHWM")
    K = deq_kernel(X, **spec)
    return (status("VmHWM") - before) / K.nbytes


def status(name):
    """Bytes that Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


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
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(options.n, options.d))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    spread = unit * np.exp(0.3 * rng.normal(size=(options.n, 1)))
    rows = {"unit": unit.astype(options.dtype), "any": spread.astype(options.dtype)}
    if options.memory:
        fresh = {"max_workers": 1, "mp_context": get_context("spawn"), "max_tasks_per_child": 1}
        with ProcessPoolExecutor(**fresh) as pool:
            for activation in options.activations:
                for kernel in options.kernels:
                    for name, X in rows.items():
                        ratio = pool.submit(peak_memory, X, activation, kernel).result()
                        print(f"{activation:12}{kernel:8}{name:8} peak {ratio:.3f} x the result")
        return
    print(f"n={options.n} d={options.d} {options.dtype}, median of {options.repeat}")
    print(f"{'activation':12}{'kernel':8}{'rows':8}{'first s':>9}{'s':>9}{'rbf s':>9}{'ratio':>8}")
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
