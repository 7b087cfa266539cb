"""What the README shows is what happens."""

import pathlib
import re
import subprocess
import sys

import pytest

from fairweather.study import load_study
from fairweather.yamlfile import dump_yaml, parse_yaml

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_opens_with_the_two_commands_then_a_picture_then_python():
    assert README.index("make demo") < README.index("make test") < README.index("![")
    assert README.index("![") < README.index("```python")


def test_the_table_of_the_demo_is_of_the_models_that_it_trains():
    study = load_study("quickstart")
    rows = re.findall(r"^\| ([^|]+?) \| [\d.]+ \[", README, flags=re.MULTILINE)
    assert rows == [entry.title for entry in study.models.values()]
    assert len(rows) <= 4
    assert study.seeds == [0, 1, 2]


def test_the_python_example_runs_and_shows_the_fall(tmp_path):
    (example,) = blocks("python")
    assert 8 <= len(example.strip().splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    day, night = done.stdout.splitlines()
    number = r"([\d.]+)%"
    interval = rf"{number} right \[{number}, {number}\], [+-]{number} too sure, n = 1000"
    by_day = re.fullmatch(f"day: {interval}", day)
    at_night = re.fullmatch(f"night: {interval}", night)
    assert float(at_night[3]) < float(by_day[2])  # the intervals lie apart
    assert float(by_day[1]) > 90
    assert float(at_night[1]) < float(by_day[1]) - 20


def test_the_study_is_valid(tmp_path):
    (text,) = blocks("yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    study = load_study(path, ["recipe.epochs=2"], only=["pretrained"])
    assert study.models["pretrained"].recipe.epochs == 2
    assert len(study.all_shifts()) == 9 + 15 + 2


def test_the_study_goes_on_with_pretraining(tmp_path):
    (whole,), (part,) = blocks("yaml"), blocks("yml")
    path = tmp_path / "mine.yaml"
    study = parse_yaml(whole)
    added = parse_yaml(part)
    study["pretraining"] = added["pretraining"]
    study["models"] = added["models"]
    path.write_text(dump_yaml(study))
    checked = load_study(path)
    assert checked.models["from_barlow"].pretraining == "barlow"
    assert checked.models["from_barlow"].recipe.augmix.severity == 3


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README))))
def test_the_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))), ids=lambda link: link
)
def test_linked_files_exist(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize(
    "page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs", "results", "benchmarks"]
)
def test_links_of_the_other_pages_exist(page):
    pages = [ROOT / page] if page.endswith(".md") else sorted((ROOT / page).rglob("*.md"))
    assert pages
    for each in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", each.read_text()):
            assert (each.parent / link).exists(), f"{each} links to {link}"
