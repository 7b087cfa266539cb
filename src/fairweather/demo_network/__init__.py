"""The network of `fairweather demo`: its code, its weights, and the study that trained it."""
