"""The features that a run is scored by, chosen by its options and by what is installed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nacgen.data.datasets import load_dataset
from nacgen.errors import CheckpointNotFoundError
from nacgen.gan.options import GANConfig
from nacgen.metrics import run_scores
from nacgen.metrics.extractors import efficientnet, inception
from nacgen.metrics.run_scores import NO_SCORES, build_run_extractor, training_notes
from nacgen.training.config import TrainingConfig
from nacgen.training.generative import ScoreConfig
from nacgen.training.run import open_run

Built = list[tuple[str, str | None]]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    """Names and weights of the extractors that are built; nothing is loaded."""
    asked: Built = []

    def build(name: str, *, weights: str | None, **_: object) -> None:
        asked.append((name, weights))
        if weights == "missing":
            raise CheckpointNotFoundError("no weights.")

    monkeypatch.setattr(run_scores, "build_extractor", build)
    return asked


def build(folder: Path, dataset: str = "folder", **options: Any) -> None:
    options_of_run = {"dataset": dataset, "data_dir": ".", "run_dir": str(folder / "run")}
    with open_run("test", TrainingConfig(**options_of_run)) as run:  # type: ignore[arg-type]
        build_run_extractor(ScoreConfig(**options), run)


@pytest.mark.parametrize(
    ("has_inception", "has_judge", "name"),
    [
        (True, True, "inception"),
        (True, False, "inception"),
        (False, True, "efficientnet_lite0"),
        (False, False, "inception"),  # by download
    ],
)
def test_the_default_is_inception_or_what_is_installed_in_its_place(
    has_inception: bool,
    has_judge: bool,
    name: str,
    built: Built,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(inception, "is_at_hand", lambda: has_inception)
    monkeypatch.setattr(efficientnet, "is_installed", lambda: has_judge)
    build(tmp_path)
    assert built == [(name, None)]
    line = (
        "scores are fd_efficientnet_lite0, no FID, since Inception's weights are not at hand. "
        "--score.extractor inception downloads them.\n"
    )
    assert (line in capsys.readouterr().err) == (name == "efficientnet_lite0")


def test_a_resumed_run_keeps_the_default_that_it_began_with(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainingConfig(dataset="folder", data_dir=".", run_dir=str(tmp_path / "run"))
    monkeypatch.setattr(efficientnet, "is_installed", lambda: True)
    for is_at_hand in (False, True, False):
        monkeypatch.setattr(inception, "is_at_hand", lambda there=is_at_hand: there)
        with open_run("test", config) as run:
            build_run_extractor(ScoreConfig(), run)
            run.hold_to_inputs({"extractor": built[-1][0]})
            run.log(64, {"loss": 1.0})
    assert [name for name, _ in built] == ["efficientnet_lite0"] * 3
    monkeypatch.setattr(inception, "is_at_hand", lambda: True)
    with open_run("test", replace(config, fresh=True)) as run:
        build_run_extractor(ScoreConfig(), run)
    assert built[-1][0] == "inception"


def test_weights_choose_the_extractor_and_names_are_taken_as_they_are(
    built: Built, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    build(tmp_path, weights=str(tmp_path))
    build(tmp_path, weights=str(file))
    build(tmp_path, dataset="digits")
    build(tmp_path, extractor="dinov2", weights=str(file))
    build(tmp_path, extractor="inception")
    assert built == [
        ("classifier", str(tmp_path)),
        ("inception", str(file)),
        ("digits_classifier", None),
        ("dinov2", str(file)),
        ("inception", None),
    ]


def test_none_scores_nothing_and_says_so(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, extractor="none")
    assert built == []
    assert "unscored: samples are compared with no images" in capsys.readouterr().err


def test_missing_weights_of_the_default_name_all_other_choices(
    built: Built, tmp_path: Path
) -> None:
    choices = r"no weights\. Images are scored by .*nacgen\[judge\].* --score\.extractor none\)\.$"
    with pytest.raises(CheckpointNotFoundError, match=choices.replace(" --s", r" \(--s")):
        build(tmp_path, weights="missing")
    with pytest.raises(CheckpointNotFoundError, match=r"no weights\.$"):
        build(tmp_path, extractor="inception", weights="missing")
    assert len(built) == 2


def test_weights_are_looked_for_where_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert not inception.is_at_hand()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"{inception.NAME}.pth").touch()
    assert inception.is_at_hand()
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    assert not efficientnet.is_installed()


def test_the_notes_of_a_card_say_how_it_was_trained_and_scored(tmp_path: Path) -> None:
    evaluation = {
        "scores": {"fid": {"value": 12.3456}},
        "protocol": {"extractor": "inception", "reference": "digits/train", "num_samples": 500},
        "warnings": ["few: <b>500</b> samples."],
    }
    config = GANConfig(run_dir=str(tmp_path / "run"), seed=3, encoder=str(tmp_path))
    with open_run("train_gan-digits", config) as run:
        notes = training_notes(run, load_dataset("digits"), 640, evaluation)
        unscored = training_notes(run, load_dataset("digits"), 640, NO_SCORES)
    assert notes.startswith(
        "Trained by `nacgen train-gan` (preset digits, init nac), 640 images seen, seed 3, on "
    )
    assert "Data: 1,442 images of digits/train, licensed CC BY 4.0 (Alpaydin" in notes
    assert "\n\n| score | value |\n| --- | ---: |\n| `fid` | 12.35 |\n\n" in notes
    assert "extractor inception, reference digits/train, num_samples 500." in notes
    assert notes.endswith("few: \\<b>500\\</b> samples.")
    assert "score |" not in unscored
    assert "unscored: samples are compared with no images" in unscored
    assert str(tmp_path) not in notes
