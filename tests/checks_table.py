"""Count the checks that each estimator passes: ``python tests/checks_table.py``."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy is imported

import warnings
from collections import Counter
from unittest import SkipTest

import sklearn
from sklearn.utils import estimator_checks
from test_common import MORE, MORE_OF_TRANSFORMERS
from tiny import SETTINGS, tiny


def count(name):
    """How often each status occurs among the checks of one estimator."""
    estimator, statuses = tiny(name), Counter()
    results = estimator_checks.check_estimator(estimator, on_skip=None, on_fail=None)
    statuses.update(result["status"] for result in results)
    for check in MORE + (MORE_OF_TRANSFORMERS if hasattr(estimator, "transform") else []):
        try:
            getattr(estimator_checks, check)(name, tiny(name))
            statuses["passed"] += 1
        except SkipTest:
            statuses["skipped"] += 1
        except Exception as error:
            statuses["failed"] += 1
            print(name, check, repr(error)[:100])
    return statuses


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(f"scikit-learn {sklearn.__version__}")
    columns = ["passed", "failed", "xfail", "skipped"]
    print(f"{'':30}", *(f"{column:>8}" for column in columns))
    for name in SETTINGS:
        statuses = count(name)
        print(f"{name:30}", *(f"{statuses[column]:8}" for column in columns), flush=True)
