"""Images and parts that were handed over in Python, which a run is made with beside its options.

Does not import torch, which recipes leave until their options are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nacgen.data.options import GIVEN
from nacgen.errors import ConfigurationError, DataError
from nacgen.system.own_parts import find_part

if TYPE_CHECKING:
    from nacgen.data.datasets import Dataset
    from nacgen.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Images and parts that were handed over in Python; options name them `given` and `own:…`."""

    train: "Dataset | None" = None
    held_out: "Dataset | None" = None
    backbone: Any = None
    generator: Any = None
    discriminator: Any = None
    augment: Any = None
    extractor: Any = None
    start: Mapping[str, str] = field(default_factory=dict)
    """Digests of the weights that modules among them start from."""

    def find(self, kind: str, option: str, name: str | None) -> Any:
        """Return the part of the user's own that an option names; `kind` is the field that may hold it."""
        return None if name is None else find_part(option, name, getattr(self, kind))


NO_PARTS = Parts()


def load_train_set(config: "TrainingConfig", parts: Parts) -> "tuple[Dataset, Dataset | None]":
    """Load the images that a run trains on, and those of a split `"test"`, None where there is none."""
    from nacgen.data.datasets import load_dataset, load_test_split

    if given := _given(config, parts):
        return given
    train = load_dataset(config.dataset, "train", config.data_dir, **vars(config.data))
    return train, load_test_split(train, config.data_dir, **vars(config.data))


def load_train_and_test(config: "TrainingConfig", parts: Parts) -> "tuple[Dataset, Dataset]":
    """Load the images that a run trains on and those that it measures on, see `load_splits`."""
    from nacgen.data.datasets import hold_out, load_splits

    if given := _given(config, parts):
        train, test = given
        return hold_out(train) if test is None else (train, test)
    return load_splits(config.dataset, config.data_dir, **vars(config.data))


def _given(config: "TrainingConfig", parts: Parts) -> "tuple[Dataset, Dataset | None] | None":
    if config.dataset != GIVEN:
        return None
    if parts.train is None:
        raise ConfigurationError(
            "dataset given stands for images that were handed over in Python and that no file holds. Hand them "
            "over again, as in nacgen.train_gan(images), or save them as files: --dataset folder --data-dir PATH."
        )
    train, test = parts.train, parts.held_out
    if test is not None and test.image_size != train.image_size:
        raise DataError(
            f"held-out images must have the size of the training images, {train.image_size} px, got "
            f"{test.image_size}. Give data.image_size for both."
        )
    of_test = None if test is None or train.labels is None else test.labels
    if of_test is not None and (largest := int(of_test.max())) >= len(train.class_names):
        raise DataError(
            f"held-out images must have classes of the training images, 0 to {len(train.class_names) - 1}, got "
            f"{largest}. Number both alike."
        )
    return train, test
