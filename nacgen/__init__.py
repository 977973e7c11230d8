"""nacgen: pretrain an encoder with Neural Activation Coding and put it into a generative model.

Public names are listed in `__init__.pyi` and loaded when first used, so that importing the package does not
import torch.
"""

import lazy_loader

from nacgen.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
