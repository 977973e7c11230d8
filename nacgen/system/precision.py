"""Full float32 precision, for values that must not depend on how the caller trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32"]


@contextmanager
def plain_float32(device_type: str, precision: Precision = "float32") -> Iterator[None]:
    """Compute float32 as float32 in a block, without autocast, TF32, or bf16 inside of products.

    With `"tf32"` an NVIDIA GPU rounds the factors of its products and convolutions to ten bits. New tensors are
    float32 too, see `default_float32`.

    Example:
        >>> with torch.autocast("cpu"), plain_float32("cpu"):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.float32
    """
    on: Any = torch.backends
    switches = (on.cuda.matmul, on.cudnn.conv, on.mkldnn.matmul, on.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        if precision == "tf32":
            on.cuda.matmul.fp32_precision = on.cudnn.conv.fp32_precision = "tf32"
        with default_float32(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@contextmanager
def default_float32() -> Iterator[None]:
    """Make new tensors float32 in a block, whatever torch's default dtype is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
