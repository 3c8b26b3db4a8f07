"""The experiments of examples/paper run at tiny sizes and find there what they should."""

import csv
import re
from pathlib import Path

import pytest
from test_examples import ROOT, run

pytestmark = pytest.mark.long

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")
PAPER = ROOT / "examples" / "paper"


def tables(script, folder, *options):
    """Run a script with --quick; return its tables, lists of dicts of strings, by name."""
    run(PAPER / f"{script}.py", "--quick", "--output", folder, *options, cwd=folder)
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
        ("accuracy_against_width", {"width_readout", "width_full", "width_all_rows"}),
        ("beyond_training", {"training_speed", "regularisation", "trained_deq"}),
    ],
)
def test_networks(script, names, tmp_path):
    found = tables(script, tmp_path)
    assert set(found) == names
    for row in [row for name in names for row in found[name]]:
        for key, value in row.items():
            if "accuracy" in key or "agreement" in key:
                assert 0 <= float(value) <= 1
    names = "width_readout", "width_all_rows", "trained_deq"
    for row in [row for name in names for row in found.get(name, [])]:  # ten digits, few rows
        assert float(row.get("accuracy", row.get("labels_accuracy"))) > 0.6


def numbers(rows, **wanted):
    """The rows that have these values, their numbers as floats."""
    rows = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert rows
    return [{k: float(v) if NUMBER.fullmatch(v) else v for k, v in row.items()} for row in rows]


def test_depth_by_activation(tmp_path):
    found = tables("depth_by_activation", tmp_path)
    for row in numbers(found["depth"]):
        assert row["residual"] < 1e-8
        assert (row["n_layers"] == 1) == (abs(row["excess"]) < 1e-12)
    for row in numbers(found["depth_boundary"]):  # curved, and one layer all the same
        assert row["quadratic"] > 1e-3 and row["n_layers"] == 1 and row["residual"] < 1e-8
    rows = {row["layer"]: row for row in numbers(found["beyond_four"])}
    (data,) = [key for key in rows["DEQ"] if key.startswith("digits")]
    own, clipped = rows["own, two parameters"], rows["clipped line"]
    assert own["b1"] == clipped["b1"] == rows["DEQ"]["b1"]
    assert own[data] < 0.5 * min(clipped[data], rows["own, scaled"][data])


def test_covariance_structures(tmp_path):
    found = tables("covariance_structures", tmp_path)
    for activation in ("relu", "tanh"):
        error = {}
        for data in ("identity", "elliptic, 8 degrees"):
            rows = numbers(found["covariance_structures"], activation=activation, data=data)
            assert all(row["one_layer"] < 1e-4 for row in rows)
            assert all(40 < row["d_cov"] < 60 for row in rows)  # alike, but norms vary in one
            error[data] = sum(row["four_numbers"] for row in rows) / len(rows)
        assert error["elliptic, 8 degrees"] > 1.5 * error["identity"]


def test_trained_wide(tmp_path):
    found = tables("trained_wide", tmp_path)["trained_wide_exponent"]
    for row in numbers(found, distance="function") + numbers(found, distance="start"):
        assert -0.7 < row["exponent"] < -0.3
    for row in numbers(found, distance="features"):
        assert -1.6 < row["exponent"] < -0.8


def test_xor_mixtures(tmp_path):
    found = tables("xor_mixtures", tmp_path)["xor_mixtures"]
    relu = {row["kernel"]: row for row in numbers(found, activation="relu")}
    assert relu["exact"]["alignment"] > 0.6 and relu["exact"]["accuracy"] > 0.9
    assert abs(relu["matched"]["alignment"] - relu["exact"]["alignment"]) < 0.02
    assert relu["four numbers"]["alignment"] > 0.5 > 0.2 > relu["no quadratic"]["alignment"]
    for row in numbers(found, activation="tanh"):  # odd: blind to a label that is even
        assert row["alignment"] < 0.2


def test_few_steps(tmp_path):
    found = tables("few_steps", tmp_path)["few_steps"]
    agreement = {row["model"]: row["agreement"] for row in numbers(found)}
    assert agreement["DEQ"] == 1 and agreement["DEQ, 8 steps"] > 0.99
    assert min(agreement.values()) > 0.85


def test_dynamics(tmp_path):
    found = tables("dynamics", tmp_path)["dynamics"]
    error = {row["model"]: row["one_step"] for row in numbers(found)}
    assert error["kernel ridge"] < 0.01
    assert max(error.values()) < 0.3


def test_depth_tasks(tmp_path):
    found = tables("depth_tasks", tmp_path)["depth_tasks"]
    accuracy = {row["model"]: row["accuracy"] for row in numbers(found, task="parity")}
    assert accuracy["DEQ"] > 0.9 and accuracy["matched, 2 layers"] > 0.8


def test_image_kernel(tmp_path):
    found = tables("image_kernel", tmp_path)
    few, many = numbers(found["image_features"])
    # orthogonal random features: at least as close as the root of their number tells
    assert many["kernel_error"] < 0.6 * few["kernel_error"] < 0.2
    assert many["DEQ_kernel"] > max(0.97, many["linear"])
    for row in numbers(found["image_kernel"]):
        assert row["accuracy"] > 0.95


def test_million_digits(tmp_path):
    found = numbers(tables("million_digits", tmp_path)["million_digits"])
    accuracy = {(row["features"], row["landmarks"], row["rows"]): row["accuracy"] for row in found}
    assert len(accuracy) == len(found) == 2 * 2 * 3
    for landmarks, rows in ((100, 600), (200, 600), (100, 3000), (200, 3000)):
        patches, pixels = (accuracy[kind, landmarks, rows] for kind in ("patches", "pixels"))
        assert patches > pixels + 0.005 > 0.95
    # it goes on from what was kept: nothing is left to do
    assert numbers(tables("million_digits", tmp_path)["million_digits"]) == found


def test_sequences(tmp_path):
    pytest.importorskip("aeon", reason="the sets and their models are those of aeon")
    found = tables("sequences", tmp_path, "--parts", "a")
    rows = {row.pop("set"): row for row in numbers(found["sequences_sets"])}
    assert len(rows["mean"]) == 9 and min(rows["UnitTest"].values()) > 0.8
    assert sum(rows["rank"].values()) == sum(range(10))


def test_order_of_sequences(tmp_path):
    found = tables("sequences", tmp_path, "--parts", "b")["sequence_order"]
    flat = [row["accuracy"] for row in numbers(found, model="kernel ridge, kernel given")]
    assert len(flat) == 3 and len(set(flat)) == 1 and flat[0] > 0.95
    cut = [row["accuracy"] for row in numbers(found, model="kernel ridge", input="windows")]
    assert len(set(cut)) == len(cut) == 3
