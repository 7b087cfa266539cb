"""Write verdicts as text: a table for people, and JUnit XML for continuous integration."""

from __future__ import annotations

import xml.etree.ElementTree as ET  # nosec B405 # written, never read
from collections.abc import Sequence

from fairweather.report.table_formats import Layout, aligned
from fairweather.report.tables import TOO_FEW
from fairweather.rules.judging import Verdict

LAYOUT = Layout(("", "rule", "value", "low", "high", "n", "margin"), words=2)
# The text in the columns low and high if there are too few errors for an interval.
MARKED = TOO_FEW.rsplit(" ", 1)
SHOWN = 5  # how many cells of a left-out variant are named
JUDGED = {
    "interval": "judged on the end of the 95 % interval that is worse for the rule",
    "value": "judged on the value",
}


def table(verdicts: Sequence[Verdict]) -> str:
    """Write one line per verdict, failures first, and a sentence that sums up.

    Every rule in the table can be copied. `margin` is the distance of the judged number to the
    limit; it is negative on the wrong side.
    """
    ordered = sorted(verdicts, key=lambda verdict: verdict.passed)
    return f"{aligned(LAYOUT, list(map(_line, ordered)))}\n\n{summary(verdicts)}"


def summary(verdicts: Sequence[Verdict]) -> str:
    """Write how many checks failed, which number was judged, and which variants were left out.

    Where images belong together, it also says in how many clusters.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    judged = "; ".join(dict.fromkeys(JUDGED[verdict.on] for verdict in verdicts))
    rest = f"{_left_out(verdicts)}{_clusters(verdicts)}"
    return f"{failed} of {len(verdicts)} checks failed, {judged}{rest}"


def junit(verdicts: Sequence[Verdict]) -> str:
    """Write one JUnit test case per verdict; the class is the model.

    The attributes are those that the schema of Jenkins requires. GitLab identifies test cases by
    class and name, and shows the text of a failure instead of its message, so both are the same.

    Source: junit-10.xsd of Jenkins' xunit plugin; GitLab, Unit test reports.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    counts = {"tests": str(len(verdicts)), "failures": str(failed), "errors": "0"}
    root = ET.Element("testsuites", {"name": "fairweather", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "fairweather check", **counts})
    suite.set("skipped", "0")
    for verdict in verdicts:
        names = {"classname": f"fairweather.{verdict.model}", "name": verdict.name, "time": "0"}
        case = ET.SubElement(suite, "testcase", names)
        if not verdict.passed:
            message = _message(verdict)
            ET.SubElement(case, "failure", {"type": "rule", "message": message}).text = message
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _left_out(verdicts: Sequence[Verdict]) -> str:
    cells: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        for variant, names in verdict.left_out.items():
            cells.setdefault(variant, {}).update(dict.fromkeys(names))
    some = ", ".join(f"{variant} ({_few(list(names))})" for variant, names in cells.items())
    return f"; left out because they do not have these images: {some}" if some else ""


def _clusters(verdicts: Sequence[Verdict]) -> str:
    counts = {name: count for verdict in verdicts for name, count in verdict.clusters.items()}
    some = _few([f"{count:,} in {name}" for name, count in counts.items()])
    return f"; images count alike, and belong to clusters: {some}" if some else ""


def _few(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _line(verdict: Verdict) -> tuple[str, ...]:
    outcome = "passed" if verdict.passed else "FAILED"
    return (
        outcome,
        verdict.name,
        _number(verdict.value),
        *(MARKED if verdict.too_few else map(_number, (verdict.low, verdict.high))),
        str(verdict.n),
        f"{verdict.margin:+z.4f}",
    )


def _message(verdict: Verdict) -> str:
    ends = map(_number, (verdict.low, verdict.high))
    interval = TOO_FEW if verdict.too_few else ", ".join(ends)
    return (
        f"{_number(verdict.judged)} is not {verdict.rule.operator} {verdict.rule.number}: "
        f"{_number(verdict.value)} [{interval}], n = {verdict.n}, {JUDGED[verdict.on]}"
    )


def _number(number: float) -> str:
    return f"{number:z.4f}"
