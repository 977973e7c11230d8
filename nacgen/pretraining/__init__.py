"""Pretraining of encoders: NAC and the methods it is compared to."""
