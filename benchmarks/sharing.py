"""What is gained when models share shifted images, when these are made ahead, and by jobs.

    python benchmarks/sharing.py                   # all parts, on an otherwise idle machine
    python benchmarks/sharing.py --only overlap    # one part: study, overlap, threads or jobs

Prints markdown tables of ratios, each measured in one process.

- study: 6 models under the 19 corruptions of ImageNet-C at severity 3. Before: one network at a
  time, so that each corrupts the images again; after: all together. Also the share of the time
  after that is neither corruption nor network. timm:test_resnet stands for a fast device.
- overlap: a stand-in for a device that predicts 3,000 images/s. Real processes shift the images,
  and the main process does all of its work. A clock says when device and shifts would be done. It
  runs with the processor time of the main process, so that other programs do not change the result.
  Aim: the longer of device and shifts / workers is at least 90 % of the whole.
- threads: how much faster two threads, and two processes, shift images than one thread.
- jobs: two jobs of one thread beside one job of two threads, for a study with trainings.
"""

import argparse
import platform
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from torch import nn

import fairweather as fw
from fairweather.data.batches import batch_slices, shifted_batches
from fairweather.devices import FP32, Lane
from fairweather.inference import prediction
from fairweather.inference.prediction import Predictor, compute_logits, predict_batches
from fairweather.inference.shifters import Shifters
from fairweather.requests.study.run import plan
from fairweather.requests.study.schema import load_study
from fairweather.runs.folder import RunFolder
from fairweather.shifts.table import make_shift, suite
from fairweather.steps.worker import Worker, using_threads
from fairweather.types.measurement import Images
from fairweather.workers.schedule import execute

FAMILY = (*suite("imagenet_c"), *suite("imagenet_c_extra"))
CORRUPTIONS = [shift for shift in FAMILY if shift.level == 3]
CPU = torch.device("cpu")
NOWHERE = torch.device("meta")  # images on it take no processor, as on a GPU
CLASSES = 1000  # of the stand-in
DEVICE_RATE = 3000  # images/s of the stand-in


def pictures(count, side, seed=0, classes=10):
    """Coloured clouds with grain."""
    rng = np.random.default_rng(seed)
    clouds = torch.from_numpy(rng.random((count, 3, 8, 8), dtype=np.float32))
    clouds = nn.functional.interpolate(clouds, size=(side, side), mode="bicubic")
    grain = torch.from_numpy(rng.normal(0, 6, clouds.shape).astype(np.float32))
    pixels = (255 * clouds + grain).clamp(0, 255).to(torch.uint8)
    labels = torch.arange(count) % classes
    return Images(pixels, labels, torch.arange(count), tuple(map(str, range(classes))))


def archive(path, side, **counts):
    """Write pictures as an archive in the layout of MedMNIST."""
    arrays = {}
    for part, count in counts.items():
        images = pictures(count, side, seed=len(arrays))
        arrays[f"{part}_images"] = images.images.permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_labels"] = images.labels.numpy()
    np.savez(path, **arrays)


STUDY = """
name: bench
data: {{source: "npz:{archive}"}}
seeds: {seeds}
threads: {threads}
shifts: [{shifts}]
defaults:
  backbone: {backbone}
  recipe: {{epochs: {epochs}, batch_size: 64, select: last}}
models: {{{models}}}
"""


def study_file(
    folder,
    *,
    side,
    backbone="torchvision:resnet18",
    models,
    epochs=1,
    threads=1,
    seeds="[0]",
    shifts,
    **counts,
):
    archive(folder / "data.npz", side, **counts)
    path = folder / "study.yaml"
    path.write_text(
        STUDY.format(
            archive=folder / "data.npz",
            seeds=seeds,
            threads=threads,
            backbone=backbone,
            epochs=epochs,
            shifts=", ".join(f'{{"{shift.name}": [3]}}' for shift in shifts),
            models=", ".join(f"m{number}: {{title: M{number}}}" for number in range(models)),
        )
    )
    return path


def seconds(function, *arguments, **settings):
    began = time.perf_counter()
    function(*arguments, **settings)
    return time.perf_counter() - began


# ---------------------------------------------------------------- 6 models x 19 corruptions


def bench_study():
    print(
        "| network | images | before, s | after, s | before / after | of it corruption, s | "
        "after, neither corruption nor network |"
    )
    print("|---|---|---|---|---|---|---|")
    for side, count, backbone in (
        (32, 500, "torchvision:resnet18"),
        (32, 1000, "timm:test_resnet"),
        (224, 40, "timm:test_resnet"),
    ):
        with tempfile.TemporaryDirectory() as name:
            measure_study(Path(name), side, count, backbone)


def measure_study(folder, side, count, backbone):
    settings = {"side": side, "backbone": backbone, "models": 6, "train": 20, "val": 20}
    few = study_file(folder, shifts=CORRUPTIONS[:1], test=count, **settings)
    run = fw.run(few, out=folder / "run", device="cpu")
    path = study_file(folder, shifts=CORRUPTIONS, test=count, **settings)
    whole = plan(path, out=run.path, device="cpu").plan
    cells = [step.id for step in whole.steps if step.kind == "predict" and "/test/" in step.id]
    only = whole.model_copy(
        update={"steps": tuple(step for step in whole.steps if step.id in set(cells))}
    )
    times = {1: [], None: []}
    for _ in range(2):
        for networks in times:
            for cell in cells:
                run.folder.forget(cell)
            worker = Worker(whole, device="cpu", networks=networks)
            worker.images(only.steps[0].images)  # loaded once, like the networks of a long run
            times[networks].append(seconds(execute, only, RunFolder(run.path), worker))
    before, after = (statistics.median(times[networks]) for networks in times)
    images = worker.images(only.steps[0].images)
    network = worker.network(only.steps[0].how.network, run.folder)
    with using_threads(1):
        corrupting = sum(seconds(list, batches_of(images, shift)) for shift in CORRUPTIONS)
        clean = [images[index] for index in batch_slices(len(images), 256)]
        with torch.inference_mode():
            one = statistics.median(
                seconds(
                    lambda: [compute_logits(network, b, None, Lane(CPU), FP32, 0)() for b in clean]
                )
                for _ in range(3)
            )
    arithmetic = corrupting + 6 * (len(CORRUPTIONS) + 1) * one
    print(
        f"| {backbone} | {count} of {side} px | {before:.1f} | {after:.1f} | "
        f"{before / after:.2f} | "
        f"{6 * corrupting:.1f}, then {corrupting:.1f} | "
        f"{100 * max(after - arithmetic, 0) / after:.0f} % |",
        flush=True,
    )


def batches_of(images, shift, shifters=None):
    return shifted_batches(images, shift, 0, batch_slices(len(images), 32), shifters=shifters)


# ---------------------------------------------------------------- a device that uses no processor


class Clock:
    """The time of a main process that nothing else disturbs: it works, or waits until a time."""

    def __init__(self):
        self.waited = 0.0

    def now(self):
        return time.process_time() + self.waited

    def wait_until(self, end):
        self.waited += max(end - self.now(), 0)


class ClockedDevice(nn.Module):
    """A model and its device, in the place of `Lane`: nothing is computed, but it takes time.

    With `ahead=0`, each batch is waited for before the next is given.
    """

    device = NOWHERE

    def __init__(self, clock, ahead):
        super().__init__()
        self.clock, self.ahead, self.end = clock, ahead, 0.0

    def bring(self, pixels):
        return pixels.to(NOWHERE)

    def forward(self, images):
        self.end = max(self.end, self.clock.now()) + len(images) / DEVICE_RATE
        return torch.zeros(len(images), CLASSES)

    def fetch(self, outputs):
        end = self.end

        def wait():
            self.clock.wait_until(end)
            return outputs

        return wait


class ClockedShifters:
    """Real shifters, each of which takes the given seconds for an image."""

    def __init__(self, shifters, seconds_an_image, clock):
        self.shifters, self.seconds, self.clock = shifters, seconds_an_image, clock
        self.max_batches, self.ends = shifters.max_batches, [0.0] * shifters.first

    def start(self, images, index, shift, seed):
        result = self.shifters.start(images, index, shift, seed)
        count = len(images.keys[index])
        end = max(self.ends.pop(0), self.clock.now()) + count * self.seconds
        self.ends.append(end)  # they take turns

        def wait():
            self.clock.wait_until(end)
            return result()

        return wait


def bench_overlap():
    print(
        "| shift | workers | device, s | shifts, s | whole, one by one, s | whole, s | "
        "longer / whole | main process, us an image |"
    )
    print("|---|---|---|---|---|---|---|---|")
    images = pictures(1024, 224, classes=CLASSES)
    device = len(images) / DEVICE_RATE
    with using_threads(1):
        for name in ("imagenet_c/brightness", "imagenet_c/gaussian_noise"):
            shift = make_shift(name, severity=3)
            began = time.process_time()
            list(batches_of(images, shift))
            alone = time.process_time() - began
            for workers in (1, 2):
                shifters = Shifters(workers, first=workers)
                predict_clocked(images[:256], shift, shifters, 0.0, ahead=1)  # they start
                each = alone / len(images)
                one_by_one, _ = predict_clocked(images, shift, shifters, each, ahead=0)
                whole, busy = predict_clocked(images, shift, shifters, each, ahead=1)
                shifters.end()
                longer = max(device, alone / workers)
                print(
                    f"| {name} | {workers} | {device:.2f} | {alone:.2f} | {one_by_one:.2f} | "
                    f"{whole:.2f} | {longer / whole:.2f} | {1e6 * busy / len(images):.0f} |",
                    flush=True,
                )


def predict_clocked(images, shift, shifters, seconds_an_image, *, ahead):
    """Seconds by the clock, and those in which the main process was busy."""
    clock = Clock()
    device, batches = ClockedDevice(clock, ahead), batch_slices(len(images), 64)
    began = clock.now()
    with patch.object(prediction, "Lane", lambda _: device):
        predict_batches(
            [Predictor(device)],
            images,
            shift,
            batches=batches,
            device=NOWHERE,
            shifters=ClockedShifters(shifters, seconds_an_image, clock),
        )
    whole = clock.now() - began
    return whole, whole - clock.waited


# ---------------------------------------------------------------- threads or processes


def bench_threads():
    print("| shift at 224 px | one thread, images/s | two threads | two processes |")
    print("|---|---|---|---|")
    images, gains, shifters = pictures(256, 224), [], Shifters(2, first=2)
    list(batches_of(images[:64], CORRUPTIONS[0], shifters))  # the processes start
    with using_threads(1):
        for shift in CORRUPTIONS:
            one = min(seconds(list, batches_of(images, shift)) for _ in range(3))
            two = min(seconds(in_two_threads, images, shift) for _ in range(3))
            processes = min(seconds(list, batches_of(images, shift, shifters)) for _ in range(3))
            gains.append((one / two, one / processes))
            print(
                f"| {shift.name} | {len(images) / one:.0f} | {one / two:.2f} | "
                f"{one / processes:.2f} |",
                flush=True,
            )
    shifters.end()
    for place, words in enumerate(("threads", "processes")):
        mean = statistics.geometric_mean(gain[place] for gain in gains)
        print(f"\nGeometric mean of two {words} over one: {mean:.2f}")


def in_two_threads(images, shift):
    with ThreadPoolExecutor(2) as pool:
        halves = batch_slices(len(images), len(images) // 2)
        list(pool.map(lambda half: list(batches_of(images[half], shift)), halves))


# ---------------------------------------------------------------- jobs


def bench_jobs():
    print("| study | threads | jobs | wall, s |")
    print("|---|---|---|---|")
    shifts = CORRUPTIONS[:6]
    for threads, jobs in ((2, 1), (1, 1), (1, 2)):
        with tempfile.TemporaryDirectory() as name:
            path = study_file(
                Path(name),
                side=32,
                models=2,
                epochs=2,
                threads=threads,
                shifts=shifts,
                train=2000,
                val=200,
                test=1000,
            )
            study = load_study(path)
            took = seconds(run_until_scores, study, Path(name) / "run", jobs)
            print(f"| 2 trainings and 14 cells | {threads} | {jobs} | {took:.1f} |", flush=True)


def run_until_scores(study, out, jobs):
    fw.run(study, out=out, device="cpu", jobs=jobs)


PARTS = {
    "study": bench_study,
    "overlap": bench_overlap,
    "threads": bench_threads,
    "jobs": bench_jobs,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, action="append")
    asked = parser.parse_args().only or list(PARTS)
    cv2.setNumThreads(1)
    print(
        f"{platform.processor() or platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, "
        f"OpenCV {cv2.__version__}"
    )
    for name in asked:
        print(f"\n## {name}\n")
        PARTS[name]()


if __name__ == "__main__":
    main()
