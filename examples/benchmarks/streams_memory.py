"""Memory while rows pass by in chunks: from a mapped file, and from a parquet file.

    python examples/benchmarks/streams_memory.py [--rows 1000000] [--features 20]
    python examples/benchmarks/streams_memory.py --sparse 10

With --sparse a mapped file of so many gigabytes of zeros, 1,000 columns, which takes no room on the
disk, passes by the ridge: the process's memory after a tenth of it and at the end. Else for each
model by how many megabytes the process's memory rose above that after the first chunk: over a tenth
of the rows and over all of them. It is flat if the two are alike.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CHUNK = 10_000


def write(folder, n_rows, n_features):
    """X.npy and rows.parquet of so many rows, written in chunks; the target is the last column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    shape = n_rows, n_features + 1
    mapped = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, shape)
    names = [f"x{j}" for j in range(n_features)] + ["y"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    with pq.ParquetWriter(folder / "rows.parquet", schema) as parquet:
        for start in range(0, n_rows, CHUNK):
            rows = random.normal(size=(CHUNK, n_features + 1)).astype(np.float32)
            rows[:, -1] = np.sin(rows[:, 0]) + rows[:, 1] ** 2
            mapped[start : start + CHUNK] = rows
            parquet.write_table(pa.table(dict(zip(names, rows.T, strict=True)), schema))
    mapped.flush()


def chunks(folder, source, n_rows):
    """X and y of each chunk."""
    if source == "memmap":
        rows = np.load(folder / "rows.npy", mmap_mode="r")
        for start in range(0, n_rows, CHUNK):
            yield rows[start : start + CHUNK, :-1], rows[start : start + CHUNK, -1]
        return
    import pyarrow.parquet as pq

    file = pq.ParquetFile(folder / "rows.parquet")
    for k, batch in enumerate(file.iter_batches(CHUNK)):
        if k * CHUNK >= n_rows:
            return
        rows = batch.to_pandas().to_numpy()
        yield rows[:, :-1], rows[:, -1]


def pass_by(folder, model, source, n_rows):
    """Fit one model to the rows, and return by how many megabytes the peak of memory rose."""
    from sk_deq import DEQKernelRidge, EquivalentExplicitRegressor, KernelMatcher

    first = next(chunks(folder, source, n_rows))
    ridge = {"solver": "nystroem", "landmarks": first[0][:500], "alpha": 1.0}
    ridge |= {"hyperparameters": None, "device": "cpu"}
    estimator = {
        "ridge": lambda: DEQKernelRidge(**ridge),
        "network": lambda: EquivalentExplicitRegressor(width=64, device="cpu"),
        "features": lambda: KernelMatcher(64, center=False, device="cpu"),
    }[model]()
    if model == "features":
        estimator.fit(first[0])
    else:
        estimator.partial_fit(*first)  # what is loaded late is loaded now
    before = highest = anonymous_memory()
    for X, y in chunks(folder, source, n_rows):
        if model == "features":
            estimator.transform(X)
        else:
            estimator.partial_fit(X, y)
        highest = max(highest, anonymous_memory())
    return highest - before


def anonymous_memory():
    """Megabytes of this process, pages of mapped files apart."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def pass_sparse_by(folder, gigabytes, n_features=1000):
    """Print the memory of a process after a tenth of a sparse file, and after all of it."""
    from sk_deq import DEQKernelRidge

    n_rows = int(gigabytes * 2**30) // (4 * n_features) // CHUNK * CHUNK
    shape = n_rows, n_features
    rows = np.lib.format.open_memmap(folder / "zeros.npy", "w+", np.float32, shape)
    landmarks = np.random.default_rng(0).normal(size=(50, n_features)).astype(np.float32)
    model = DEQKernelRidge(
        alpha=1.0, solver="nystroem", landmarks=landmarks, hyperparameters=None, device="cpu"
    )
    sizes, y = [], np.zeros(CHUNK)
    for start in range(0, n_rows, CHUNK):
        model.partial_fit(rows[start : start + CHUNK], y)
        sizes.append(anonymous_memory())
    tenth, whole = max(sizes[: len(sizes) // 10]), max(sizes)
    print(
        f"{n_rows} rows of {rows.nbytes / 2**30:.1f} GB: {tenth:.0f} MB over the first tenth, "
        f"{whole:.0f} MB over all, {100 * (whole / tenth - 1):.1f} % more"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--sparse", type=float, metavar="GIGABYTES")
    parser.add_argument("--one", nargs=4, metavar=("FOLDER", "MODEL", "SOURCE", "ROWS"))
    args = parser.parse_args()
    if args.one:
        folder, model, source, n_rows = args.one
        print(f"{pass_by(Path(folder), model, source, int(n_rows)):.0f}")
        return
    with tempfile.TemporaryDirectory() as name:
        if args.sparse:
            pass_sparse_by(Path(name), args.sparse)
            return
        write(Path(name), args.rows, args.features)
        print(f"rows.npy: {Path(name, 'rows.npy').stat().st_size / 2**20:.0f} MB")
        print("model     source      tenth   all, MB")
        for model in ("ridge", "network", "features"):
            for source in ("memmap", "parquet"):
                rose = []
                for n_rows in (args.rows // 10, args.rows):
                    one = ["--one", name, model, source, str(n_rows)]
                    done = subprocess.run(
                        [sys.executable, __file__, *one], capture_output=True, text=True, check=True
                    )
                    rose.append(int(done.stdout))
                print(f"{model:9} {source:9} {rose[0]:7} {rose[1]:7}")


if __name__ == "__main__":
    main()
