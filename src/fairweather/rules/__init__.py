"""Rules for the scores of a run, such as `accuracy[clean] >= 0.85`: reading, checking, writing."""

from __future__ import annotations

from fairweather.rules.judging import Verdict as Verdict
from fairweather.rules.judging import judge as judge
from fairweather.rules.parsing import Rule as Rule
from fairweather.rules.parsing import read_rules as read_rules
from fairweather.rules.writing import junit as junit
from fairweather.rules.writing import table as table
