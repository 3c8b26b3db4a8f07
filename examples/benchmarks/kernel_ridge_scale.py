"""Kernel ridge regression: alpha paths, landmarks, memory, and how time grows with the rows.

    python examples/benchmarks/kernel_ridge_scale.py --part path
    python examples/benchmarks/kernel_ridge_scale.py --part landmarks --n 100000
    python examples/benchmarks/kernel_ridge_scale.py --part landmarks --n 1000000 --memmap DIR
    python examples/benchmarks/kernel_ridge_scale.py --part doubling --largest 16000 --plot FILE

path: ten alphas with leave-one-out, the kernel given, against the kernel and one scipy.linalg.eigh,
and against GridSearchCV with five folds (``--grid-search``). landmarks: solver="nystroem" on --n
rows of 20 features, optionally from a file that is mapped into memory; seconds, memory above that
of the process before the fit, and R^2 on 10,000 other rows. doubling: seconds of the kernel and of
every solver as n doubles, and the exponents. Memory is of anonymous pages: those of the mapped file
can be dropped by the system at any time.
"""

import argparse
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import scipy.linalg
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold

from sk_deq import DEQKernelRidge
from sk_deq.kernels import deq_kernel

ALPHAS = np.logspace(-3, 1.5, 10)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def make_rows(rng, n, n_features=20):
    X = rng.normal(size=(n, n_features))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=n)


def anonymous_memory():
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class PeakMemory:
    """The largest anonymous memory within a with statement, sampled 50 times a second."""

    def __enter__(self):
        self.base = self.peak = anonymous_memory()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.02):
            self.peak = max(self.peak, anonymous_memory())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def path(options):
    n = options.n or 4000
    X, y = make_rows(np.random.default_rng(0), n)
    model = DEQKernelRidge(ALPHAS, solver="eigh", hyperparameters=None)
    model.fit(X[:200], y[:200])
    scaled = X / np.sqrt((X**2).sum(1).mean())

    def kernel_and_eigh():
        scipy.linalg.eigh(deq_kernel(scaled), overwrite_a=True, check_finite=False)

    pairs = []
    for _ in range(options.repeat):
        pairs.append((seconds(lambda: model.fit(X, y)), seconds(kernel_and_eigh)))
        print("eigh path {:.2f} s, kernel and scipy eigh {:.2f} s".format(*pairs[-1]), flush=True)
    print(f"n={n}, 10 alphas: ratio {statistics.median(a / b for a, b in pairs):.2f}")
    if options.grid_search:
        grid = GridSearchCV(
            DEQKernelRidge(hyperparameters=None), {"alpha": ALPHAS}, cv=KFold(5), refit=True
        )
        theirs = seconds(lambda: grid.fit(X, y))
        print(
            f"GridSearchCV {theirs:.1f} s: {theirs / statistics.median(p[0] for p in pairs):.1f} x"
        )


def landmarks(options):
    n = options.n or 100_000
    rng = np.random.default_rng(0)
    X_test, y_test = make_rows(rng, 10_000)
    if options.memmap:
        file = Path(options.memmap) / f"rows_{n}.npy"
        X = np.lib.format.open_memmap(file, "w+", np.float64, (n, 20))
        y = np.empty(n)
        for start in range(0, n, 100_000):
            part = slice(start, min(n, start + 100_000))
            X[part], y[part] = make_rows(rng, part.stop - part.start)
        X.flush()
        del X
        X = np.load(file, mmap_mode="r")
    else:
        X, y = make_rows(rng, n)
    model = DEQKernelRidge(
        ALPHAS[::3],
        activation=options.activation,
        bias_var=options.bias_var,
        recurrent_var=options.recurrent_var,
        solver="nystroem",
        n_components=options.n_components,
        random_state=0,
    )
    model.fit(X[:5000], y[:5000])  # tables
    with PeakMemory() as memory:
        fit = seconds(lambda: model.fit(X, y))
    predict = seconds(lambda: model.predict(X_test))
    print(
        f"n={n}, {options.n_components} landmarks, {len(ALPHAS[::3])} alphas"
        f"{', memory-mapped' if options.memmap else ''}: fit {fit:.1f} s, "
        f"{(memory.peak - memory.base) / 1e9:.2f} GB above {memory.base / 1e9:.2f} GB, "
        f"predict 10,000 rows {predict:.2f} s, R^2 {model.score(X_test, y_test):.3f}, "
        f"alpha {model.alpha_:.3g}",
        flush=True,
    )
    if options.memmap:
        file.unlink()


def doubling(options):
    sizes = [1000 * 2**k for k in range(10) if 1000 * 2**k <= options.largest]
    work = {
        "kernel": lambda X, y: deq_kernel(X),
        "eigh, 10 alphas": lambda X, y: DEQKernelRidge(
            ALPHAS, solver="eigh", hyperparameters=None
        ).fit(X, y),
        "cholesky": lambda X, y: DEQKernelRidge(
            0.1, solver="cholesky", hyperparameters=None
        ).fit(X, y),
        "cg": lambda X, y: DEQKernelRidge(
            0.1, solver="cg", hyperparameters=None
        ).fit(X, y),
        "nystroem, 500": lambda X, y: DEQKernelRidge(
            0.1, solver="nystroem", n_components=500, hyperparameters=None
        ).fit(X, y),
    }  # fmt: skip
    largest = {"eigh, 10 alphas": options.largest_eigh}
    table = {name: [] for name in work}
    for n in sizes:
        X, y = make_rows(np.random.default_rng(0), n)
        for name, function in work.items():
            if n <= largest.get(name, n):
                function(X[:500], y[:500])
                repeats = 3 if n <= 4000 else 1
                time_ = statistics.median(seconds(lambda: function(X, y)) for _ in range(repeats))  # noqa: B023
                table[name].append(time_)
                print(f"n={n} {name}: {time_:.3f} s", flush=True)
    print("| work | " + " | ".join(f"{n:,}" for n in sizes) + " | exponent |")
    print("|---|" + "---|" * (len(sizes) + 1))
    for name, times in table.items():
        used = sizes[: len(times)]
        exponent = np.polyfit(np.log(used[-3:]), np.log(times[-3:]), 1)[0]
        cells = [f"{t:.2f}" for t in times] + ["-"] * (len(sizes) - len(times))
        print(f"| {name} | " + " | ".join(cells) + f" | {exponent:.1f} |")
    if options.plot:
        import matplotlib.pyplot as plt

        for name, times in table.items():
            plt.loglog(sizes[: len(times)], times, "o-", label=name)
        plt.xlabel("rows")
        plt.ylabel("seconds")
        plt.legend()
        plt.savefig(options.plot, dpi=150)


def grid_search_reference(options):
    """KernelRidge of scikit-learn with an RBF kernel on the same grid, for comparison."""
    X, y = make_rows(np.random.default_rng(0), options.n or 4000)
    grid = GridSearchCV(KernelRidge(kernel="rbf"), {"alpha": ALPHAS}, cv=KFold(5))
    print(f"KernelRidge in GridSearchCV {seconds(lambda: grid.fit(X, y)):.1f} s")


PARTS = {
    "path": path,
    "landmarks": landmarks,
    "doubling": doubling,
    "kernel_ridge": grid_search_reference,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="path")
    parser.add_argument("--n", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--grid-search", action="store_true")
    parser.add_argument("--n-components", type=int, default=2000)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--bias-var", type=float, default=0.5)
    parser.add_argument("--recurrent-var", type=float, default=0.5)
    parser.add_argument("--memmap", metavar="DIR")
    parser.add_argument("--largest", type=int, default=16_000)
    parser.add_argument("--largest-eigh", type=int, default=8_000)
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
