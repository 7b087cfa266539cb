"""The state of an unfinished training: continued as it was written, or not at all."""

import pytest
import torch

from fairweather.runs.folder import RunFolder
from fairweather.steps.training import SEALED, Resumption
from tests.conftest import keep_lines

STATE = {
    "model": {"weight": torch.linspace(-1, 1, 4096), "bias": torch.zeros(3)},
    "history": [{"epoch": 1, "val_loss": 0.5}],
}
PLACE = "models/a/seed-0/resume/state.pt"


@pytest.fixture
def stored(tmp_path):
    """A run folder with the state of a training."""
    run = RunFolder(tmp_path)
    resumption("a" * 16).write(run, STATE)
    return run


def resumption(fingerprint):
    return Resumption("models/a/seed-0", fingerprint)


def read(run, fingerprint="a" * 16):
    lines = []
    return resumption(fingerprint).read(run, "train A", keep_lines(lines)), lines


def is_as_written(state):
    return state["history"] == STATE["history"] and all(
        torch.equal(state["model"][name], each) for name, each in STATE["model"].items()
    )


def test_a_state_is_read_as_it_was_written(stored):
    state, lines = read(stored)
    assert is_as_written(state)
    assert lines == []


def test_the_state_of_another_training_is_not_taken(stored):
    assert read(stored, "b" * 16) == (None, [])


def test_without_a_state_a_training_begins(tmp_path):
    assert read(RunFolder(tmp_path)) == (None, [])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("bit", [0, 6])
def test_a_flipped_bit_never_becomes_another_weight(stored, share, bit):
    path = stored.file(PLACE)
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)
    state, lines = read(stored)
    if state is not None:  # of all bytes, only the mark may be another one
        assert share == 1.0
        assert is_as_written(state)
    else:
        assert len(lines) == 1
        assert "train A" in lines[0]
        assert "starts over" in lines[0]


@pytest.mark.parametrize("length", [0, 1, 100, -1, -8, -40, -41, -1000])
def test_a_state_that_is_cut_never_becomes_another_one(stored, length):
    path = stored.file(PLACE)
    path.write_bytes(path.read_bytes()[:length])
    state, lines = read(stored)
    if state is None:
        assert len(lines) == 1
    else:
        assert length >= -40
        assert is_as_written(state)


def test_a_state_of_an_earlier_version_is_continued(stored):
    path = stored.file(PLACE)
    content = path.read_bytes()
    assert content.endswith(SEALED)
    path.write_bytes(content[: -len(SEALED) - 32])
    state, lines = read(stored)
    assert is_as_written(state)
    assert lines == []
