"""The sections of the report, in their order: page, contents, files and overview read this list."""

from __future__ import annotations

from collections.abc import Sequence

from fairweather.report import (
    conformal,
    findings,
    heat_maps,
    how,
    levels,
    limits,
    more_tables,
    other_images,
    overview,
    ranking,
    scatter,
    slices,
    summary,
    training,
    units,
    variants,
)
from fairweather.report.contents import Contents
from fairweather.report.page import closer
from fairweather.report.section import FileTable, Part, Section

SECTIONS = (
    Section(
        "answer",
        "The answer",
        (
            findings.VERDICT,
            other_images.SENTENCES,
            overview.PART,
            ranking.PART,
            variants.PART,
            slices.PART,
            findings.IN_WORDS,
        ),
        brief=overview.brief,
    ),
    Section(
        "shifts",
        "Under each shift",
        (heat_maps.PART, levels.CHARTS, scatter.PART, limits.PART, levels.NUMBERS),
        accepts=levels.has_levels,
    ),
    Section("sets", "Prediction sets", (conformal.PART,)),
    Section(
        "summary",
        "Summary tables",
        (
            summary.SUMMARY,
            units.PART,
            summary.CLASSES,
            other_images.NATURAL_SHIFT,
            other_images.NATURAL_SETS,
        ),
    ),
    Section("closer", "Look closer", (closer.CLOSER, closer.PICTURES)),
    Section("training", "Training", (training.PART,)),
    Section(
        "more",
        "More tables",
        (
            more_tables.WORST_LEVELS,
            more_tables.STABILITY,
            more_tables.CLASS_PRIORS,
            other_images.OTHER_DATA,
            more_tables.HAND_OVER,
            more_tables.CLEAN_METRICS,
        ),
    ),
    Section(
        "how",
        "How these numbers were made",
        (how.SHIFTS, how.METRICS, how.CITATION, how.RECORDS),
    ),
)


def tables_of(
    contents: Contents, sections: Sequence[Section] = SECTIONS
) -> dict[Part, list[FileTable]]:
    """Make the tables of each part of some sections, in their order."""
    return {
        part: [table for table in part.tables(contents) if table is not None]
        for section in sections
        for part in section.parts
    }
