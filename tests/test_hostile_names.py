"""Names from every source: refused with one sentence before anything runs, or shown as they are."""

import csv
import html
import io
import json
import os
import re
import shutil
import unicodedata
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import fairweather as fw
from fairweather.data.groups import read_groups
from fairweather.data.loading import list_source
from fairweather.errors import MAX_NAME_LENGTH, InputError, check_name, one_line
from fairweather.files.tables import frame_to_csv, rows_to_csv
from fairweather.report.building import build_report
from fairweather.requests.evaluation_options import check_options
from fairweather.requests.study.schema import check_study
from fairweather.types.options import GroupColumns
from fairweather.types.record import PAGE, ModelRecord
from tests.helpers.opened_models import open_model
from tests.helpers.run_folders import outcomes, run_record, sweep_record, write_run

# Each breaks something: a terminal, a file, a table, a formula, a template, or the renderer.
SHOWN = (
    *(
        "=1+1",
        "<script>alert(1)</script>",
        "</script><!--",
        "../../x",
        "a/b",
        "..",
        "~",
        "a|b",
        "`c`",
    ),
    *(
        "\u202egnp.exe",
        "\u200fאבג",
        "مرحبا",
        "e\u0301",
        "👩🏽\u200d🔬",
        "\U0010fffd",
        "\ue000",
        "{{ 7 * 7 }}",
    ),
    *("{% raw %}", "$x^2$", "\\input{x}", "&amp;", "%s %(x)s {0}", "'\"", "[a](b)", "*b*"),
    *("nan", "null", "0", "-1", "1e3", "mean", "none", "clean", "CON", "a\xa0b", "\xad", "\ufeffa"),
    *("x" * MAX_NAME_LENGTH, "#", "C:\\x", "javascript:alert(1)", "--out", "\u061c"),
)
REFUSED = (
    *(
        "",
        " ",
        "\u3000",
        "a\0b",
        "a\x01b",
        "\x1b[2J",
        "a\x7f",
        "a\x85b",
        "a\x9bb",
        "\ufffe",
        "a\uffff",
    ),
    *("a\nb", "a\rb", "a\r\nb", "a\x0bb", "a\x0cb", "a\x1cb", "a\u2028b", "a\u2029b", "a\n"),
    *(
        "\ud800",
        "a\udcffb",
        "\udfff\ud800",
        "x" * (MAX_NAME_LENGTH + 1),
        "x" * 10**5,
        "<b>" * 10**4,
    ),
)
NAMES = st.one_of(
    st.sampled_from(SHOWN + REFUSED),
    st.text(st.characters(), max_size=30),
    st.text(st.characters(categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")), max_size=6),
    st.tuples(st.sampled_from(SHOWN + REFUSED), st.text(st.characters(), max_size=5)).map("".join),
)


def is_shown(name):
    try:
        check_name(name, "the name")
    except InputError:
        return False
    return True


def test_names_are_known_to_be_shown_or_refused():
    assert [name for name in SHOWN if not is_shown(name)] == []
    assert [name for name in REFUSED if is_shown(name)] == []


@given(st.text(st.characters()))
@example("".join(REFUSED))
def test_whatever_is_said_is_one_line_that_a_terminal_shows(text):
    told = one_line(text)
    assert len(told.splitlines()) <= 1
    told.encode()  # no surrogates
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", told)


# ---------------------------------------------------------------- sources of names


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def in_folder(place, name):
    for each in (name, "other"):
        picture(place / "data" / each / "0.png")
    return list_source(f"folder:{place / 'data'}").classes


def in_npz(place, name):
    pixels = np.zeros((2, 8, 8), np.uint8)
    np.savez(place / "set.npz", images=pixels, labels=[0, 1], classes=[name, "other"])
    return list_source(f"npz:{place / 'set.npz'}").classes


def features(name):
    label = {"_type": "ClassLabel", "names": [name, "other"]}
    return {"huggingface": json.dumps({"info": {"features": {"label": label}}})}


def in_parquet(place, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": b"", "path": ""}] * 2
    table = pa.table({"image": cells, "label": [0, 1]}, metadata=features(name))
    pq.write_table(table, place / "set.parquet")
    return list_source(f"parquet:{place / 'set.parquet'}").classes


def in_csv(place, name):
    for each in "01":
        picture(place / f"{each}.png")
    quoted = name.replace('"', '""')
    content = f'file,label\n0.png,"{quoted}"\n1.png,other\n'
    (place / "labels.csv").write_bytes(content.encode(errors="surrogatepass"))
    return list_source(f"csv:{place / 'labels.csv'}").classes


def in_onnx(place, name):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(ONNX)
    del graph.metadata_props[:]
    graph.metadata_props.add(key="names", value=json.dumps([name, "other", "third"]))
    onnx.save(graph, place / "model.onnx")
    return open_model(f"onnx:{place / 'model.onnx'}").classes


def in_configuration(place, name):
    folder = place / "hf"
    shutil.copytree(place.parent / "saved", folder)
    file = folder / "config.json"
    names = {"0": name, "1": "other"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": names}))
    return open_model(f"hf:{folder}").classes


def in_module(place, name):
    (place / "model.py").write_text(
        "import torch\n"
        f"classes = [{name!a}, 'other']\n"
        "def make():\n    return torch.nn.Linear(3, 2)\n"
    )
    return open_model(f"python:{place / 'model.py'}:make").classes


def in_python(place, name):
    import torch

    column = torch.arange(2)
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images = fw.Images(pixels, column, column, (name, "other"))
    return fw.Dataset("set", None, None, images, (0.5,) * 3, (0.2,) * 3).classes


def in_metadata(place, name):
    """As a value of a column; a blank one is missing."""
    for each in "01":
        picture(place / "data" / each / "0.png")
    quoted = name.replace('"', '""')
    content = f'file,site\n0/0.png,"{quoted}"\n1/0.png,other\n'
    (place / "facts.csv").write_bytes(content.encode(errors="surrogatepass"))
    listed = list_source(f"folder:{place / 'data'}")
    asked = GroupColumns(str(place / "facts.csv"), None, ("site",))
    (groups,) = read_groups(listed.splits, asked, "folder").values()
    return tuple(groups.slices["site"])


def in_own_columns(place, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": [{"bytes": b"", "path": ""}] * 2, "label": [0, 1], "site": [name, "other"]}
    pq.write_table(pa.table(columns), place / "set.parquet")
    listed = list_source(f"parquet:{place / 'set.parquet'}")
    (groups,) = read_groups(listed.splits, GroupColumns(None, None, ("site",)), "set").values()
    return tuple(groups.slices["site"])


def as_column(place, name):
    """As the name of a column; a star crosses two."""
    for each in "01":
        picture(place / "data" / each / "0.png")
    pd.DataFrame({"file": ["0/0.png", "1/0.png"], name: ["x", "y"]}).to_parquet(
        place / "facts.parquet"
    )
    listed = list_source(f"folder:{place / 'data'}")
    asked = GroupColumns(str(place / "facts.parquet"), None, (name,))
    (groups,) = read_groups(listed.splits, asked, "folder").values()
    return tuple(groups.slices)


def as_file(place, name):
    """As an image in the folder of its class."""
    for each in (name, "other"):
        picture(place / "data" / "a" / each)
    (listing,) = list_source(f"folder:{place / 'data'}").splits.values()
    return tuple(each.removeprefix("a/") for each in listing.names)


def as_file_without_label(place, name):
    for each in (name, "other"):
        picture(place / "data" / each)
    (listing,) = list_source(f"images:{place / 'data'}").splits.values()
    return listing.names


def as_file_in_csv(place, name):
    stripped = name.strip()
    for each in (stripped, "other"):
        picture(place / "data" / each)
    quoted = stripped.replace('"', '""')
    (place / "labels.csv").write_text(f'file,label\n"{quoted}",a\nother,b\n', newline="")
    (listing,) = list_source(f"csv:{place / 'labels.csv'},images=data").splits.values()
    return listing.names


def as_file_in_python(place, name):
    import torch

    column = torch.arange(2)
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    names = np.array([name, "other"], dtype=np.object_)
    images = fw.Images(pixels, column, column, ("a", "b"), names)
    plain = fw.Images(pixels, column, column, ("a", "b"))
    refused = []
    for parts in ((images, None, plain), (None, images, plain), (None, None, images)):
        try:
            made = fw.Dataset("set", *parts, (0.5,) * 3, (0.2,) * 3)
        except InputError as error:
            refused.append(error)
    if refused:
        assert len(refused) == 3
        raise refused[0]
    return made.test.names


def as_title_of_a_study(place, name):
    study = {"name": "s", "title": name, "data": {"source": "mnist5k"}}
    models = {"a": {"title": name, "backbone": "timm:test_resnet"}}
    checked = check_study({**study, "models": models})
    return (checked.title, checked.models["a"].title)


def as_title(place, name):
    return (check_options({"title": name}).title,)


SOURCES = {
    each.__name__: each
    for each in (
        *(in_folder, in_npz, in_parquet, in_csv, in_onnx, in_configuration, in_module, in_python),
        *(in_metadata, in_own_columns, as_column, as_title_of_a_study, as_title),
        *(as_file, as_file_without_label, as_file_in_csv, as_file_in_python),
    )
}
# Names that are drawn, in the usual tests and in those of the night. Configurations open slowly.
SOME = dict.fromkeys(SOURCES, 25) | {"in_configuration": 10}
MANY = dict.fromkeys(SOURCES, 1000) | {"in_configuration": 100}
ONNX = __file__.replace("test_hostile_names.py", "corpus/model.onnx")
QUICK = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def stands_in(source, name):
    """The name as the source can hold it; None if it cannot."""
    if source in ("in_folder", "as_file", "as_file_without_label"):
        return None if name.startswith(".") else of_a_file(name)
    if source == "as_file_in_csv":
        held = of_a_file(name.strip())
        return None if held is None or has_surrogates(held) else held
    if source == "in_npz":  # numpy forgets what is empty at the end, and surrogates are no text
        return None if name.endswith("\0") or has_surrogates(name) else name
    if source in ("in_csv", "in_metadata", "in_own_columns", "as_column"):
        if has_surrogates(name):
            return None
        return name.strip() or None if source != "as_column" else name
    return name


def of_a_file(name):
    """The name as the file system gives it back, where bytes that are no UTF-8 are surrogates."""
    if name in ("", ".", "..") or set(name) & {"/", "\0"}:
        return None
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return None
    return os.fsdecode(encoded) if len(encoded) < 256 else None


def is_shown_of_a_file(name):
    """Files have any length and may be blank, and have no tab either."""
    kinds = {unicodedata.category(each) for each in name}
    return not kinds & {"Cc", "Cs", "Zl", "Zp"} and not set(name) & set("\ufffe\uffff")


# A class that is a folder stands in the names of its files as well.
MAY_STAND = {each: is_shown_of_a_file for each in SOURCES if each.startswith("as_file")}
MAY_STAND["in_folder"] = lambda name: is_shown(name) and is_shown_of_a_file(name)


def has_surrogates(name):
    return any("\ud800" <= each <= "\udfff" for each in name)


def check(source, name, place):
    """A name is refused with one sentence, or it is what its source gives."""
    if (held := stands_in(source, name)) is None:
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    told, may_stand = "", MAY_STAND.get(source, is_shown)
    try:
        found = SOURCES[source](place, name)
    except InputError as error:
        told = str(error)
    shutil.rmtree(place, ignore_errors=True)
    if told:
        assert len(told.splitlines()) == 1
        assert len(told) < 1000
        # Some stand beside it already, or mean something else.
        other = held in ("other", "third", "file", "class") or "*" in held or held != held.strip()
        assert other or not may_stand(held)
    else:
        assert held in found
        assert may_stand(held)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    transformers = pytest.importorskip("transformers")
    configuration = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=2
    )
    transformers.ResNetForImageClassification(configuration).save_pretrained(folder / "saved")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(
        folder / "saved"
    )
    return folder / "place"


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_is_refused_or_taken_as_it_is(source, place):
    @settings(QUICK, derandomize=True, max_examples=SOME[source])
    @given(NAMES)
    def name_one(name):
        check(source, name, place)

    name_one()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", SOURCES)
def test_many_names_are_refused_or_taken_as_they_are(source, place):
    for name in SHOWN + REFUSED:
        check(source, name, place)

    @settings(QUICK, max_examples=MANY[source])
    @given(NAMES)
    def name_one(name):
        check(source, name, place)

    name_one()


# ---------------------------------------------------------------- the page and the tables


def reported(path, names):
    """The report of a run in which everything has one of these names."""
    titles = {f"m{number}": name for number, name in enumerate(names[:3])}
    classes = tuple(names)
    fog = sweep_record("imagenet_c/fog", {1: "imagenet_c/fog,severity=1"}, title=names[-1])
    record = run_record(
        {model: ModelRecord(title=title) for model, title in titles.items()},
        [fog],
        classes=classes,
        title=names[0],
        description=names[1 % len(names)],
    )
    rng = np.random.default_rng(0)
    n = 6 * len(names)
    cells = {
        (model, 0, shift): outcomes(rng.random(n) < 0.7, np.arange(n) % len(names), classes=classes)
        for model in titles
        for shift in ("clean", "imagenet_c/fog,severity=1")
    }
    metrics = (
        "accuracy",
        "rms_calibration_error",
        "negative_log_likelihood",
        f"sensitivity/{names[0]}",
    )
    rows = [
        (model, seed, shift, level, metric, 0.7, 0.6, 0.8, n)
        for model in titles
        for seed in ("0", "mean")
        for shift, level in (("clean", "none"), ("imagenet_c/fog", "1"))
        for metric in metrics
    ]
    run = write_run(path, record, rows, cells)
    build_report(run)
    return run


def in_a_spreadsheet(name):
    """What is no number and looks like a formula is computed, but not after an apostrophe."""
    is_number = False
    if set(name) <= set("0123456789.+-eE"):
        with suppress(ValueError):
            is_number = isinstance(float(name), float)
    return f"'{name}" if name[0] in "=+-@\t\r" and not is_number else name


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=2, max_size=4))
@example(["b\r=cmd.png", "a"])
@example(["a\r\nb", "a\nb", "\r", '"', ""])
def test_whatever_is_written_as_csv_reads_back_as_one_row(texts):
    """Names with line breaks are refused; this holds if one of them is not."""
    frame = pd.DataFrame([texts], columns=[f"column {number}" for number in range(len(texts))])
    for written in (rows_to_csv([frame.columns, texts]), frame_to_csv(frame)):
        assert list(csv.reader(io.StringIO(written, newline=""))) == [list(frame.columns), texts]
        if "\0" not in written:
            read = pd.read_csv(io.StringIO(written, newline=""), keep_default_na=False, dtype=str)
            assert read.to_numpy().tolist() == [texts]


def check_report(run, names):
    page = (run.path / PAGE).read_text()
    for name in names[:3]:
        assert html.escape(name, quote=False) in page or html.escape(name) in page, name
    assert "<script>alert" not in page
    assert "javascript:alert" not in re.findall(r'(?:href|src)="([^"]*)"', page)
    assert page.count("<script") == page.count("</script>")
    tables = [path.read_text() for path in (run.path / "tables").glob("*.csv")]
    cells = {cell for table in tables for row in csv.reader(io.StringIO(table)) for cell in row}
    assert {in_a_spreadsheet(name) for name in names[:3]} <= cells


def test_names_that_are_not_refused_are_text_on_the_page_and_in_tables(tmp_path):
    run = reported(tmp_path / "run", SHOWN)
    check_report(run, SHOWN)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_many_names_are_text_on_the_page(tmp_path_factory):
    names = st.sampled_from(SHOWN) | st.text(st.characters(), max_size=30).filter(is_shown)
    shown = st.lists(names, min_size=3, max_size=8, unique=True)

    @settings(QUICK, max_examples=8)
    @given(shown)
    def report_one(names):
        path = tmp_path_factory.mktemp("page") / "run"
        check_report(reported(path, names), names)
        shutil.rmtree(path)

    report_one()
