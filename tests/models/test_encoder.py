import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from nacgen.data.pixels import to_uint8
from nacgen.errors import ConfigurationError, DataError
from nacgen.functional.nac import marginal_posterior_logits
from nacgen.models.encoder import NACEncoder, normalize_input


def random_images(n: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def build(**options: Any) -> NACEncoder:
    """In evaluation mode, with statistics that are not zero and one."""
    torch.manual_seed(0)
    encoder = NACEncoder(**{"code_dim": 10, **options})
    encoder.train()
    encoder(random_images(32, seed=1))
    return encoder.eval()


def test_each_output_has_its_shape() -> None:
    encoder, images = build(), random_images()
    assert encoder.features(images).shape == (4, 64)
    assert encoder.code_logits(images).shape == (4, 10)
    assert encoder.codes(images).shape == (4, 10)
    assert encoder.codes(images).dtype == torch.bool
    assert [logits.shape for logits in encoder(images)] == [(4, 10), (4, 10)]
    maps = encoder.feature_maps(images)
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "stem": (16, 16, 16),
        "layer1": (16, 16, 16),
        "layer2": (32, 8, 8),
        "layer3": (64, 4, 4),
    }


def test_features_codes_and_logits_agree() -> None:
    encoder, images = build(), random_images()
    logits = encoder.code_logits(images)
    torch.testing.assert_close(
        encoder.features(images), encoder.feature_maps(images)["layer3"].mean((2, 3))
    )
    assert torch.equal(encoder.codes(images), logits >= 0)
    assert torch.equal(encoder(images)[0], logits)


def test_a_logit_that_is_no_number_is_no_bit() -> None:
    encoder = build()
    with torch.no_grad():
        encoder.code_head.mlp[2].bias[0] = torch.nan
    with pytest.raises(ValueError, match="but 40 of 40 are NaN"):
        encoder.codes(random_images())


@pytest.mark.parametrize("entry", ["codes", "features", "feature_maps", "forward", "normalize"])
def test_what_cannot_be_images_is_refused_at_each_entry(entry: str, as_users_run_it: None) -> None:
    call, images = getattr(build(), entry), random_images()
    pixels = to_uint8(images)
    for wrong, message in (
        (pixels, r"floats in \[-1, 1\], got torch\.uint8\. .* nacgen\.data\.pixels\.to_float"),
        (pixels.numpy(), r"a tensor of floats in \[-1, 1\], got a ndarray\."),
        ([images], r"a tensor of floats in \[-1, 1\], got a list\."),
        (pixels.float(), r"numbers in \[-1, 1\], got [0-9.]* to 25\d\. .* images / 127\.5 - 1"),
        (pixels.float() / 10, r"numbers in \[-1, 1\], got [0-9.e-]* to 25"),
        (tv_tensors.Image(pixels.float()), r"numbers in \[-1, 1\], got [0-9.]* to 25"),
        (images * torch.nan, "finite numbers in .*, got nan to nan"),
        (images.to(torch.float8_e4m3fn), r"floats in \[-1, 1\], got torch\.float8_e4m3fn\."),
        (images.to_sparse(), r"floats in \[-1, 1\], got a Tensor that is not dense\."),
        (images[:, :1], r"color images \(b, 3, h, w\), got \(4, 1, 16, 16\)\. .* gray"),
        (images[0], r"color images \(b, 3, h, w\), got \(3, 16, 16\)\. .* images\[None\]"),
    ):
        with pytest.raises(DataError, match=message):
            call(wrong)
    call(images[:0])
    call(images * 1.5)


def test_programs_that_trace_the_encoder_go_on_working(as_users_run_it: None) -> None:
    encoder, images = build(), random_images()
    expected = encoder.features(images)
    whole = torch.compile(encoder.features, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(images), expected)
    one_by_one = torch.func.vmap(lambda image: encoder.features(image[None])[0])
    torch.testing.assert_close(one_by_one(images), expected)
    assert torch.func.grad(lambda x: encoder.features(x).sum())(images).shape == images.shape
    assert encoder.to("meta").features(images.to("meta")).shape == expected.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_and_encoders_of_any_precision_meet(dtype: torch.dtype) -> None:
    encoder, images = build(), random_images()
    expected = encoder.features(images)
    for got in (encoder.features(images.to(dtype)), encoder.to(dtype).features(images)):
        torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


def test_images_are_normalised_inside() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    encoder, images = build(mean=mean, std=std), random_images()
    unit = (images + 1) / 2  # in [0, 1], where statistics of datasets are given
    expected = torch.stack([(unit[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(encoder.normalize(images), expected)
    assert torch.equal(normalize_input(images, encoder), encoder.normalize(images))


@pytest.mark.parametrize("posterior", ["shared", "separate"])
@pytest.mark.parametrize("code_normalization", ["batch", "sphere", "sqrt_dim"])
def test_every_parameter_gets_a_gradient(posterior: str, code_normalization: str) -> None:
    encoder = build(posterior=posterior, code_normalization=code_normalization).train()
    code_logits, posterior_logits = encoder(random_images(16))
    # cubes: the sum of what BatchNorm standardises, and of its squares, depends on nothing before
    (code_logits**3 + posterior_logits**3).sum().backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    # the authors' scale is a constant
    assert ("code_head.scale" in trained) == (code_normalization != "sqrt_dim")


def test_on_the_sphere_images_have_equally_long_logits_and_the_signs_they_had() -> None:
    plain, sphere = (build(code_normalization=name).eval() for name in ("batch", "sphere"))
    sphere.load_state_dict(plain.state_dict())
    images = random_images()
    with torch.no_grad():
        sphere.code_head.scale.fill_(0.25)
        logits = sphere.code_logits(images)
    lengths = logits.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.25 * logits.shape[1] ** 0.5))
    assert torch.equal(sphere.codes(images), plain.codes(images))


def test_a_shared_posterior_is_what_the_channel_makes_of_the_code() -> None:
    encoder = build(posterior="shared", flip_probability=0.2)
    code_logits, posterior_logits = encoder(random_images())
    assert torch.equal(posterior_logits, marginal_posterior_logits(code_logits, 0.2))
    assert not any("posterior" in name for name in encoder.state_dict())


def test_a_separate_posterior_has_a_head_of_its_own() -> None:
    encoder, images = build(posterior="separate"), random_images()
    code_logits, posterior_logits = encoder(images)
    assert encoder.posterior_head is not None
    assert torch.equal(posterior_logits, encoder.posterior_head(encoder.features(images)))
    assert not torch.equal(posterior_logits, code_logits)
    with torch.no_grad():
        encoder.posterior_head.mlp[0].weight.zero_()
    assert torch.equal(encoder(images)[0], code_logits)  # the code does not hear of it


@pytest.mark.parametrize("posterior", ["shared", "separate"])
def test_a_detached_posterior_leaves_the_rest_alone(posterior: str) -> None:
    encoder, images = build(posterior=posterior), random_images()
    attached, detached = encoder(images), encoder(images, detach=True)
    assert all(torch.equal(a, b) for a, b in zip(attached, detached, strict=True))
    assert detached[0].requires_grad
    if posterior == "shared":
        assert not detached[1].requires_grad
        return
    detached[1].sum().backward()
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.grad is None for p in encoder.code_head.parameters())


def test_logits_are_standardised_over_the_batch() -> None:
    encoder = build(code_normalization="batch").train()
    logits = encoder.code_logits(random_images(64))
    assert logits.mean(0).abs().max() < 1e-4
    assert (logits.std(0, correction=0) - 1).abs().max() < 0.05
    with torch.no_grad():
        encoder.code_head.scale.fill_(3.0)
    torch.testing.assert_close(encoder.code_logits(random_images(64)), 3 * logits)


def test_the_authors_logits_are_divided_by_the_root_of_the_code_length() -> None:
    encoder, images = build(code_normalization="sqrt_dim"), random_images()
    expected = encoder.code_head.mlp(encoder.features(images)) / 10**0.5
    torch.testing.assert_close(encoder.code_logits(images), expected)


@pytest.mark.parametrize("training", [True, False])
def test_only_training_mode_looks_at_the_other_images(training: bool) -> None:
    encoder, images = build().train(training), random_images(8)
    alone, together = encoder.code_logits(images[:2]), encoder.code_logits(images)[:2]
    assert torch.allclose(alone, together, atol=1e-5) != training


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"posterior": "separate", "code_normalization": "sqrt_dim", "flip_probability": 0.05},
        {"backbone": "resnet18", "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "code_dim": 7},
    ],
)
def test_a_saved_encoder_is_the_same_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    encoder, images = build(**options), random_images()
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = NACEncoder.from_pretrained(tmp_path / "encoder")
    assert not loaded.training
    state, expected = loaded.state_dict(), encoder.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    with torch.no_grad():
        for there, here in zip(loaded(images), encoder(images), strict=True):
            assert torch.equal(there, here)
    for name in ("backbone_name", "code_dim", "feature_dim", "flip_probability"):
        assert getattr(loaded, name) == getattr(encoder, name)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config.items() >= options.items()
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def test_torchvision_takes_the_backbone_after_dropping_its_prefix() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    encoder = NACEncoder("resnet18", stem="standard")
    encoder.train()
    encoder(random_images(8, 64, seed=1))
    encoder.eval()
    tensors = {
        key.removeprefix("backbone."): value
        for key, value in encoder.state_dict().items()
        if key.startswith("backbone.")
    }
    theirs = models.resnet18()
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    theirs.fc = torch.nn.Identity()
    theirs.eval()
    images = random_images(4, 64)
    with torch.no_grad():
        features = encoder.features(images)
        torch.testing.assert_close(theirs(encoder.normalize(images)), features)
    assert features.shape == (4, 512)


def test_the_card_says_what_the_encoder_is() -> None:
    encoder = build(code_dim=12, flip_probability=0.15)
    encoder.card_notes = "Trained on nothing at all."
    card = encoder.model_card()
    assert card.startswith("---\nlibrary_name: nacgen\ntags: ")
    assert "license" not in card, "weights belong to whom the images and the run belong to"
    for fact in (
        "# NAC encoder: tiny, 12 bits",
        "each bit with probability\n0.15.",
        "-> (64,) each",
        "bool, 12 bits each",
        "arXiv:2112.04014",
        "NACEncoder.from_pretrained(",
        "Trained on nothing at all.",
    ):
        assert fact in card


def test_what_the_weights_cost_is_saved_and_shown(tmp_path: Path) -> None:
    encoder = build()
    assert "Pretraining:" not in encoder.model_card()
    encoder.save_pretrained(tmp_path / "unknown")
    assert "pretraining" not in json.loads((tmp_path / "unknown" / "config.json").read_text())
    cost = {"images": 38_400, "seconds": 61.7, "hardware": "2 CPU cores", "places": ["a", "b"]}
    encoder.pretraining = cost
    encoder.save_pretrained(tmp_path / "known")
    again = NACEncoder.from_pretrained(tmp_path / "known")
    assert again.pretraining == cost
    assert again.options == encoder.options
    assert "Pretraining: 38,400 images, 62 s on 2 CPU cores.\n" in again.model_card()
    encoder.pretraining = cost | {"hardware": "<b>1</b>\n# [x](y)"}
    assert " s on \\<b>1\\</b>\\\\n# \\[x\\](y).\n" in encoder.model_card()


def test_the_released_encoder_says_what_it_cost() -> None:
    cost = NACEncoder.from_pretrained("checkpoints/digits-nac").pretraining
    assert cost is not None
    assert cost["images"] == 38_400


@pytest.mark.parametrize(
    "wrong", [{"seconds": None}, {"images": 0}, {"hardware": ""}, {"images": "many"}]
)
def test_a_cost_that_is_not_whole_is_refused(wrong: dict[str, Any]) -> None:
    cost = {"images": 1, "seconds": 2.0, "hardware": "one core"} | wrong
    message = rf"images and seconds above 0 .* hardware in words, got .*{next(iter(wrong))}"
    with pytest.raises(ConfigurationError, match=message):
        NACEncoder(pretraining=cost)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, r"backbone must be one of tiny, resnet18, .* got 'resnet19'"),
        ({"stem": "large"}, "stem must be one of small, standard, got 'large'"),
        ({"code_dim": 0}, "code_dim must be one bit or more, got 0"),
        ({"flip_probability": 0.5}, r"strictly between 0 and 1/2, got 0\.5"),
        ({"flip_probability": 0.0}, r"strictly between 0 and 1/2, got 0\.0"),
        ({"posterior": "none"}, "posterior must be one of shared, scaled, separate, got 'none'"),
        (
            {"code_normalization": "layer"},
            "code_normalization must be .*sqrt_dim, got 'layer'",
        ),
        ({"mean": (0.5,)}, r"three channels and std be positive, got \(0\.5,\) and"),
        ({"std": (0.5, 0.0, 0.5)}, r"be positive, got .* and \(0\.5, 0\.0, 0\.5\)"),
    ],
)
def test_bad_arguments_are_named(
    options: dict[str, Any], message: str, as_users_run_it: None
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        NACEncoder(**options)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"at least 4 px .* got 3x16"):
        build().features(torch.zeros(1, 3, 3, 16))
