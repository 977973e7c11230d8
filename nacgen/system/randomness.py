"""Random draws as functions of (seed, purpose, position), so that nothing has to be restored.

A draw for training is made for the global batch at a position in the stream of images and then sliced by
process: one, two and eight processes see the same images, views, latents and noise, and a resumed run
continues as if it had never stopped.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """A CPU generator whose stream depends on its three arguments alone.

    Args:
        seed: The run's seed.
        purpose: What is drawn, `"latents"` say; different purposes are independent.
        position: Images seen over all processes, an epoch, or a sample's index.

    Returns:
        A fresh generator.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def normal_rows(seed: int, purpose: str, indices: torch.Tensor, size: int) -> torch.Tensor:
    """Standard normal rows, row `i` a function of (seed, purpose, index i) alone.

    Args:
        seed: The seed.
        purpose: What is drawn.
        indices: `(b,)` whole numbers.
        size: Length of a row.

    Returns:
        Float32 tensor `(b, size)` on the CPU.
    """
    rows = [torch.randn(size, generator=generator(seed, purpose, int(i))) for i in indices]
    return torch.stack(rows) if rows else torch.empty(0, size)


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Make torch's global CPU generator a function of (seed, purpose) for a block, then restore it.

    For code that draws from the global generator, such as a module's initialisation. The generators of other
    devices are left alone.

    Args:
        seed: The run's seed.
        purpose: What is drawn.

    Yields:
        Nothing.
    """
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which also seeds every GPU
        torch.default_generator.manual_seed(generator(seed, purpose).initial_seed())
        yield
