"""The page: charts, numbers and pictures in one file that reaches no network."""
