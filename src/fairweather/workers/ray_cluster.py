"""Do the steps of a run on a Ray cluster; `fairweather.workers.sites` has the messages.

A seat is an actor of Ray, a process with the CPUs or the GPU of one step. It gets steps with the
files that they read, returns the files that they wrote, and keeps data and networks open. Its
second thread reports news. Only this process writes the run folder. Ray repeats nothing by itself:
if a seat dies, another one gets its steps, with the last state of their training.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fairweather.devices import count_cores
from fairweather.errors import InputError, missing_extra
from fairweather.progress import Event, Notify
from fairweather.runs.claims import open_run
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import Plan, Step, name_first
from fairweather.steps.training import drop_state
from fairweather.steps.worker import Worker
from fairweather.workers import sites
from fairweather.workers.logs import Failure, JobFailedError, read_last_lines, step_log, write_log
from fairweather.workers.options import Sharing
from fairweather.workers.schedule import Schedule, perform_locally
from fairweather.workers.work import Work

try:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise missing_extra("ray", "ray", "runs on a Ray cluster") from None

Reference = Any  # Ray's handle of a result; clients have another class
PORT = 10001  # of Ray's clients on the head of a cluster
CONNECT_TIMEOUT = 10.0  # seconds within which a cluster must answer
MAX_ATTEMPTS = 3  # how often steps are handed out if seats die
WAIT_TIMEOUT = 10.0  # seconds, the longest time without a check of the cluster
COUNT_INTERVAL = 5.0  # seconds between two checks of the cluster's resources
REMINDER_INTERVAL = 60.0  # seconds between two lines that say what the driver waits for
NEWS_WAIT, NEWS_PAUSE = 20.0, 0.2  # seconds until a seat answers that nothing is new; after news
CLEAR_TIMEOUT = 10.0  # seconds to remove or read what seats leave behind
SMALL_FILE = 2**16  # bytes; smaller files travel with the steps
MAX_CACHED_FILES = 16  # larger files that stay in Ray's memory for the next steps


# ---------------------------------------------------------------- the far side


class SeatGreeting(NamedTuple):
    """The first message of a seat."""

    host: str
    node: str
    process: int
    """`host`, `node`, `process`: where it is: name of the machine, Ray's id of the node, process.
    """

    folder: str
    """Its own folder there."""

    versions: dict[str, str]
    """Of packages that results depend on."""


class Seat:
    """A Ray process that does steps; the driver calls its methods.

    Args:
        parent: the folder that its own folder is made in; None for that of temporary files.
    """

    def __init__(self, parent: str | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fairweather-", dir=parent))
        self.log = self.folder / "log"

    def greet(self) -> SeatGreeting:
        """Return the place and the versions of this process."""
        node = ray.get_runtime_context().get_node_id()
        return SeatGreeting(
            socket.gethostname(), node, os.getpid(), str(self.folder), sites.collect_versions()
        )

    def begin(self, settings: sites.SiteSettings, working_folder: str) -> int | Failure:
        """Get ready for steps; returns the bytes that networks may take."""
        try:
            with suppress(OSError):  # relative paths keep their meaning if the folder exists
                os.chdir(working_folder)
            descriptor = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            for number in (1, 2):
                os.dup2(descriptor, number)
            self.site = sites.Site(settings, self.folder / "run")
            return self.site.worker.room
        except Exception as error:  # raised again in the driver
            return Failure.from_error(error)

    def news(self) -> list[sites.NewsItem]:
        """Wait for news."""
        return self.site.news.take(NEWS_WAIT, NEWS_PAUSE)

    def do(
        self, steps: Sequence[Step], files: Mapping[str, tuple[str, bytes | Reference]]
    ) -> tuple[sites.SiteAnswer, list[sites.NewsItem], str]:
        """Do steps together; returns also the rest of the news, and what was printed.

        Args:
            steps: what to do.
            files: version and content, or a reference to it, of each file that they read.
        """

        def fetch(name: str) -> bytes:
            content = files[name][1]
            return content if isinstance(content, bytes) else bytes(ray.get(content))

        if self.log.exists():
            os.truncate(self.log, 0)
        versions = {name: version for name, (version, _) in files.items()}
        answer = self.site.do(steps, versions, fetch)
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return answer, self.site.news.take(), text[-sites.MAX_LOG :]

    def give(self, name: str, sent: sites.PackedData) -> None:
        """Take a data set, whose pixels all seats of a machine share."""
        self.site.worker.take_data(name, sent.dataset())

    def clear(self) -> None:
        """Remove its own folder, just before the process is ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


# ---------------------------------------------------------------- the near side


class RayCluster(NamedTuple):
    """A Ray cluster that this process is connected to."""

    name: str
    """What it is called in a sentence."""

    folder: str | None = None
    """For the files of seats, if all are on this machine and removed at the end."""

    def places(self, threads: int, device: str) -> list[int]:
        """How many steps each node has room for; [0] if there is none."""
        places = [0]
        for node in ray.nodes():
            if node["Alive"]:
                most = int(node["Resources"].get("CPU", 0)) // threads
                gpus = int(node["Resources"].get("GPU", 0))
                places.append(min(most, gpus) if device == "cuda" else most)
        return places

    def without_package(self, reason: str) -> InputError:
        """Build the error for a node without this package, or with another version of it."""
        return InputError(
            f"{self.name} cannot load what it needs ({reason}): install the same version of "
            "fairweather[ray] on every node, and on its head"
        )

    def check(self, threads: int, device: str) -> None:
        """Raise `InputError` unless a node has the CPUs, and the GPU, that each step needs."""
        if any(self.places(threads, device)):
            return
        if device == "cuda" and any(self.places(threads, "cpu")):
            raise InputError(
                f"the steps need a GPU, and no node of {self.name} has one: name another device "
                "with --device, or start Ray on a machine with a GPU"
            )
        most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        raise InputError(
            f"each step needs {threads} threads, and no node of {self.name} has more than {most} "
            "CPUs: set fewer threads in the study (the results depend on their number)"
        )


@contextmanager
def connect_to_ray(address: str | None) -> Iterator[RayCluster]:
    """Connect to a Ray cluster, or start one on this machine that ends with the `with` block.

    If this process is already connected to a cluster, that one is used and stays.

    Args:
        address: `HOST:PORT` of the cluster's head, where Ray's clients connect; `auto` for the
            cluster that this machine belongs to; None to start one here.

    Raises `InputError` if no cluster answers, or if it has other versions of Python or Ray.
    """
    if ray.is_initialized():
        yield RayCluster("the Ray cluster that this process has connected to")
        return
    place = check_address(address)
    # Short, since a path of a socket has at most 107 characters.
    short = "/tmp" if Path("/tmp").is_dir() else None  # nosec B108 # mkdtemp makes it ours
    folder = tempfile.mkdtemp(prefix="fw-ray-", dir=short)
    try:
        if place is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            options = {"address": "local", "include_dashboard": False, "_temp_dir": folder}
            _connect("a Ray cluster on this machine", folder, **options, num_cpus=count_cores())
            yield RayCluster("the Ray cluster on this machine", folder)
        else:
            auto = place == "auto"
            name = f"the Ray cluster {'of this machine' if auto else f'at {place}'}"
            _connect(name, folder, address=place if auto else f"ray://{place}")
            yield RayCluster(name)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def check_address(address: str | None) -> str | None:
    """Complete an address with the port; raises `InputError` if nothing answers there."""
    if address is None or address == "auto":
        return address
    host, _, port = address.partition(":")
    if not port:
        port = str(PORT)
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"no Ray cluster answers at {address!r} ({reason}): the address is that of the head "
            f"of a cluster and its port for clients, such as ray://head:{PORT}"
        ) from None
    return f"{host}:{port}"


def _connect(name: str, folder: str, **arguments: Any) -> None:  # noqa: ANN401 - of ray.init
    """Connect to Ray, and restore this process's own signal handlers.

    Ray's processes import from the current folder first, so this happens in an empty one.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    with suppress(Exception):  # Ray would print a paragraph about each worker that ends
        logs = importlib.import_module("ray._private.ray_logging")
        logs.global_worker_stdstream_dispatcher.emit = lambda _: None
    try:
        with warnings.catch_warnings(), chdir(folder):
            warnings.simplefilter("ignore")  # the error says the same
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except (RayError, RuntimeError, ConnectionError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        hint = ""
        if "timeout" in reason:
            hint = (
                "; is this the port for clients, and does the cluster ask for a token (then set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)?"
            )
        raise InputError(f"cannot connect to {name}: {reason}{hint}") from error
    finally:
        if main:  # Ray's own handler would end this process at once
            signal.signal(signal.SIGTERM, before)


@dataclass(eq=False)
class _SeatHandle:
    """A seat, as the driver sees it."""

    number: int
    """From 1."""

    actor: Any
    """Ray's handle."""

    greeting: SeatGreeting | None = None
    """What it has said first."""

    is_ready: bool = False
    """Whether it can be given steps."""

    steps: Sequence[Step] = ()
    """What it is doing."""

    given: set[str] = field(default_factory=set)
    """Names of the data sets that were sent to it."""

    begun: int = 0
    """How often it was given steps."""

    @property
    def host(self) -> str:
        return self.greeting.host if self.greeting is not None else "a node"


def execute_on_ray(work: Work, sharing: Sharing, tell: Notify) -> None:
    """Do the steps of a run as `workers.schedule.execute` does, on a Ray cluster.

    The results are the same to the byte on equal processors or GPUs with equal versions. Short
    steps are done by this process.

    Raises:
        InputError: the cluster cannot do the steps, or has other versions.
        JobFailedError: a step failed, or the processes that did it died several times.
    """
    with (
        closing(work.worker(work.settings(sharing, workers=0), tell)) as worker,
        connect_to_ray(sharing.address) as cluster,
        open_run(work.path) as run,
    ):
        work.prepare(run, others=False)
        driver = _RayDriver(work.plan, run, worker, cluster, tell, sharing)
        try:
            driver.work()
        finally:
            driver.end()


class _RayDriver:
    """Hands out steps to seats, and takes in their results.

    Attributes:
        ready: steps that wait for a seat.
        awaited: calls to seats, each with the function for its answer.
        died: how often seats died during a step, by its id, or while they started.
        files: references to files that were sent, by version; the latest last.
        sent: data sets that were sent, and the nodes for which this was reported.
        places: how many steps the cluster has room for, as far as they were asked for.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        worker: Worker,
        cluster: RayCluster,
        tell: Notify,
        sharing: Sharing,
    ) -> None:
        self.run, self.worker, self.cluster, self.tell = run, worker, cluster, tell
        self.most = sharing.jobs
        self.schedule = Schedule(plan, run, tell)
        self.device, self.threads = worker.device.type, plan.steps[0].threads
        cluster.check(self.threads, self.device)
        self.settings = sites.SiteSettings(
            plan=Plan.model_construct(data=plan.data, models=plan.models, steps=()),
            threads=self.threads,
            device=self.device,
            offline=worker.offline,
            workers=sharing.shift_processes,
            networks=worker.most_networks,
            jobs=max(cluster.places(self.threads, self.device)),
            state_sent=sites.STATE_INTERVAL,
        )
        self.ready = deque[Sequence[Step]]()
        self.seats: list[_SeatHandle] = []
        self.awaited: dict[Reference, tuple[_SeatHandle, Callable[[_SeatHandle, Any], None]]] = {}
        self.died = Counter[str]()
        self.files: dict[str, Reference] = {}
        self.sent: dict[str, tuple[Reference, set[str]]] = {}
        self.started, self.places, self.counted = 0, 0, float("-inf")
        self.reminded = time.monotonic()

    # ---- handing out

    def work(self) -> None:
        """Do all steps."""
        while True:
            self._count_places()
            self._take_steps()
            busy = self._busy()
            if not self.ready and not busy:
                self.schedule.check_finished()
                return
            for seat in self.seats:
                if self.ready and seat.is_ready and not seat.steps:
                    self._send(seat, self.ready.popleft())
            while len(self.seats) < min(self.places, len(busy) + len(self.ready)):
                self._start_seat()
            self._wait()

    def _busy(self) -> list[_SeatHandle]:
        return [seat for seat in self.seats if seat.steps]

    def _count_places(self) -> None:
        if time.monotonic() - self.counted > COUNT_INTERVAL:
            total = sum(self.cluster.places(self.threads, self.device))
            self.places = total if self.most is None else min(self.most, total)
            self.counted = time.monotonic()
        self.schedule.jobs = max(sum(seat.is_ready for seat in self.seats), 1)

    def _take_steps(self) -> None:
        """Hand out what can be done now, as far as there are places, and do short steps here."""
        while len(self.ready) < max(self.places - len(self._busy()), 1):
            steps = self.schedule.take(self.worker)
            if steps is None:
                return
            if all(sites.is_short(step) for step in steps):
                self.schedule.finish(
                    steps, perform_locally(steps, self.worker, self.run, self.tell)
                )
            else:
                self.ready.append(steps)

    def _send(self, seat: _SeatHandle, steps: Sequence[Step]) -> None:
        seat.steps = steps
        seat.begun += 1
        files = {
            name: (version, self._content(name, version))
            for name, version in sites.list_input_files(steps, self.run).items()
        }
        write_log(
            self.run,
            steps,
            f"begun on {seat.host} (process {seat.greeting and seat.greeting.process})",
        )
        self.awaited[seat.actor.do.remote(steps, files)] = (seat, self._take_in)
        self.tell(Event(f"worker {seat.number} on {seat.host}", seat.begun, None, _title(steps)))

    def _content(self, name: str, version: str) -> bytes | Reference:
        """The content of a file of the run, or Ray's reference to it."""
        path = self.run.file(name)
        if path.stat().st_size < SMALL_FILE:
            return path.read_bytes()
        self.files[version] = self.files.pop(version, None) or ray.put(path.read_bytes())
        if len(self.files) > MAX_CACHED_FILES:
            del self.files[next(iter(self.files))]
        return self.files[version]

    def _start_seat(self) -> None:
        self.started += 1
        options: dict[str, Any] = {"num_cpus": self.threads, "max_concurrency": 3}
        if self.device == "cuda":
            options["num_gpus"] = 1
        try:
            actor: Any = ray.remote(Seat).options(**options).remote(self.cluster.folder)
        except ModuleNotFoundError as error:  # on the head, if this is a client
            raise self.cluster.without_package(str(error)) from None
        seat = _SeatHandle(self.started, actor)
        self.seats.append(seat)
        self.awaited[actor.greet.remote()] = (seat, self._greet)

    # ---- taking in

    def _wait(self) -> None:
        """Wait for a message of a seat, and handle it."""
        busy = self._busy()
        is_local = self.cluster.folder is not None  # no other node will join
        if is_local and not busy and not any(self.cluster.places(self.threads, self.device)):
            raise JobFailedError(
                "Ray's processes on this machine have ended; the same command continues from what "
                "is finished"
            )
        if not busy and time.monotonic() - self.reminded > REMINDER_INTERVAL:
            line = (
                f"{'waiting':14} for {self.cluster.name} to have room for {_title(self.ready[0])}"
            )
            self.tell(Event("wait", 0, None, line=line))
            self.reminded = time.monotonic()
        if not self.awaited:
            time.sleep(COUNT_INTERVAL)
            return
        ray.wait(list(self.awaited), num_returns=1, timeout=WAIT_TIMEOUT)
        awaited = list(self.awaited)
        answers, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        # News first, because they are older than the result of the steps.
        for answer in sorted(answers, key=lambda ref: self.awaited[ref][1] != self._hear_more):
            if answer not in self.awaited:
                continue  # the seat has died
            seat, take = self.awaited.pop(answer)
            try:
                result = ray.get(answer)
            except RayError as error:
                self._lose(seat, error)
            else:
                take(seat, result)

    def _greet(self, seat: _SeatHandle, greeting: SeatGreeting) -> None:
        seat.greeting = greeting
        sites.check_versions(greeting.versions, f"{greeting.host}, of {self.cluster.name},")
        self.awaited[seat.actor.begin.remote(self.settings, str(Path.cwd()))] = (seat, self._begin)

    def _begin(self, seat: _SeatHandle, room: int | Failure) -> None:
        if isinstance(room, Failure):
            raise room.to_exception(f"beginning on {seat.host}")
        seat.is_ready = True
        self.worker.room = min(self.worker.room, room)
        self._hear_more(seat, [])

    def _hear_more(self, seat: _SeatHandle, news: Sequence[sites.NewsItem]) -> None:
        self._hear(seat, news)
        self.awaited[seat.actor.news.remote()] = (seat, self._hear_more)

    def _hear(self, seat: _SeatHandle, news: Sequence[sites.NewsItem]) -> None:
        for item in news:
            if not seat.steps:
                return
            if isinstance(item, sites.StateUpdate):
                if item.name in map(sites.training_state_file, seat.steps):
                    self.run.write(item.name, item.content)
                continue
            if item.note and not item.part:
                text = f"{item.task}: {item.done} of {item.total}, {item.note}"
                write_log(self.run, seat.steps, text)
            place = f"on {seat.host}"
            self.tell(item._replace(note=f"{place}; {item.note}" if item.note else place))

    def _take_in(
        self, seat: _SeatHandle, result: tuple[sites.SiteAnswer, list[sites.NewsItem], str]
    ) -> None:
        answer, rest, printed = result
        self._hear(seat, rest)
        if isinstance(answer, sites.MissingData):
            self._give(seat, answer)
            return
        steps, seat.steps = seat.steps, ()
        if isinstance(answer, Failure):
            write_log(self.run, steps, f"{printed}{answer.traceback}")
            log = self.run.file(step_log(steps[0].id))
            raise answer.to_exception(f"{_title(steps)} on {seat.host} (its log is {log})")
        write_log(self.run, steps, f"{printed}done in {answer.outcome.seconds:.1f} s")
        for name, content in answer.files.items():
            self.run.write(name, content)
        self.schedule.finish(steps, replace(answer.outcome, host=seat.host))
        for step in steps:
            drop_state(step, self.run)

    def _give(self, seat: _SeatHandle, lacking: sites.MissingData) -> None:
        """Send a data set to a seat that can neither find nor fetch it."""
        assert seat.greeting is not None
        name = lacking.data
        if name in seat.given:
            raise InputError(f"{seat.host}: {lacking.reason}")
        packed = sites.PackedData.pack(self.worker.dataset(name))
        if name not in self.sent:
            self.sent[name] = (ray.put(packed), set())
        reference, nodes = self.sent[name]
        if seat.greeting.node not in nodes:
            nodes.add(seat.greeting.node)
            size = f"{packed.bytes / 1e6:,.1f} MB of pixels"
            line = f"{'note':14} {packed.name} is not on {seat.host}: {size} are sent there"
            self.tell(Event("send data", 1, 1, line=line))
        seat.given.add(name)
        again = seat.actor.give.remote(name, reference)
        self.awaited[again] = (seat, lambda seat, _: self._send(seat, seat.steps))

    # ---- seats that end

    def _lose(self, seat: _SeatHandle, error: RayError) -> None:
        """Remove a seat that died; another one does its steps again."""
        self.seats.remove(seat)
        self.awaited = {ref: asked for ref, asked in self.awaited.items() if asked[0] is not seat}
        self.counted = float("-inf")
        with suppress(Exception):
            ray.kill(seat.actor)
        reason = " ".join(str(error).split())
        if missing := re.search(r"No module named '[^']*'", reason):
            raise self.cluster.without_package(missing[0])
        printed, steps = self._remains(seat), seat.steps
        step_id = steps[0].id if steps else "start"
        self.died[step_id] += 1
        if not steps:
            if self.died[step_id] >= MAX_ATTEMPTS * max(self.places, 1):
                raise JobFailedError(f"processes of {self.cluster.name} end at once: {reason}")
            return
        write_log(self.run, steps, f"{printed}the process ended: {reason}")
        if self.died[step_id] >= MAX_ATTEMPTS:
            log = step_log(step_id)
            path = self.run.file(log)
            raise JobFailedError(
                f"the process that did {_title(steps)} ended {MAX_ATTEMPTS} times, the last time "
                f"on {seat.host}; the same command continues; the last lines of {path}:"
                f"\n{read_last_lines(self.run, log).rstrip()}"
            )
        line = f"{'note':14} the process on {seat.host} ended that did {_title(steps)}: "
        self.tell(Event("lost", 1, 1, line=f"{line}it is done again"))
        self.ready.appendleft(steps)

    def _remains(self, seat: _SeatHandle) -> str:
        """Return what a dead seat had printed, and remove its folder."""
        if seat.greeting is None:
            return ""

        # An inner function, so that Ray sends its code: a new process need not import this package.
        def remains(folder: str, most: int) -> str:
            import pathlib
            import shutil

            log = pathlib.Path(folder, "log")
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            shutil.rmtree(folder, ignore_errors=True)
            return text[-most:]

        strategy = NodeAffinitySchedulingStrategy(seat.greeting.node, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}
        with suppress(RayError):  # the whole node may be gone
            task = ray.remote(remains).options(**options)
            text: str = ray.get(
                task.remote(seat.greeting.folder, sites.MAX_LOG), timeout=CLEAR_TIMEOUT
            )
            return text
        return ""

    def end(self) -> None:
        """End all seats, whatever they are doing."""
        clearing = [seat.actor.clear.remote() for seat in self.seats if seat.greeting is not None]
        with suppress(Exception):
            if clearing and self.cluster.folder is None:
                ray.wait(clearing, num_returns=len(clearing), timeout=CLEAR_TIMEOUT)
        for seat in self.seats:
            with suppress(Exception):
                ray.kill(seat.actor)


def _title(steps: Sequence[Step]) -> str:
    """Describe steps that are done together, in a few words."""
    return name_first([step.label for step in steps])
