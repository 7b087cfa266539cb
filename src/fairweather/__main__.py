"""Run the command line, as `fairweather` and as `python -m fairweather`."""

import os
import sys

# `python -m` puts the current folder first, and what lies there may have the name of any package.
PLACE = __file__.removesuffix("/fairweather/__main__.py")
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] != PLACE:
    del sys.path[0]


def main() -> None:
    """Run the command line; whoever interrupts it while it is loaded gets no traceback."""
    try:
        # GNU's OpenMP, which torch loads, would keep this process and all that it starts on the
        # first core. What else limits the cores, such as SLURM, still does.
        os.environ["OMP_PROC_BIND"] = "false"
        from fairweather.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
