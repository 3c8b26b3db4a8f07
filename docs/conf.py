"""Sphinx configuration. Build with ``python -m sphinx -W docs docs/_build/html``."""

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
]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "pydata_sphinx_theme"
html_title = "sk_deq"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}

autosummary_generate = True
numpydoc_show_class_members = False  # autosummary lists what is worth a page

# Links to the neighbours; a build without a network leaves them out (-D intersphinx_mapping=).
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "sklearn": ("https://scikit-learn.org/stable", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"benchmarks|paper",
    "filename_pattern": r"/plot_",
    "doc_module": ("sk_deq",),
    "backreferences_dir": "generated/backreferences",
    "abort_on_example_error": True,
    "show_memory": False,
}
