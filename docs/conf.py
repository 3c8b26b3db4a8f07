"""Sphinx configuration. Build with ``python -m sphinx -W docs docs/_build/html``."""

import zlib
from pathlib import Path

import matplotlib

import sk_deq

project = "sk_deq"
author = "sk_deq developers"
copyright = f"2026, {author}"
version = release = sk_deq.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",  # formulas without a network
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

PAGES = [page.stem for page in Path(__file__).parent.glob("*.rst")]
html_theme = "pydata_sphinx_theme"
html_title = "sk_deq"
html_static_path = ["_static"]
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],  # the field would take a second line
    # "On this page"; examples want the width for their code, and the landing page for its picture
    "secondary_sidebar_items": {"generated/*": ["page-toc"], "auto_examples/*": [], "index": []}
    | {page: ["page-toc"] for page in PAGES if page != "index"},
}
html_css_files = ["custom.css"]
# pages without pages below them have nothing to show beside them
html_sidebars = {page: [] for page in PAGES if page != "api"}
html_show_sourcelink = False

toc_object_entries_show_parents = "hide"  # long names would not fit beside the page
autosummary_generate = True
autodoc_typehints = "none"  # docstrings say the same in words
numpydoc_show_class_members = False  # the template of a class lists its methods
suppress_warnings = ["config.cache"]  # sphinx_gallery_conf holds a function

# Links to the neighbours. Without a network their inventories cannot be had: then those labels that
# scikit-learn's own docstrings refer to come from an inventory written here, so that the build
# passes, and other names of the neighbours are not links.
offline = Path(__file__).parent / "_build" / "labels.inv"
offline.parent.mkdir(exist_ok=True)
metrics, output = (
    "modules/model_evaluation.html",
    "auto_examples/miscellaneous/plot_set_output.html",
)
labels = "".join(
    f"{label} std:label -1 {page} -\n"
    for label, page in {
        "accuracy_score": f"{metrics}#accuracy-score",
        "r2_score": f"{metrics}#r2-score",
        "df_output_transform": output,
        "sphx_glr_auto_examples_miscellaneous_plot_set_output.py": output,
    }.items()
)
offline.write_bytes(
    b"# Sphinx inventory version 2\n# Project: scikit-learn\n# Version: \n"
    b"# The remainder of this file is compressed using zlib.\n" + zlib.compress(labels.encode())
)
intersphinx_timeout = 10
intersphinx_mapping = {
    name: (url, (None, str(offline)))
    for name, url in {
        "sklearn": "https://scikit-learn.org/stable",
        "python": "https://docs.python.org/3",
        "numpy": "https://numpy.org/doc/stable",
        "torch": "https://docs.pytorch.org/docs/stable",
    }.items()
}

matplotlib.use("Agg")
EXAMPLES = [  # from the first to read to the last
    "quickstart", "tabular_reasons", "pipeline_grid_search", "compare_models", "choose_kernel",
    "large_n", "gaussian_process", "partial_fit", "convert_deq", "custom_activation",
    "paper_figure",
]  # fmt: skip
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"/(benchmarks|paper)/",
    "filename_pattern": r"/plot_",
    "within_subsection_order": lambda name: EXAMPLES.index(name[5:-3]),
    "doc_module": ("sk_deq",),
    "reference_url": {"sk_deq": None},
    "backreferences_dir": "generated/backreferences",
    "abort_on_example_error": True,
    "show_memory": False,
    "image_srcset": ["2x"],
}
