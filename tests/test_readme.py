"""What the README shows is what happens."""

import html
import itertools
import pathlib
import re
import subprocess
import sys
import tomllib

import pandas as pd
import pytest
import scipy.stats
from results import adapted, pages
from results.pacs import details
from results.pathmnist import details as pathmnist

from fairweather.cli.app import SUMMARY
from tests.conftest import write_pictures

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def table():
    """What the README shows of the demo (tests/requests/test_demonstration.py has its numbers)."""
    return re.search(r"^```python\n.*?^```\n.*?^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[
        1
    ]


def test_the_readme_is_short_and_shows_before_it_tells():
    assert len(README.splitlines()) <= 90
    assert README.index("![") < README.index("pip install") < README.index("```python")


def test_one_line_says_everywhere_what_fairweather_is_for():
    line = re.search(r"^\*\*(.+)\*\*$", README, re.MULTILINE)[1]
    assert line == SUMMARY
    assert f"**{line}**" in (ROOT / "docs/index.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"] == line


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_example_runs_and_prints_such_a_table(tmp_path, monkeypatch, capfd, alone):
    """With few small images and an untrained network, under the README's own shifts."""
    folder = write_pictures(tmp_path / "photos", test=4) / "test"
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 6
    # Seeded: the outputs of some untrained networks all lie in [0, 1], which is refused.
    network = "(__import__('torch').manual_seed(0), __import__('torch').nn.Sequential("
    network += "__import__('torch').nn.Flatten(), __import__('torch').nn.Linear(768, 3)))[1]"
    ours, changed = re.subn(r'^model = ".*?"', f"model = {network}", example, flags=re.MULTILINE)
    ours, moved = re.subn("folder:photos", f"folder:{folder}", ours)
    # All 75 corruptions of an untrained network would take a minute.
    ours, fewer = re.subn('"imagenet_c"', '["imagenet_c/fog"]', ours)
    ours, bare = re.subn('"architecture": "timm:resnet18", ', "", ours)
    assert changed == moved == fewer == bare == 1
    monkeypatch.chdir(tmp_path)
    if alone:
        subprocess.run([sys.executable, "-c", ours], check=True)
    else:
        exec(ours, {})
    _first, heading, *rows = capfd.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", heading) == re.split(r"\s{2,}", table().splitlines()[0])
    states = re.findall(r"(\S+) +[\d.]+ \[", "\n".join(rows))
    assert states == ["clean", "imagenet_c/fog", "all"]


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


# ---- benchmarks/README.md: each number of a finding is one of its notes, rounded

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.parametrize(
    ("notes", "finding"),
    re.findall(
        r"^\| \[`\w+\.py`\]\((.*?\.md)\) \| (.*) \|$",
        (BENCHMARKS / "README.md").read_text(),
        flags=re.MULTILINE,
    ),
)
def test_the_numbers_of_a_benchmark_stand_in_its_notes(notes, finding):
    def numbers(text):
        return [found.replace(",", "") for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]

    measured = list(map(float, numbers((BENCHMARKS / notes).read_text())))
    for said in numbers(finding):
        digits = len(said.partition(".")[2])
        assert any(f"{number:.{digits}f}" == said for number in measured), (said, notes)


def test_each_benchmark_has_a_line_and_each_note_is_linked():
    text = (BENCHMARKS / "README.md").read_text()
    scripts = {path.name for path in BENCHMARKS.glob("*.py")} - {"imagecorruptions_today.py"}
    assert scripts == set(re.findall(r"^\| \[`(\w+\.py)`\]", text, flags=re.MULTILINE))
    assert {f"notes/{path.name}" for path in BENCHMARKS.glob("notes/*.md")} == set(
        re.findall(r"\((notes/.*?\.md)\)", text)
    )
    assert len(text.split()) <= 900


# ---- results/NAME/README.md: a finding, whose table and figure come from the stored numbers


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("results/*/README.md")), ids=lambda p: p.parent.name
)
def test_a_page_of_results_is_a_finding(page):
    text = page.read_text()
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1
    assert len(re.findall(r"^\|.*$", text, flags=re.MULTILINE)) <= 2 + 8
    assert re.findall(r"!\[.+\]\((.*)\)", text) == ["finding.svg"]
    assert re.findall(r"^- \*\*(.*)\.\*\*", text, flags=re.MULTILINE) == [
        "Found",
        "Not shown",
        "Largest caveat",
    ]
    (command,) = re.findall(r"^```\w*\n(.*)\n```$", text, flags=re.MULTILINE)
    assert re.match(r"fairweather run |python results/", command)
    assert "[Details](details.md)" in text


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_table_of_a_finding_has_the_stored_numbers(name):
    folder = ROOT / "results" / name
    rows = re.findall(r"^\|.*$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    assert "\n".join(rows) == pages.table(folder, pages.PAGES[name])


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_figure_of_a_finding_shows_the_stored_numbers(name):
    folder, page = ROOT / "results" / name, pages.PAGES[name]
    drawn = html.unescape((folder / "finding.svg").read_text())
    texts = [
        re.sub("<[^>]*>", " ", re.sub(r"^<tspan>|</tspan>$", "", text)).replace("  ", " ")
        for text in re.findall(r"<text[^>]*>(.+?)</text>", drawn)
    ]
    assert pages.figure_title(folder) in texts
    told = [line for line in (page.words, page.beside) if line]
    assert " ".join(told) in ("", *texts)
    for short in ("PT", "Aug"):
        used = any(f" {short}" in text for text in texts if text != " ".join(told))
        assert used == (f"{short}: " in page.words)
    assert len(page.rows) <= 6
    key = ["shift", "level", "metric"]
    for row, column in itertools.product(page.rows, page.columns[:3]):
        units = sorted((folder / "units").glob(f"{row.model}{row.length}-s?"))
        files = [folder / row.file] if row.published else [unit / "scores.csv" for unit in units]
        tables = [pd.read_csv(file, dtype={"level": str}) for file in files]
        kept = [table[table["model"] == row.model].set_index(key) for table in tables]
        cells = [table.loc[(column.shift, column.level, column.metric)] for table in kept]
        where = re.escape(f"row: {row.title}; column: {column.title}")
        values = re.findall(rf": ([\d.]+); {where}\"", drawn)
        name = "published" if row.published else "value"
        assert list(map(float, values)) == pytest.approx([100 * cell[name] for cell in cells])
        where = rf"row: {re.escape(row.title)}; high: ([\d.]+); column: {re.escape(column.title)}"
        ends = re.findall(rf"low: ([\d.]+); {where}\"", drawn)
        expected = (
            [] if row.published else [[100 * cell["low"], 100 * cell["high"]] for cell in cells]
        )
        assert [list(map(float, pair)) for pair in ends] == [pytest.approx(e) for e in expected]


@pytest.mark.parametrize(
    "figure", [*(f"{name}/finding.svg" for name in pages.PAGES), "pathmnist/figures/longer.svg"]
)
def test_no_browser_cuts_the_title_of_a_figure_off(figure):
    """Letters of DejaVu Sans Bold, the widest of the usual fonts, are 0.7 em wide on average."""
    drawn = html.unescape((ROOT / "results" / figure).read_text())
    (width,) = re.findall(r'^<svg [^>]* width="(\d+)"', drawn)
    for size, text in re.findall(
        r'<text text-anchor="start"[^>]*font-size="(\d+)px"[^>]*>(.+?)</text>', drawn
    ):
        for line in re.findall(r"[^<>]+(?=<|$)", re.sub(r"<tspan[^>]*>", "<", text)):
            assert pages.PADDING["left"] + 0.7 * float(size) * len(line) < float(width), line


def test_pages_with_one_seed_say_so_first():
    for name, page in pages.PAGES.items():
        folder = ROOT / "results" / name
        rows = [row for row in page.rows if not row.published]
        fewest = min(len(row.find_units(folder)) for row in rows)
        assert (folder / "README.md").read_text().startswith("# One seed") == (fewest == 1)


# ---- results/pacs/details.md: its tables are written from stored numbers


def test_the_tables_of_pacs_are_written_from_what_is_stored():
    text = (details.HERE / "details.md").read_text(encoding="utf-8")
    for name, written in details.blocks().items():
        assert f"<!-- {name} -->\n{written}\n<!-- end of {name} -->" in text


def student(values):
    """How far the mean's 95 % interval reaches over networks or seeds."""
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    return float(interval.high - interval.low) / 2


def test_the_sentences_of_pacs_say_what_is_stored():
    page = (details.HERE / "README.md").read_text(encoding="utf-8")
    found = (details.HERE / "details.md").read_text(encoding="utf-8")
    units = list(details.numbers(details.UNITS, "units").values())
    _, _, gap, answered, wrong, _ = (
        [round(100 * cell["value"]) for cell in cells] for cells in zip(*units, strict=True)
    )
    lost = [round(100 * (unit[0]["value"] - unit[1]["value"])) for unit in units]
    misses = [round(100 * (unit[5]["value"] - unit[1]["value"])) for unit in units]
    means = adapted.over_networks(list(adapted.read_folder(details.HERE / "adapted").values()))
    changes = means[means["metric"] == adapted.CHANGE].set_index(["method", "protocol"])
    cell = changes.loc[("batchnorm", "by class, 64 a batch"), ["value", "high", "low"]]
    mean, low, high = (round(-100 * end) for end in cell)
    assert (changes.loc[changes["value"] > 0, "low"] <= 0).all()
    assert f"batch norm loses {mean} points [{low}, {high}] on sketches sorted by class" in page
    sketches = f"ketches take {min(lost)} to {max(lost)} points from six networks not trained on"
    assert page.startswith(f"# S{sketches} them, and no adaptation reliably gives them back\n")
    results = (ROOT / "results/README.md").read_text(encoding="utf-8")
    assert f"[PACS](pacs/README.md): s{sketches} them, and" in results
    assert len(units) == 6
    ((known, cartoons, *_),) = details.numbers(details.CARTOONS, "cartoon").values()
    fall = round(100 * (known["value"] - cartoons["value"]))
    assert f"Cartoons take {fall} points; sketches take {min(lost)} to {max(lost)}." in found
    assert f"lets {min(answered)} to {max(answered)} % of the sketches pass" in page
    assert f"Of these, {min(wrong)} to {max(wrong)} % are wrong" in page
    guards = pd.read_csv(details.HERE / "guard.csv")
    assert guards["p"].tolist() == ["< 0.001"] * (6 + 1)
    assert "(p < 0.001)" in page
    gains = pd.Series(
        100 * (of_augmix[1]["value"] - of_flips[1]["value"])
        for of_augmix, of_flips in zip(units[:3], units[3:], strict=True)
    )
    reach = student(gains)
    assert gains.mean() - reach <= 0 <= gains.mean() + reach
    assert f"it is {gains.mean():.0f} points better on sketches, and three seeds" in page
    assert f"Confidence is {min(gap)} to {max(gap)} points above accuracy" in found
    columns = [("", variant, details.SKETCH, details.RMS) for variant in ("", "+temperature")]
    errors = [[cell["value"] for cell in c] for c in details.numbers(columns, "units").values()]
    assert all(scaled < plain for plain, scaled in errors)
    plain, scaled = zip(*errors, strict=True)
    ends = [f"{end:.2f}" for values in (plain, scaled) for end in (min(values), max(values))]
    assert "from {}–{} to {}–{}.".format(*ends) in found
    assert f"{min(wrong)} to {max(wrong)} % of the answers above the threshold are wrong" in found
    assert f"between {-min(misses)} points too low and {max(misses)} too high" in found


def test_the_sentences_of_pacs_on_prediction_sets_say_what_is_stored():
    found = (details.HERE / "details.md").read_text(encoding="utf-8")
    stored = adapted.read_folder(details.HERE / "adapted").values()
    means = adapted.over_networks(list(stored)).set_index(["metric", "method", "protocol"])["value"]
    covered = means[adapted.COVERED]
    plain, by_class = (
        round(100 * covered[cell])
        for cell in ((adapted.PLAIN, ""), ("batchnorm", "by class, 64 a batch"))
    )
    sizes = [
        rows.set_index(["metric", "method", "protocol"])["value"][
            ("conformal_set_size", "batchnorm", "by class, 64 a batch")
        ]
        for rows in stored
    ]
    assert f"contain the kind of {plain} % of the sketches as trained." in found
    assert (
        f"they contain {by_class} %, since they name {min(sizes):.0f} to {max(sizes):.0f} of"
        in found
    )


def test_the_sentences_of_pacs_on_batch_norm_say_what_is_stored():
    found = (details.HERE / "details.md").read_text(encoding="utf-8")
    stored = adapted.read_folder(details.HERE / "adapted").values()
    key = ["metric", "method", "protocol"]
    values = [rows.set_index(key)["value"] for rows in stored]

    def changes(protocol, method="batchnorm"):
        own = [round(100 * value[(adapted.CHANGE, method, protocol)]) for value in values]
        return min(own), max(own)

    most, least = changes("by class, 64 a batch")
    assert f"batch norm of the batch loses {-least} to {-most} points" in found
    most, least = changes("shuffled, 4 a batch")
    assert f"Batches of four take {-least} to {-most} points" in found
    assert f"Batch norm alone loses {-least} to {-most}." in found
    for method, words in (("eata-adam", "EATA loses"), ("sar-adam", "and SAR")):
        most, least = changes("shuffled, 4 a batch", method)
        assert f"{words} {-least} to {-most}" in found
    low, high = changes("shuffled, 64 a batch")
    assert f"change accuracy by \u2212{-low} to +{high} points" in found
    low, high = changes("shuffled, 64 a batch", "cotta")
    assert f"CoTTA changes accuracy by \u2212{-low} to +{high} points where" in found
    most, least = changes("by class, 64 a batch", "cotta")
    assert f"Sorted by class it loses {-least} to {-most} points" in found
    most, least = changes("shuffled, 4 a batch", "cotta")
    four = (
        f"In batches of four it loses {-least} to {-most} points, in each network less than batch"
    )
    assert four in found
    cells = [(adapted.CHANGE, method, "shuffled, 4 a batch") for method in ("cotta", "batchnorm")]
    assert all(value[cells[0]] > value[cells[1]] for value in values)

    means = adapted.over_networks(list(stored)).set_index(key)
    passing, wrong = (f"{name}_{details.THRESHOLD}" for name in ("coverage", "risk"))
    plain = [
        round(100 * means.loc[(name, adapted.PLAIN, ""), "value"]) for name in (passing, wrong)
    ]
    assert "As trained, {} % of the sketches pass the threshold for 5 %".format(*plain) in found
    assert "5 % errors, and {1} % of these are wrong.".format(*plain) in found
    assert means.loc[(wrong, adapted.PLAIN, ""), "low"] > 0.05
    assert means.loc[(adapted.COVERED, adapted.PLAIN, ""), "high"] < 0.9

    def added(metric):
        """The points that batch norm of shuffled batches adds to a share of each network."""
        cell = (metric, "batchnorm", "shuffled, 64 a batch")
        return pd.Series(
            [100 * (value[cell] - value[(metric, adapted.PLAIN, "")]) for value in values]
        )

    def tell(points):
        """The mean with its interval over networks, as the page writes them."""
        mean, reach = points.mean(), student(points)
        assert mean > reach
        return f"{mean:.0f} points [{mean - reach:.0f}, {mean + reach:.0f}]"

    more = [added(name) for name in (passing, wrong)]
    assert (
        "Batch norm adds {} to the first share, and {} to the second.".format(*map(tell, more))
        in found
    )
    assert [(points > 0).sum() for points in more] == [5, 5]
    assert more[0].idxmin() == more[1].idxmin()
    assert "Both shares rise in five networks, and fall in the sixth." in found
    fewer = -added(adapted.COVERED)
    assert (fewer > 0).sum() == 5
    assert f"Batch norm takes {tell(fewer)}, and five of six networks lose." in found


def test_the_sentences_of_pacs_on_lame_say_what_is_stored():
    found = (details.HERE / "details.md").read_text(encoding="utf-8")
    stored = adapted.read_folder(details.HERE / "adapted")
    key = ["metric", "method", "protocol"]
    values = {unit: rows.set_index(key)["value"] for unit, rows in stored.items()}
    mixed, by_class, _ = adapted.USUAL

    def read(metric, protocol):
        """A number of each network; where no stream collapses, nothing is stored."""
        cell = (metric, "lame", protocol)
        return pd.Series({unit: value.get(cell, 0) for unit, value in values.items()})

    assert (read(adapted.COLLAPSED, mixed) == 1).all()
    lost = -100 * read(adapted.CHANGE, mixed)
    assert f"batches of 64, and loses {lost.min():.0f} to {lost.max():.0f} points." in found
    gained, collapsed = 100 * read(adapted.CHANGE, by_class), read(adapted.COLLAPSED, by_class)
    (sixth,) = gained.index[gained < 0]
    five = gained.drop(sixth)
    assert f"five networks gain {five.min():.0f} to {five.max():.0f} points" in found
    assert f"in all five streams there too, and loses {-gained[sixth]:.0f}." in found
    assert collapsed[collapsed > 0].to_dict() == {sixth: 1, "augmix-s2": 0.2}
    assert "augmix-s2, collapses in one of five streams." in found


def test_eata_and_sar_lie_near_batch_norm_where_the_page_of_pacs_says_so():
    found = (details.HERE / "details.md").read_text(encoding="utf-8")
    stored = adapted.read_folder(details.HERE / "adapted")
    key = ["metric", "protocol"]

    def apart(rows, method):
        """How far a method lies from batch norm, in each metric and protocol of the tables."""
        rows = rows[rows["metric"].isin(details.METRICS)]
        own, beside = (
            rows[rows["method"] == name].set_index(key)["value"] for name in (method, "batchnorm")
        )
        return (own - beside).dropna().abs().groupby("metric").max()

    every = {
        method: pd.DataFrame({unit: apart(rows, method) for unit, rows in stored.items()})
        for method in ("eata", "sar")
    }
    means = adapted.over_networks(list(stored.values()))
    risk = f"risk_{details.THRESHOLD}"
    for method, own in every.items():
        assert set(apart(means, method).index) == {*details.METRICS} - {adapted.COVERED}
        assert (apart(means, method) < 0.01).all()
        assert own.drop(risk).max(axis=None) < 0.01
        assert own.loc[adapted.COVERED].notna().sum() == 2
    assert "Prediction sets of EATA and SAR were measured on two networks alone." in found
    assert every["eata"].loc[risk].max() < 0.01
    assert f"above the threshold differs by {every['sar'].loc[risk].max():.2f} with SAR" in found


def test_a_mean_over_networks_covers_other_networks_and_other_images():
    """By hand: Student's t of two degrees of freedom is 4.303, and the networks' own reach 0.04."""

    def network(value, reach, *, tent=True):
        cells = [("batchnorm", value, value - reach, value + 2 * reach, 300)]
        cells += [("tent", 0.0, 0.0, 0.0, 300)] if tent else []
        rows = pd.DataFrame(cells, columns=["method", "value", "low", "high", "n"])
        return rows.assign(protocol="shuffled", metric=adapted.CHANGE, **adapted.CLEAN)

    networks = [network(0.1, 0.03), network(0.2, 0.04, tent=False), network(0.3, 0.05)]
    [mean] = adapted.over_networks(networks).to_dict("records")  # TENT was not measured on all
    spread = 4.302653 * 0.1 / 3**0.5
    assert mean["method"] == "batchnorm"
    assert mean["value"] == pytest.approx(0.2)
    assert mean["low"] == pytest.approx(0.2 - (spread**2 + 0.04**2) ** 0.5)
    assert mean["high"] == pytest.approx(0.2 + (spread**2 + 0.08**2) ** 0.5)
    alike = adapted.over_networks([network(0.2, 0.04)] * 3)
    assert alike.loc[0, ["low", "high"]].tolist() == pytest.approx([0.16, 0.28])


def test_a_mean_over_networks_stays_where_its_metric_can_be():
    rows = pd.DataFrame({"method": "lame", "protocol": "", "n": 300, **adapted.CLEAN}, index=[0, 1])
    ends = [0.0, 1.0]
    networks = [
        rows.assign(metric=["accuracy", adapted.CHANGE], value=end, low=end, high=end)
        for end in ends
    ]
    means = adapted.over_networks(networks).set_index("metric")
    assert means.loc["accuracy", ["low", "high"]].tolist() == [0, 1]
    assert means.loc[adapted.CHANGE, ["low", "high"]].tolist() == [-1, 1]


# ---- results/pathmnist/details.md: its tables beside the paper's are those that were measured

PATHMNIST = ROOT / "results/pathmnist"
ROWS = {"Basic": "basic", "MixUp + Aug": "mixup_aug"}
METRICS = {"Accuracy (%)": "accuracy", "RMS calibration error": "rms_calibration_error"}
SHIFTS = {"clean": "clean", "brightness": "brightness_factor", "blur": "gaussian_blur"}
SIGNS = {"f": "brightness_factor", "σ": "gaussian_blur"}


@pytest.fixture(scope="module")
def compared():
    rows = pd.read_csv(PATHMNIST / "compare_paper.csv", dtype={"level": str})
    return rows.set_index(["model", "shift", "level", "metric"])


@pytest.fixture(scope="module")
def lines():
    return (PATHMNIST / "details.md").read_text().splitlines()


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def number(value, metric):
    text = f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.3f}"
    return text.replace("-", "−")


def with_interval(value, low, high, metric):
    return f"{number(value, metric)} [{number(low, metric)}, {number(high, metric)}]"


def told(row):
    """The measured value with its interval, the published one, and the difference."""
    metric = row.name[-1]
    sign = "+" if row.difference > 0 else ""
    return [
        with_interval(row.measured, row.low, row.high, metric),
        number(row.published, metric),
        sign + number(row.difference, metric),
    ]


def means_of(lines, header, models):
    """The cells of a table of means, by the row of the comparison that they show."""
    at, shown, what = lines.index(header), {}, ""
    for line in lines[at + 2 : at + 2 + 6 * len(models)]:
        name, title, *values = cells_of(line)
        what = name or what
        metric, _, shift = what.rpartition(", ")
        level = "none" if shift == "clean" else "mean"
        shown[models[title], SHIFTS[shift], level, METRICS[metric]] = values
    assert len(shown) == 6 * len(models)
    return shown


def levels_of(lines, beginning):
    """Where the table of levels begins, and its levels."""
    (at,) = (at for at, line in enumerate(lines) if line.startswith(beginning))
    levels = [cell.rpartition(" ")[2] for cell in cells_of(lines[at]) if cell]
    assert len(levels) == 4
    return at + 2, levels


@pytest.fixture(scope="module")
def longer():
    rows = pd.read_csv(PATHMNIST / "compare_paper_longer.csv", dtype={"level": str})
    return rows.set_index(["model", "shift", "level", "metric"])


def inside(rows):
    return [str(row["inside"]) == "True" for row in rows]


def tell_miss(*pair):
    """Two more digits where a published value outside looks equal to an end of the interval."""
    metric = pair[0].name[-1]
    for row, (end, sign) in itertools.product(pair, (("low", "<"), ("high", ">"))):
        if number(row.published, metric) == number(row[end], metric):
            scale = 100 if metric == "accuracy" else 1
            assert (row.published < row.low) if end == "low" else (row.published > row.high)
            return f"no ({scale * row.published:.4g} {sign} {scale * row[end]:.4g})"
    return "no"


def test_a_published_value_that_is_just_outside_has_more_digits():
    names = ["published", "low", "high"]
    row, far = (pd.Series(values, names) for values in ([0.68112, 0.68131, 0.7], [0.6, 0.7, 0.8]))
    accuracy, error = pages.MEANS[0], pages.MEANS[3]
    assert pages.tell_miss([far, row], accuracy) == "no (68.11 < 68.13)"
    assert pages.tell_miss([far], accuracy) == "no"
    assert pages.tell_miss([pd.Series([0.16841, 0.1, 0.16839], names)], error) == (
        "no (0.1684 > 0.1684)"
    )


def test_the_means_of_pathmnist_are_those_of_both_comparisons(compared, longer, lines):
    header = "| | | 8 epochs | 80 and 60 epochs | Published | Inside the interval |"
    for key, cells in means_of(lines, header, ROWS).items():
        pair = [compared.loc[key], longer.loc[key]]
        assert cells[:3] == [told(pair[0])[0], told(pair[1])[0], told(pair[0])[1]]
        epochs = ("8", {"basic": "80", "mixup_aug": "60"}[key[0]])
        names = list(itertools.compress(epochs, inside(pair)))
        assert cells[3] == (f"{' and '.join(names)} epochs" if names else tell_miss(*pair))


def test_the_longer_trainings_are_those_of_the_units(compared, longer):
    """A comparison is the mean over seeds; of one seed, it has the interval of its unit."""
    names = longer.index.names
    for model in ROWS.values():
        units = pages.find_units(model, longer=True)
        scores = [
            pd.read_csv(unit / "scores.csv", dtype={"level": str}).set_index(names)
            for unit in units
        ]
        rows = longer.loc[[model]]
        assert len(rows) == len(compared.loc[[model]]) == 22
        values = sum(table.loc[rows.index, "value"] for table in scores) / len(scores)
        assert rows["measured"].tolist() == pytest.approx(values.tolist(), abs=2e-8)
        if len(units) == 1:
            for end in ("low", "high"):
                assert rows[end].tolist() == scores[0].loc[rows.index, end].tolist()


def test_the_page_of_pathmnist_is_as_its_script_writes_it(lines):
    """A unit that was added without running results/pages.py fails here."""
    text = "\n".join(lines)
    for name, written in pages.longer_blocks().items():
        assert f"<!-- {name} -->\n{written}\n<!-- end of {name} -->" in text


def test_the_figure_of_both_lengths_shows_each_training_and_the_published_values(compared):
    names = compared.index.names[1:]
    expected = []
    for (title, model), metric in itertools.product(ROWS.items(), METRICS.values()):
        scale = 100 if metric == "accuracy" else 1
        epochs = {"basic": 80, "mixup_aug": 60}[model]
        for longer, length in ((False, 8), (True, epochs)):
            for unit in pages.find_units(model, longer=longer):
                scores = pd.read_csv(unit / "scores.csv", dtype={"level": str}).set_index(names)
                for state, shift in SHIFTS.items():
                    key = (shift, "none" if state == "clean" else "mean", metric)
                    value = scale * scores.loc[key, "value"]
                    expected.append((f"{title}, {length} epochs", state, value))
        for state, shift in SHIFTS.items():
            key = (model, shift, "none" if state == "clean" else "mean", metric)
            value = scale * compared.loc[key, "published"]
            expected.append((f"{title}, published", state, value))
    drawn = html.unescape((PATHMNIST / "figures/longer.svg").read_text())
    marks = re.findall(r": ([\d.]+); row: ([^;\"]+); column: (\w+)\"", drawn)
    shown = sorted((row, state, float(value)) for value, row, state in marks)
    assert [mark[:2] for mark in shown] == [mark[:2] for mark in sorted(expected)]
    assert [mark[2] for mark in shown] == pytest.approx([mark[2] for mark in sorted(expected)])


def test_what_longer_training_is_said_to_change_is_what_the_seeds_show(lines):
    text = "\n".join(lines)
    changes = pages.measure_changes()
    accuracy, errors = (changes.filter(like=what) for what in ("Accuracy", "Calibration error"))
    assert accuracy.shape[1] == errors.shape[1] == 3
    assert (accuracy > 0).all(axis=None)
    drawn = re.sub("<[^>]*>", " ", (PATHMNIST / "figures/longer.svg").read_text())
    title = (
        "Each training of published length is more accurate than with 8 epochs and the same seed;"
    )
    assert title in " ".join(drawn.split())
    falls = -errors["Calibration error, brightness"]
    recipes = [falls.filter(like=recipe) for recipe in ROWS]
    large = sorted(recipe.max() for recipe in recipes)
    assert "falls by {:.2f} and {:.2f} with one seed of each recipe".format(*large) in text
    others = [recipe.drop(recipe.idxmax()) for recipe in recipes]
    assert f"it changes by {max(map(max, map(abs, others))):.2f} at most" in text


def units_of(model, *, longer=False):
    return [pages.read_unit(unit) for unit in pages.find_units(model, longer=longer)]


def test_a_further_training_lies_where_those_of_other_seeds_say():
    """By hand: Student's t of two degrees of freedom is 4.303, the standard deviation 0.1."""
    reach = 4.302653 * 0.1 * (4 / 3) ** 0.5
    assert pages.expect_training([0.1, 0.2, 0.3]) == pytest.approx((0.2 - reach, 0.2 + reach))


def test_the_reasons_why_numbers_differ_from_the_papers_are_what_is_stored(longer, lines):
    text = "\n".join(lines)
    keys = [
        (shift, "none" if shift == "clean" else "mean", "accuracy") for shift in SHIFTS.values()
    ]
    apart = []
    for key in keys:
        seeds = [[100 * unit["value"][key] for unit in units_of(model)] for model in ROWS.values()]
        apart.append(round(max(max(values) - min(values) for values in seeds)))
    assert (
        "up to {} points on clean images, {} under brightness and {} under".format(*apart) in text
    )
    missed = [round(-100 * longer.loc[("basic", *key), "difference"]) for key in keys]
    assert "Their means differ from the paper by {}, {} and {}.".format(*missed) in text
    two = [[100 * unit["value"][key] for unit in units_of("basic", longer=True)] for key in keys]
    (gap,) = {round(max(values) - min(values)) for values in two}
    assert f"two seeds of Basic differ by {gap} points in each state." in text
    key = ("gaussian_blur", "0.5", "accuracy")
    published = longer.loc[("mixup_aug", *key), "published"]
    more = {
        round(100 * (unit["value"][key] - published)) for unit in units_of("mixup_aug", longer=True)
    }
    assert f"MixUp + Aug is {min(more)} points better there than published, in both seeds" in text
    assert len(more) == 1


def test_the_page_of_pathmnist_says_how_many_seeds_it_has():
    page = (PATHMNIST / "README.md").read_text()
    count = {1: "one", 2: "two", 3: "three"}
    basic, mixed = (count[len(units_of(model, longer=True))] for model in ROWS.values())
    assert f"the published epochs: Basic {basic}, MixUp + Aug {mixed}." in page
    assert f"Basic has {basic} seed" in page
    often = {"one": "once", "two": "twice", "three": "three times"}
    told = " ".join(README.split())
    assert f"trained Basic {often[basic]} and MixUp + Aug {often[mixed]}, as long as" in told
    others = count[len(units_of("augmix"))]
    assert f"MixUp + Aug {mixed}, AugMix {others}." in page
    assert basic == mixed
    results = (ROOT / "results/README.md").read_text()
    assert f"recipes has {basic} seeds of published length; AugMix has {others} of 8 ep" in results


def test_the_sentences_of_pathmnist_say_what_is_stored(longer, lines):
    page, text = (PATHMNIST / "README.md").read_text(), "\n".join(lines)
    pairs = [pathmnist.batch_norm(unit)[1] for unit in pathmnist.units() if "-80-" in unit]
    repaired = [round(100 * own["value"]) for _, own in pairs]
    assert f"[{min(repaired)} to {max(repaired)} %]" in page
    gains = [round(100 * (own["value"] - plain["value"])) for plain, own in pairs]
    told = " ".join(README.split())
    assert (
        f"`--variant batchnorm` gives the recipes {min(gains)} to {max(gains)} points back" in told
    )
    (left,) = re.findall(r"Sorted by class, batch norm leaves (\d+ to \d+ %) right", text)
    assert f"Sorted by class, it leaves {left} right" in told
    assert f"it leaves [{left}](details.md#in-three-protocols) right even without" in page
    lost, colder = [], {}
    for unit in pathmnist.units():
        model = unit.partition("-")[0]
        scores = pd.read_csv(PATHMNIST / f"units/{unit}.scores.csv.gz", dtype={"level": str})
        value = scores.set_index(["model", "shift", "metric"]).sort_index()["value"]
        accuracy = (value[model, shift, "accuracy"].item() for shift in ("validation", "clean"))
        lost.append(round(100 * -float(pd.Series(accuracy).diff().iloc[1])))
        errors = [
            value[f"{model}{of}", "clean", "rms_calibration_error"].item()
            for of in ("", "+temperature")
        ]
        colder.setdefault(model, []).append(errors[1] < errors[0])
    fall = f"Clean test accuracy lies {min(lost)} to {max(lost)} points below validation accuracy"
    assert fall in text
    assert len(lost) == 10
    assert all(colder["basic"])
    assert not any(colder["mixup_aug"])
    assert [len(of) for of in colder.values()] == [5, 5]
    assert "all five trainings of Basic, and raises that of all five of MixUp + Aug" in text
    means = longer["measured"].unstack("model")
    for key, gain in (means["mixup_aug"] - means["basic"]).items():
        if key[1] in ("none", "mean"):
            assert (gain > 0) == (key[2] == "accuracy")


def test_the_hospitals_of_pathmnist_have_the_shares_of_tissue_that_are_said(lines):
    place = PATHMNIST / "units/basic-s0/predictions/basic/seed-0"
    shares = [
        100 * (pd.read_parquet(place / part / "clean.parquet")["labels"] == 0).mean()
        for part in ("val", "test")
    ]
    said = "Adipose tissue is {:.0f} % of the validation images, and {:.0f} % of the test images."
    assert said.format(*shares) in "\n".join(lines)


def test_what_two_seeds_say_of_mixup_beside_basic_is_what_is_stored(lines):
    pairs = zip(*(units_of(model, longer=True) for model in ("mixup_aug", "basic")), strict=True)
    changes = [mixed["value"] - basic["value"] for mixed, basic in pairs]
    found = {}
    for column in pages.MEANS:
        values = pd.Series([change[column.key] for change in changes])
        mean, reach = values.mean(), student(values)
        assert (values > 0).tolist() == [column.metric == "accuracy"] * 2
        if reach < abs(mean):
            ends = [f"{end:.2f}".replace("-", "−") for end in (mean, mean - reach, mean + reach)]
            found[column.key] = "{} [{}, {}]".format(*ends)
    ((key, told),) = found.items()
    assert key == ("gaussian_blur", "mean", "rms_calibration_error")
    assert len(pages.MEANS) == 6
    text = "\n".join(lines)
    assert "two seeds favour MixUp + Aug in all six means." in text
    said = f"Two seeds confirm at most its calibration under blur, {told}. The other five interv"
    assert said in text


def test_what_imagenet_weights_are_said_to_gain_is_what_is_stored(lines):
    weights, plain = units_of("lite0_mixup_aug_pt"), units_of("lite0_mixup_aug")
    assert len(weights) == len(plain) == 1
    key = ("brightness_factor", "mean", "accuracy")
    gain = round(100 * (weights[0]["value"][key] - plain[0]["value"][key]))
    said = f"In one seed, ImageNet weights gain {gain} points under brightness."
    assert said in "\n".join(lines)


def test_what_attacks_leave_is_what_is_stored(lines):
    def left(model):
        """What PGD within 1/255 leaves each seed right, in %."""
        values = []
        for path in sorted((PATHMNIST / "units").glob(f"{model}-s?.scores.csv.gz")):
            scores = pd.read_csv(path, dtype={"level": str}).set_index(
                ["model", "shift", "level", "metric"]
            )
            values.append(100 * scores.loc[(model, "pgd", str(1 / 255), "accuracy"), "value"])
        return values

    augmix = left("augmix")
    resnets = [*left("basic"), *left("mixup_aug"), *left("barlow_twins")]
    assert (len(augmix), len(resnets)) == (3, 7)
    (robust,) = {round(share) for share in augmix}
    told = f"PGD leaves AugMix {robust} %"
    least = min(resnets)
    assert max(augmix) < least < max(augmix) + 1
    told += f": about as few as the least robust of seven ResNet-18s ({least:.0f} %)."
    assert told in "\n".join(lines)


def test_the_robust_row_is_that_of_its_comparison(lines):
    rows = pd.read_csv(PATHMNIST / "compare_paper_robust.csv").set_index(
        ["model", "shift", "level", "metric"]
    )
    at = lines.index("| | Measured, 8 epochs | Published | Difference |")
    for line in lines[at + 2 : at + 8]:
        name, *values = cells_of(line)
        metric, _, shift = name.rpartition(", ")
        level = "none" if shift == "clean" else "mean"
        assert values == told(rows.loc["augmix", SHIFTS[shift], level, METRICS[metric]])


def test_the_readme_tells_the_finding_and_the_table_has_its_numbers():
    page = (PATHMNIST / "README.md").read_text()
    finding = page.splitlines()[0].removeprefix("# ")
    assert finding in " ".join(README.split())
    clean, bright = (column.key for column in pages.PAPER[:2])

    def lost(units):
        """What brightness takes from each training, in points."""
        return [round(100 * (unit["value"][clean] - unit["value"][bright])) for unit in units]

    recipes = [loss for model in ROWS.values() for loss in lost(units_of(model, longer=True))]
    assert len(recipes) == 4
    (robust,) = set(lost(units_of("augmix")))
    takes = f"rightness takes {min(recipes)} to {max(recipes)} points"
    title = f"{takes} from four trainings of the paper's recipes, and {robust} from AugMix with"
    assert finding == f"B{title} ImageNet weights"
    assert f"b{title} ImageNet weights." in (ROOT / "results/README.md").read_text()
    assert f"[b{takes}](" in (ROOT / "docs/studies.md").read_text()


@pytest.mark.parametrize("sign", SIGNS)
def test_the_levels_of_pathmnist_are_those_of_both_comparisons(compared, longer, lines, sign):
    at, levels = levels_of(lines, f"| | | {sign} = ")
    for place, (title, model) in enumerate(ROWS.items()):
        three = [cells_of(line) for line in lines[at + 3 * place : at + 3 + 3 * place]]
        assert [cells[0] for cells in three] == [title, "", ""]
        epochs = {"basic": 80, "mixup_aug": 60}[model]
        assert [cells[1] for cells in three] == ["8 epochs", f"{epochs} epochs", "published"]
        for column, level in enumerate(levels, start=2):
            key = (model, SIGNS[sign], level, "accuracy")
            short, published, _difference = told(compared.loc[key])
            assert [cells[column] for cells in three] == [
                short,
                told(longer.loc[key])[0],
                published,
            ]


def test_the_tables_of_adapting_are_those_of_the_stored_networks(lines):
    text = "\n".join(lines)
    for name, written in pathmnist.blocks().items():
        assert f"<!-- {name} -->\n{written}\n<!-- end of {name} -->" in text


def test_what_adapting_is_said_to_change_is_what_is_stored(lines):
    text = "\n".join(lines)
    networks = [pathmnist.batch_norm(unit) for unit in pathmnist.units()]
    gains = [[round(100 * (own["value"] - plain["value"])) for plain, own in n] for n in networks]
    clean, bright, blurred = list(zip(*gains, strict=True))[:3]
    assert f"gains {min(bright)} to {max(bright)} points under brightness" in text
    assert f"and {min(blurred)} to {max(blurred)} under blur" in text
    assert len(networks) == 10
    assert "in each of these ten networks" in text
    assert f"accuracy by −{-min(clean)} to +{max(clean)} points" in text
    most = {"accuracy": 1.1, "rms_calibration_error": 0.025}
    assert "at most {} points and {} to either side".format(*most.values()) in text
    for network in networks:
        for column, pair in zip(pages.MEANS, network, strict=True):
            for cell in pair:
                reach = max(cell["high"] - cell["value"], cell["value"] - cell["low"])
                assert column.scale * reach <= most[column.metric]


def test_what_the_protocols_are_said_to_do_is_what_is_stored(lines):
    text = "\n".join(lines)
    networks = pathmnist.networks()
    mixed, by_class, four = adapted.USUAL

    def read(metric):
        """A column for each network."""
        rows = {
            name: rows[(rows["metric"] == metric) & (rows["shift"] == "clean")].set_index(
                ["method", "protocol"]
            )["value"]
            for name, rows in networks.items()
        }
        return 100 * pd.DataFrame(rows)

    def ends(values):
        return round(values.min()), round(values.max())

    right, wrong = read("accuracy"), read(pathmnist.RISK)
    changes = right - right.loc[(adapted.PLAIN, "")]
    left, plain = (ends(right.loc[key]) for key in (("batchnorm", by_class), (adapted.PLAIN, "")))
    assert "leaves {} to {} % right instead of {} to {} %".format(*left, *plain) in text
    most, least = ends(-changes.loc[("batchnorm", four)])[::-1]
    assert f"Batches of four take {least} to {most} points" in text
    every = pd.concat(networks.values()).query("metric == 'accuracy' and shift == 'clean'")
    reach = (every["high"] - every["value"]).combine(every["value"] - every["low"], max).max()
    assert f"reach at most {100 * reach:.0f} points; `--table`" in text
    for name, rows in networks.items():
        if name.endswith("seed 1"):
            change = rows[rows["metric"] == adapted.CHANGE].set_index(["shift", "method"])
            of_t3a = change.loc[("clean", "t3a")].set_index("protocol")
            assert of_t3a.index.tolist().count(by_class) == 1
            shuffled = of_t3a.drop(by_class)
            assert (shuffled["low"] > 0).all()
            assert of_t3a.loc[by_class, "low"] <= 0 <= of_t3a.loc[by_class, "high"]
    assert "It gains {} to {} points in shuffled".format(*ends(changes.loc[("t3a", mixed)])) in text
    assert changes.loc[("t3a", by_class)].abs().max() < 1
    assert "LAME gains {} to {} points where".format(*ends(changes.loc[("lame", by_class)])) in text
    lost, gained = ends(changes.loc[("lame", mixed)])
    assert f"it changes accuracy by −{-lost} to +{gained} points" in text
    kept = wrong[(wrong <= 5).any(axis=1)]
    assert kept.index.tolist() == [("lame", by_class)]
    assert (kept.iloc[0] <= 5).tolist() == [not name.startswith("Basic") for name in networks]
    covered, classes = (
        [
            rows.set_index(["metric", "method", "protocol"])["value"][metric, "batchnorm", by_class]
            for name, rows in networks.items()
            if name.endswith("seed 1")
        ]
        for metric in (adapted.COVERED, "conformal_set_size")
    )
    least, most = sorted(round(100 * share) for share in covered)
    assert f"cover {least} and {most} % where batch norm sees sorted images" in text
    assert [round(count) for count in classes] == [7, 7]
    for metric in ("accuracy", "rms_calibration_error", pathmnist.RISK):
        shown = adapted.by_network(networks, metric)
        assert "| EATA" not in shown
        assert "| SAR" not in shown


def test_what_lies_near_batch_norm_in_each_network_is_left_out():
    cells = [("batchnorm", 0.5), ("tent", 0.505), ("eata", 0.52), ("lame", 0.5)]
    rows = pd.DataFrame(cells, columns=["method", "value"])
    rows = rows.assign(protocol=adapted.USUAL[0], metric="accuracy", **adapted.CLEAN)
    far = rows.assign(value=[0.4, 0.42, 0.4, 0.4])

    def methods(*networks):
        named = [network.assign(unit=name) for name, network in enumerate(networks)]
        return adapted.leave_out_repeats(pd.concat(named))["method"].unique().tolist()

    assert methods(rows) == ["batchnorm", "eata", "lame"]
    assert methods(rows, far) == ["batchnorm", "tent", "eata", "lame"]


def test_what_adapting_long_trainings_is_said_to_do_is_what_is_stored(lines):
    text = "\n".join(lines)
    folder, mixed = adapted.read_folder(pathmnist.HERE / "adapted"), adapted.USUAL[0]
    key = ["metric", "method", "protocol", "shift", "level"]
    both = [folder[f"{model}-80-s1"].set_index(key)["value"] for model in ("mixup_aug", "basic")]
    clean = ("clean", "none")
    bright = [("brightness_factor", level) for level in ("0.8", "1.2")]
    shifts = [*bright, ("gaussian_blur", "0.9")]

    def read(metric, method, cells, protocol=mixed):
        """Percent or points: a list for each network."""
        return [
            [round(100 * value[(metric, method, protocol, *cell)]) for cell in cells]
            for value in both
        ]

    gained = list(itertools.chain(*read(adapted.CHANGE, "batchnorm", bright)))
    (mixup,), (basic,) = read(adapted.CHANGE, "batchnorm", [clean])
    assert f"norm gains {min(gained)} to {max(gained)} points at f = 0.8 and 1.2" in text
    assert f"and loses {-mixup} and {-basic} without a further shift**, in seed 1" in text
    of_t3a = read(adapted.CHANGE, "t3a", [clean, *shifts])
    every = list(itertools.chain(*of_t3a))
    assert [change < 0 for change in every] == [False] * 6 + [True, False]
    gains = [change for change in every if change > 0]
    assert (
        f"T3A gains {min(gains)} to {max(gains)} points, but for a loss of {-min(every)} [" in text
    )
    of_lame = read(adapted.CHANGE, "lame", [clean, *shifts])
    cells = [(adapted.COLLAPSED, "lame", mixed, *cell) for cell in (clean, *shifts)]
    assert [round(5 * both[0][cell]) for cell in cells] == [4, 5, 5, 5]
    assert not any(cell in both[1] for cell in cells)
    assert f"It loses up to {-min(of_lame[0])} points. With Basic, seed 1" in text
    assert f"accuracy changes by {max(map(abs, of_lame[1]))} point at most" in text
    plain = list(itertools.chain(*read(adapted.COVERED, adapted.PLAIN, shifts, "")))
    assert f"cover {min(plain)} to {max(plain)} % under the shifts. After batch norm" in text
    own = list(itertools.chain(*read(adapted.COVERED, "batchnorm", shifts)))
    assert f"After batch norm they cover {min(own)} to {max(own)} %" in text


def test_what_two_further_orders_are_said_to_do_is_what_is_stored(lines):
    text = "\n".join(lines)
    stored = adapted.read(PATHMNIST / "two_epochs.csv").set_index(["method", "protocol", "shift"])

    def lost(method, protocol, shift="clean"):
        """The points of accuracy that are lost, with their interval, as the page writes them."""
        change = stored.loc[(method, f"{protocol}, 64 a batch", shift), ["value", "high", "low"]]
        return "{:.0f} points [{:.0f}, {:.0f}]".format(*-100 * change)

    assert f"(Dirichlet), batch norm loses {lost('batchnorm', 'Dirichlet')}." in text
    after = lost("tent", "continual", "clean_after/all").replace(" points", "")
    before = lost("tent", "continual")
    assert f"TENT loses {before} before them and {after} after them." in text


NETWORK = """
from torch import manual_seed, nn


def load():
    manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 3))
"""


@pytest.mark.usefixtures("undrawn")
def test_a_network_is_measured_and_further_protocols_are_added(tmp_path, monkeypatch, capsys):
    """The commands of the pages, with few small images and an untrained network."""
    photos = write_pictures(tmp_path / "photos", val=24, test=8)
    (tmp_path / "network.py").write_text(NETWORK)
    out = tmp_path / "stored.csv"

    def measure(*asked):
        sources = f"python:{tmp_path / 'network.py'}:load", f"folder:{photos}"
        settings = "--validation", "72", "--streams", "2", "--shift", "brightness_factor: [0.5]"
        command = ["adapted.py", *sources, *settings, "--out", str(out), *asked]
        monkeypatch.setattr(sys, "argv", command)
        adapted.main()
        return adapted.read(out).set_index([*adapted.KEY, "metric"]).sort_index()

    mixed, continual = adapted.USUAL[0], "continual, 64 a batch"
    first = measure("--methods", "tent", "views", "--protocols", mixed)
    assert "| TENT |" in capsys.readouterr().out
    assert set(first.index.get_level_values("method")) == {adapted.PLAIN, "tent", "views"}
    clean, dark = ("clean", "none"), ("brightness_factor", "0.5")
    cells = zip(*(first.index.get_level_values(name) for name in ("shift", "level")), strict=True)
    assert set(cells) == {clean, dark}
    for cell in (clean, dark):
        plain = first.loc[(adapted.PLAIN, "", *cell)]["value"]
        own = first.loc[("tent", mixed, *cell)]["value"]
        assert own[adapted.CHANGE] == pytest.approx(own["accuracy"] - plain["accuracy"], abs=1e-6)
        assert 0 <= own[adapted.COVERED] <= 1
        assert adapted.COVERED in plain
    passes = first["value"].xs(clean, level=("shift", "level"))
    assert passes["tent", mixed, "forward"] == passes["tent", mixed, "backward"] == 1
    assert passes["views", mixed, "forward"] == 2
    assert passes["views", mixed, "backward"] == 0

    second = measure("--methods", "tent", "--protocols", continual)
    pd.testing.assert_frame_equal(second.loc[first.index], first, check_exact=False, rtol=1e-6)
    added = second.drop(first.index).reset_index()
    assert set(added["protocol"]) == {continual}
    afterwards = added[added["shift"] == "clean_after/all"]
    assert "accuracy" in set(afterwards["metric"])
    assert pathmnist.name_cell("brightness_factor", "0.5") == "f = 0.5"


def test_numbers_of_another_network_are_not_added(tmp_path):
    rows = pd.DataFrame(
        {"method": adapted.PLAIN, "protocol": "", "metric": "accuracy", "n": 300}, index=[0]
    )
    rows = rows.assign(**adapted.CLEAN, value=0.5, low=0.4, high=0.6)
    rows.to_csv(tmp_path / "network.csv", index=False)
    assert adapted.add_stored(rows, tmp_path / "network.csv").equals(rows)
    with pytest.raises(AssertionError, match="as trained"):
        adapted.add_stored(rows.assign(value=0.51), tmp_path / "network.csv")


def test_one_mixup_weight_a_batch_is_told_as_it_was_measured():
    text = (PATHMNIST / "details.md").read_text(encoding="utf-8")
    changes = pages.compare_batch_weights()
    sharp = changes.loc["Accuracy, σ = 0.5"]
    assert f"it is {-sharp['value']:.0f} points worse there than with our one an image." in text
    assert sharp["low"] < 0 < sharp["high"]
    excludes = changes[(changes["low"] > 0) | (changes["high"] < 0)]
    assert excludes.index.tolist() == ["Accuracy, blur"]
    assert excludes["value"].item() < 0
    assert len(changes) == 7
    assert "It is one of seven intervals" in text


# ---- results/oxford-pets/details.md, likewise

PETS = ROOT / "results/oxford-pets"
PETS_ROWS = {
    "ImageNet weights": "supervised",
    "No pre-training": "scratch",
    "Barlow Twins": "barlow_twins",
}


@pytest.fixture(scope="module")
def pets():
    rows = pd.read_csv(PETS / "compare_paper.csv", dtype={"level": str})
    return rows.set_index(["model", "shift", "level", "metric"])


@pytest.fixture(scope="module")
def pets_lines():
    return (PETS / "details.md").read_text().splitlines()


def test_the_means_of_the_pets_are_those_of_the_comparison(pets, pets_lines):
    shown = means_of(pets_lines, "| | | Measured | Published |", PETS_ROWS)
    assert shown == {key: told(pets.loc[key])[:2] for key in shown}


def test_the_tables_of_the_pets_are_written_from_what_is_stored(pets_lines):
    text = "\n".join(pets_lines)
    tables = {
        "means": pages.tabulate_pets(),
        "groups": pages.tabulate_groups(),
        "differences": pages.tabulate_differences(),
    }
    for name, written in tables.items():
        assert f"<!-- {name} -->\n{written}\n<!-- end of {name} -->" in text


def test_what_is_stored_of_the_pets_is_of_their_units(pets):
    for row in pages.measured_pets():
        units = [pages.read_unit(unit)["value"] for unit in row.find_units(PETS)]
        assert len(units) == 3
        rows = pets.loc[row.model]
        values = sum(unit.loc[rows.index] for unit in units) / len(units)
        assert rows["measured"].tolist() == pytest.approx(values.tolist(), abs=2e-8)


def test_what_is_said_of_the_pets_is_what_is_stored(pets, pets_lines):
    page, text = (PETS / "README.md").read_text(), "\n".join(pets_lines)
    stored = pd.read_csv(PETS / "differences.csv", dtype={"level": str})
    starts = stored.set_index(["model_b", "metric", "shift", "level"]).sort_index()
    clean = ("clean", "none")

    def right(model, shift="clean", level="none"):
        return round(100 * pets.loc[(model, shift, level, "accuracy"), "measured"])

    gain = round(100 * starts.loc[("supervised", "accuracy", *clean), "difference"])
    found = f"ImageNet weights gain {gain} points on 37 breeds, and pre-training on 1,414 own"
    assert page.startswith(f"# {found} pictures shows no gain\n")
    assert found in (ROOT / "results/README.md").read_text()
    assert f"right on {right('supervised')} % of clean images; from random" in page
    assert f"from random weights on {right('scratch')} %." in page
    published = pets["published"].xs((*clean, "accuracy"), level=("shift", "level", "metric"))
    published_gain = round(100 * (published["supervised"] - published["scratch"]))
    assert f"gain {gain} points on clean images (published: {published_gain})" in text
    own = stored[stored["model_b"] == "barlow_twins"]
    assert (own["low"][own["metric"] == "accuracy"] <= 0).all()
    tested = own["p"].notna()
    said = "{} of {} tested differences from random weights are real"
    assert said.format((own["verdict"] == "real").sum(), tested.sum()) in text
    assert f"The {(~tested).sum()} means over levels have no test; three of them exclude 0" in text
    excludes = own[~tested & ((own["low"] > 0) | (own["high"] < 0))]
    assert excludes["metric"].tolist() == [pages.RMS] * 3
    assert set(excludes["shift"]) == {"brightness_factor", "gaussian_blur", "all"}
    assert excludes["difference"].round(2).tolist() == [-0.06] * 3


def test_what_is_said_of_variants_of_the_pets_is_the_mean_of_their_units(pets, pets_lines):
    text = "\n".join(pets_lines)
    kept = [
        pd.read_csv(unit, dtype={"level": str}) for unit in (PETS / "units").glob("*.scores.csv.gz")
    ]
    assert len(kept) == 9
    means = pd.concat(kept).groupby(["model", "metric", *pages.KEY[:2]])["value"].mean()
    clean, order = ("clean", "none"), ("scratch", "supervised", "barlow_twins")
    gaps = [round(100 * means[(model, "confidence_gap", *clean)]) for model in order]
    said = "these are {} points from random weights, {} with ImageNet weights, and {} after"
    assert said.format(*gaps) in text
    errors = [means[(model, pages.RMS, *clean)] for model in order]
    assert errors == sorted(errors, reverse=True)
    of_paper = [pets.loc[(model, *clean, pages.RMS), "published"] for model in order]
    assert of_paper == sorted(of_paper)
    scaled = [means[(f"{model}+temperature", pages.RMS, *clean)] for model in order]
    assert "to {:.3f}, {:.3f} and {:.3f}.".format(*scaled) in text
    assert all(after < before for after, before in zip(scaled, errors, strict=True))

    def right(model, shift, level="mean"):
        plain, adapted_ = (
            100 * means[(name, "accuracy", shift, level)] for name in (model, f"{model}+batchnorm")
        )
        return plain, adapted_

    blur, plain = right("supervised", "gaussian_blur"), right("supervised", *clean)
    said = "under blur from {:.1f} to {:.1f} % (clean: {:.1f} to {:.1f}). Under brightness"
    assert said.format(*blur, *plain) in text
    for model in ("scratch", "barlow_twins"):
        before, after = right(model, "brightness_factor")
        assert round(after - before) == 3


def test_the_one_published_number_in_the_intervals_of_the_pets_is_named(pets, pets_lines):
    inside = pets.index[pets["inside"].astype(str) == "True"]
    assert inside.tolist() == [("supervised", "gaussian_blur", "mean", pages.RMS)]
    assert f"- **{len(inside)} of {len(pets)} published numbers lies" in "\n".join(pets_lines)
