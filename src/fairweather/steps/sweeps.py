"""Sweeps of shifts and attacks: their kinds, and their description in the record of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from fairweather.attacks.shift_lists import (
    expand_shifts,
    parse_external_shift,
    refuse_external_images,
)
from fairweather.attacks.table import ATTACKS, AttackKind
from fairweather.shifts.published import find_shift_kind, parse_published_shift
from fairweather.shifts.table import SHIFTS, ShiftKind
from fairweather.types.measurement import Attack, Images, Shift, format_255ths
from fairweather.types.record import CellRecord, SweepRecord

AnyShift = TypeVar("AnyShift", bound=Shift | Attack)


def shift_kind(name: str) -> ShiftKind | AttackKind:
    """The entry of a shift or an attack in `SHIFTS` or `ATTACKS`.

    For images that were shifted elsewhere, only the name of the shift is known.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    return find_shift_kind(name) or ShiftKind(
        refuse_external_images, name, "level", parameters=("level",)
    )


def parse_shift(text: str) -> Shift | Attack:
    """The shift or attack with this id.

    >>> parse_shift("gaussian_blur,sigma=0.7").level
    0.7
    """
    if (known := parse_external_shift(text) or parse_published_shift(text)) is not None:
        return known
    (shift,) = expand_shifts(text)
    return shift


def pair_published(
    shifts: Iterable[AnyShift], images: Images, tell: Callable[[int], None] = lambda _: None
) -> Iterator[AnyShift]:
    """Pair shifts that are read from published files with clean images; others stay as they are.

    Args:
        shifts: shifts and attacks.
        images: the clean images.
        tell: called with the number of shifts so far.

    Raises `InputError` if files are missing, or differ from the clean images in labels or size.
    """
    for number, shift in enumerate(shifts, start=1):
        if isinstance(shift, Shift) and shift.files is not None:
            yield replace(shift, files=shift.files.pair_with(images))
            tell(number)
        else:
            yield shift


def digest_published(shifts: Iterable[Shift | Attack]) -> dict[str, str | None]:
    """The digests of the published files of shifts, by id; other shifts are left out."""
    return {
        shift.id: shift.files.digest
        for shift in shifts
        if isinstance(shift, Shift) and shift.files is not None
    }


def group_by_sweep(shifts: Iterable[AnyShift]) -> dict[str, list[AnyShift]]:
    """The levels of each shift or attack, by its name."""
    sweeps: dict[str, list[AnyShift]] = {}
    for shift in shifts:
        if shift.level is not None:
            sweeps.setdefault(shift.name, []).append(shift)
    return sweeps


def describe_shifts(
    shifts: Sequence[Shift | Attack], image_size: int | None = None
) -> tuple[SweepRecord, ...]:
    """Describe each sweep for reports: titles, the neutral level, ids and levels.

    Some shifts have constants that depend on the image size. If it is given, each cell contains
    them.
    """
    sweeps = group_by_sweep(shifts)
    return tuple(_describe_sweep(name, members, image_size) for name, members in sweeps.items())


def _describe_sweep(
    name: str, members: Sequence[Shift | Attack], image_size: int | None
) -> SweepRecord:
    kind, first = shift_kind(name), members[0]
    notes = [
        f"{format_255ths(member.level_name) or member.level_name}: {text}"
        for member in members
        if (text := kind.note(member.parameters))
    ]
    attack = isinstance(first, Attack)
    return SweepRecord(
        name=name,
        kind="attack" if attack else "shift",
        title=kind.title,
        level_title=kind.level_title,
        neutral=kind.neutral,
        note="; ".join(notes),
        norm=str(first.parameters.get("norm", "linf")) if attack else None,
        cells=tuple(_describe_cell(member, image_size) for member in members),
    )


def _describe_cell(shift: Shift | Attack, image_size: int | None) -> CellRecord:
    constants, kind = None, SHIFTS.get(shift.name)
    if kind is not None and image_size and "image_size" in kind.parameter_names:
        stated = {"image_size": image_size, **shift.parameters}
        constants = f"for images of {stated['image_size']} pixels: {kind.note(stated)}"
    assert shift.level is not None
    return CellRecord(id=shift.id, level=shift.level, constants=constants)
