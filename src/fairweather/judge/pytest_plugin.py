"""A fixture for the tests of a project: does a finished run keep its rules.

pytest loads this module in every environment that has fairweather, so it imports nothing of the
package before a test asks for the fixture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from fairweather.judge.verdicts import Verdict

Check = Callable[..., "list[Verdict]"]


@pytest.fixture
def fairweather_check() -> Check:
    """Hold a run against rules, as `fairweather check` does; see `check_run`.

    In a test: `fairweather_check("runs/release", "accuracy[clean] >= 0.85")`.
    """
    return check_run


def check_run(
    run: str | os.PathLike[str],
    *rules: str | os.PathLike[str],
    on: Literal["interval", "value"] = "interval",
) -> list[Verdict]:
    """Fail the test with the table of `fairweather check` if a rule is not shown to be kept.

    Args:
        run: a run folder, or a `Run`.
        rules: each a rule such as `accuracy[clean] >= 0.85`, or a YAML file of rules.
        on: `interval` judges the end of the 95 % interval that is worse for the rule, `value` the
            value.

    Returns:
        A verdict for each rule, model and cell, where all rules are kept.

    Raises `InputError` for a rule that cannot be judged, and where there is no rule.
    """
    __tracebackhide__ = True
    from pathlib import Path

    from fairweather.judge.rules import read_rules
    from fairweather.judge.verdicts import format_verdicts, judge
    from fairweather.runs.folder import open_finished_run

    read = read_rules([os.fspath(rule) for rule in rules])
    verdicts = judge(open_finished_run(Path(run)), read, on=on)
    if not all(verdict.passed for verdict in verdicts):
        pytest.fail(
            f"{os.fspath(run)} is not shown to keep its rules\n\n{format_verdicts(verdicts)}",
            pytrace=False,
        )
    return verdicts
