"""The house: imports point downward, modules and functions are small, texts agree."""

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from sklearn.utils import _testing
from tiny import CLASSIFIERS, NETWORKS, SETTINGS

import sk_deq

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sk_deq"
PATHS = sorted(PACKAGE.rglob("*.py"))
# from the top of the house to the ground; rooms of one level do not know each other
LEVELS = [
    {"inspection", "export", "dask", "__main__"},
    {"__init__"},
    {"kernels", "pipelines", "_kernel_matcher"},
    {"theory", "modules", "datasets", "_gp_kernel"},
    {"_nets"},
    {"_ridge"},
    {"_search"},
    {"_solve", "_theory"},
    {"_base"},
    {"_row_keys"},
    {"_array_api", "_callbacks", "_validation"},
    {"_scaling", "_torch", "_memory", "_progress", "_checkpoint"},
    {"_state", "_warn", "_atomic"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MAX_LINES_OF_MODULE, MAX_LINES_OF_FUNCTION = 400, 60


def room_of(path):
    """The folder of a module in a room, else the module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(room, module, names) of every import from the package, also within functions."""
    package = ["sk_deq", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = package[: len(package) - node.level + 1]
            module += node.module.split(".") if node.module else []
            names = [alias.name for alias in node.names]
            yield (module[1] if len(module) > 1 else names[0]), ".".join(module), names


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    here = room_of(path)
    assert here in LEVEL_OF, "a new room: which level is it on?"
    for room, module, _ in imports(path):
        inside = room == here and path.parent != PACKAGE
        assert inside or LEVEL_OF[here] < LEVEL_OF[room], f"{here} imports {module}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_from_the_package_are_relative(path):
    """Others would not be seen by the tests above and below."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert not [name for name in names if name.split(".")[0] == "sk_deq"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_stay_in_their_module(path):
    imported = set()
    for _, module, names in imports(path):
        imported |= set(names)
        assert not [name for name in names if name.startswith("_")], module
    for node in ast.walk(ast.parse(path.read_text())):  # nor by way of a module
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and node.attr != "_parameter_constraints"
            assert not (private and node.value.id in imported), ast.unparse(node)


def test_every_module_is_reached():
    assert {room_of(path) for path in PATHS} == set(LEVEL_OF)


def lines_of_code(source, tree):
    """Numbers of the lines that hold code: neither docstring nor comment nor blank."""
    texts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            texts |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - texts


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_small(path):
    source = path.read_text()
    tree = ast.parse(source)
    assert len(source.splitlines()) < MAX_LINES_OF_MODULE
    code = lines_of_code(source, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            size = sum(node.lineno <= line <= node.end_lineno for line in code)
            assert size < MAX_LINES_OF_FUNCTION, node.name


# what scikit-learn asks an estimator to set on itself under these names
ASKED_FOR = {"_n_features_out"}
# the private state of a fit: what predictions need beside the public attributes
FITTED_STATE = {"_like", "_scaler", "_task", "_net", "_n_epochs", "_fitted_rows", "_stream"}
FITTED_STATE |= {"_out_of_sample"}


@pytest.mark.parametrize("name", SETTINGS)
def test_estimators_hand_nothing_from_method_to_method(name):
    for cls in getattr(sk_deq, name).__mro__:
        if not cls.__module__.startswith("sk_deq"):
            continue
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
        for method in ast.walk(tree):
            if not isinstance(method, ast.FunctionDef) or method.name == "__init__":
                continue
            for node in ast.walk(method):
                stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                if stored and isinstance(node.value, ast.Name) and node.value.id == "self":
                    fitted = node.attr.endswith("_") or node.attr in ASKED_FOR | FITTED_STATE
                    assert fitted, f"{cls.__name__}.{method.name} sets {node.attr}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_private_after_a_fit_is_the_state_of_the_fit(name):
    from test_inputs import data_for
    from tiny import tiny

    model = tiny(name).fit(*data_for(name))
    parameters = set(model.get_params())
    private = {a for a in vars(model) if not a.endswith("_") and a not in parameters}
    assert private <= ASKED_FOR | FITTED_STATE | {"_skl_callbacks"} | {"n_features_in_"}


def test_constructors_keep_one_order():
    signatures = [list(inspect.signature(getattr(sk_deq, name)).parameters) for name in SETTINGS]
    for one in signatures:
        for two in signatures:
            shared = set(one) & set(two) - {one[0], two[0]}
            assert [p for p in one if p in shared] == [p for p in two if p in shared]


@pytest.mark.parametrize("name", SETTINGS)
def test_documented_defaults_are_those_of_the_signature(name):
    cls = getattr(sk_deq, name)
    text = inspect.getdoc(cls).split("Attributes\n")[0]
    for parameter in inspect.signature(cls).parameters.values():
        documented = re.search(rf"^{parameter.name} : .*?default=(\S+)$", text, re.M | re.S)
        assert documented, parameter.name
        assert ast.literal_eval(documented[1]) == parameter.default, parameter.name


@pytest.mark.slow
def test_import_brings_nothing_that_only_a_fit_needs():
    late = ["skorch", "sklearn.linear_model", "sklearn.model_selection", "sklearn.compose"]
    late += ["sklearn.gaussian_process", "matplotlib"]
    code = f"import sys, sk_deq; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


RIDGES = ["DEQKernelRidge", "DEQKernelRidgeClassifier"]
DEQS = ["DEQClassifier", "DEQRegressor"]
EXPLICIT = ["EquivalentExplicitClassifier", "EquivalentExplicitRegressor"]
# what depends on the task: the loss that is penalised, and what is counted or compared
OF_THE_TASK = {"weight_decay", "teacher", "history_", "agreement_", "validation_errors_"}
# a DEQ has these, its equivalent stands for one that does
OF_THE_NETWORK = {"activation", "recurrent_var", "input_var", "bias_var", "center", "lr", "width"}
OF_THE_NETWORK |= {"module_"}


def documented(name):
    """Names of the parameters and attributes in the docstring of an estimator."""
    text = inspect.getdoc(getattr(sk_deq, name))
    return {
        name
        for section in ("Parameters", "Attributes")
        for line in re.search(rf"^{section}\n-+\n(.*?)\n\n", text, re.M | re.S)[1].splitlines()
        if (found := re.match(r"(\S.*?) : ", line))
        for name in [found[1]]
    }


@pytest.mark.parametrize("names", [RIDGES, DEQS, EXPLICIT, NETWORKS], ids=lambda n: "-".join(n))
def test_texts_are_the_same_wherever_they_stand(names):
    shared = set.intersection(*map(documented, names)) - OF_THE_TASK
    shared -= OF_THE_NETWORK if names == NETWORKS else set()
    assert len(shared) > 10
    _testing.assert_docstring_consistency(
        [getattr(sk_deq, name) for name in names],
        include_params=sorted(name for name in shared if not name.endswith("_")),
        include_attrs=sorted(name for name in shared if name.endswith("_") and "," not in name),
    )


@pytest.mark.skipif(
    "ignore_types" not in inspect.signature(_testing.assert_docstring_consistency).parameters,
    reason="this scikit-learn compares types always",
)
@pytest.mark.parametrize(
    ("names", "include", "types_differ"),
    [
        (SETTINGS, {"include_params": ["device"]}, ()),
        ([*DEQS, *EXPLICIT], {"include_params": ["input_scaling"]}, ()),
        ([*RIDGES, "KernelMatcher"], {"include_params": ["input_scaling"]}, ("input_scaling",)),
        (CLASSIFIERS, {"include_params": ["class_weight"], "include_attrs": ["classes_"]}, ()),
        (
            [*EXPLICIT, "KernelMatcher"],
            {"include_params": ["recurrent_var", "input_var"]},
            ("recurrent_var",),
        ),
        (
            [*RIDGES, "KernelMatcher"],
            {"include_params": ["activation", "recurrent_var", "bias_var", "center"]},
            ("activation", "recurrent_var", "bias_var", "center"),  # of ridges also "auto"
        ),
    ],
    ids=lambda argument: "-".join(argument),
)
def test_texts_are_the_same_in_estimators_of_several_kinds(names, include, types_differ):
    _testing.assert_docstring_consistency(
        [getattr(sk_deq, name) for name in names], **include, ignore_types=types_differ
    )
