"""Guards: models that answer where a promised risk is kept, and defer the rest."""
