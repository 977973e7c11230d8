"""Comparison of several arms over paired seeds: running them, pairing, statistics, verdict and report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
