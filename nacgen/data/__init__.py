"""Datasets by name, augmentation on the device, and a stream of batches from any image."""
