"""A variant of the tests' own in the table of variants, also in the processes of jobs."""

import runpy
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

from fairweather.variants.variant import VARIANTS
from tests.helpers.forking import Program


class OwnVariant(NamedTuple):
    """A kind, and where its class is, as in `VARIANTS`."""

    kind: str
    where: str

    def register(self, patch):
        """Add it to the table as long as the patch lasts."""
        patch.setitem(VARIANTS, self.kind, self.where)

    def tell_jobs(self, patch):
        """Let the processes that the package starts begin with it in their table."""

        def popen(command, **options):
            _, _, _, module, *arguments = command
            code = f"from tests.helpers.own_variant import begin; begin({module!r}, {tuple(self)})"
            return Program([sys.executable, "-c", code, *arguments], **options)

        instead = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE)
        patch.setattr("fairweather.processes.subprocess", instead)


def begin(module, variant):
    """Begin a module of the package in a process that knows the variant too."""
    kind, where = variant
    VARIANTS[kind] = where
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
