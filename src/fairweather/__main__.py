"""Run the command line as `python -m fairweather`."""

from fairweather.cli import main

main()
