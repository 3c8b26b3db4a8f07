"""Documentation: docstrings are complete, pages list what is public, links lead somewhere."""

import importlib
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from numpydoc.validate import validate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = "sg_execution_times"  # by sphinx-gallery, where the documentation was built
PAGES = sorted(page for page in DOCS.glob("*.rst") if page.stem != GENERATED)
MODULES = ["", ".kernels", ".theory", ".modules", ".inspection", ".pipelines", ".datasets"]
MODULES += [".export", ".dask"]

# numpydoc's codes. What is left out: the summary on the second line (GL01), an extended summary
# (ES01), See Also (SA01), capitals before a symbol (PR08, RT04), and names of returned values
# (RT02, RT03). Examples (EX01) are asked of classes and functions, not of their methods.
CODES = {"GL03", "GL06", "GL07", "GL08", "GL09", "GL10", "SS01", "SS02", "SS03", "SS04", "SS05"}
CODES |= {"PR01", "PR02", "PR03", "PR04", "PR05", "PR06", "PR07", "PR09", "PR10", "RT01", "RT05"}
CODES |= {"YD01", "SA02", "SA03", "SA04", "EX01"}


def public_objects():
    """{dotted name: object} of everything public."""
    found = {}
    for suffix in MODULES:
        module = importlib.import_module("sk_deq" + suffix)
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    return found


def public_methods():
    """Dotted names of the methods that this package defines."""
    for name, cls in public_objects().items():
        for method, function in inspect.getmembers(cls, callable) if inspect.isclass(cls) else ():
            own = (getattr(function, "__module__", None) or "").startswith("sk_deq")
            if own and not method.startswith("_") and method != "extra_repr":
                yield f"{name}.{method}"


def complaints(name, codes):
    """What numpydoc has against a docstring."""
    return [f"{code}: {text}" for code, text in validate(name)["errors"] if code in codes]


@pytest.mark.parametrize("name", list(public_objects()))
def test_docstring(name):
    assert complaints(name, CODES) == []


@pytest.mark.parametrize("name", list(public_methods()))
def test_docstring_of_method(name):
    assert complaints(name, CODES - {"EX01"}) == []


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_docstring(module):
    assert importlib.import_module("sk_deq" + module).__doc__


def test_every_public_name_is_in_the_api_reference():
    text = (DOCS / "api.rst").read_text()
    module, listed = None, []
    for line in text.splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.fullmatch(r"   (\w+)", line):
            listed.append(f"{module}.{found[1]}")
    assert sorted(listed) == sorted(public_objects())


def test_every_page_is_in_the_contents():
    contents = (DOCS / "index.rst").read_text().split(".. toctree::")[1]
    for page in PAGES:
        if page.stem != "index":
            assert re.search(rf"^   {page.stem}$", contents, re.MULTILINE), page.name


def _sources():
    """Texts that Sphinx reads, by name: pages, docstrings, examples."""
    texts = {page.name: page.read_text() for page in PAGES}
    texts |= {name: inspect.getdoc(item) or "" for name, item in public_objects().items()}
    return texts | {path.name: path.read_text() for path in (ROOT / "examples").glob("plot_*.py")}


def test_links_between_pages_resolve():
    texts = _sources()
    everything = "\n".join(texts.values())
    equations = set(re.findall(r":label: (\S+)", everything))
    labels = set(re.findall(r"^\.\. _([^:`]+):", everything, re.MULTILINE))
    examples = {f"sphx_glr_auto_examples_{path.name}" for path in ROOT.glob("examples/plot_*.py")}
    pages = {page.stem for page in PAGES} | {"auto_examples/index"}
    link = r":(eq|ref|doc):`(?:[^`<]*<)?([^`<>]+)>?`"
    assert {role for role, _ in re.findall(link, everything)} == {"eq", "ref", "doc"}
    for name, text in texts.items():
        for role, target in re.findall(link, text):
            known = {"eq": equations, "ref": labels | examples, "doc": pages}[role]
            assert target in known, f"{name}: :{role}:`{target}`"


def test_names_that_pages_link_to_exist():
    public = {*public_objects(), *public_methods()}
    found = [
        (name, target)
        for name, text in _sources().items()
        for target in re.findall(r":(?:class|func|meth):`~?(sk_deq[\w.]*)`", text)
    ]
    assert found and not [link for link in found if link[1] not in public]


def test_pages_include_files_that_exist():
    directive = r"\.\. (?:literal)?(include|image|figure)::.*? (\S+)$"
    found = [
        (page.name, target)
        for page in PAGES
        for _, target in re.findall(directive, page.read_text(), re.M)
    ]
    assert found and not [link for link in found if not (DOCS / link[1]).exists()]


class _Page(HTMLParser):
    """Links and anchors of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name"):
                self.anchors.add(value)


def broken_links(site):
    """Links between the pages of a site, folders of the theme apart, that lead nowhere."""
    paths = [path.resolve() for path in site.rglob("*.html") if "_static" not in path.parts]
    pages = {path: _Page(path) for path in paths}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if not (parts.scheme or parts.netloc):
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                anchors = pages[target].anchors if target in pages else {""}
                if not target.exists() or unquote(parts.fragment) not in anchors | {""}:
                    yield f"{path.name}: {link}"


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#x"></a><a href="b.html#y"></a><a href="c">')
    (tmp_path / "b.html").write_text('<p id="x"><a href="#x"></a><a href="https://c.d"></a>')
    assert list(broken_links(tmp_path)) == ["a.html: b.html#y", "a.html: c"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """All but running the examples, which are tests of their own."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-D", "plot_gallery=0"]
    command += ["-d", tmp_path / "doctrees", DOCS, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "html" / "generated" / "sk_deq.DEQClassifier.html").exists()
    assert list(broken_links(tmp_path / "html")) == []
