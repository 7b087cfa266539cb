"""Published tables in their real formats, and runs on 1,000 classes beside them."""

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import standing as simulated
from scipy import stats
from scipy.special import expit, logit

import fairweather as fw
from fairweather.data.natural_sets import NATURAL_SETS, find_natural_set
from fairweather.errors import InputError
from fairweather.judge import atlas as atlas_file
from fairweather.judge.atlas import (
    FILES,
    MEMORY,
    READERS,
    UNSHIFTED,
    AtlasCell,
    open_atlas,
)
from fairweather.judge.standing import (
    IMAGENET_C,
    Line,
    check_classes,
    name_family,
    read_standing,
)
from fairweather.metrics import Estimate, mean_corruption_error, to_score
from fairweather.metrics.robustness import ALEXNET
from fairweather.models.class_names import read_imagenet
from fairweather.types.record import ChoicesRecord, ModelRecord
from tests.helpers.chance import fewest, most
from tests.helpers.commands import fairweather
from tests.helpers.run_folders import outcomes, run_record, sweep_record, write_run

RESULTS = Path(__file__).parents[2] / "results/atlas"
WNIDS = read_imagenet().wnids
SLOPE, INTERCEPT = 0.9, -0.6
CLEAN = np.linspace(0.56, 0.84, 12)
NETS = [f"{letter}net{k}" for k, letter in enumerate("abcdefghijkl")]  # twelve families
TIMM = {
    "clean": "results-imagenet",
    "natural/imagenetv2-matched-frequency": "results-imagenetv2-matched-frequency",
    "natural/imagenet-real": "results-imagenet-real",
    "natural/imagenet-sketch": "results-sketch",
    "natural/imagenet-r": "results-imagenet-r",
    "natural/imagenet-a": "results-imagenet-a",
}
# A copy of the real repositories, one folder each, for tests of what was published.
REAL = os.environ.get("FAIRWEATHER_PUBLISHED", "")
needs_real = pytest.mark.skipif(not REAL, reason="FAIRWEATHER_PUBLISHED names no copies")


def on_line(clean):
    return expit(INTERCEPT + SLOPE * logit(clean))


def write(folder, path, text):
    place = Path(folder) / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def write_timm(folder):
    """Twelve standard models on a line, one of another kind, and one tested at two sizes."""
    head = "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation"
    models = [(f"{net}.a1_in1k", 224, share) for net, share in zip(NETS, CLEAN, strict=True)]
    models += [("big.clip_in21k_ft_in1k", 384, 0.88), ("anet0.a1_in1k", 160, 0.50)]
    for cell, name in TIMM.items():
        rows = [
            f"{model},{size},{100 * (share if cell == 'clean' else on_line(share)):.3f},9,99,1,"
            f'"1,011.20",0.900,bicubic'
            for model, size, share in sorted(models, key=lambda row: -row[2])
        ]
        write(folder, f"results/{name}.csv", "\n".join([head, *rows]) + "\n")
    return f"timm:{folder}"


def write_testbed(folder):
    """Twelve standard models on a line, and four that the line leaves out."""
    models = {net: (share, "STANDARD") for net, share in zip(NETS, CLEAN, strict=True)}
    models |= {
        "clip": (0.6, "MORE_DATA"),
        "tiny": (0.4, "STANDARD"),
        "net_aws": (0.7, "STANDARD"),
        "net_first_epoch": (0.1, "LOW_ACCURACY_CNN"),
    }
    natural = ["imagenetv2-matched-frequency-format-val", "imagenetv2-threshold-0.7-format-val"]
    natural += ["imagenetv2-top-images-format-val", "imagenet-sketch", "imagenet-r", "imagenet-a"]
    natural += ["objectnet-1.0-beta"]
    corruptions = [
        f"imagenet-c.{name}.{severity}_{made}"
        for name in ALEXNET
        for severity in range(1, 6)
        for made in ("on-disk", "in-memory")
        if (name, made) != ("glass_blur", "in-memory")
    ]
    lines = [",".join(["model", "val", *natural, *corruptions])]
    for name, (share, _) in models.items():
        files = [100 * on_line(share) * (1 - 0.1 * ("in-memory" in cell)) for cell in corruptions]
        shifted = [100 * on_line(share)] * len(natural)
        lines.append(
            ",".join([name, *(f"{number:.6f}" for number in [100 * share, *shifted, *files])])
        )
    write(folder, "robustness_top1s.csv", "\n".join(lines) + "\n")
    kinds = [f"'{name}': ModelTypes.{kind}," for name, (_, kind) in models.items()]
    kinds = ["model_types_map = {", *kinds, "}", "raise SystemExit('it is never executed')"]
    write(folder, "plotting/model_types.py", "\n".join(kinds) + "\n")
    return f"testbed:{folder}"


def write_robustbench(folder):
    facts = atlas_file._read_facts().atlases["robustbench"]
    jsons = [path for path in facts.files if path.endswith(".json")]
    tables = [path for path in facts.files if path.endswith(".csv")]
    for at, path in enumerate(jsons):
        write(folder, path, json.dumps({"clean_acc": f"{60 + at}.5", "corruptions_mce": "70.0"}))
    for path, names in zip(tables, (ALEXNET, ("near_focus", "fog_3d")), strict=True):
        heads = [[name, severity] for name in names for severity in range(1, 6)]
        lines = ["," + ",".join(str(head[row]) for head in heads) for row in (0, 1)]
        for at, model in enumerate(jsons):
            numbers = [f"{0.5 + 0.01 * at - 0.05 * severity:.4f}" for _, severity in heads]
            lines.append(",".join([Path(model).stem, *numbers]))
        write(folder, path, "\n".join(lines) + "\n")
    return f"robustbench:{folder}"


def write_openclip(folder):
    head = "name,pretrained,params (M),ImageNet 1k,CIFAR-10,ImageNet Sketch,ImageNet v2,"
    head += "ImageNet-A,ImageNet-O,ImageNet-R,ObjectNet"
    rows = ["ViT-B-32,openai,151.28,0.6332,0.8983,0.4229,0.5593,0.3149,0.4775,0.6932,0.4432"]
    rows += ["ViT-B-32,laion2b,151.28,0.6656,0.9358,0.5367,0.5820,0.2608,0.5010,0.7638,0.4876"]
    write(folder, "docs/openclip_results.csv", "\n".join([head, *rows]) + "\n")
    return f"openclip:{folder}"


WRITERS = {
    "timm": write_timm,
    "testbed": write_testbed,
    "robustbench": write_robustbench,
    "openclip": write_openclip,
}


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A small made-up copy of each source, in its real format."""
    root = tmp_path_factory.mktemp("published")
    return {name: write_source(root / name) for name, write_source in WRITERS.items()}


def make_run(
    path,
    clean=0.75,
    shifts=(),
    natural=(),
    n=2000,
    source="timm:net",
    side=(224, 224),
    choices=(),
    sources=(),
):
    """A run on 1,000 classes that is right in exact shares of its images, evenly spread."""

    def part(share, count):
        order = np.random.default_rng(count).permutation(count)
        return outcomes(order < round(share * count), np.arange(count) % 1000, classes=WNIDS)

    predictions = {("mine", 0, "clean"): part(clean, n)}
    sweeps = []
    for name, shares in dict(shifts).items():
        cells = {level: f"{name},severity={level}" for level in range(1, len(shares) + 1)}
        sweeps.append(sweep_record(name, cells))
        predictions |= {
            ("mine", 0, cell): part(share, n)
            for cell, share in zip(cells.values(), shares, strict=True)
        }
    for name, (share, count) in dict(natural).items():
        predictions["mine", 0, "clean", f"natural/{name}"] = part(share, count)
    record = run_record(
        {"mine": ModelRecord(title="Mine", settings={"source": source})},
        sweeps,
        kind="evaluation",
        classes=WNIDS,
        bootstrap=400,
        natural=dict.fromkeys(dict(natural), "folder:images") | dict(sources),
        choices={name: ChoicesRecord(classes=count) for name, count in dict(choices).items()},
        notes={"size": list(side)} if side else {},
    )
    return write_run(path, record, predictions=predictions)


def row_of(table, shift, level="none"):
    rows = table[(table["shift"] == shift) & (table["level"] == level)]
    assert len(rows) == 1, (shift, level)
    return rows.iloc[0]


# ---------------------------------------------------------------- the tables


def test_every_source_has_a_reader_and_a_file_of_the_format_that_it_reads(copies):
    assert set(READERS) == set(WRITERS) == set(atlas_file._read_facts().atlases)
    for name, reference in copies.items():
        atlas = open_atlas(reference, offline=True)
        assert len(atlas.cells[UNSHIFTED]) > 1
        assert set(atlas.changed) == set(atlas.facts.files)  # made-up files are not the real ones
        for cell, accuracies in atlas.cells.items():
            assert accuracies.between(0, 1).all(), (name, cell)
            assert accuracies.index.is_unique, (name, cell)
            if cell.shift.startswith("natural/"):
                assert cell.shift.removeprefix("natural/") in NATURAL_SETS


def test_what_is_known_of_the_sources_fits_together():
    file = atlas_file._read_facts()
    for facts in file.atlases.values():
        assert set(facts.columns.values()) <= {"clean", *NATURAL_SETS}
        assert all(len(digest) == 64 for digest in facts.files.values())
        assert len(facts.commit) == 40
        assert facts.licence in ("MIT", "Apache-2.0")


def test_timm_is_read_at_the_size_where_a_model_is_best(copies):
    atlas = open_atlas(copies["timm"])
    clean, sketch = atlas.cells[UNSHIFTED], atlas.cells[AtlasCell("natural/imagenet-sketch")]
    assert clean["anet0.a1_in1k"] == pytest.approx(0.56)
    assert sketch["anet0.a1_in1k"] == pytest.approx(on_line(0.56), abs=1e-5)
    assert list(atlas.standard) == [f"{net}.a1_in1k" for net in reversed(NETS)]


@pytest.mark.parametrize(
    ("tag", "is_standard"),
    [
        ("a1_in1k", True),
        ("in1k", True),
        ("sail_in1k_384", True),
        ("augreg_in21k_ft_in1k", False),
        ("fb_dist_in1k", False),
        ("fb_swsl_ig1b_ft_in1k", False),
        ("ns_jft_in1k_475", False),
        ("ap_in1k", False),
        ("tf_ens_adv_in1k", False),
        ("fcmae_ft_in22k_in1k", False),
        ("openai", False),
    ],
)
def test_standard_models_of_timm_are_known_by_their_tags(tag, is_standard, tmp_path):
    reference = write_timm(tmp_path)
    for name in TIMM.values():
        place = tmp_path / f"results/{name}.csv"
        place.write_text(place.read_text() + f'other.{tag},224,70,9,99,1,"1",0.9,bicubic\n')
    assert (f"other.{tag}" in open_atlas(reference).standard) == is_standard


def test_the_line_of_the_testbed_leaves_out_what_its_plots_leave_out(copies):
    atlas = open_atlas(copies["testbed"])
    assert list(atlas.standard) == NETS
    assert set(atlas.cells[UNSHIFTED].index) == {*atlas.standard, "clip", "tiny", "net_aws"}
    fog = "imagenet_c/fog"
    assert atlas.mean(fog, FILES)["dnet3"] == pytest.approx(on_line(CLEAN[3]), abs=1e-7)
    assert atlas.mean(fog, MEMORY)["dnet3"] == pytest.approx(0.9 * on_line(CLEAN[3]), abs=1e-7)
    assert atlas.mean("imagenet_c/glass_blur", MEMORY) is None


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("imagenet-v2", "imagenetv2-matched-frequency"),
        ("ImageNet_R", "imagenet-r"),
        ("imagenetv2.threshold0.7", "imagenetv2-threshold0.7"),
        ("imagenet", ""),
        ("hospital_b", ""),
    ],
)
def test_natural_shifts_are_known_by_their_spellings(spelling, name):
    assert find_natural_set(spelling) == name


def test_a_family_is_the_letters_before_the_first_number():
    assert name_family("tf_efficientnet_b0.in1k") == name_family("efficientnet-b7-randaug")
    assert name_family("FixResNet50_v2") == "fixresnet"
    assert name_family("101") == "101"


@pytest.mark.parametrize(
    ("name", "path", "change", "words"),
    [
        ("timm", "results/results-sketch.csv", None, "has no results/results-sketch.csv"),
        ("timm", "results/results-imagenet.csv", ("top1,", "top_1,"), "cannot be read"),
        ("timm", "results/results-imagenet.csv", ("84.000", "840.0"), "outside of 0 to 100"),
        ("testbed", "robustness_top1s.csv", (",val,", ",clean,"), "cannot be read"),
        ("openclip", "docs/openclip_results.csv", ("0.6332", "63.32"), "outside of 0 to 1"),
        ("openclip", "docs/openclip_results.csv", ("0.6332", "much"), "cannot be read"),
        (
            "robustbench",
            "model_info/imagenet/corruptions/AlexNet.json",
            ('"clean_acc"', "clean_acc"),
            "cannot be read",
        ),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(name, path, change, words, tmp_path):
    reference = WRITERS[name](tmp_path)
    place = tmp_path / path
    if change is None:
        place.unlink()
    else:
        assert change[0] in place.read_text()
        place.write_text(place.read_text().replace(*change))
    with pytest.raises(InputError, match=words):
        open_atlas(reference)


def test_files_are_downloaded_from_the_named_commit_and_never_replaced_by_others(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="mlfoundations/open_clip/89fb8"):
        open_atlas("openclip", offline=True)
    facts = atlas_file._read_facts().atlases["openclip"]
    write_openclip(tmp_path / "published" / "openclip" / facts.commit[:12])
    with pytest.raises(InputError, match="has the SHA256"):
        open_atlas("openclip", offline=True)
    with pytest.raises(InputError, match="openclip"):
        open_atlas("openclop")


# ---------------------------------------------------------------- a run beside them


def test_a_run_on_the_line_is_neither_above_nor_below(copies, tmp_path):
    clean, n = 0.7, 10_000
    shifted = round(on_line(clean) * n) / n
    run = make_run(tmp_path / "run", clean, natural={"imagenet-v2": (shifted, n)}, n=n)
    comparison = read_standing(run.path, copies["timm"])
    effective = row_of(comparison.robustness.frame, "natural/imagenetv2-matched-frequency")
    # timm prints percentages with three digits; the share is a multiple of 1/n.
    assert effective["effective_robustness"] == pytest.approx(0, abs=0.5 / n + 1e-4)
    assert effective["low"] < 0 < effective["high"]
    assert not effective["is_extrapolated"]
    ranks = row_of(comparison.table, "natural/imagenetv2-matched-frequency")
    published = open_atlas(copies["timm"]).cells[AtlasCell("natural/imagenetv2-matched-frequency")]
    assert ranks["rank"] == 1 + (published > shifted).sum()
    assert ranks["rank_high"] == 1 + (published > ranks["high"]).sum()
    assert ranks["rank_low"] == 1 + (published > ranks["low"]).sum()
    assert ranks["published"] == len(published) == 13


def test_the_nearest_models_are_those_of_nearest_clean_accuracy(copies, tmp_path):
    run = make_run(tmp_path / "run", 0.64, natural={"imagenet-sketch": (0.5, 1000)})
    table = read_standing(run.path, copies["timm"]).table
    apart = np.argsort(np.abs(CLEAN - 0.64))[:3]
    for shift in ("clean", "natural/imagenet-sketch"):
        names = [text.split()[0] for text in row_of(table, shift)["nearest"].split("; ")]
        assert names == [f"{NETS[k]}.a1_in1k" for k in apart]


def test_fewer_classes_make_a_lower_bound(copies, tmp_path):
    natural = {"imagenet-r": (0.4, 3000), "imagenet-a": (0.1, 3000), "imagenet-v2": (0.6, 3000)}
    comparison = read_standing(make_run(tmp_path / "run", natural=natural).path, copies["timm"])
    bounds = comparison.table.set_index("shift")["is_lower_bound"]
    assert bounds.to_dict() == {
        "clean": False,
        "natural/imagenet-a": True,
        "natural/imagenet-r": True,
        "natural/imagenetv2-matched-frequency": False,
    }
    text = str(comparison)
    assert "≥ 40.0" in text
    assert "lower bound" in text
    assert (
        "Effective robustness on ImageNet-R is at the clean accuracy over all 1,000 classes" in text
    )
    # ImageNet-A is ranked, but no line fits it.
    assert "natural/imagenet-a" not in set(comparison.robustness.frame["shift"])
    assert "no effective robustness" in text


def test_a_class_mask_makes_the_number_comparable(copies, tmp_path):
    natural = {"imagenet-r": (0.4, 3000), "imagenet-a": (0.1, 3000), "r2": (0.3, 3000)}
    masked = make_run(
        tmp_path / "run",
        natural=natural,
        choices={"imagenet-r": 200},
        sources={"imagenet-r": "imagenet-r:renditions"},
    )
    comparison = read_standing(masked.path, copies["timm"])
    bounds = comparison.table.set_index("shift")["is_lower_bound"]
    assert bounds.to_dict() == {
        "clean": False,
        "natural/imagenet-a": True,
        "natural/imagenet-r": False,
    }
    text = str(comparison)
    assert "≥ 40.0" not in text
    assert "≥ 10.0" in text
    assert "ImageNet-R: the published models and this run choose among the classes" in text
    assert "natural/r2" in text  # a name that nobody published
    assert not comparison.robustness.frame["is_lower_bound"].any()
    # A set with a name of its own is known by its source.
    named = make_run(
        tmp_path / "named",
        natural={"ward": (0.4, 3000)},
        choices={"ward": 200},
        sources={"ward": "imagenet-r:renditions"},
    )
    table = read_standing(named.path, copies["timm"]).table
    row = row_of(table, "natural/imagenet-r")
    assert (row["accuracy"], row["is_lower_bound"]) == (0.4, False)


def test_other_images_are_known_by_a_full_name_alone(copies, tmp_path):
    natural = {"sketch": (0.4, 500), "real": (0.5, 500), "imagenet-real": (0.6, 500)}
    natural |= {"ImageNet_Sketch": (0.3, 500)}
    comparison = read_standing(make_run(tmp_path / "a", natural=natural).path, copies["timm"])
    assert row_of(comparison.table, "natural/imagenet-sketch")["accuracy"] == pytest.approx(0.3)
    assert len(comparison.table) == 2  # with clean
    assert "by their names: natural/sketch, natural/real, natural/imagenet-real" in str(comparison)
    sources = {"sketch": "imagenet-sketch:drawings", "real": "real:val"}
    owned = make_run(tmp_path / "b", natural=natural, sources=sources)
    comparison = read_standing(owned.path, copies["timm"])
    assert row_of(comparison.table, "natural/imagenet-sketch")["accuracy"] == pytest.approx(0.4)
    assert row_of(comparison.table, "natural/imagenet-real")["accuracy"] == pytest.approx(0.5)
    assert (
        "ImageNet-Sketch is in the run twice: natural/sketch is compared, and "
        "natural/ImageNet_Sketch is not." in str(comparison)
    )


def test_corruptions_in_memory_are_compared_with_those_in_memory(copies, tmp_path):
    shifts = {"imagenet_c/fog": [0.6, 0.5, 0.4, 0.3, 0.2], "imagenet_c/snow": [0.5, 0.4]}
    for source, made in (("timm:net", MEMORY), ("predictions:mine", FILES)):
        run = make_run(tmp_path / made, shifts=shifts, source=source)
        table = read_standing(run.path, copies["testbed"]).table
        corrupted = table[table["shift"].str.startswith("imagenet_c/")]
        assert set(corrupted["made"]) == {made}
        assert list(corrupted["level"]) == ["mean", "1", "2", "3", "4", "5", "1", "2"]
        fog = row_of(table, "imagenet_c/fog", "mean")
        assert fog["accuracy"] == pytest.approx(0.4)
        published = open_atlas(copies["testbed"]).mean("imagenet_c/fog", made)
        assert fog["rank"] == 1 + (published > 0.4).sum()


def test_predictions_of_a_table_are_compared(copies, tmp_path):
    """Files as `predictions:FOLDER` reads them: 1,000 columns named by WordNet numbers."""
    n, rng = 1000, np.random.default_rng(0)
    for name, right in (("mine", 800), ("mine-imagenet_c__fog,3", 500)):
        logits = rng.normal(0, 1, (n, 1000)).astype(np.float32)
        predicted = (np.arange(n) + (rng.permutation(n) >= right)) % n
        logits[np.arange(n), predicted] += 9
        table = pd.DataFrame(logits, columns=[f"logit_{wnid}" for wnid in WNIDS])
        table.assign(label=WNIDS).to_parquet(tmp_path / f"{name}.parquet")
    run = fw.evaluate(f"predictions:{tmp_path}", out=tmp_path / "run")
    table = read_standing(run.path, copies["robustbench"]).table
    fog = row_of(table, "imagenet_c/fog", "3")
    assert (fog["accuracy"], fog["made"], fog["n"]) == (0.5, FILES, n)
    # The models have 0.35 to 0.46 there, and 60.5 to 71.5 on clean images.
    assert (fog["rank"], fog["published"]) == (1, 12)
    assert row_of(table, "clean")["rank"] == 1


def test_what_is_not_comparable_is_said(copies, tmp_path):
    shifts = {"imagenet_c/fog": [0.5] * 5, "gaussian_blur": [0.5], "imagenet_c/glass_blur": [0.5]}
    run = make_run(tmp_path / "small", shifts=shifts, natural={"ward": (0.5, 99)}, side=(32, 32))
    text = str(read_standing(run.path, copies["testbed"]))
    assert "Not comparable: imagenet_c/fog (in memory), imagenet_c/glass_blur (in memory)." in text
    assert "224 x 224 pixels, the run's images of 32 x 32" in text
    assert "by their names: natural/ward, gaussian_blur" in text
    run = make_run(tmp_path / "memory", shifts=shifts)
    text = str(read_standing(run.path, copies["testbed"]))
    assert "for imagenet_c/glass_blur (in memory)." in text
    text = str(read_standing(run.path, copies["robustbench"]))
    assert "No numbers in RobustBench's common corruptions for imagenet_c/fog (in memory)," in text
    assert "too few for a line" in text


def test_files_and_memory_of_one_run_are_each_compared_with_their_own(copies, tmp_path):
    shifts = {
        "imagenet_c/fog": [0.5] * 5,
        "imagenet-c-files/fog": [0.4] * 5,
        "imagenet-c-bar-files/sparkles": [0.4] * 5,
    }
    run = make_run(tmp_path / "run", shifts=shifts)
    comparison = read_standing(run.path, copies["testbed"])
    fog = comparison.table[comparison.table["shift"] == "imagenet_c/fog"].set_index(
        ["made", "level"]
    )
    atlas = open_atlas(copies["testbed"])
    for made, share in ((MEMORY, 0.5), (FILES, 0.4)):
        for level in ("3", "mean"):
            published = atlas.cells[AtlasCell("imagenet_c/fog", "3", made)]
            if level == "mean":
                published = atlas.mean("imagenet_c/fog", made)
            assert fog.loc[(made, level), "accuracy"] == pytest.approx(share)
            assert fog.loc[(made, level), "rank"] == 1 + (published > share).sum()
    text = str(comparison)
    assert "imagenet_c/fog (files)" in text
    assert "by their names: imagenet-c-bar-files/sparkles." in text
    assert "The corruptions of predictions" not in text
    text = str(read_standing(run.path, copies["robustbench"]))  # which has files alone
    assert "for imagenet_c/fog (in memory)." in text


def test_files_of_3dcc_are_those_of_robustbench(copies, tmp_path):
    atlas = open_atlas(copies["robustbench"])
    shift = next(cell.shift for cell in atlas.cells if cell.shift.startswith("imagenet_3dcc/"))
    name = f"3dcc-files/{shift.partition('/')[2]}"
    run = make_run(tmp_path / "run", shifts={name: [0.3] * 5})
    table = read_standing(run.path, copies["robustbench"]).table
    assert row_of(table, shift, "3")["made"] == FILES


def test_all_corruptions_together_are_the_mean_of_their_means(copies, tmp_path):
    shares = {f"imagenet_c/{name}": np.full(5, 0.3 + 0.01 * at) for at, name in enumerate(ALEXNET)}
    run = make_run(tmp_path / "run", shifts=shares, source="predictions:mine", n=1000)
    comparison = read_standing(run.path, copies["robustbench"])
    every = row_of(comparison.table, IMAGENET_C, "mean")
    assert every["accuracy"] == pytest.approx(np.mean([shares[name][0] for name in shares]))
    assert every["best_accuracy"] == pytest.approx(0.5 + 0.11 - 0.15)
    assert comparison.robustness is None


def test_outside_of_the_standard_models_the_line_is_flagged(copies, tmp_path):
    run = make_run(tmp_path / "run", 0.9, natural={"imagenet-v2": (0.8, 1000)})
    comparison = read_standing(run.path, copies["testbed"])
    assert comparison.robustness.frame["is_extrapolated"].all()
    assert "90.0*" in str(comparison)
    assert "the line is a guess" in str(comparison)


def test_the_standard_models_are_listed(copies, tmp_path):
    run = make_run(tmp_path / "run", natural={"imagenet-v2": (0.6, 1000)})
    models = read_standing(run.path, copies["testbed"]).models
    assert [line[0] for line in models.body] == NETS
    assert models.frame.set_index("model")["standard"].sum() == 12
    assert len(models.frame) == 15
    assert "names its standard models" in models.below[0]


def test_a_run_on_other_classes_is_refused(copies, tmp_path):
    few = run_record({"mine": "Mine"})
    unnamed = run_record({"mine": "Mine"}, classes=[f"class {k}" for k in range(1000)])
    for record in (few, unnamed):
        with pytest.raises(InputError, match="the 1,000 classes of ImageNet"):
            check_classes(record)
    check_classes(
        run_record({"mine": "Mine"}, classes=[read_imagenet().synonyms[k][0] for k in WNIDS])
    )


def test_the_command_writes_tables_and_a_figure(copies, tmp_path):
    run = make_run(tmp_path / "run", natural={"imagenet-v2": (0.6, 1000)})
    ended = fairweather("compare", f"{run.path}:mine", copies["testbed"])
    assert ended.returncode == 0, ended.stderr
    assert "ImageNet-V2, matched frequency" in ended.stdout
    for name in ("tables/compare_testbed.csv", "tables/compare_testbed_models.csv"):
        assert len(pd.read_csv(run.path / name))
    assert (run.path / "figures/compare_testbed.svg").read_text().startswith("<svg")
    table = fw.compare_with_published(run.path, copies["testbed"])
    assert list(table["shift"]) == ["clean", "natural/imagenetv2-matched-frequency"]
    with pytest.raises(InputError, match="--match is for paper"):
        fw.compare_with_published(run.path, copies["testbed"], rows={"bnet1": "mine"})


# ---------------------------------------------------------------- the interval

FAMILIES = tuple(
    str(k) for k, size in enumerate((9, 6, 4, 3, 2, 2, 1, 1, 1, 1)) for _ in range(size)
)


def estimate(share, n, rng, resamples=400):
    return Estimate(share, rng.binomial(n, share, resamples) / n, n)


def test_an_interval_covers_the_true_line_as_often_as_it_says():
    """A family's networks err alike; the truth is relative to the line of all networks."""
    rng, trials, n, hits = np.random.default_rng(7), 300, 10_000, 0
    codes = np.unique(FAMILIES, return_inverse=True)[1]
    for _ in range(trials):
        x = rng.uniform(logit(0.56), logit(0.85), len(codes))
        y = INTERCEPT + SLOPE * x + rng.normal(0, 0.1, len(codes))
        y += rng.normal(0, 0.1, codes.max() + 1)[codes]
        line = Line(expit(x), expit(y), FAMILIES)
        shares = [rng.binomial(n, share) / n for share in (0.75, on_line(0.75) + 0.05)]
        score = to_score(line.effective(*(estimate(share, n, rng) for share in shares)), (-1, 1))
        hits += score.low <= 0.05 <= score.high
    assert hits >= fewest(trials, 0.95)


def test_an_interval_is_wider_where_models_are_related():
    rng = np.random.default_rng(3)
    x = np.linspace(logit(0.6), logit(0.8), 12)
    y = INTERCEPT + SLOPE * x + np.repeat([0.2, -0.2, 0.1, -0.1], 3)
    widths = []
    for families in (tuple(map(str, range(12))), tuple("aaabbbcccddd")):
        rng = np.random.default_rng(3)
        ours = [estimate(share, 50_000, rng) for share in (0.7, 0.6)]
        score = to_score(Line(expit(x), expit(y), families).effective(*ours), (-1, 1))
        widths.append(score.high - score.low)
    assert widths[1] > 1.5 * widths[0]


def test_the_simulated_intervals_hold():
    """Each side misses 2.5 % by design."""
    rows = simulated.read_rows()
    assert len(rows) == 12
    for row in rows:
        draws = int(row["draws"])
        for side in ("truth_below", "truth_above"):
            assert float(row[side]) * draws / 100 <= most(draws, 0.025), row


def test_the_page_of_the_forecast_has_the_stored_numbers():
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(RESULTS / "coverage.csv")
    rows = table[table["measured"] == "clean"].pivot(
        index="shift", columns="group", values="covered"
    )
    header = page.split("| Shift |")[1].split("\n")[0]
    groups = [name.strip() for name in header.split("|") if name.strip()]
    for shift, shares in rows.iterrows():
        cells = ["–" if np.isnan(shares[group]) else f"{shares[group]:.1f}" for group in groups]
        assert f"| {NATURAL_SETS[shift].title} | {' | '.join(cells)} |" in page
    misses = pd.read_csv(RESULTS / "forecast.csv")
    alone = misses[(misses["measured"] == "clean") & (misses["source"] == "testbed")]
    widths = alone.groupby("shift")["mean_half_width_points"].mean()
    assert f"±{widths['imagenet-sketch']:.0f} points wide" in page
    assert f"of ImageNet-R ±{widths['imagenet-r']:.0f}" in page
    assert f"to ±{widths['imagenetv2-matched-frequency']:.1f} points" in page
    sketch = alone[alone["shift"] == "imagenet-sketch"]
    counts = sketch["models"]
    assert (
        f"{len(counts)} families of {counts.sum()} models, of which {(counts == 1).sum()}" in page
    )


def test_the_figure_of_the_forecast_is_as_its_script_draws_the_stored_numbers():
    spec = importlib.util.spec_from_file_location("measure_atlas", RESULTS / "measure.py")
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)
    drawn = measure.draw(pd.read_csv(RESULTS / "coverage.csv"))
    stored = (RESULTS / "finding.svg").read_text(encoding="utf-8")
    marks = [re.findall(r'aria-label="([^"]*)"', svg) for svg in (drawn, stored)]
    assert marks[0] == marks[1]
    texts = [re.findall(r"<text[^>]*>(.+?)</text>", svg) for svg in (drawn, stored)]
    assert texts[0] == texts[1]


# ---------------------------------------------------------------- what was published


@needs_real
def test_the_real_files_are_those_of_the_named_commits():
    for name in READERS:
        atlas = open_atlas(f"{name}:{Path(REAL) / name}")
        assert not atlas.changed
        for path, digest in atlas.facts.files.items():
            content = (Path(REAL) / name / path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest


@needs_real
@pytest.mark.parametrize(("made", "kind"), [("imagenet_c/", ""), ("imagenet_3dcc/", "_3d")])
def test_means_of_robustbench_are_the_arithmetic_of_its_tables(made, kind):
    """Accuracy and mCE of every model, as its files print them: two digits of a percentage."""
    atlas = open_atlas(f"robustbench:{Path(REAL) / 'robustbench'}")
    cells = {cell: shares for cell, shares in atlas.cells.items() if cell.shift.startswith(made)}
    for path in atlas.facts.files:
        if not path.endswith(".json"):
            continue
        model, printed = (
            Path(path).stem,
            json.loads((Path(REAL) / "robustbench" / path).read_text()),
        )
        errors = {
            name: {
                shift: [1 - shares[name] for cell, shares in cells.items() if cell.shift == shift]
                for shift in dict.fromkeys(cell.shift for cell in cells)
            }
            for name in (model, "AlexNet")
        }
        mce = 100 * mean_corruption_error(errors[model], errors["AlexNet"])
        accuracy = 100 * np.mean([shares[model] for shares in cells.values()])
        assert mce == pytest.approx(float(printed[f"corruptions_mce{kind}"]), abs=0.0051), model
        assert accuracy == pytest.approx(float(printed[f"corruptions_acc{kind}"]), abs=0.0051), (
            model
        )


@needs_real
def test_the_line_of_the_testbed_is_that_of_another_program():
    atlas = open_atlas(f"testbed:{Path(REAL) / 'testbed'}")
    table = pd.read_csv(Path(REAL) / "testbed/robustness_top1s.csv", index_col=0) / 100
    rows = table.loc[list(atlas.standard)]
    column = "imagenetv2-matched-frequency-format-val"
    fit = stats.linregress(logit(rows["val"]), logit(rows[column]))
    families = tuple(name_family(model) for model in rows.index)
    line = Line(rows["val"].to_numpy(), rows[column].to_numpy(), families)
    ours = [estimate(share, 10_000, np.random.default_rng(0)) for share in (0.76, 0.65)]
    expected = expit(fit.intercept + fit.slope * logit(0.76))
    assert line.effective(*ours).value == pytest.approx(0.65 - expected)
    assert len(rows) == 85
