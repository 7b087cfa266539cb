"""What the record says of shifts, attacks and variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairweather.attacks import ATTACKS, AttackKind
from fairweather.inference import VARIANTS, even_batches
from fairweather.record import CellRecord, SweepRecord, variant_name
from fairweather.shifts import SHIFTS, ShiftKind
from fairweather.types import Attack, Shift, in_255ths


def kind_of(name: str) -> ShiftKind | AttackKind:
    """The row of a shift's or an attack's table."""
    return ATTACKS[name] if name in ATTACKS else SHIFTS[name]


def describe_shifts(
    shifts: Sequence[Shift | Attack], image_size: int | None = None
) -> tuple[SweepRecord, ...]:
    """Say what a report needs to know of each sweep: titles, the neutral level, ids and levels.

    With the image size, which chooses the constants of some shifts, these stand with each cell.
    """
    sweeps: dict[str, list[Shift | Attack]] = {}
    for shift in shifts:
        if shift.level is not None:
            sweeps.setdefault(shift.name, []).append(shift)
    return tuple(_describe_sweep(name, members, image_size) for name, members in sweeps.items())


def _describe_sweep(
    name: str, members: Sequence[Shift | Attack], image_size: int | None
) -> SweepRecord:
    kind, first = kind_of(name), members[0]
    notes = [
        f"{in_255ths(member.level_name) or member.level_name}: {text}"
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
    constants = None
    if isinstance(shift, Shift) and image_size and "image_size" in SHIFTS[shift.name].known:
        stated = {"image_size": image_size, **shift.parameters}
        constants = (
            f"for images of {stated['image_size']} pixels: {SHIFTS[shift.name].note(stated)}"
        )
    assert shift.level is not None
    return CellRecord(id=shift.id, level=shift.level, constants=constants)


def variant_phrase(variant: str, images: int, batch_size: int) -> str:
    """Say what a variant is; what adaptation does depends on how many images it sees together."""
    if variant != "batchnorm":
        return VARIANTS[variant]
    return f"{VARIANTS[variant]} ({even_batches(images, batch_size)} images)"


def variant_titles(
    titles: Mapping[str, str],
    interpolated: Mapping[str, str],
    variants: Sequence[str],
    images: int,
    batch_size: int,
) -> dict[str, str]:
    """Titles of all that is measured beside the models, each before its variants.

    Args:
        titles: of the models, by name.
        interpolated: titles of interpolations between weights, by name.
        variants: names in `VARIANTS`.
        images: how many test images there are.
        batch_size: in a forward pass.
    """
    found = {}
    for name, title in {**titles, **interpolated}.items():
        if name in interpolated:
            found[name] = title
        for variant in variants:
            phrase = variant_phrase(variant, images, batch_size)
            found[variant_name(name, variant)] = f"{title} + {phrase}"
    return found
