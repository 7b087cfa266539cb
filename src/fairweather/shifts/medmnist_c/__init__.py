"""The corruptions of MedMNIST-C, one family for each 2-D MedMNIST set, for whole batches."""
