"""Encoders, what they are put into, and the folders they are saved in."""
