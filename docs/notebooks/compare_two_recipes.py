# %% [markdown]
# # Compare two training recipes
#
# A recipe is everything that a study says of a model: network, augmentation, optimiser, epochs.
# One training of each recipe compares two networks. To compare two recipes, train each with
# several seeds.
#
# This notebook trains two recipes with three seeds each, for one epoch: it ends in less than a
# minute. Real studies train longer.

# %% [markdown]
# ## A study
#
# A study is a YAML file. The keys under `defaults` apply to every model that does not set them
# itself.

# %%
from pathlib import Path

import fairweather as fw

Path("mixup.yaml").write_text(
    """
name: mixup
data: {source: mnist5k}
seeds: 3
bootstrap: 200
shifts:
  - brightness_factor: [0.3, 0.6]
  - gaussian_blur: [1.2]
defaults:
  backbone: timm:resnet18
  width: 0.125
  recipe: {epochs: 1, batch_size: 64, learning_rate: 5e-3}
models:
  plain:
    title: Plain
  mixup:
    title: MixUp
    recipe: {mixup: 0.3}
""",
    encoding="utf-8",
)
print(fw.plan("mixup.yaml").table["kind"].value_counts())

# %% [markdown]
# ## Train, predict, score
#
# `run` does the steps of the plan. If you interrupt it, the same call continues.

# %%
run = fw.run("mixup.yaml")
run

# %% [markdown]
# ## Which differences are real?
#
# `compare_runs` compares two models of one run, or of two runs on the same images. Here each side
# is a recipe: the intervals cover other seeds and other test images.

# %%
compared = fw.compare_runs(f"{run.path}:plain", f"{run.path}:mixup")
compared[compared["metric"] == "accuracy"][
    ["shift", "level", "a", "b", "difference", "low", "high", "verdict"]
].round(3)

# %% [markdown]
# "cannot tell" does not mean that the recipes are equal: with three seeds the intervals are wide.
# [Which of two recipes?](../recipes.md) says how many seeds to train.
#
# ## The seeds themselves
#
# Seed `sd` of the scores is the standard deviation over seeds.

# %%
scores = run.scores
clean = scores[(scores["metric"] == "accuracy") & (scores["shift"] == "clean")]
clean[["model", "seed", "value", "low", "high"]].round(3)
