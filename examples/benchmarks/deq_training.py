"""What loose, warm-started fixed points save in the training of a DEQClassifier.

    python examples/benchmarks/deq_training.py [--repeats 3]

The digits of scikit-learn, half of them to train on: 898 rows in minibatches, width 256; and 160
of them in one batch, width 512. Each is trained from scratch, all its weights, with fixed points
that start cold and are solved to `tol`, and as they are by default in training, in turns. CPU
seconds are those of all threads.
"""

import argparse
import statistics
import time
from unittest.mock import patch

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from sk_deq import DEQClassifier
from sk_deq._nets import training


def as_in_prediction(*of_training):
    """No options: the solves of training are then those of prediction."""
    return {}, ""


SETTINGS = {"cold, tol": as_in_prediction, "warm, loose": training.options_of_training}


def fitted(data, seed, width, options):
    X, X_test, y, y_test = data
    model = DEQClassifier(width=width, hyperparameters=None, random_state=seed)
    with patch.object(training, "options_of_training", options):
        begin = time.process_time()
        model.fit(X, y)
        seconds = time.process_time() - begin
    # of the forward and the backward solves together
    n_iter = statistics.mean(epoch["fixed_point_n_iter"] for epoch in model.history_)
    return 2 * n_iter, seconds, model.score(X_test, y_test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    X, y = load_digits(return_X_y=True)
    X = scale(X)
    for n_rows, width in [(898, 256), (160, 512)]:
        data = train_test_split(X, y, train_size=n_rows, stratify=y, random_state=0)
        fitted(data, 0, width, SETTINGS["warm, loose"])  # imports and tables
        runs = {name: [] for name in SETTINGS}
        for seed in range(repeats):
            for name, options in SETTINGS.items():
                runs[name].append(fitted(data, seed, width, options))
        print(f"{n_rows} rows, width {width}: mean of {repeats} fits")
        for name, run in runs.items():
            n_iter, seconds, accuracy = map(statistics.mean, zip(*run, strict=True))
            saved = statistics.mean(r[1] for r in runs["cold, tol"]) / seconds
            print(
                f"  {name:<12} {n_iter:5.1f} iterations per step  {seconds:6.2f} CPU s "
                f"({saved:.1f} times as fast)  accuracy {accuracy:.4f}"
            )


if __name__ == "__main__":
    main()
