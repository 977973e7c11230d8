"""Messages of calls from Python name arguments where those of commands name flags."""

from pathlib import Path

import pytest

import nacgen
from nacgen.api.options import options_of
from nacgen.api.spelling import as_arguments
from nacgen.errors import ConfigurationError
from nacgen.training.generative import HOW_TO_SCORE
from tests.api.test_training import digits, gan

SPELLED = {
    "choose another --run-dir, or start over with --fresh, which moves it.": (
        "choose another run_dir, or start over with fresh=True, which moves it."
    ),
    "--encoder must be given. Run nacgen pretrain --objective nac --run-dir A with the same --dataset and "
    "--data.image-size, then give --encoder A/encoder.": (
        'encoder must be given. Run nacgen.pretrain(objective="nac", run_dir="A") with the same dataset and '
        'data={"image_size": ...}, then give encoder="A/encoder".'
    ),
    "one with nacgen train-classifier (--score.weights RUN/classifier)": (
        'one with nacgen.train_classifier (score={"weights": "RUN/classifier"})'
    ),
    "use --dataset folder --data-dir PATH.": 'use dataset="folder", data_dir="PATH".',
    "Change one of --batch-size and --optim.micro-batches.": (
        'Change one of batch_size and optim={"micro_batches": ...}.'
    ),
    "--conditional needs a class, or leave --conditional out.": (
        "conditional=True needs a class, or leave conditional=True out."
    ),
    "Use --total-images 640.": "Use total_images=640.",
    "by --generator.latent-dim N.": 'by **{"generator.latent_dim": N}.',
    "with --generator.network pkg.nets:make, got 3": (
        'with **{"generator.network": "pkg.nets:make"}, got 3'
    ),
    "Launch with --mixed_precision bf16, or --dynamo_backend no.": (
        "Launch with --mixed_precision bf16, or --dynamo_backend no."
    ),
}


@pytest.mark.parametrize("text", SPELLED)
def test_flags_are_arguments_and_commands_are_calls(text: str) -> None:
    assert as_arguments(text, options_of("train_gan"), {"generator"}) == SPELLED[text]


def test_every_way_to_score_is_an_argument_or_a_call() -> None:
    text = as_arguments(HOW_TO_SCORE, options_of("train_vae"))
    assert "--" not in text
    assert text.endswith('or not at all (score={"extractor": "none"}).')


def test_flags_of_arms_stay_flags_in_a_comparison() -> None:
    text = 'an arm is an initialization, use "mine=--init nac" and --seeds 0'
    assert as_arguments(text, options_of("compare")) == text.replace("--seeds 0", "seeds=0")


def test_errors_and_lines_of_a_call_name_its_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gan(tmp_path / "run")
    assert 'as score={"extractor": "none"} asks.' in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match=r"choose another run_dir, or .* with fresh=True,"):
        gan(tmp_path / "run", seed=1)
    with pytest.raises(ConfigurationError, match=r"^encoder must be given .*nacgen.pretrain\("):
        nacgen.train_gan(digits())
    with pytest.raises(ConfigurationError, match=r'Change optim={"beta2": \.\.\.}\.$'):
        nacgen.train_gan(optim={"beta2": 2.0})
