import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.models.classifier import ImageClassifier


def small_classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(
        num_classes=4, channels=(8, 16), feature_dim=6, image_size=8, dataset="shapes"
    )


def random_images(n: int = 5, size: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_logits_are_a_linear_map_of_the_features() -> None:
    classifier, images = small_classifier(), random_images()
    features, logits = classifier.features(images), classifier(images)
    assert features.shape == (5, 6)
    assert logits.shape == (5, 4)
    torch.testing.assert_close(logits, features @ classifier.head.weight.T + classifier.head.bias)


def test_the_default_fits_the_embedded_digits() -> None:
    classifier = ImageClassifier()
    assert classifier.features(random_images(2, 16)).shape == (2, 64)
    assert 0.1e6 < sum(parameter.numel() for parameter in classifier.parameters()) < 0.2e6


def test_each_resolution_after_the_first_halves_the_size() -> None:
    trunk = ImageClassifier(channels=(8, 8, 8), image_size=16).trunk
    assert trunk(random_images(1, 16)).shape == (1, 8, 4, 4)


def test_an_image_is_not_affected_by_the_others_in_its_batch() -> None:
    classifier, images = small_classifier().train(), random_images()
    torch.testing.assert_close(classifier(images)[:1], classifier(images[:1]))


def test_features_have_no_kinks() -> None:
    classifier = small_classifier().double()
    start, direction = random_images(2).double()

    def largest_curvature(num_steps: int) -> float:
        steps = torch.linspace(-1, 1, num_steps + 1, dtype=torch.float64)
        images = start + rearrange(steps, "n -> n 1 1 1") * direction
        with torch.no_grad():
            return (classifier.features(images).diff(n=2, dim=0) * num_steps**2).abs().max().item()

    assert largest_curvature(1000) == pytest.approx(largest_curvature(500), rel=0.05)


def test_every_parameter_gets_a_gradient() -> None:
    classifier = small_classifier()
    classifier(random_images()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in classifier.parameters())


def test_it_overfits_one_batch() -> None:
    classifier, images, labels = small_classifier(), random_images(8), torch.arange(8) % 4
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(classifier(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (classifier(images).argmax(1) == labels).all()


def test_a_saved_folder_gives_the_same_classifier_bit_for_bit(tmp_path: Path) -> None:
    classifier, images = small_classifier(), random_images()
    classifier.card_notes = "Trained on four kinds of noise."
    classifier.save_pretrained(tmp_path / "classifier")
    loaded = ImageClassifier.from_pretrained(tmp_path / "classifier")
    assert torch.equal(loaded(images), classifier(images))
    assert (loaded.image_size, loaded.dataset) == (8, "shapes")
    config = json.loads((tmp_path / "classifier" / "config.json").read_text())
    assert config == {
        "num_classes": 4,
        "channels": [8, 16],
        "feature_dim": 6,
        "image_size": 8,
        "dataset": "shapes",
    }
    card = (tmp_path / "classifier" / "README.md").read_text()
    assert "4 classes, 8x8 px" in card
    assert "four kinds of noise" in card


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    small_classifier().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"feature_dim": 7}))
    with pytest.raises(CheckpointError, match=r"must be the configuration that .* was saved with"):
        ImageClassifier.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors")  # by another program, without our digest
    with pytest.raises(CheckpointError, match=r"head.weight: \(4, 6\) in the file, \(4, 7\)"):
        ImageClassifier.from_pretrained(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=str(tmp_path / "nowhere")):
        ImageClassifier.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes must be two or more .* got 1 and 64"),
        ({"feature_dim": 0}, "feature_dim one or more, got 10 and 0"),
        ({"channels": ()}, r"multiples of 8, got \(\)"),
        ({"channels": (8, 12)}, r"multiples of 8, got \(8, 12\)"),
        ({"image_size": 3}, "at least 4 px, to be halved 2 times, got 3"),
    ],
)
def test_a_number_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ImageClassifier(**options)
