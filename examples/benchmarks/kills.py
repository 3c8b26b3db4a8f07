"""Fits that are killed at random moments, and go on: do they end with the same bits?

    python examples/benchmarks/kills.py [--kills 20] [--seed 0]

Each fit, of a network on digits and of a kernel ridge by landmark sums on a mapped file, runs in a
process of its own, which is killed by SIGKILL at a moment between its begin and its end; the same
fit then goes on from its checkpoint to its end. Prints how many of them are equal, bit for bit, to
one that was never stopped. POSIX only: processes are forked.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import sk_deq._ridge.checkpoints
from sk_deq import DEQClassifier, DEQKernelRidge

sk_deq._ridge.checkpoints._EVERY = 0.0  # else a fit this small is over before its first file


def network(folder, checkpoint_dir):
    """SHA-256 of all that a fit ends with."""
    X, y = load_digits(return_X_y=True)
    model = DEQClassifier(
        16, max_epochs=10, early_stopping=True, random_state=0, device="cpu",
        checkpoint_dir=checkpoint_dir,
    ).fit(X[:300] / 16, y[:300])  # fmt: skip
    arrays = [tensor.numpy() for tensor in model.module_.state_dict().values()]
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in model.history_]
    return digest(arrays, history)


def ridge(folder, checkpoint_dir):
    """SHA-256 of all that a fit ends with."""
    path = folder / "rows.npy"
    if not path.exists():
        rows = np.random.default_rng(0).normal(size=(60_000, 5)).astype(np.float32)
        np.save(path, rows)
    X = np.load(path, mmap_mode="r")
    model = DEQKernelRidge(
        [0.01, 1.0], solver="nystroem", n_components=250, hyperparameters=None, random_state=0,
        device="cpu", checkpoint_dir=checkpoint_dir,
    ).fit(X, np.sin(X[:, 0]) + X[:, 1])  # fmt: skip
    return digest([model.dual_coef_, model.validation_errors_], [model.alpha_, model.intercept_])


def digest(arrays, values):
    """SHA-256 of arrays and values."""
    found = hashlib.sha256(repr(values).encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def in_a_process(fit, folder, checkpoint_dir, killed_after=None):
    """What a fit returns, or None where it was killed before its end; and its seconds."""
    result, start = folder / "result", time.perf_counter()
    result.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            result.write_text(fit(folder, checkpoint_dir))
        finally:
            os._exit(0)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    seconds = time.perf_counter() - start
    return result.read_text() if result.exists() else None, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments, failed = random.Random(args.seed), 0
    for fit in (network, ridge):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            expected, seconds = in_a_process(fit, folder, None)
            equal = begun = 0
            for _ in range(args.kills):
                while True:  # until a fit is killed before its end
                    own = Path(tempfile.mkdtemp(dir=folder))
                    moment = moments.uniform(0, seconds)
                    if in_a_process(fit, folder, own, moment)[0] is None:
                        break
                begun += (own / "checkpoint.npz").exists()
                found = in_a_process(fit, folder, own)[0]
                equal += found == expected and os.listdir(own) == ["checkpoint.npz"]
        print(
            f"{fit.__name__}: {args.kills} killed, {begun} of them with a checkpoint, "
            f"{equal} equal to the fit that was never stopped",
            flush=True,
        )
        failed += equal < args.kills
    return failed


if __name__ == "__main__":
    sys.exit(main())
