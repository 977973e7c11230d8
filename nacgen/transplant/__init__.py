"""Transplants: a pretrained encoder inside a generative model or a module of the user."""
