"""Parquet files of other programs: names and text that are not UTF-8 are one sentence."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fairweather.data.groups import read_text_table
from fairweather.data.loading import list_source
from fairweather.errors import InputError
from fairweather.files.tables import read_parquet_batches, read_parquet_schema
from fairweather.files.tables import read_parquet_table as read_arrow
from fairweather.models.predictions.tables import RowOptions, read_rows

TEXTS = (b"first.png", b"patient-1", b"somewhere")
NAMES = (b"image", b"bytes", b"path", b"label", b"patient", b"places", b"site")
ROWS = 4


@pytest.fixture(scope="module")
def content():
    """A file with pictures, labels and texts, some of them in lists of structures."""
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "PNG")
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    places = pa.list_(pa.struct([("site", pa.string())]))
    first, patient, site = (text.decode() for text in TEXTS)
    table = pa.table(
        {
            "image": pa.array([{"bytes": made.getvalue(), "path": first}] * ROWS, picture),
            "label": [0, 1] * (ROWS // 2),
            "patient": [patient] * ROWS,
            "places": pa.array([[{"site": site}]] * ROWS, places),
        }
    )
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    return sink.getvalue()


def pictures(path):
    for listing in list_source(f"parquet:{path}").splits.values():
        assert len(list(listing.read(np.arange(ROWS)))) == ROWS
        listing.table(["patient", "places"])


def predictions(path):
    read_rows(path, path.name, RowOptions())


READERS = {
    "pictures": pictures,
    "metadata": read_text_table,
    "predictions": predictions,
    "table": lambda path: read_arrow(path).to_pandas(),
    "batches": lambda path: [
        each.to_pylist() for each in read_parquet_batches(path, read_parquet_schema(path).names, 2)
    ],
}


@pytest.mark.parametrize("reader", [name for name in READERS if name != "predictions"])
def test_the_good_file_is_read(content, reader, tmp_path):
    path = tmp_path / "good.parquet"
    path.write_bytes(content)
    READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", [*TEXTS, *NAMES])
def test_what_is_not_utf8_is_one_sentence(content, reader, text, tmp_path):
    assert text in content
    path = tmp_path / "bad.parquet"
    path.write_bytes(content.replace(text, text[:1] + b"\xff" + text[2:]))
    with pytest.raises(InputError, match="cannot be read as a parquet file: ") as told:
        READERS[reader](path)
    assert str(path) in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_text_that_is_not_asked_for_may_be_anything(content, tmp_path):
    path = tmp_path / "odd.parquet"
    path.write_bytes(content.replace(b"patient-1", b"patient\xff1"))
    (listing,) = list_source(f"parquet:{path}").splits.values()
    assert len(list(listing.read(np.arange(ROWS)))) == ROWS


def test_a_column_is_the_one_of_this_name_and_no_other(tmp_path):
    path = tmp_path / "columns.parquet"
    columns = {"label": pa.array([{"fine": 7}]), "label.fine": pa.array([3])}
    pq.write_table(pa.table(columns), path)
    assert read_arrow(path, ["label.fine"]).to_pydict() == {"label.fine": [3]}
    assert [each.to_pydict() for each in read_parquet_batches(path, ["label.fine"], 9)] == [
        {"label.fine": [3]}
    ]
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["p", "p"]), path)
    for read in (read_arrow, lambda path: list(read_parquet_batches(path, ["p"], 9))):
        with pytest.raises(InputError, match="two columns with the name 'p'"):
            read(path)


def test_a_table_may_be_a_folder_of_parts(tmp_path):
    folder = tmp_path / "facts.parquet"
    folder.mkdir()
    with pytest.raises(InputError, match="no parquet files"):
        read_text_table(folder)
    for part in (0, 1):
        pq.write_table(pa.table({"key": [part]}), folder / f"part-{part}.parquet")
    (folder / "_SUCCESS.parquet").write_text("")
    assert read_text_table(folder)["key"].tolist() == ["0", "1"]


def test_a_folder_or_a_file_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.parquet"):
        with pytest.raises(InputError, match="cannot be read as a parquet file"):
            read_arrow(path)
