"""As many processes shift as keep up with the networks, by arithmetic on measured rates."""

import math
import select
import signal
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairweather.data.batches import batch_slices, shifted_batches
from fairweather.inference import shifters as shifting
from fairweather.inference.pace import MEASURED, ROUND, Pace, count_needed, describe_pace
from fairweather.inference.shifters import PROCESS_BYTES, SLOTS, Shifters
from fairweather.shifts.table import make_shift

SECONDS = st.fractions(Fraction(1, 10**6), 10**3)
MOST = st.integers(1, 256)


@given(shift=SECONDS, predict=SECONDS, most=MOST)
def test_as_many_are_needed_as_shift_as_fast_as_the_networks_predict(shift, predict, most):
    count = count_needed(shift, predict, most)
    assert 1 <= count <= most
    assert count == most or count / shift >= 1 / predict  # they keep up, or all cores shift
    assert count == 1 or (count - 1) / shift < 1 / predict  # one fewer would not


@given(shift=SECONDS, predict=SECONDS, most=MOST, times=st.integers(1, 50))
def test_it_is_a_matter_of_the_ratio(shift, predict, most, times):
    count = count_needed(shift, predict, most)
    assert count_needed(times * shift, times * predict, most) == count
    assert count_needed(shift, predict * times, most) <= count
    assert count_needed(shift * times, predict, most) >= count
    assert count_needed(shift, predict, most + times) >= count


@pytest.mark.parametrize(("shift", "predict"), [(1e-9, 1e9), (1e9, 1e-300), (5e-324, 5e-324)])
def test_no_measured_time_is_too_long_or_too_short(shift, predict):
    assert 1 <= count_needed(shift, predict, 4) <= 4


class Clock:
    """The time of a run that is pretended; nothing waits."""

    def __init__(self):
        self.now = Fraction(0)

    def __call__(self):
        return self.now


class Device:
    """It computes what it is given one after the other, and nobody waits for it unless asked."""

    def __init__(self, clock, seconds_an_image):
        self.clock, self.seconds, self.done, self.waits = clock, seconds_an_image, Fraction(0), 0

    def compute(self, images):
        self.done = max(self.done, self.clock.now) + images * self.seconds

    def wait(self):
        self.waits += 1
        self.clock.now = max(self.clock.now, self.done)


@pytest.mark.parametrize(
    ("shifts", "predicts", "most"),
    [(800, 8000, 63), (800, 3000, 63), (800, 3000, 2), (325, 8000, 63), (8000, 100, 15)],
)
@pytest.mark.parametrize("processor", [Fraction(0), Fraction(1, 6000)])
def test_a_pretended_run_chooses_what_the_arithmetic_says(shifts, predicts, most, processor):
    """The first batch of the networks takes a minute longer, and so does one of a process.

    A loop that does not wait for the device has a batch for the longer of its own time and the
    device's.
    """
    clock = Clock()
    device = Device(clock, Fraction(1, predicts))
    pace, batch = Pace(most, device.wait, clock), 256
    for number in range(4):
        pace.asked()
        clock.now += Fraction(batch, shifts)  # the loop waits for the only process
        pace.shifted(batch, Fraction(batch, shifts) + (60 if number == 1 else 0))
        pace.given(batch)
        device.compute(batch)
        clock.now += batch * processor + (60 if number == 0 else 0)
    pace.asked()
    longer = max(Fraction(1, predicts), processor)
    assert pace.rates(1) == (Fraction(1, shifts), longer)
    expected = min(max(math.ceil(1 / longer / shifts), 1), most)
    assert count_needed(*pace.rates(1), most) == expected


def test_the_device_is_waited_for_in_few_batches_of_many():
    clock = Clock()
    device = Device(clock, Fraction(1, 1000))
    pace = Pace(4, device.wait, clock)
    for _ in range(10 * ROUND):
        pace.asked()
        pace.given(8)
        device.compute(8)
    assert device.waits == 10 * MEASURED


def test_nothing_is_known_before_each_process_has_shifted_some_batches():
    clock = Clock()
    pace = Pace(8, clock=clock)
    for _ in range(MEASURED):
        pace.given(1)
        clock.now += 1
        pace.asked()
    for number in range(1, 4 * MEASURED):
        pace.shifted(2, 1)
        assert (pace.rates(3) is None) == (number < 3 * MEASURED)
    assert pace.rates(1) == (0.5, 1)


@given(shift=st.floats(1e-6, 1e3), predict=st.floats(1e-6, 1e3), most=MOST)
def test_it_is_said_how_many_shift_and_whether_they_keep_up(shift, predict, most):
    count = count_needed(shift, predict, most)
    words = describe_pace(shift, predict, count)
    assert words.startswith("1 process shifts " if count == 1 else f"{count} processes shift ")
    assert ("the cores allow no more" in words) == (math.ceil(shift / predict) > count)


# ---------------------------------------------------------------- with processes


class Told(Pace):
    """The rates are told, and not measured: for one batch, then for three more."""

    def __init__(self, most, ratios):
        super().__init__(most)
        self.ratios, self.collected = ratios, 0

    def shifted(self, images, seconds):
        assert seconds > 0
        self.collected += 1

    def rates(self, processes):
        return self.ratios[min(self.collected // 4, len(self.ratios) - 1)], 1.0


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize(
    ("ratios", "most", "count"), [((1.0, 2.5), 8, 3), ((9.0,), 2, 2), ((0.1,), 8, 1)]
)
def test_processes_join_while_batches_are_on_their_way_and_change_no_pixel(
    ratios, most, count, toy_images, monkeypatch
):
    def patient(*files_and_time):  # those that join are waited for, so that they do join
        return select.select(*files_and_time[:3], 60.0)

    monkeypatch.setattr(shifting, "select", SimpleNamespace(select=patient))
    monkeypatch.setattr(shifting, "available_memory", lambda: 16 * PROCESS_BYTES)
    shifters, said, open_batches = Shifters(most), [], []
    shifters.pace, shifters.tell = Told(most, ratios), said.append
    shift = make_shift("imagenet_c/gaussian_noise", severity=3)
    try:
        found = []
        for _ in range(2):
            batches = batch_slices(len(toy_images), 4)
            for batch in shifted_batches(toy_images, shift, 5, batches, shifters=shifters):
                found.append(batch.images)
                open_batches.append(shifters.max_batches)
        expected = shift(toy_images.images, toy_images.keys, 5)
        assert torch.equal(torch.cat(found), torch.cat([expected, expected]))
        assert open_batches[-1] == SLOTS * count
        assert len(shifters._processes) == count
        assert all(each.batches[0] for each in shifters._processes)  # each has shifted two or more
    finally:
        shifters.end()
    words = [event.line for event in said]
    assert [line.split()[1] for line in words] == ["1", "3"] if len(ratios) > 1 else [str(count)]
    assert all(line.startswith("shifts         ") for line in words)


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize(
    ("fit", "jobs", "count"), [(0, 1, 1), (1, 1, 2), (2, 1, 3), (9, 1, 4), (8, 4, 3), (7, 4, 2)]
)
def test_no_more_processes_join_than_fit_into_the_job_s_share_of_half_of_the_memory(
    fit, jobs, count, toy_images, monkeypatch
):
    free = 2 * PROCESS_BYTES * fit + PROCESS_BYTES // 2
    monkeypatch.setattr(shifting, "available_memory", lambda: free)
    shifters, said = Shifters(8, jobs=jobs), []
    shifters.pace, shifters.tell = Told(8, [4.0]), said.append
    try:
        shift = make_shift("imagenet_c/gaussian_noise", severity=3)
        list(shifted_batches(toy_images, shift, 5, batch_slices(4, 4), shifters=shifters))
        assert len(shifters._processes) + len(shifters._joining) == count
    finally:
        shifters.end()
    (line,) = [event.line for event in said]
    assert line.endswith("; 4 would keep up, and the memory allows no more") == (count < 4)


@pytest.mark.usefixtures("forking")
def test_processes_that_load_or_shift_end_at_once_and_silently(toy_images, capfd):
    shifters, shift = Shifters(2), make_shift("imagenet_c/glass_blur", severity=3)
    waiting = [shifters.start(toy_images, slice(96), shift, 0) for _ in range(SLOTS)]
    waiting[0]()  # the first one shifts, and another one still loads its modules
    shifters._joining = [shifting._ShifterProcess(shifters._memory.file)]
    processes = [each._process for each in (*shifters._processes, *shifters._joining)]
    shifters.end()
    assert [process.poll() for process in processes] == [-signal.SIGKILL] * 2
    assert capfd.readouterr() == ("", "")
