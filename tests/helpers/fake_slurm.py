"""The programs of SLURM, as far as fairweather and submitit use them: jobs are processes here.

Under the name of a program on PATH, it does what that program does. Its state is in FAKE_SLURM: a
file for each job (PENDING, or the number of its process), the script of each array, and what was
asked. While the file `hold` exists, jobs wait in the queue; while `no-PROGRAM` does, it fails.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


def install(folder):
    """Put the programs into a folder, which is to be on PATH."""
    folder.mkdir()
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -SE {__file__} {name} "$@"\n')
        program.chmod(0o755)


def begin(state, job):
    array, _, index = job.partition("_")
    ids = {"SLURM_JOB_ID": str(int(array) + int(index or 0))}
    if index:
        ids |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index}
    script = [str(state / f"{array}.sh")]
    process = subprocess.Popen(
        ["bash", *script],
        env={**os.environ, **ids},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (state / job).write_text(str(process.pid))


def jobs(state):
    return {path.name: path.read_text() for path in state.glob("[0-9]*") if not path.suffix}


def is_there(pid):
    try:
        return (
            pathlib.Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8")
            .rsplit(")", 1)[1]
            .split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


def sbatch(state, arguments):
    text = pathlib.Path(arguments[-1]).read_text(encoding="utf-8")
    if "--partition=nowhere" in text:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    number = str(100 * (1 + len(list(state.glob("*.sh")))))
    (state / f"{number}.sh").write_text(text)
    found = re.search(r"--array=0-(\d+)", text)
    names = [f"{number}_{k}" for k in range(int(found[1]) + 1)] if found else [number]
    for name in names:
        (state / name).write_text("PENDING")
        if not (state / "hold").exists():
            begin(state, name)
    print(f"Submitted batch job {number}")


def squeue(state, arguments):
    assert arguments[-1] == "--format=%i %T %j"
    for name, pid in jobs(state).items():
        script = (state / f"{name.partition('_')[0]}.sh").read_text()
        called = re.search(r"--job-name=(.*)", script)[1]
        if pid == "PENDING" and not (state / "hold").exists():
            begin(state, name)
            print(name, "RUNNING", called)
        elif pid == "PENDING" or is_there(pid):
            print(name, "PENDING" if pid == "PENDING" else "RUNNING", called)


def scancel(state, arguments):
    for name in arguments:
        pid = (state / name).read_text()
        if pid != "PENDING":
            os.kill(int((state / f"{name}.step").read_text()), signal.SIGTERM)
        (state / name).unlink()


def scontrol(state, arguments):
    assert arguments[0] == "requeue"
    begin(state, arguments[1])


def srun(state, arguments):
    place = arguments.index("--output")
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    log = arguments[place + 1].replace("%A_%a", job).replace("%j", job).replace("%t", "0")
    (state / f"{job}.step").write_text(str(os.getpid()))
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(out, 1)
    os.dup2(out, 2)
    first = next(k for k in range(place + 2, len(arguments)) if not arguments[k].startswith("-"))
    os.execvp(arguments[first], arguments[first:])


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    state = pathlib.Path(os.environ["FAKE_SLURM"])
    with (state / "asked.log").open("a") as file:
        file.write(f"{name} {' '.join(rest)}\n")
    if (state / f"no-{name}").exists():
        sys.exit(f"{name}: error: Unable to contact slurm controller")
    globals()[name](state, rest)
