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
    *(f"docs/{p}.rst" for p in ("index", "getting_started", "user_guide", "tabular", "deployment")),
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


@pytest.mark.long
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    assert run(path, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_code_blocks(page, tmp_path):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, reason=f"the page needs {package}")
    page = ROOT / page
    blocks = python_blocks(page.read_text(), page)
    assert blocks
    script = tmp_path / "blocks.py"
    script.write_text("\n\n".join(blocks))
    printed = run(script, cwd=tmp_path)
    promised = re.findall(r"^print\(.*\)  # ([\d.]+)$", "\n".join(blocks), re.M)
    numbers = [float(line) for line in re.findall(r"^\d\.\d+$", printed, re.M)]
    for number in promised:  # pages say what one sees, to two digits
        assert any(abs(one - float(number)) < 0.02 for one in numbers), (number, printed)


@pytest.mark.slow
def test_comparison_plot(tmp_path):
    script = ROOT / "examples" / "benchmarks" / "comparison_plot.py"
    picture = tmp_path / "a.png"
    printed = run(script, ROOT / "docs" / "tabular" / "uci_ten.csv", picture, cwd=tmp_path)
    assert "45 sets" in printed and len(re.findall(r"^\w+ +0\.\d", printed, re.M)) == 10
    assert picture.exists() and (tmp_path / "a_dark.png").exists()
