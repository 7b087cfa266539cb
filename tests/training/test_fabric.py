"""Fabric finds the versions that it asks for, and the packages stay as they are."""

import importlib
import importlib.metadata
import sys

import pytest

from fairweather.training.fabric import _version_only


def test_a_package_has_its_version_alone_for_a_while(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")
    with _version_only("of_nobody"):
        package = importlib.import_module("of_nobody")
        assert package.__version__ == "9.9"
        assert not hasattr(package, "Metric")
    assert "of_nobody" not in sys.modules


def test_a_package_that_is_loaded_stays_whole():
    with _version_only("pytest"):
        assert importlib.import_module("pytest") is pytest
    assert sys.modules["pytest"] is pytest


def test_a_package_that_is_not_installed_is_not_there():
    with _version_only("of_nobody"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("of_nobody")
