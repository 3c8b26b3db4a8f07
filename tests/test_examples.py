"""The examples, the README's and the pages' code blocks run; in CI the gallery itself does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
PAGES_WITH_CODE = [
    "README.md",
    *(f"docs/{p}.rst" for p in ("getting_started", "user_guide", "tabular", "deployment")),
]
NEEDS = {"docs/deployment.rst": ("safetensors", "skops", "skl2onnx", "onnxruntime", "distributed")}


def run(*command, cwd, **environment):
    """Run Python with warnings as errors; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_blocks(text, page):
    """The Python code blocks of a Markdown or reStructuredText page, one after the other."""
    if page.suffix == ".md":
        return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M) for block in blocks]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    assert run(path, cwd=tmp_path)


@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_code_blocks(page, tmp_path):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, reason=f"the page needs {package}")
    page = ROOT / page
    blocks = python_blocks(page.read_text(), page)
    assert blocks
    script = tmp_path / "blocks.py"
    script.write_text("\n\n".join(blocks))
    run(script, cwd=tmp_path)
