"""Training: recipes, augmentation of whole batches, and the loops of training and pre-training."""
