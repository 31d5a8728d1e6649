"""What the documentation says of the package, where that can be checked."""

import importlib
import json
import operator
import re
import tomllib
from pathlib import Path

import pytest

import nsgf

ROOT = Path(__file__).parent.parent
DOCS, PACKAGE = ROOT / "docs", ROOT / "nsgf"
LISTED = re.findall(r"^   (\w+)$", (DOCS / "benchmarks" / "index.rst").read_text(), re.MULTILINE)
PAGES = [page for page in LISTED if page != "leads"]  # which says of what it is made, and that none is to be quoted


def named_in_theory():
    """Return (file, name) of every function and class that the table of symbols names."""
    table = (DOCS / "theory.rst").read_text().partition("- Function (file)")[2].partition("Conventions\n---")[0]
    table = " ".join(table.split())
    groups = re.findall(r"((?:``[\w.]+``,? )+)\(``([\w/]+)\.py``\)", table)
    assert len(groups) == table.count(".py``"), "a file of the table stands in a form that this test does not read"
    return [(file, name) for names, file in groups for name in re.findall(r"``([\w.]+)``", names)]


@pytest.mark.parametrize(("file", "name"), named_in_theory())
def test_what_the_symbols_name_exists_and_is_public(file, name):
    module = importlib.import_module(f"nsgf.{file.replace('/', '.')}")
    operator.attrgetter(name)(module)
    assert not any(part.startswith("_") for part in name.split("."))


def test_every_public_name_is_in_the_reference():
    reference = (DOCS / "api.rst").read_text()
    shown = set(re.findall(r"^\.\. auto\w+:: (?:nsgf\.)?([\w.]+)$", reference, re.MULTILINE))
    assert set(nsgf.__all__) - shown == set()


def test_every_module_has_its_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered = {
        f"{container}.{name}"
        for contract in contracts
        if contract["type"] == "layers"
        for container in contract["containers"]
        for layer in contract["layers"]
        for name in re.findall(r"\w+", layer)
    }
    files = [path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files} - {"nsgf"}
    assert modules - layered == set()


@pytest.mark.parametrize("page", PAGES)
def test_benchmarks_say_how_they_were_measured(page):
    place = DOCS / "benchmarks"
    assert (place / f"{page}.rst").exists()
    assert (place / f"{page}.py").exists()
    for part in json.loads((place / f"{page}.json").read_text()).values():
        assert {"machine", "versions", "seeds", "command"} <= set(part)


def test_every_benchmark_has_a_page():
    assert {path.stem for path in (DOCS / "benchmarks").glob("*.json")} == set(PAGES)


def test_pages_that_the_contents_list_exist():
    contents = (DOCS / "index.rst").read_text().partition(".. toctree::")[2]
    for page in re.findall(r"^   ([\w/]+)$", contents, re.MULTILINE):
        source = page.replace("auto_examples/index", "examples/README")
        assert (DOCS / f"{source}.rst").exists()


def test_examples_that_pages_lead_to_exist():
    pages = [*DOCS.glob("*.rst"), *(DOCS / "benchmarks").glob("*.rst")]
    for name in {n for path in pages for n in re.findall(r"auto_examples/(plot_\w+)", path.read_text())}:
        assert (DOCS / "examples" / f"{name}.py").exists()


@pytest.mark.parametrize("path", sorted((DOCS / "changes" / "next").glob("*")), ids=lambda path: path.name)
def test_news_fragments_are_items_of_one_list(path):
    assert path.suffix == ".rst"
    assert all(line.startswith(("- ", "  ")) for line in path.read_text().splitlines())
