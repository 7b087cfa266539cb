"""Predictions that were made elsewhere: from files, tables or arrays to logits in a known order."""

from __future__ import annotations

from fairweather.prediction_files.matching import KnownImages as KnownImages
from fairweather.prediction_files.matching import Matched as Matched
from fairweather.prediction_files.matching import class_names_of as class_names_of
from fairweather.prediction_files.matching import label_numbers as label_numbers
from fairweather.prediction_files.matching import match as match
from fairweather.prediction_files.matching import positions as positions
from fairweather.prediction_files.naming import PREFIX as PREFIX
from fairweather.prediction_files.naming import PredictionsOf as PredictionsOf
from fairweather.prediction_files.naming import find_predictions as find_predictions
from fairweather.prediction_files.naming import in_memory as in_memory
from fairweather.prediction_files.naming import model_names as model_names
from fairweather.prediction_files.naming import seed_notes as seed_notes
from fairweather.prediction_files.rows import Asked as Asked
from fairweather.prediction_files.rows import Rows as Rows
from fairweather.prediction_files.rows import plain_column as plain_column
from fairweather.prediction_files.tables import Content as Content
from fairweather.prediction_files.tables import read_rows as read_rows
