"""Whether two runs contain the same numbers and networks, to the byte."""

from pathlib import Path


def files(run):
    """The scores, networks and predictions of a run or of a path to one, by their names."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for pattern in (
            "scores.csv",
            "models/**/*.safetensors",
            "predictions/**/*.parquet",
            "adapted/**/*.safetensors",
        )
        for path in sorted(Path(run).glob(pattern))
    }


def same(one, other):
    ours, theirs = files(one), files(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
