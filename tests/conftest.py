import os
from importlib.util import find_spec

# workers beside each other get in each other's way with several threads; numpy reads this on import
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# scikit-learn's array-API checks need it, and scipy reads it once, when it is imported
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest
import torch

# packages that examples in docstrings need, by the beginning of the example's name
EXTRAS = {
    "sk_deq.export.files": "safetensors",
    "sk_deq.export.onnx": "skl2onnx",
    "sk_deq.dask": "distributed",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is long is slow too; skip what needs an extra that is not installed."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
        for name, package in EXTRAS.items():
            if item.name.startswith(name) and find_spec(package) is None:
                item.add_marker(pytest.mark.skip(reason=f"needs {package}"))


@pytest.fixture
def unchanged_globals():
    """Fail a test that leaves global generators, thread count or default dtype changed."""

    def state():
        return (
            [str(part) for part in np.random.get_state()],  # noqa: NPY002
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = state()
    yield
    assert state() == before


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, and a GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param
