# %% [markdown]
# # Evaluate my model
#
# You have a PyTorch model and labelled test images. How accurate is the model on darker or
# turned images? Does its confidence fall with its accuracy? This notebook measures both.

# %% [markdown]
# ## A model
#
# Any module will do that takes images in [0, 1] and returns logits. In your project, load your
# own model. Here a plain PyTorch loop trains a small network on 4,000 handwritten digits.

# %%
import torch
from torch import nn

import fairweather as fw

torch.manual_seed(0)
digits = fw.load_data("mnist5k")
images, labels = digits.train.images.float() / 255, digits.train.labels

model = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
    nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(3):
    for batch in torch.randperm(len(labels)).split(64):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
print(f"loss of the last batch: {loss.item():.2f}")

# %% [markdown]
# ## Measure it under shifts
#
# `evaluate` takes the model, the data and the shifts. With `out`, everything is stored in a run
# folder, and the same call goes on after an interruption. The data can also be a folder of
# images: `"folder:PATH"`.

# %%
run = fw.evaluate(
    model,
    digits,
    ["brightness_factor: [0.2, 0.6]", "rotation: [15, 30, 45]"],
    out="runs/mine",
    bootstrap=200,
    variants=["temperature"],
    title="My model",
)
run

# %% [markdown]
# The table has accuracies: on clean images, and as means over the levels of each shift.
# `run.scores` has every number with its 95 % interval. Next come the accuracies and the RMS
# calibration errors of every level.

# %%
scores = run.scores[run.scores["model"] == "Sequential"]  # the name of the module's class
shown = scores[scores["metric"].isin(["accuracy", "rms_calibration_error"])]
shown[~shown["level"].isin(["mean", "worst"])][
    ["shift", "level", "metric", "value", "low", "high", "n"]
].round(3)

# %% [markdown]
# ## Is it overconfident?
#
# `confidence_gap` is mean confidence minus accuracy. If it is positive, the model is
# overconfident.

# %%
gap = scores[(scores["metric"] == "confidence_gap") & (scores["shift"] == "rotation")]
gap[["level", "value", "low", "high"]].round(3)

# %% [markdown]
# ## The report
#
# `report.html` in the run folder is one file with all tables and charts. Open it in a browser.

# %%
print(run.path / "report.html")
