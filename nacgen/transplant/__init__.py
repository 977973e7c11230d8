"""Transplants: a pretrained encoder inside a generative model or a module of the user.

Public names are listed in `__init__.pyi` and loaded when first used. Write `from nacgen.transplant import
into_discriminator`: the attribute `nacgen.transplant` is the function of that name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
