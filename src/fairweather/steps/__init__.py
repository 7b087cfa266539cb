"""The steps of a run as plain data, and the functions that do each kind of step."""
