"""The variants of models: what may be fitted or changed at test time, one class each."""
