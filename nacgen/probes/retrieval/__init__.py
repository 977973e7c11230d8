"""Retrieval by activation code."""
