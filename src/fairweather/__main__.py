"""Run the command line, as `fairweather` and as `python -m fairweather`."""

import sys


def main() -> None:
    """Run the command line; whoever interrupts it while it is loaded gets no traceback."""
    try:
        from fairweather.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
