import numpy as np
import pytest
import torch


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
