"""Shifts and attacks by name: the same in a study, on the command line and in Python."""

import pytest

import fairweather as fw
from fairweather.attacks.shift_lists import expand_only_shifts, expand_shifts, expand_with_clean
from fairweather.attacks.table import ATTACKS
from fairweather.shifts.table import CLEAN, SHIFTS, SUITES
from fairweather.types.measurement import Attack
from tests.helpers.commands import fairweather


def ids(asked):
    return [each.id for each in expand_shifts(asked)]


PGD = "pgd,epsilon=0.1,steps=5"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("clean", ["clean"]),
        ("gamma,exponent=2", ["gamma,exponent=2"]),
        ("gamma: 2", ["gamma,exponent=2"]),
        ("gamma: [0.5, 2]", ["gamma,exponent=0.5", "gamma,exponent=2"]),
        ({"gamma": [0.5, 2]}, ["gamma,exponent=0.5", "gamma,exponent=2"]),
        (PGD, [PGD]),
        ({"pgd": {"epsilon": [0.1], "steps": 5}}, [PGD]),
        ("pgd: {epsilon: 0.1, steps: 5}", [PGD]),
        ("imagenet_c/fog,severity=2,decay=3", ["imagenet_c/fog,severity=2,decay=3"]),
        ("quick", [each.id for each in fw.suite("quick")]),
        ("suite: quick", [each.id for each in fw.suite("quick")]),
        ({"suite": "quick"}, [each.id for each in fw.suite("quick")]),
        (fw.make_shift("gamma", exponent=2.0), ["gamma,exponent=2"]),
        ([], []),
    ],
    ids=str,
)
def test_each_way_to_write_a_list(written, expected):
    assert ids(written) == expected
    assert ids([written, "hue,turn=0.5"] if written else ["hue,turn=0.5"])[:-1] == expected


def test_commas_stand_between_names_as_between_parameters():
    both = [each.id for name in ("quick", "imagenet_c") for each in fw.suite(name)]
    assert ids("quick,imagenet_c") == both
    mixed = ids("gaussian_blur,sigma=0.7,kernel_size=5, pgd,epsilon=8/255 ,quick")
    assert mixed[0] == "gaussian_blur,sigma=0.7,kernel_size=5"
    assert mixed[1] == f"pgd,epsilon={8 / 255}"
    assert mixed[2:] == ids("quick")


def test_no_name_means_two_things():
    names = ["clean", "suite", *SUITES, *SHIFTS, *ATTACKS]
    assert len(set(names)) == len(names)


def test_what_has_severities_stands_for_all_five():
    chosen = expand_shifts("imagenet_c/fog,decay=2.5")
    assert [shift.parameters["severity"] for shift in chosen] == [1, 2, 3, 4, 5]
    assert {shift.parameters["decay"] for shift in chosen} == {2.5}
    named = expand_shifts("medmnist_c/pixelate,severity=2,dataset=bloodmnist")
    assert named == [fw.make_shift("medmnist_c/pixelate", severity=2, dataset="bloodmnist")]


def test_an_evaluation_takes_clean_first_and_each_once():
    chosen = expand_with_clean(
        ["imagenet_c/fog", "pgd,epsilon=8/255,steps=2", "clean", "imagenet_c/fog"]
    )
    assert chosen[0] == CLEAN
    assert [each.level for each in chosen[1:6]] == [1, 2, 3, 4, 5]
    assert isinstance(chosen[6], Attack)
    assert chosen[6].level == pytest.approx(8 / 255)
    assert len(chosen) == 7
    assert expand_with_clean([]) == (CLEAN,)
    with pytest.raises(fw.InputError, match="gaussian_blur at 1"):
        expand_with_clean(["gaussian_blur,sigma=1", "gaussian_blur,sigma=1,kernel_size=5"])


def test_pictures_take_shifts_alone_each_once():
    chosen = expand_only_shifts([{"suite": "quick"}, "imagenet_c/fog", "hue,turn=0.25"])
    found = [shift.id for shift in chosen]
    assert found[:15] == ids("quick")
    assert found[15:] == ["imagenet_c/fog,severity=2", "imagenet_c/fog,severity=4", "hue,turn=0.25"]
    with pytest.raises(fw.InputError, match="pgd is an attack"):
        expand_only_shifts(["gamma,exponent=2", PGD])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("quick,x=1", "suite quick .*'quick,x=1'"),
        ("clean,x=1", "shift clean .*'clean,x=1'"),
        ("quick,imagenet", "'imagenet'; did you mean 'imagenet_c'"),
        ("gama,exponent=2", "'gama'; did you mean 'gamma'"),
        ("pdg,epsilon=1", "did you mean 'pgd'"),
        ("exponent=2", r"NAME\[,parameter=value...\], found 'exponent=2'"),
        ("gamma,2", r"NAME\[,parameter=value...\], found 'gamma,2'"),
        ("gamma,=2", "NAME.*'gamma,=2'"),
        ("gamma,", "NAME.*'gamma,'"),
        ("", "NAME.*found ''"),
        ("gamma,exponnt=2", "did you mean 'exponent'"),
        ("gamma,exponent=two", "exponent .*number, found 'two'"),
        ("gamma,exponent=nan", "exponent .*'nan'"),
        ("gamma,exponent=.nan", "exponent .*finite .*nan"),
        ("gamma,exponent=true", "exponent .*number, found True"),
        ("gamma,exponent=", "exponent .*number, found ''"),
        ("gamma,exponent=2,exponent=3", "'gamma,exponent=2,exponent=3' .*exponent"),
        ("gamma,exponent=[1,2]", r"'NAME: \[LEVEL, LEVEL\]'"),
        ("gamma", "gamma .*exponent=NUMBER"),
        ("pgd", "pgd .*epsilon=NUMBER"),
        ("pgd,epsilon=8/0", "8/0"),
        ("imagenet_c/fog,severity=6", "severity .*1, 2, 3, 4 or 5, found 6"),
        ("- gamma: 2", "'- gamma: 2' .*NAME: LEVELS"),
        ("gamma: [", "is not YAML"),
        ({"gamma": [1], "hue": [1]}, "key: .*one NAME: LEVELS"),
        ({"suite": ["quick"]}, "key: suite .*name"),
        ({"suite": "quik"}, "'quik'; did you mean 'quick'"),
        ({"gama": [2]}, "'gama'; did you mean 'gamma'"),
        ({"gamma": None}, "exponent .*number .*found None"),
        ([2], "key: .*NAME: LEVELS.*found 2"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(written, words):
    with pytest.raises(fw.InputError, match=words) as caught:
        expand_shifts(written, "key")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["preview"], "name at least one shift, such as --shift quick"),
        (
            ["preview", "--shift", "quik"],
            "unknown suite, shift or attack 'quik'; did you mean 'quick'",
        ),
        (["export", "mnist5k", "--out", "x", "--shift", PGD], "pgd is an attack"),
        (["evaluate", "timm:test_resnet", "mnist5k", "--shift", "quick,x=1"], "no parameters"),
    ],
)
def test_commands_say_what_is_wrong_and_write_nothing(arguments, words, tmp_path):
    done = fairweather(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
