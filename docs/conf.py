"""Sphinx configuration: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import nsgf

project = "nsgf"
author = "The nsgf developers"
copyright = author
version = release = nsgf.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinxcontrib.bibtex",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "changes"]
suppress_warnings = ["config.cache"]  # the gallery's configuration cannot be pickled, which only slows a rebuild

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types with shapes and units
numpydoc_show_class_members = False
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib",),
    "abort_on_example_error": True,
    "matplotlib_animations": False,
    "min_reported_time": 1,
    "capture_repr": (),
    "remove_config_comments": True,
    "download_all_examples": False,
}

html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme = "pydata_sphinx_theme"
html_title = f"nsgf {version}"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "show_nav_level": 2}


def setup(app):
    """Let the page of changes show the news fragments of the next release."""
    app.connect("source-read", add_news)


def add_news(app, docname, source):
    """Put the fragments of ``changes/next`` where the page of changes says so."""
    fragments = sorted(Path(app.srcdir, "changes", "next").glob("*.rst"))
    if docname == "changes" and fragments:
        news = "".join(path.read_text() for path in fragments)
        source[0] = source[0].replace(".. next release", f"Next release\n------------\n\n{news}")
