import hashlib
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nacgen.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigurationError,
    StorageError,
)
from nacgen.metrics.extractors import inception
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.extractors.inception import NAME, InceptionExtractor, build_inception
from nacgen.metrics.extractors.resize import RESIZES
from tests.metrics.seeded import inception_state

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return inception_state()


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (2, 3, 24, 20), generator=generator).to(torch.uint8)


@pytest.fixture(scope="module")
def published(state: State, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A pickle as pytorch-fid publishes it, and its SHA-256."""
    path = tmp_path_factory.mktemp("published") / f"{NAME}.pth"
    torch.save(state, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(
    published: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty hub cache on a machine without network, for which `published` is genuine."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "SHA256_PREFIX", published[1][:8])
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    return tmp_path / "hub" / "checkpoints"


def with_weights(state: State, **options: Any) -> InceptionExtractor:
    with torch.device("meta"):
        network = build_inception()
    network.load_state_dict(state, assign=True)
    return InceptionExtractor(network, **({"is_published": False} | options))


def test_it_agrees_with_pytorch_fid(
    state: State, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(original, "load_state_dict_from_url", lambda url, progress: state)
    theirs = original.InceptionV3().eval()
    features = with_weights(state)(images)
    with torch.no_grad():
        expected = theirs(images.float() / 255)[0].flatten(1)
    assert 0.05 < expected.std() < 50
    assert features.pooled.shape == (2, 2048)
    torch.testing.assert_close(features.pooled, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.logits, expected @ state["fc.weight"].T)


@pytest.mark.parametrize("dims", [64, 192, 768])
def test_earlier_layers_agree_with_pytorch_fid(
    dims: int, state: State, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(original, "load_state_dict_from_url", lambda url, progress: state)
    block = original.InceptionV3.BLOCK_INDEX_BY_DIM[dims]
    theirs = original.InceptionV3([block]).eval()
    extractor = with_weights(state, dims=dims, is_published=True, resize="pytorch_fid")
    features = extractor(images)
    with torch.no_grad():
        expected = theirs(images.float() / 255)[0].mean((2, 3))
    assert features.pooled.shape == (2, dims)
    torch.testing.assert_close(features.pooled, expected, rtol=1e-5, atol=1e-5)
    assert features.logits is None
    assert (extractor.name, extractor.score_name) == (f"inception_dims{dims}", f"fid_dims{dims}")
    assert extractor.fingerprint != with_weights(state, is_published=True).fingerprint


def test_an_unknown_layer_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="dims must be one of 64, 192, 768, 2048, got 7"):
        InceptionExtractor(nn.Module(), is_published=True, dims=7)
    message = "dims can be chosen for inception only, got 64 for digits_classifier"
    with pytest.raises(ConfigurationError, match=message):
        build_extractor("digits_classifier", dims=64)


@pytest.mark.parametrize("package", ["torch_fidelity", "torchmetrics"])
def test_with_tf1s_resize_it_agrees_with(
    package: str, state: State, images: Tensor, published: tuple[Path, str]
) -> None:
    options = ("inception", ["2048", "logits_unbiased"], str(published[0]))
    if package == "torchmetrics":
        module = pytest.importorskip("torchmetrics.image.fid")
        theirs = module.NoTrainInceptionV3(*options, antialias=False)
        expected, expected_logits = theirs._torch_fidelity_forward(images)
    else:
        module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
        expected, expected_logits = module.FeatureExtractorInceptionV3(*options)(images)
    extractor = with_weights(state, resize="tf1")
    features = extractor(images)
    assert extractor.score_name == "fd_inception_tf1"
    torch.testing.assert_close(features.pooled, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.logits, expected_logits)


def test_weights_and_resize_are_part_of_the_score_and_resize_of_the_fingerprint(
    state: State,
) -> None:
    extractors = [with_weights(state, is_published=True, resize=resize) for resize in RESIZES]
    assert [e.score_name for e in extractors] == ["fid", "fid_tf1", "fid_clean"]
    assert len({e.fingerprint for e in extractors}) == 3
    assert with_weights(state).score_name == "fd_inception"


def test_an_unknown_resize_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="one of pytorch_fid, tf1, clean, got 'bicubic'"):
        InceptionExtractor(nn.Module(), is_published=True, resize="bicubic")


def test_the_pickle_is_read_once_and_kept_as_safetensors(
    published: tuple[Path, str], images: Tensor, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    (cache / f"{NAME}.pth").symlink_to(published[0])
    first = build_extractor("inception")
    assert {path.suffix for path in cache.iterdir()} == {".pth", ".safetensors"}
    monkeypatch.setattr(torch, "load", None)
    again = build_extractor("inception")
    assert first.score_name == again.score_name == "fid"
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first(images[:1]).pooled, again(images[:1]).pooled)


def test_without_file_and_network_the_remedies_are_named(cache: Path) -> None:
    message = (
        rf"not in {cache} .* \(.*no route to host.*\)\. Give the path of a copy as weights "
        r"\(evaluate: --weights FILE; training: --score\.weights FILE\), put "
        rf"{NAME}\.pth there, or run once with a connection to https://"
    )
    with pytest.raises(CheckpointNotFoundError, match=message):
        build_extractor("inception")
    assert list(cache.iterdir()) == []


def test_a_path_that_does_not_exist_is_named(cache: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"but nowhere\.pth does not exist"):
        build_extractor("inception", weights="nowhere.pth")


def test_another_pickle_is_refused_unread(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", None)
    path = tmp_path / "other.pth"
    path.write_bytes(b"not the weights")
    digest = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(CheckpointError, match=rf"starts with \w+, got {digest[:8]}\. Delete it"):
        build_extractor("inception", weights=path)


def test_safetensors_of_unknown_origin_are_refused(
    state: State, cache: Path, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    foreign = tmp_path / "foreign.safetensors"
    save_file(tensors, foreign)
    with pytest.raises(CheckpointError, match=rf"{foreign} must .* from source unknown"):
        build_extractor("inception", weights=foreign)


def test_damaged_safetensors_are_refused(published: tuple[Path, str], cache: Path) -> None:
    build_extractor("inception", weights=published[0])
    converted = cache / f"{NAME}.safetensors"
    damaged = bytearray(converted.read_bytes())
    damaged[-5] ^= 1
    converted.write_bytes(damaged)
    message = rf"{converted} must .* \(recorded: \w+\) from source {published[1][:8]}"
    with pytest.raises(CheckpointError, match=message):
        build_extractor("inception")


def test_safetensors_of_another_network_are_refused(
    state: State, cache: Path, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    other = tmp_path / "other.safetensors"
    save_file(tensors | {"fc.bias": torch.zeros(1000)}, other)
    with pytest.raises(CheckpointError, match=r"fc.bias: \(1000,\) in the file, \(1008,\) in the"):
        build_extractor("inception", weights=other)


def test_a_cache_that_cannot_be_written_is_named(
    published: tuple[Path, str], cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub").write_text("a file where a folder belongs")
    with pytest.raises(StorageError, match=rf"{cache}/.* cannot be written .* set TORCH_HOME"):
        build_extractor("inception", weights=published[0])
