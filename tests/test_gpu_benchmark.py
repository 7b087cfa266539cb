"""benchmarks/gpu.py, which waits for a GPU, runs to its end: tried on a CPU with few images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import sharing

SCRIPT = Path(sharing.__file__).with_name("gpu.py")
FEW = "--backbone timm:test_resnet --side 32 --images 48 --batch 16 --cells 3"
STUDY = ["data=npz:tiny.npz", "backbone=timm:test_resnet", "recipe.epochs=1", "shifts=[]"]
# The rows of the table of each part: of PathMNIST, a model and its two variants.
ROWS = {"tests": 1, "training": 2, "evaluation": 3, "large": 1, "pathmnist": 3, "repeated": 1}


@pytest.mark.parametrize(
    "parts",
    [
        ["large", "pathmnist", "repeated"],
        pytest.param(["tests", "training", "evaluation"], marks=pytest.mark.nightly),
    ],
    ids=" ".join,
)
def test_each_part_writes_its_table(tmp_path, parts):
    sharing.archive(tmp_path / "tiny.npz", 28, train=32, val=16, test=16)
    overrides = [word for value in ("seeds=[0]", *STUDY) for word in ("--set", value)]
    options = [*FEW.split(), "--tests", "test_safe_path.py", "--model", "basic", *overrides]
    command = [sys.executable, str(SCRIPT), *parts, "--device", "cpu", "--out", "gpu.md", *options]
    subprocess.run(command, cwd=tmp_path, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, *written = (tmp_path / "gpu.md").read_text(encoding="utf-8").split("\n## ")
    for name, part in zip(parts, written, strict=True):
        assert part.startswith(f"{name}: cpu")
        _, _, *rows = [line for line in part.splitlines() if line.startswith("|")]
        assert len(rows) == ROWS[name], part
        assert name != "repeated" or rows[0].endswith("| 0 |")  # no file differs
