"""The common corruptions of ImageNet-C, CIFAR-10-C and Tiny-ImageNet-C, for whole batches."""
