"""Steps done elsewhere: by a site with a scratch folder, and by the workers of a Ray cluster."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

import fairweather as fw
from fairweather.cli.app import main
from fairweather.errors import InputError
from fairweather.requests.study.run import plan
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import DATA, Plan
from fairweather.steps.worker import open_data
from fairweather.workers import sites as remote
from fairweather.workers.logs import Failure, JobFailedError
from fairweather.workers.sites import (
    MissingData,
    PackedData,
    Site,
    SiteProduct,
    SiteSettings,
    StateUpdate,
    list_input_files,
)
from tests.conftest import TINY_RESNET
from tests.helpers.named_evaluation import named_evaluation
from tests.helpers.same_bytes import same
from tests.helpers.started import started

ray = pytest.importorskip("ray")
from fairweather.workers import ray_cluster  # noqa: E402 - it needs Ray

pytestmark = pytest.mark.usefixtures("undrawn")

STUDY = """
name: colours
data: {{source: "folder:{folder}", size: 16}}
seeds: 2
threads: 1
ensemble: true
batch_size: 16
variants: [temperature, batchnorm, {{tent: {{cells: continual, orders: 2, batch_size: 16}}}}]
shifts:
  - imagenet_c/gaussian_noise: [3]
  - fgsm: {{epsilon: 4/255}}
bootstrap: 100
defaults:
  backbone: {backbone}
  recipe: {{epochs: 2, batch_size: 16, learning_rate: 1e-2}}
models:
  basic: {{title: Basic}}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, colour_folder):
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(colour_folder, folder / "colours")
    path = folder / "colours.yaml"
    path.write_text(STUDY.format(folder=folder / "colours", backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def alone(study):
    torch.set_num_threads(1)
    return fw.run(study, out=study.parent / "alone", device="cpu")


@pytest.fixture(scope="module")
def planned(study, alone):
    return plan(study, out=alone.path, device="cpu").plan


# ---------------------------------------------------------------- a site, without Ray


def site(planned, folder, seconds=0.0):
    bare = Plan.model_construct(data=planned.data, model=None, steps=())
    settings = SiteSettings(bare, 1, "cpu", True, None, None, 1, seconds)
    return Site(settings, folder)


def do(there, step, run):
    files = list_input_files([step], run)
    return there.do([step], files, lambda name: run.file(name).read_bytes())


def write(product, run):
    for name, content in product.files.items():
        run.write(name, content)


def test_a_site_writes_what_the_run_contains(planned, alone, tmp_path):
    there, back = site(planned, tmp_path / "site"), RunFolder(tmp_path / "back")
    for step in planned.steps:
        if remote.is_short(step):
            continue
        product = do(there, step, alone.folder)
        assert isinstance(product, SiteProduct), product
        write(product, back)
        for name in alone.folder.step(step.id).files:
            if name.endswith("history.csv"):  # it has times
                continue
            assert back.file(name).read_bytes() == alone.folder.file(name).read_bytes(), name
        read = {*step.reads, *step.leaves}
        left = {p.relative_to(there.scratch.path).as_posix() for p in tmp_path.glob("site/**/*.*")}
        assert {name for name in left if not name.startswith("steps/")} <= read | {"record.json"}


def test_a_training_sends_its_state_and_another_site_goes_on_from_it(planned, alone, tmp_path):
    step = planned.step("models/basic/seed-0")
    there, run = site(planned, tmp_path / "one"), RunFolder(tmp_path / "run")
    shutil.copytree(alone.path, run.path)
    do(there, step, run)
    states = [item for item in there.news.take() if isinstance(item, StateUpdate)]
    assert len(states) == 2  # one for each epoch
    assert {state.name for state in states} == {remote.training_state_file(step)}
    run.write(states[0].name, states[0].content)
    product = do(site(planned, tmp_path / "other"), step, run)
    assert product.outcome.done[0].share == 0.5
    for name in (each for each in product.files if each.endswith(".safetensors")):
        assert product.files[name] == alone.folder.file(name).read_bytes()
    rare = site(planned, tmp_path / "rare", seconds=3600)
    do(rare, step, alone.folder)
    assert not [item for item in rare.news.take() if isinstance(item, StateUpdate)]


def test_a_site_without_the_data_says_so_and_takes_them(
    planned, alone, study, tmp_path, monkeypatch
):
    dataset = open_data(planned.data[DATA])
    sent = pickle.loads(pickle.dumps(PackedData.pack(dataset)))
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    hidden = study.parent / "colours"
    hidden.rename(study.parent / "hidden")
    try:
        there = site(planned, tmp_path / "site")
        step = planned.step("predictions/basic/seed-0/test/clean")
        lacking = do(there, step, alone.folder)
        assert isinstance(lacking, MissingData)
        assert (lacking.data, "colours" in lacking.reason) == (DATA, True)
        there.worker.take_data(DATA, sent.dataset())
        product = do(there, step, alone.folder)
        name = step.leaves[0]
        assert product.files[name] == alone.folder.file(name).read_bytes()
    finally:
        (study.parent / "hidden").rename(hidden)


def test_data_that_are_not_those_of_the_plan_are_not_taken(planned, tmp_path, toy_images):
    other = fw.Dataset("toys", None, None, toy_images, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(InputError, match="have changed since the plan was made"):
        site(planned, tmp_path / "site").worker.take_data(DATA, other)


def test_pixels_that_were_sent_are_shared_and_not_copied(toy_images):
    dataset = fw.Dataset("toys", None, None, toy_images, (0.5,) * 3, (0.2,) * 3, task="findings")
    sent = PackedData.pack(dataset)
    (pixels, *_) = sent.parts["test"]
    pixels.flags.writeable = False  # as Ray gives them
    received = sent.dataset()
    assert received.task == "findings"
    assert received.test.images.data_ptr() == toy_images.images.data_ptr()
    assert received.test.keys.tolist() == toy_images.keys.tolist()


def test_a_site_packs_an_error(planned, alone, tmp_path):
    step = planned.step("predictions/basic/seed-0/test/clean")
    step = step.model_copy(update={"shift": "gausian_blur"})
    broken = do(site(planned, tmp_path / "site"), step, alone.folder)
    assert isinstance(broken, Failure)
    with pytest.raises(InputError, match="did you mean 'gaussian_blur'"):
        raise broken.to_exception("training")


# ---------------------------------------------------------------- the driver, without Ray


class Threads:
    """What the driver uses of Ray, in this process: two seats, called by threads."""

    def __init__(self, pool):
        self.pool, self.seats = pool, []

    def is_initialized(self):
        return True

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "here")

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._seat(kind)))

    def _seat(self, kind):
        def seat(parent):
            self.seats.append(kind(parent))
            return Called(self.seats[-1], self.pool)

        return seat

    def put(self, content):
        return self.pool.submit(pickle.loads, pickle.dumps(content))  # as it would arrive

    def get(self, reference):
        return reference.result()

    def wait(self, references, num_returns, timeout):
        until = FIRST_COMPLETED if num_returns == 1 else ALL_COMPLETED
        return map(list, wait(references, timeout, until))

    def kill(self, called):
        shutil.rmtree(called.seat.folder, ignore_errors=True)


class Called(NamedTuple):
    """A seat whose methods are called by threads."""

    seat: ray_cluster.Seat
    pool: ThreadPoolExecutor

    def __getattr__(self, name):
        return SimpleNamespace(remote=partial(self.pool.submit, getattr(self.seat, name)))


class Beside(ray_cluster.Seat):
    """A seat beside others in a process, whose output and current folder are not its own."""

    def begin(self, settings, working_folder):
        self.site = Site(settings, self.folder / "run")
        return self.site.worker.room


def test_two_seats_divide_the_steps(study, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "Seat", Beside)
    monkeypatch.setattr(ray_cluster, "NEWS_WAIT", 0.1)
    events, folder = [], tmp_path / "run"
    shutil.copytree(alone.path, folder)
    for step in RunFolder(folder).step_ids():
        if "gaussian_noise" in step or "fgsm" in step:
            RunFolder(folder).forget(step)
    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(ray_cluster, "ray", threads := Threads(pool))
        fw.run(study, out=folder, device="cpu", executor="ray", progress=events.append)
    same(folder, alone)
    assert len(threads.seats) == 2
    _, labels = lines_and_labels(events)
    assert len([label for label in labels if " on " in label]) > len(threads.seats)
    assert not any(seat.folder.exists() for seat in threads.seats)


# ---------------------------------------------------------------- Ray


class Prepared(ray_cluster.Seat):
    """A seat that does what files beside the data say: it dies once, or has no data."""

    def begin(self, settings, working_folder):
        source = Path(settings.plan.data[DATA].source.partition(":")[2])
        self.die = source.with_name("die")
        if source.with_name("blind").exists():
            import fairweather.steps.worker as opening

            def blind(*_, **__):
                raise InputError("no such folder")

            opening.open_data = blind
        return super().begin(settings, working_folder)

    def do(self, steps, files):
        import fairweather.inference.prediction as predicting
        import fairweather.steps.training as training

        logits_of, write, seen = predicting.compute_logits, training.Resumption.write, []

        def die():
            print("the last words")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        def dying(*arguments):
            seen.append(None)
            if len(seen) == 2 and self.taken("predict"):
                die()
            return logits_of(*arguments)

        def dying_training(resumption, run, state):
            write(resumption, run, state)
            if wanted := self.taken("train"):
                kept = Path(wanted, resumption.folder, "resume", "state.pt")
                while not kept.is_file():  # the driver has it
                    time.sleep(0.1)
                die()

        predicting.compute_logits, training.Resumption.write = dying, dying_training
        try:
            return super().do(steps, files)
        finally:
            predicting.compute_logits, training.Resumption.write = logits_of, write

    def taken(self, kind):
        """What the file says, if it says so; only one process can take it."""
        try:
            word, folder = self.die.read_text().split("\n")[:2]
            if word != kind:
                return None
            if word != "predict" or "always" not in folder:
                self.die.rename(self.die.with_name(f"died-{os.getpid()}"))
        except (OSError, ValueError):
            return None
        return folder or word


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray cluster of this machine with two CPUs, which all tests use one after the other."""
    folder = Path("/tmp") / f"fw-test-{os.getpid()}"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own name for it
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112 - no worker that none needs
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder),
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def seats(cluster, study, monkeypatch):
    """Say beside the data what the seats shall do."""
    monkeypatch.setattr(ray_cluster, "Seat", Prepared)
    monkeypatch.setattr(remote, "STATE_INTERVAL", 0.0)

    def say(name, text=""):
        (study.parent / name).write_text(text)

    yield say
    for name in ("die", "blind", *(each.name for each in study.parent.glob("died-*"))):
        (study.parent / name).unlink(missing_ok=True)


def without_predictions(alone, folder):
    """A copy of a run that still has to predict."""
    shutil.copytree(alone.path, folder)
    for step in RunFolder(folder).steps():
        if step.kind != "train":
            RunFolder(folder).forget(step.id)


def lines_and_labels(events):
    return [event.line for event in events if event.line], [
        event.finished.label for event in events if event.finished
    ]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_workers_do_what_one_process_does(seats, study, alone, tmp_path, workers):
    folder = tmp_path / "run"
    without_predictions(alone, folder)
    fw.run(study, out=folder, device="cpu", executor="ray", jobs=workers)
    same(folder, alone)


def test_a_worker_does_an_evaluation(cluster, colour_folder, tmp_path):
    given = named_evaluation(tmp_path, colour_folder)
    alone = fw.evaluate(**given, out=tmp_path / "alone", progress=False)
    said = []
    fw.evaluate(**given, out=tmp_path / "run", executor="ray", jobs=1, progress=said.append)
    same(tmp_path / "run", alone)
    assert any(event.line.startswith("clean          accuracy") for event in said)


@pytest.mark.nightly
def test_two_workers_of_which_one_is_killed_while_it_predicts_do_what_one_process_does(
    seats, study, alone, tmp_path
):
    events, folder = [], tmp_path / "run"
    without_predictions(alone, folder)
    seats("die", "predict\n")
    fw.run(study, out=folder, device="cpu", executor="ray", progress=events.append)
    same(folder, alone)
    lines, labels = lines_and_labels(events)
    assert len([line for line in lines if "ended that did predict" in line]) == 1, lines
    assert labels
    logs = "".join(path.read_text() for path in folder.glob("logs/steps/**/*.log"))
    assert "the last words" in logs
    assert "the process ended" in logs


@pytest.mark.nightly
def test_a_training_whose_worker_is_killed_goes_on_from_the_state_that_the_driver_has(
    seats, study, alone, tmp_path
):
    events, folder = [], tmp_path / "run"
    seats("die", f"train\n{folder}")
    fw.run(study, out=folder, device="cpu", executor="ray", progress=events.append)
    same(folder, alone)
    lines, _ = lines_and_labels(events)
    assert len([line for line in lines if "ended that did train" in line]) == 1
    works = [step.work for step in RunFolder(folder).steps() if step.kind == "train"]
    assert min(works) * 2 == max(works)  # one epoch of two was done twice by nobody
    assert not list(folder.glob("models/**/resume"))


@pytest.mark.nightly
def test_the_number_of_workers_changes_half_way_and_data_are_sent(seats, study, alone, tmp_path):
    folder, events = tmp_path / "run", []

    def stop(event):
        events.append(event)
        if event.finished and "predict" in event.finished.label:
            raise KeyboardInterrupt

    seats("blind")
    with pytest.raises(KeyboardInterrupt):
        fw.run(study, out=folder, device="cpu", executor="ray", progress=stop)
    assert not (folder / "scores.csv").exists()
    lines, _ = lines_and_labels(events)
    assert len([line for line in lines if "MB of pixels are sent there" in line]) == 1  # a node
    fw.run(study, out=folder, device="cpu", executor="ray", jobs=1)
    same(folder, alone)


@pytest.mark.nightly
def test_a_step_whose_workers_die_again_and_again_is_an_error(seats, study, alone, tmp_path):
    folder = tmp_path / "run"
    without_predictions(alone, folder)
    seats("die", "predict\nalways")
    with pytest.raises(JobFailedError, match=r"ended 3 times, (?s:.*)the last words"):
        fw.run(study, out=folder, device="cpu", executor="ray", jobs=1)
    assert len([step for step in RunFolder(folder).steps() if step.kind == "train"]) == 2


@pytest.mark.parametrize("address", [None, "auto"])
def test_ray_starts_in_an_empty_folder_since_its_processes_import_what_lies_there(
    address, monkeypatch, tmp_path
):
    begun = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickle.py").touch()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", lambda **_: begun.append((Path.cwd(), [*Path().iterdir()])))
    with ray_cluster.connect_to_ray(address):
        assert Path.cwd() == tmp_path
    ((folder, held),) = begun
    assert folder != tmp_path
    assert held == []
    assert not folder.exists()


def test_other_versions_are_refused():
    remote.check_versions(remote.collect_versions(), "node-7")
    older = remote.collect_versions() | {"torch": "0.0.1"}
    with pytest.raises(InputError, match=r"node-7 has another version of torch .*: 0\.0\.1, here"):
        remote.check_versions(older, "node-7")
    with pytest.raises(InputError, match=r"another version of fairweather .*: none, here"):
        remote.check_versions({"Python": older["Python"], "opencv": older["opencv"]}, "node-7")


def test_a_cluster_without_what_the_steps_need_is_refused(cluster):
    there = ray_cluster.RayCluster("the Ray cluster")
    assert sum(there.places(1, "cpu")) == 2
    with pytest.raises(InputError, match="need a GPU, and no node of the Ray cluster has one"):
        there.check(1, "cuda")
    with pytest.raises(InputError, match=r"needs 3 threads, and no node .* more than 2 CPUs"):
        there.check(3, "cpu")


# ---------------------------------------------------------------- the command line


@pytest.fixture
def refused(monkeypatch, capsys):
    """Give a command that must end with status 2, and return what it says."""

    def give(*arguments):
        monkeypatch.setattr(sys, "argv", ["fairweather", "run", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return give


def test_without_ray_one_line_installs_it(refused, study, tmp_path, monkeypatch):
    found = "fairweather.workers.options.importlib.util.find_spec"
    monkeypatch.setattr(found, lambda name: None)
    said = refused(study, "--out", tmp_path / "run", "--executor", "ray")
    assert "pip install 'fairweather[ray]'" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ("ray://127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        ("ray://127.0.0.1:port", "no Ray cluster answers"),
        ("ray://", "unknown executor 'ray://'"),
        ("ry", "did you mean 'ray'"),
    ],
)
def test_a_bad_address_is_one_sentence(refused, study, tmp_path, executor, words):
    said = refused(study, "--out", tmp_path / "run", "--executor", executor)
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_executor_is_one_way_to_share_the_work(refused, study, tmp_path):
    said = refused(study, "--out", tmp_path / "run", "--executor", "ray", "--worker")
    assert "choose one" in said


def processes_with(mark):
    """The processes that have inherited a variable of the environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # of another user, or it has just ended
            continue
    return found


def command_on_ray(study, folder, mark):
    """Start the command line on a cluster of its own, whose processes have a mark."""
    words = ["run", str(study), "--out", str(folder), "--device", "cpu", "--executor", "ray"]
    return started(
        [sys.executable, "-m", "fairweather", *words],
        stderr=subprocess.STDOUT,
        env={**os.environ, **dict([mark.split("=")])},
        process_group=0,
    )


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_can_go_on(study, alone, tmp_path, number):
    folder, mark = tmp_path / "run", f"FAIRWEATHER_TEST={os.getpid()}-{number}"
    with command_on_ray(study, folder, mark) as process:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line.startswith("done"):
                break
        assert len(processes_with(mark)) > 3  # Ray's
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        rest, _ = process.communicate(timeout=120)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], (printed, rest)
    assert "the same command continues" in rest
    assert "Traceback" not in rest
    deadline = time.monotonic() + 60
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert not (folder / "scores.csv").exists()
    fw.run(study, out=folder, device="cpu")
    same(folder, alone)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
@pytest.mark.nightly
def test_a_cluster_of_this_machine_that_ends_ends_the_run_and_it_can_go_on(study, alone, tmp_path):
    """Nothing would ever have room for its steps again."""
    folder, mark = tmp_path / "run", f"FAIRWEATHER_TEST={os.getpid()}-node"
    with command_on_ray(study, folder, mark) as process:
        assert any(line.startswith("done") for line in process.stdout)
        (node,) = (
            pid
            for pid in processes_with(mark)
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/raylet")
        )
        os.kill(int(node), signal.SIGKILL)
        process.communicate(timeout=200)
    assert process.returncode  # either our error, or Ray ends its driver first
    fw.run(study, out=folder, device="cpu")
    same(folder, alone)
