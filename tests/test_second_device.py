"""The checks on a second device, in a process of their own.

Autograd asks for the devices once in a process: the second one has to be known before.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "second_device_checks.py"


@pytest.mark.long
def test_checks_on_a_second_device():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=CHECKS.parents[1], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr
