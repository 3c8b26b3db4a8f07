"""``python -m sk_deq``: what it prints, and that a failed check is told by the exit status."""

import re
import tomllib
from pathlib import Path

import sk_deq
from sk_deq import __main__ as command

ROOT = Path(__file__).parents[1]


def test_versions_device_and_self_test(capsys):
    assert command.main() == 0
    printed = capsys.readouterr().out
    words = {line.split()[0] for line in printed.splitlines() if line}
    assert words >= {"sk_deq", "python", "device", "threads", *command.PACKAGES}
    assert f"sk_deq        {sk_deq.__version__}\n" in printed
    assert "FAILED" not in printed and "self test: passed" in printed


def test_a_failed_check_is_told(monkeypatch, capsys):
    monkeypatch.setattr(command, "checks", lambda: [("one and one", 3.0, False), ("two", 2, True)])
    assert command.main() == 1
    printed = capsys.readouterr().out
    assert "one and one" in printed and "FAILED" in printed and "self test: 1 failed" in printed


def test_the_version_is_the_same_wherever_it_is_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"version = \{(.*)\}", (ROOT / "docs" / "index.rst").read_text())
    assert sk_deq.__version__ == project["version"] == cited[1]
