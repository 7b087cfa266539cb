"""Usual names of the columns and arrays of predictions, without regard to case."""

from __future__ import annotations

import re

LABEL_COLUMNS = (
    *("label", "labels", "target", "targets", "true_label", "truth", "ground_truth", "y_true"),
)
KEY_COLUMNS = (
    *("key", "keys", "id", "ids", "image", "image_id", "img", "name"),
    *("file", "files", "filename", "file_name", "path", "image_path"),
)
PLACE_COLUMNS = ("key", "keys")  # numbers in these are places, never names of files
INDEX_COLUMNS = ("", "index", "unnamed: 0", "__index_level_0__")  # what pandas writes for its index

PREDICTED_COLUMNS = (
    *("predicted_class", "predicted_label", "predicted_index", "predicted", "prediction"),
    *("predictions", "pred", "preds", "pred_class", "pred_label", "y_pred", "y_hat"),
)
CONFIDENCE_COLUMNS = (
    *("confidence", "confidences", "conf", "predicted_confidence", "pred_confidence"),
    *("predicted_probability", "predicted_prob", "pred_probability", "pred_prob"),
    *("max_probability", "max_prob", "probability", "prob", "score", "msp"),
)
# Beside outputs of all classes, these follow from them. One of the others may be the only output.
DERIVED_COLUMNS = (*PREDICTED_COLUMNS, *CONFIDENCE_COLUMNS[:-4])

MODEL_COLUMNS = ("model", "models", "model_name")
SEED_COLUMNS = ("seed",)
SHIFT_COLUMNS = ("shift", "corruption")
LEVEL_COLUMNS = ("level", "severity")

# What stands before or after the name of a finding in the column of its labels.
_LABEL_WORD = "labels?|targets?|true|truth|gt"
FINDING_LABEL = re.compile(
    rf"({_LABEL_WORD})[_\-.: ](?P<after>.+)|(?P<before>.+)[_\-.: ]({_LABEL_WORD})", re.IGNORECASE
)
SEPARATORS = "_-.: /"  # between a prefix such as `prob_` and the name of a class

# Arrays in npz files.
OUTPUT_ARRAYS = (
    *("probabilities", "probs", "prob", "proba", "logits", "log_probs", "log_probabilities"),
    *("predictions", "preds", "scores", "outputs", "y_prob", "y_proba", "y_score", "y_pred"),
)
CLASS_ARRAYS = ("classes", "class_names", "label_names")
