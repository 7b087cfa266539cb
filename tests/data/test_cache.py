"""The decoded images on the disk: decoded once, found again by content, never half-written."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from loky import get_reusable_executor
from PIL import Image, ImageFile

from fairweather.data import cache as decode
from fairweather.data.cache import CacheEntry, content_digests, open_sealed, read_or_decode, seal
from fairweather.data.loading import load_data
from fairweather.data.pixel_scans import digest
from fairweather.data.pixels import Square, decode_image
from fairweather.data.sources import Listing, RawImage
from fairweather.data.splits import Subset
from fairweather.errors import InputError
from fairweather.processes import submit, wait_for_result
from fairweather.progress import Event
from tests.conftest import keep_lines
from tests.helpers.forking import Program
from tests.helpers.started import started


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; the folder with the decoded images, which is made when it is needed."""
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def decoded(monkeypatch):
    """The images that this process has decoded, and may have written."""
    contents = []

    def spy(content, square, scale):
        contents.append(content)
        return original(content, square, scale)

    original = decode.to_pixels
    monkeypatch.setattr(decode, "to_pixels", spy)
    return contents


@pytest.fixture
def two_processes(monkeypatch):
    """Let two other processes decode everything after the first image."""
    monkeypatch.setattr(decode, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(decode, "cpu_count", lambda: 2)


def noise(seed, side=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    """Class folders for train and test, 40 images each."""
    root = tmp_path / "pictures"
    for place in range(80):
        path = root / ("train", "test")[place % 2] / "ab"[place // 2 % 2] / f"{place:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(place).save(path)
    return root


def load(folder, **options):
    return load_data(f"folder:{folder}", validation_fraction=0, **options)


def digests(dataset):
    return digest(dataset.train), digest(dataset.test)


def part_of(items, files=(), classes=1):
    keys = np.arange(len(items))
    listing = Listing(keys % classes, lambda keys: (items[key] for key in keys), tuple(files))
    return Subset(listing, keys)


def cached(items, *, name="test", size=None, skip_unreadable=False, content="content"):
    part = part_of(items)
    square = size and Square(size, resize=size)
    return read_or_decode(CacheEntry(part, name, content, square), skip_unreadable=skip_unreadable)


def squares(*values, side=8):
    return [RawImage(f"{v}", np.full((side, side), v, dtype=np.uint8)) for v in values]


def pngs(*values, side=8):
    """The same images, encoded: other processes only decode what is not pixels already."""
    return [RawImage(item.name, png(item.content)) for item in squares(*values, side=side)]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def files_of(cache):
    return sorted(path.suffix for path in cache.iterdir())


def test_decoding_is_told_in_strides_and_once(folder, monkeypatch):
    monkeypatch.setattr("fairweather.data.cache.IMAGES_PER_REPORT", 16)
    seen = []
    load(folder, progress=seen.append)
    counts = (0, 16, 32, 40)
    assert seen == [Event(f"decode {part}", n, 40) for part in ("train", "test") for n in counts]
    load(folder, progress=seen.append)
    assert len(seen) == 8


# Found again


def test_a_second_load_decodes_nothing(folder, cache, decoded):
    first = load(folder)
    assert len(decoded) == 80
    assert files_of(cache) == [".lock", ".lock", ".pixels", ".pixels"]
    assert digests(load(folder)) == digests(first)
    assert len(decoded) == 80


def test_names_do_not_matter_and_every_byte_does(folder, decoded):
    first = load(folder)
    decoded.clear()
    for path in folder.glob("*/*/*.png"):
        path.rename(path.with_name("renamed" + path.name))
    moved = folder.rename(folder.with_name("moved"))
    assert digests(load(moved)) == digests(first)
    assert not decoded
    with min(moved.glob("test/a/*.png")).open("ab") as file:
        file.write(b"\0")  # behind the end of the image: no pixel changes
    assert digests(load(moved)) == digests(first)
    assert len(decoded) == 40  # the test images, not those for training


def test_exchanged_files_are_exchanged_images(folder):
    before = load(folder).test.images
    one, other, *_ = sorted(folder.glob("test/a/*.png"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    after = load(folder).test.images
    assert torch.equal(after[:2], before[:2].flip(0))
    assert torch.equal(after[2:], before[2:])


def test_what_changes_the_images_makes_another_entry(folder, decoded, monkeypatch):
    load(folder)
    for change in (
        lambda: load(folder, size=8),
        lambda: load_data(f"folder:{folder / 'test'}"),
        lambda: load_data(f"folder:{folder / 'test'}", seed=1),
        lambda: monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000),
        lambda: monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
        lambda: monkeypatch.setitem(Image.OPEN, "ANOTHER", (Image.new, None)),
        lambda: monkeypatch.setattr("PIL.__version__", "another"),
        lambda: monkeypatch.setattr("fairweather.data.cache.VERSION", 0),
    ):
        decoded.clear()
        change()
        load(folder)
        assert decoded


def test_splits_of_one_file_are_told_apart():
    bright, dark = squares(200, 201), squares(5, 6)
    assert cached(bright, name="train").images.min() == 200
    assert cached(dark, name="test").images.max() == 6
    assert cached(bright, name="train").images.min() == 200


def test_shared_files_are_read_once(tmp_path, monkeypatch):
    files = [tmp_path / "one", tmp_path / "two"]
    for path in files:
        path.write_text(path.name)
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda *a, **k: opened.append(a) or original(*a, **k))
    parts = {
        "train": part_of(squares(1), files),
        "test": part_of(squares(2), tuple(files)),
        "val": part_of(squares(2), files[::-1]),
    }
    found = content_digests(parts)
    assert len(opened) == 4
    assert found["train"] == found["test"] != found["val"]


def test_writing_to_images_leaves_the_cache_alone(folder):
    first = load(folder)
    before = first.test.images.clone()
    first.test.images.add_(1)
    assert torch.equal(first.test.images, before + 1)
    assert torch.equal(load(folder).test.images, before)


# Unreadable images


def test_skipped_images_are_known_without_decoding_and_by_their_present_name(folder, decoded):
    bad = [folder / "test/a/01.png", folder / "test/b/07.png"]
    for path in bad:
        path.write_bytes(b"damaged")
    skipping = load(folder, skip_unreadable=True)
    renamed = [path.rename(path.with_stem(path.stem + "-renamed")) for path in bad]
    decoded.clear()
    again = load(folder, skip_unreadable=True)
    assert not decoded
    assert digests(again) == digests(skipping)
    assert again.notes["skipped_names"] == [
        f"test/{path.parent.name}/{path.name}" for path in renamed
    ]
    with pytest.raises(InputError, match=r"test/a/01-renamed\.png: "):
        load(folder)
    assert not decoded


def test_gaps_are_closed_wherever_they_are():
    items = squares(*range(10))
    for bad in (0, 1, 4, 9):
        items[bad] = RawImage(f"bad {bad}", b"damaged")
    result = cached(items, skip_unreadable=True)
    assert result.images[:, 0, 0, 0].tolist() == [2, 3, 5, 6, 7, 8]
    assert result.readable.nonzero()[0].tolist() == [2, 3, 5, 6, 7, 8]
    assert result.skipped == ["bad 0", "bad 1", "bad 4", "bad 9"]


@pytest.mark.parametrize("size", [None, 8])
def test_where_nothing_is_readable_there_are_no_images(size):
    result = cached([RawImage("bad", b"damaged")], size=size, skip_unreadable=True)
    assert len(result.images) == 0
    assert result.skipped == ["bad"]


def test_an_error_of_the_system_is_not_an_unreadable_image(tmp_path, two_processes, cache):
    for items in ([], pngs(*range(30))):
        with pytest.raises(FileNotFoundError, match="missing"):
            cached([*items, RawImage("x", tmp_path / "missing")], skip_unreadable=True)
        assert files_of(cache) == [".lock"] * len(files_of(cache))


# Several processes


def test_several_processes_make_the_same_pixels(folder, decoded, monkeypatch):
    (folder / "test/b/67.png").write_bytes(b"damaged")
    noise(0, 120).save(folder / "test/b/71.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    monkeypatch.setattr(decode, "cpu_count", lambda: 1)
    monkeypatch.setattr(decode, "SECONDS_ALONE", 0.0)
    alone = load(folder, size=12, skip_unreadable=True)
    assert len(decoded) == 80
    shutil.rmtree(os.environ["FAIRWEATHER_CACHE"])
    decoded.clear()
    monkeypatch.setattr(decode, "cpu_count", lambda: 2)
    together = load(folder, size=12, skip_unreadable=True)
    # The first of each part, and again what the others could not decode; more while they start.
    assert {"00.png", "01.png", "67.png", "71.png"} <= {path.name for path in decoded}
    assert digests(together) == digests(alone)
    assert together.notes == alone.notes
    assert together.notes["skipped_files"] == 2
    loaded = "'torch' in __import__('sys').modules"
    assert not submit(2, decode.ENVIRONMENT, eval, loaded).result()


def test_several_processes_take_bytes_and_arrays_and_report_the_first_problem(two_processes, cache):
    items = pngs(*range(50))
    assert cached(items).images[:, 1, 2, 3].tolist() == list(range(50))
    resized = cached(squares(*range(50), side=9), size=8, content="pixels")
    assert resized.images[:, 1, 2, 3].tolist() == list(range(50))
    items[33], items[40] = pngs(7, side=9)[0]._replace(name="wide"), RawImage("bad", b"damaged")
    with pytest.raises(InputError, match=r"0 has 8 x 8 .*wide has 9 x 9.*size"):
        cached(items, content="other")
    with pytest.raises(InputError, match="bad: "):
        cached(items, size=8)
    assert files_of(cache).count(".partial") == 0


def test_formats_that_only_this_process_knows_are_decoded_here(two_processes, monkeypatch):
    def read(file, name):
        assert file.read(5) == b"mine!"
        return Image.new("L", (8, 8), 99)

    monkeypatch.setitem(Image.OPEN, "MINE", (read, lambda prefix: prefix.startswith(b"mine!")))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "MINE"])
    items = [*pngs(*range(30)), RawImage("mine", b"mine! pixels")]
    assert cached(items).images[-1].unique().tolist() == [99]


def test_a_process_that_is_ended_from_outside_is_explained(two_processes, cache, monkeypatch):
    def killed(target, first, contents):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "write_decoded", killed)
        with pytest.raises(InputError, match="LOKY_MAX_CPU_COUNT=1"):
            cached(pngs(*range(200)))
    assert files_of(cache) == [".lock"]
    assert len(cached(pngs(*range(200))).images) == 200


def test_a_process_that_ends_while_the_next_work_is_handed_out_is_explained(monkeypatch):
    class Broken:
        def submit(self, *_):
            raise BrokenProcessPool("a worker was killed")

    monkeypatch.setattr("fairweather.processes.get_reusable_executor", lambda *_, **__: Broken())
    with pytest.raises(InputError, match="was killed, perhaps because memory ran out; use less"):
        wait_for_result(submit(2, {}, divmod, 7, 2), "divided", "use less")


def test_small_sets_and_fast_ones_need_no_other_process(monkeypatch):
    monkeypatch.setattr(decode, "submit", None)
    monkeypatch.setattr(decode, "cpu_count", lambda: 2)
    monkeypatch.setattr(decode, "SECONDS_ALONE", 1e6)
    assert len(cached(pngs(*range(50))).images) == 50


class Unstarted(Future):
    """Work of a process that has not started when asked, and is done when waited for."""

    def __init__(self, workers, environment, work, *arguments):
        super().__init__()
        self.work = partial(work, *arguments)

    def result(self):
        return self.work()


@pytest.mark.parametrize("starting", [False, True])
def test_few_encoded_images_are_in_memory(two_processes, monkeypatch, starting):
    monkeypatch.setattr(decode, "SECONDS_PER_TASK", 1e6)  # each task has as many as it may have
    if starting:
        monkeypatch.setattr(decode, "submit", Unstarted)
    # Two tasks for each of two processes, and the one that comes next.
    kept, most, bound = 0, 0, decode.MOST_PER_TASK * (2 * 2 + 1) + 1
    # The thread of the executor lets go of a task a moment after its result has come.
    latest = time.monotonic() + 60

    class Encoded(bytes):
        def __del__(self):
            nonlocal kept
            kept -= 1

        def __reduce__(self):
            return bytes, (bytes(self),)

    def items(keys):
        nonlocal kept, most
        png = pngs(1)[0].content
        for _ in keys:
            kept += 1
            while kept > bound and time.monotonic() < latest:
                time.sleep(0.001)
            most = max(most, kept)
            yield RawImage("image", Encoded(png))

    part = Subset(Listing(np.zeros(5000, np.int64), items, ()), np.arange(5000))
    read_or_decode(CacheEntry(part, "test", "content"), skip_unreadable=False)
    assert decode.MOST_PER_TASK < most <= bound
    assert kept == 0


def run(script, *arguments, **options):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
    return started(command, Program, **options)


def test_a_script_needs_no_guard(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import fairweather as fw
            from fairweather.data import cache as decode

            decode.SECONDS_ALONE, decode.cpu_count = 0.0, lambda: 2
            print(len(fw.load_data("folder:{folder}").test))
            """
        )
    )
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("40\n", "")


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3), (8, 8), (8, 8, 3), (9, 9)])
@pytest.mark.parametrize("square", [None, Square(8, 8), Square(8, 9), Square(8, 8, "nearest")])
def test_pixels_are_the_same_with_and_without_pillow(shape, square):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for content in (pixels, pixels[::-1], np.asfortranarray(pixels)):
        found = decode.to_pixels(content, square)
        assert found.flags.c_contiguous
        assert np.array_equal(found, decode_image(content, square))


def test_no_process_is_started_for_pixels_that_have_their_size(monkeypatch, two_processes):
    monkeypatch.setattr(decode, "submit", None)
    for size in (None, 8):
        images = cached(squares(*range(50)), size=size, content=str(size)).images
        assert images[:, 1, 2, 3].tolist() == list(range(50))


# Whole or not at all

SLOW = """
    import pathlib, sys, time
    import numpy as np
    from fairweather.data import cache as decode
    from fairweather.data.cache import CacheEntry, read_or_decode
    from fairweather.data.sources import RawImage, Listing
    from fairweather.data.splits import Subset
    from fairweather.data.pixels import Square

    decode.SECONDS_ALONE, decode.cpu_count = 0.0, lambda: 2
    go = pathlib.Path(sys.argv[1])

    def read(keys):
        for key in keys:
            if key == 60:
                print("decoding", flush=True)
                while not go.exists():
                    time.sleep(0.02)
            yield RawImage(str(key), np.full((9, 9), key, dtype=np.uint8))

    part = Subset(Listing(np.zeros(100, np.int64), read, ()), np.arange(100))
    square = Square(8, resize=8)
    read_or_decode(CacheEntry(part, "test", "content", square), skip_unreadable=False)
    print("done", flush=True)
"""


def test_what_a_killed_process_left_is_not_trusted(tmp_path, cache):
    with run(SLOW, tmp_path / "go") as process:
        assert process.stdout.readline() == "decoding\n"
        assert files_of(cache) == [".lock", ".partial"]
        process.kill()
    result = cached(squares(*range(100), side=9), size=8)
    assert result.images[:, 0, 0, 0].tolist() == list(range(100))
    assert files_of(cache) == [".lock", ".pixels"]


def test_what_killed_processes_left_of_other_sets_is_removed_after_an_hour(cache):
    cached(squares(1))
    old, new = cache / f"{'a' * 64}.0000.partial", cache / f"{'b' * 64}.0000.partial"
    for each in (old, new):
        each.write_bytes(b"half")
    os.utime(old, (0, 0))
    cached(squares(2), content="another")
    assert not old.exists()
    assert new.exists()


def test_damaged_pixels_in_the_cache_change_no_digest_and_are_told(folder, cache):
    before = digests(load(folder))
    for path in cache.glob("*.pixels"):
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    lines = []
    assert digests(load(folder, progress=keep_lines(lines))) == before
    assert len(lines) == len(list(cache.glob("*.pixels")))
    assert all("damaged" in line and "decoded again" in line for line in lines)
    assert digests(load(folder, progress=keep_lines(lines))) == before
    assert len(lines) == len(list(cache.glob("*.pixels")))


def test_no_flipped_bit_of_the_record_moves_an_image(tmp_path):
    """The record says which images are missing: another place would shift the labels."""
    path = tmp_path / "a.pixels"
    path.write_bytes(bytes(8 * 3 * 4 * 4))
    seal(path, (8, 3, 4, 4), {3: "it is no image"})
    content = path.read_bytes()
    assert open_sealed(path, 9).unreadable == {3: "it is no image"}
    for place in range(8 * 3 * 4 * 4, len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            assert open_sealed(path, 9) is None


def test_of_two_processes_one_decodes(tmp_path, decoded):
    results = []

    def wait_for_images():
        results.append(cached(squares(*range(100), side=9), size=8))

    with run(SLOW, tmp_path / "go") as process:
        assert process.stdout.readline() == "decoding\n"
        waiting = threading.Thread(target=wait_for_images)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        (tmp_path / "go").touch()
        assert process.stdout.readline() == "done\n"
        waiting.join(10)
    assert results[0].images[:, 0, 0, 0].tolist() == list(range(100))
    assert not decoded


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: content[1:],
        lambda content: bytes(len(content)),
        lambda content: content[:-20] + b"\xff" + content[-19:],
        lambda content: b"",
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:999] + bytes([content[999] ^ 128]) + content[1000:],
        lambda content: content.replace(b'"sha256"', b'"sha512"'),
    ],
)
def test_a_damaged_entry_is_decoded_again(damage, cache, decoded):
    items = squares(*range(20))
    cached(items)
    (path,) = cache.glob("*.pixels")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    decoded.clear()
    assert cached(items).images[:, 0, 0, 0].tolist() == list(range(20))
    assert len(decoded) == 20
    assert path.read_bytes() == whole


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_noticed_before_the_work(code, cache, decoded, monkeypatch):
    def refuse(descriptor, start, count):
        assert (start, count) == (0, 20 * 3 * 8 * 8)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    words = r"0\.0 MB .*cache/images.*FAIRWEATHER_CACHE"
    with pytest.raises(InputError, match=words):
        cached(squares(*range(20)))
    assert len(decoded) == 1
    assert files_of(cache) == [".lock"]


def test_too_little_space_is_said_in_numbers(cache, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"3\.0 MB .*2\.0 MB"):
        cached(squares(*range(100), side=100))
    assert files_of(cache) == [".lock"]


def test_a_disk_that_cannot_reserve_is_used_all_the_same(monkeypatch):
    def refuse(descriptor, start, count):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert cached(squares(1, 2)).images[:, 0, 0, 0].tolist() == [1, 2]


LIMITED = """
import os, pathlib, resource, time
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
limited = pathlib.Path({folder!r})
(limited / str(os.getpid())).touch()
while len(list(limited.iterdir())) < 2:
    time.sleep(0.01)
"""


def test_a_disk_that_fills_up_while_a_process_writes(two_processes, cache, monkeypatch, tmp_path):
    """The space was not reserved, and a file may not grow beyond 4 kB in the other processes.

    Each waits until the other has its limit too.
    """
    (tmp_path / "limited").mkdir()
    code, images = LIMITED.format(folder=str(tmp_path / "limited")), pngs(*range(100))
    monkeypatch.setattr(decode, "reserve_disk", lambda file, folder, needed: None)
    words = "File too large.*FAIRWEATHER_CACHE"
    try:
        for limited in [submit(2, decode.ENVIRONMENT, exec, code) for _ in range(2)]:
            limited.result()
        with pytest.raises(InputError, match=words):
            cached(images)
        assert files_of(cache) == [".lock"]
    finally:
        get_reusable_executor(reuse=True).shutdown()


def test_a_cache_folder_that_cannot_be_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "file"))
    words = "file/images.*Not a directory.*FAIRWEATHER_CACHE"
    with pytest.raises(InputError, match=words):
        cached(squares(1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read_is_read(cache):
    cached(squares(1))
    cache.chmod(0o500)
    try:
        assert cached(squares(1)).images.max() == 1
        with pytest.raises(InputError, match=r"images.*Permission denied.*FAIRWEATHER_CACHE"):
            cached(squares(2), content="other")
    finally:
        cache.chmod(0o700)


# Larger than memory

LARGER = """
    import resource
    import sys
    import threading

    sys.modules["torchmetrics"] = None  # Fabric imports it where it finds it: that takes seconds
    import numpy as np
    import torch
    from torch import nn
    import fairweather.data.loading
    from fairweather.data import cache as decode
    from fairweather.inference.prediction import predict
    from fairweather.data.pixel_scans import digest
    from fairweather.data.loading import load_data
    from fairweather.data.sources import RawImage, Listing, Source
    from fairweather.training.recipe import Recipe
    from fairweather.training.supervised import fit
    from fairweather.types.measurement import Images

    # A thread reserves its whole stack, and how many digest pixels depends on the machine.
    threading.stack_size(1 << 18)
    decode.cpu_count = lambda: 2
    torch.set_num_threads(1)
    COUNT, SIDE = 1500, 128

    def read(keys):
        for key in keys:
            yield RawImage(str(key), np.full((SIDE, SIDE), key % 256, dtype=np.uint8))

    listing = Listing(np.arange(COUNT) % 2, read, ())
    part = Listing(np.arange(20) % 2, read, ())
    source = Source(("a", "b"), {"train": listing, "val": part, "test": part})
    fairweather.data.loading.DATA_SOURCES["large"] = lambda request: source
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))

    def use(train, val):
        digest(train)
        predict(model, train, batch_size=64, device="cpu")
        for epoch in fit(model, train, val, Recipe(epochs=1, batch_size=32)):
            assert len(epoch.history) == 1

    # What libraries load and keep when they are first used is not what is measured here.
    few = Images(torch.zeros(64, 3, SIDE, SIDE, dtype=torch.uint8), torch.arange(64) % 2,
                 torch.arange(64), ("a", "b"))
    use(few, few)
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    # Linux counts a private map as data. What is left does not hold half a copy.
    pixels = COUNT * 3 * SIDE * SIDE
    resource.setrlimit(resource.RLIMIT_DATA, (used + pixels + pixels * 2 // 5,) * 2)
    dataset = load_data("large", allow_duplicates=True)
    assert dataset.train.images.nbytes == pixels
    use(dataset.train, dataset.val)
    try:
        dataset.train.images.clone()
    except RuntimeError as error:
        print("a copy would not fit:", "allocate" in str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count maps as data")
def test_images_larger_than_memory_are_measured_predicted_and_trained_on():
    with run(LARGER) as process:
        assert process.stdout.read() == "a copy would not fit: True\n"
    assert process.returncode == 0
