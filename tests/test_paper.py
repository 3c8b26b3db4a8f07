"""The experiments of examples/paper run at tiny sizes and find there what they should."""

import csv
from pathlib import Path

import pytest
from test_examples import ROOT, run

PAPER = ROOT / "examples" / "paper"


def tables(script, folder):
    """Run a script with --quick; return its tables, lists of dicts of strings, by name."""
    run(PAPER / f"{script}.py", "--quick", "--output", folder, cwd=folder)
    found = {}
    for path in Path(folder).glob("*.csv"):
        with open(path, newline="") as file:
            found[path.stem] = list(csv.DictReader(file))
    assert found and all(found.values())  # no table is empty
    return found


def test_spectra(tmp_path):
    found = tables("spectra", tmp_path)
    assert all(-1.2 < float(row["exponent"]) < -0.1 for row in found["spectra_exponent"])
    relu = [row for row in found["spectra_error"] if row["activation"] == "relu"]
    assert max(float(row["error"]) for row in relu if row["p"] == "200") < 0.06


def test_four_equations(tmp_path):
    found = tables("four_equations", tmp_path)
    for row in found["four_equations"]:
        assert float(row["residual"]) < 1e-8
        assert (row["n_layers"] == "1") == (row["zero_curvature"] == "1")
    for row in found["four_equations_leaky_relu"]:
        solved = float(row["residual"]) < 1e-8
        assert solved == (row["activation"] == "relu" and row["kernel"] == "ck")


def test_matching_on_data(tmp_path):
    found = tables("matching_on_data", tmp_path)
    for row in found["matching_infinite"]:
        if (
            row["activation"] == "relu"
        ):  # a scaled tanh is about as close to a tanh DEQ as its match
            assert float(row["matched"]) < 0.1 * float(row["unmatched"])
        assert float(row["exact_match"]) < 1e-5


def test_beyond_gaussian(tmp_path):
    found = tables("beyond_gaussian", tmp_path)
    for row in found["sphere"]:
        # the tail of a kinked activation's series is long, that of its NTK longer
        relu = {"ck": 1e-3, "ntk": 2e-2}[row["kernel"]]
        assert float(row["one_layer"]) < (1e-10 if row["activation"] == "tanh" else relu)


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("accuracy_against_width", {"width_readout", "width_full"}),
        ("beyond_training", {"training_curves", "regularisation", "trained_deq"}),
    ],
)
def test_networks(script, names, tmp_path):
    found = tables(script, tmp_path)
    assert set(found) == names
    for row in [row for name in names for row in found[name]]:
        for key, value in row.items():
            if "accuracy" in key or "agreement" in key:
                assert 0 <= float(value) <= 1
    for row in found.get("width_readout", found.get("trained_deq")):  # ten digits, few rows
        assert float(row.get("accuracy", row.get("labels_accuracy"))) > 0.6
