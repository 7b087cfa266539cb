"""What the README shows is what happens."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_is_short_and_shows_before_it_tells():
    assert len(README.splitlines()) <= 120
    assert README.index("![") < README.index("pip install") < README.index("```python")
    assert README.index("```python") < README.index("make demo") < README.index("make test")


@pytest.mark.usefixtures("undrawn")
def test_the_example_runs_and_prints_such_a_table(colour_folder, tmp_path, monkeypatch, capsys):
    """With small images and an untrained network, under the README's own shifts."""
    (example,) = blocks("python")
    shown = re.search(r"```python\n.*?```\n\n```\n(.*?)```", README, flags=re.DOTALL)[1]
    assert len(example.strip().splitlines()) <= 6
    network = "__import__('torch').nn.Sequential(__import__('torch').nn.Flatten(), "
    network += "__import__('torch').nn.Linear(768, 3))"
    ours, changed = re.subn(r'^model = ".*?"', f"model = {network}", example, flags=re.MULTILINE)
    ours, moved = re.subn("folder:photos/clean", f"folder:{colour_folder}/test", ours)
    assert changed == moved == 1
    monkeypatch.chdir(tmp_path)
    exec(ours, {})
    _first, *printed = capsys.readouterr().out.splitlines()
    columns = [re.split(r"\s{2,}", lines[0]) for lines in (printed, shown.splitlines())]
    assert columns[0] == columns[1]
    states = [re.findall(r"(\S+) +[\d.]+ \[", text) for text in ("\n".join(printed), shown)]
    assert states[0] == states[1]
    assert states[0][0] == "clean"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make (\w+)", README, re.M))))
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
