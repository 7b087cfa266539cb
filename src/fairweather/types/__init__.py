"""The types that all parts share; `options` and `kinds` load without numpy."""
