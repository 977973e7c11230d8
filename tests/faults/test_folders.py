"""Folders of too few images, and of bad ones, as the recipes meet them: an error before a model is built."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nacgen.errors import DataError
from nacgen.training.config import DataConfig
from recipes import pretrain_nac, train_classifier, train_gan, train_vae
from tests.data.files import write_photographs

RECIPES = {
    "pretrain_nac": (pretrain_nac, "nacgen.pretraining.build.build_encoder"),
    "train_gan": (train_gan, "nacgen.gan.build.build_update"),
    "train_vae": (train_vae, "nacgen.vae.build.build_update"),
    "train_classifier": (train_classifier, "nacgen.models.classifier.ImageClassifier"),
}


def few(folder: Path) -> None:
    write_photographs(folder, (f"{name}/{i}.png" for name in "ab" for i in range(5)))


def one(folder: Path) -> None:
    write_photographs(folder, ["a/1.png"])


def none(folder: Path) -> None:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "readme.txt").write_text("no image")


def bad(folder: Path) -> None:
    few(folder)
    (folder / "b" / "7.png").write_text("no image")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (few, r"a batch of 16 needs as many images, but folder/train has (8|10)\."),
        (one, r"a batch of 16 needs as many|1 images are 1 or fewer in each class"),
        (none, "must hold images"),
        (bad, r"every image must be readable, but 1 of 11 are not: .*b/7\.png"),
    ],
    ids=["few", "one", "none", "bad"],
)
def test_no_model_is_built_for_images_that_cannot_be_used(
    recipe: str,
    make: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, builder = RECIPES[recipe]
    make(tmp_path / "data")

    def build(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(builder, build)
    preset: Any = next(iter(module.PRESETS.values()))
    config = replace(
        preset,
        dataset="folder",
        data_dir=str(tmp_path / "data"),
        data=DataConfig(image_size=16),
        run_dir=str(tmp_path / "run"),
        batch_size=16,
    )
    if "encoder" in vars(config) and "score" in vars(config):  # which digits alone have by default
        score = replace(config.score, extractor="digits_classifier")
        config = replace(config, encoder="checkpoints/digits-nac", score=score)
    with pytest.raises(DataError, match=message):
        module.main(config)
    assert not (tmp_path / "run").exists()
