"""Configuration, run folder and checkpoints, optimizers, updates, and the loop."""
