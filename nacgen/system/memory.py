"""The C library's allocator, told to keep the memory that each training step frees and asks for again."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
KEPT = 2**30  # bytes
LARGEST = 2**25  # glibc's own largest threshold of mappings; earlier versions take no larger one
CHOSEN = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


class KeptMemory:
    """A context in which glibc keeps freed memory for the next tensors, up to 1 GiB.

    By default it gives large tensors back to the system, which clears their pages anew in every step. Results do
    not change. Other C libraries stay as they are, and so does glibc where the environment sets its thresholds.
    """

    def __init__(self, is_wanted: bool = True) -> None:
        is_glibc = is_wanted and platform.libc_ver()[0] == "glibc"
        is_chosen = any(name in os.environ for name in CHOSEN)
        self.library = ctypes.CDLL(None) if is_glibc and not is_chosen else None

    def __enter__(self) -> Self:
        if self.library is not None:
            if not self.library.mallopt(MMAP_THRESHOLD, KEPT):
                self.library.mallopt(MMAP_THRESHOLD, LARGEST)
            self.library.mallopt(TRIM_THRESHOLD, KEPT)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.library is not None:
            self.library.mallopt(MMAP_THRESHOLD, LARGEST)
            self.library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
            self.library.malloc_trim(0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Give memory back before a block of other work, whose peak would add to it, and keep it again after."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
