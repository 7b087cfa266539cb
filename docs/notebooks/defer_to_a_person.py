# %% [markdown]
# # Defer to a person
#
# A threshold that keeps the error rate at 5 % on clean digits does not keep it on turned digits.
#
# A model need not answer every image. It answers where its confidence reaches a threshold, and
# defers the other images to a person (selective prediction). The share that it answers is the
# **coverage**. The share of wrong answers among them is the **risk**. This notebook chooses a
# threshold on validation images and measures it when the images change.

# %% [markdown]
# ## A model, and validation images
#
# The threshold must not be chosen on the test images. So the training images are split: 3,600
# train the model and 400 validate.

# %%
import torch
from torch import nn

import fairweather as fw

torch.manual_seed(0)
digits = fw.load_data("mnist5k", validation_fraction=0.1)
images, labels = digits.train.images.float() / 255, digits.train.labels

model = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
    nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
for _ in range(2):
    for batch in torch.randperm(len(labels)).split(64):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
validation = fw.predict(model, digits.val)
fw.score(validation, resamples=200)["accuracy"]

# %% [markdown]
# ## A threshold for a risk of 5 %
#
# `threshold_at_risk` gives the smallest confidence above which at most 5 % of the validation
# images are wrong.

# %%
threshold = fw.metrics.threshold_at_risk(validation.confidence, validation.correct, risk=0.05)
print(f"answer where the confidence is at least {threshold:.3f}")

# %% [markdown]
# ## Does the threshold keep the error rate?
#
# Measure it on clean test images, and on images that are turned by 30 degrees.

# %%
turned = fw.make_shift("rotation", degrees=30)
turned

# %%
for name, shift in {"clean": None, "turned": turned}.items():
    found = fw.predict(model, digits.test, shift)
    coverage = fw.metrics.coverage_above(found.confidence, threshold)
    risk = fw.metrics.risk_above(found.confidence, found.correct, threshold)
    print(
        f"{name}: answers {coverage:.1%}, of which {risk:.1%} are wrong; defers {1 - coverage:.1%}"
    )

# %% [markdown]
# On turned images the model is often wrong with high confidence. So many more of its answers are
# wrong than the 5 % that you asked for. A threshold does not carry over to images of another
# kind: measure it on the images that you expect.
#
# ## With intervals
#
# `fit_on` keeps what is fitted on validation images, and `score` then measures it with 95 %
# intervals. The keys `risk_above_validation_threshold/0.05` and
# `coverage_above_validation_threshold/0.05` are the two numbers from above.

# %%
fitted = fw.metrics.fit_on(validation)
scores = fw.score(fw.predict(model, digits.test, turned), resamples=200, fitted=fitted)
scores
