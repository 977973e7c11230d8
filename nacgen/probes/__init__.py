"""Measurements of encoders: linear probe, k-NN, retrieval by code, code health, linear regions."""
