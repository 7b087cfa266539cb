"""How the documentation site is built: `make docs`.

The source folder of Sphinx is the repository itself, so that a link between two pages, such as
`../benchmarks/README.md`, is right both here and in the viewer of a code host.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

import fairweather

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "site"))

about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
project = about["name"]
author = about["authors"][0]["name"]
project_copyright = author
release = version = fairweather.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "fairweather_pages"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "benchmarks/**.md",
    "results/README.md",
    "results/*/README.md",
    "results/*/details.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests"]  # nothing to look for in there

nitpicky = True
# What the signatures of public objects mention and other projects describe. It is not looked up, so
# that the site builds without a network.
FOREIGN = (
    r"(collections|enum|nn|np|npt|numpy|os|pandas|pathlib|pd|PIL|pydantic|torch|typing)\..*"
    r"|Any|ArrayLike|NDArray|Path|bool|bytes|float|int|object|str"
)
# What they mention and we describe in words: names of types, and parts that may change.
INTERNAL = (
    r"AttackFunction|BoolArray|CalibrationDraw|Channels|Choices|Ends|FloatArray|GuardOutputs"
    r"|Index|IntArray|IntervalKind|LabelArray|ModelState|Named|OodInputs|Outcome|Parameter|Result|ShiftFunction"
    r"|ShiftedFiles|State|Step|StepRecord|TextArray|Weights|WrittenNumber"
    r"|fairweather\.deploy\.(guard\.(GuardOutputs|R)|promise\.GuardRecord)"
    r"|fairweather\.metrics\.bounded_means\.BoundedLosses"
    r"|fairweather\.metrics\.columns\.(ConfidenceOrder|LevelSums)"
    r"|fairweather\.metrics\.conformal\.SetColumns"
    r"|fairweather\.metrics\.hidden_error\.(HiddenError|Observation)"
    r"|fairweather\.metrics\.recalibration\.CalibrationNumber"
    r"|fairweather\.metrics\.sample\.(OrderedSums|PreparedCell)"
    r"|fairweather\.metrics\.seeds\.SeedVariance"
    r"|fairweather\.report\.charts\.Figure"
    r"|fairweather\.requests\.study\.schema\.Study"
    r"|fairweather\.runs\.folder\.RunFolder"
    r"|fairweather\.steps\.plan\.(Plan|Step)"
    r"|fairweather\.tasks\.Task"
    r"|fairweather\.types\.kinds\.TaskKind"
    r"|fairweather\.types\.measurement\.AnyPredictions"
    r"|fairweather\.types\.record\.(RunRecord|StepRecord)"
)
nitpick_ignore_regex = [("py:.*", FOREIGN), ("py:.*", INTERNAL)]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
smartquotes = False  # options and rules must be copied as they are
highlight_language = "text"  # of blocks that name no language: what a command prints
default_role = "code"  # a single backtick in a docstring is code
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"fairweather {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it fetches pages, which a browser refuses to pages on a disk
html_permalinks_icon = "#"


def setup(app: Sphinx) -> None:
    """Keep notes and details out of menus and search: the pages beside them lead to them."""
    app.connect("env-updated", hide_details)


def hide_details(app: Sphinx, env: BuildEnvironment) -> None:
    """Mark what `setup` says."""
    for name in env.found_docs:
        if name.startswith("benchmarks/notes/") or name.endswith("/details"):
            env.metadata[name].update(orphan="", nosearch="")
