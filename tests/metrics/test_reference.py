import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nacgen.errors import ConfigurationError, DataError, DataNotFoundError, StorageError
from nacgen.metrics import ReferenceStatistics, evaluate
from nacgen.metrics.reference import _digest, fingerprint_images
from tests.metrics.means import ChannelMeans, dataset, generate

EXTRACTOR = ChannelMeans()


@pytest.fixture
def statistics() -> ReferenceStatistics:
    return ReferenceStatistics.compute(dataset(), EXTRACTOR, keep_features=True)


@pytest.fixture
def path(statistics: ReferenceStatistics, tmp_path: Path) -> Path:
    statistics.save(tmp_path / "stats.npz")
    return tmp_path / "stats.npz"


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


class OtherExtractor(ChannelMeans):
    name, fingerprint = "edges", "sha256:of-edges"


def test_what_is_loaded_is_what_was_saved_to_the_last_bit(
    statistics: ReferenceStatistics, path: Path
) -> None:
    loaded = ReferenceStatistics.load(path, EXTRACTOR)
    assert loaded.stats.n == 40
    assert torch.equal(loaded.stats.mean, statistics.stats.mean)
    assert torch.equal(loaded.stats.covariance, statistics.stats.covariance)
    assert loaded.features is not None
    assert torch.equal(loaded.features, EXTRACTOR(dataset().images).pooled)
    for field in ("name", "fingerprint", "extractor_fingerprint"):
        assert getattr(loaded, field) == getattr(statistics, field)
    options = {"extractor": EXTRACTOR, "num_samples": 30, "metrics": ("fid", "kid", "prdc")}
    assert evaluate(generate, loaded, **options) == evaluate(generate, dataset(), **options)


def test_pytorch_fid_reads_the_file(path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    mean, covariance = fid_score.compute_statistics_of_path(
        str(path), model=None, batch_size=1, dims=3, device="cpu"
    )
    rows = EXTRACTOR(dataset().images).pooled.double()
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, torch.cov(rows.mT), rtol=1e-12)


def test_a_file_of_pytorch_fid_is_read_where_somebody_answers_for_it(
    statistics: ReferenceStatistics, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.npz"
    mean, covariance = statistics.stats.mean.numpy(), statistics.stats.covariance.numpy()
    np.savez_compressed(path, mu=mean, sigma=covariance)  # as pytorch-fid does
    with pytest.raises(DataError, match=r"channel_means with resize none, .* foreign_images"):
        ReferenceStatistics.load(path, EXTRACTOR)
    loaded = ReferenceStatistics.load(path, EXTRACTOR, foreign_images=40)
    assert (loaded.stats.n, loaded.name) == (40, "foreign.npz")
    assert loaded.fingerprint.startswith("sha256:")
    assert loaded.fingerprint != statistics.fingerprint
    scores = [
        evaluate(generate, each, extractor=EXTRACTOR, num_samples=30).scores
        for each in (loaded, statistics)
    ]
    assert scores[0] == scores[1]
    with pytest.raises(ConfigurationError, match="foreign_images must be 2 or more, got 1"):
        ReferenceStatistics.load(path, EXTRACTOR, foreign_images=1)


def test_files_in_single_precision_are_taken_as_doubles(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", mu=np.zeros(3, "f4"), sigma=np.eye(3, dtype="f4"))
    loaded = ReferenceStatistics.load(tmp_path / "old.npz", EXTRACTOR, foreign_images=10)
    assert loaded.stats.mean.dtype == loaded.stats.covariance.dtype == torch.float64


def test_features_of_another_extractor_are_refused(path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"of edges \(sha256:of-edges\), .* sha256:of-means"
    ):
        ReferenceStatistics.load(path, OtherExtractor())
    with pytest.raises(ConfigurationError, match="from 40 images of noise/train, got 50"):
        ReferenceStatistics.load(path, EXTRACTOR, foreign_images=50)


def poison_mean(arrays: dict[str, np.ndarray]) -> None:
    arrays["mu"][1] += 1e-9


def poison_feature(arrays: dict[str, np.ndarray]) -> None:
    arrays["features"][7, 2] = 0


def poison_origin(arrays: dict[str, np.ndarray]) -> None:
    origin = json.loads(str(arrays["origin"])) | {"n": 50_000}
    arrays["origin"] = np.array(json.dumps(origin))


def lose_features(arrays: dict[str, np.ndarray]) -> None:
    del arrays["features"]


def lose_digest(arrays: dict[str, np.ndarray]) -> None:
    del arrays["digest"]


def lose_origin(arrays: dict[str, np.ndarray]) -> None:
    del arrays["origin"]


@pytest.mark.parametrize(
    "change",
    [poison_mean, poison_feature, poison_origin, lose_features, lose_digest, lose_origin],
)
def test_a_file_that_was_changed_is_refused(
    change: Callable[[dict[str, np.ndarray]], None], path: Path
) -> None:
    rewrite(path, change)
    with pytest.raises(DataError, match=r"stats\.npz .* it was changed after it was written"):
        ReferenceStatistics.load(path, EXTRACTOR)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "it has no sigma"),
        ({"images": np.zeros(3)}, "it has no mu and no sigma"),
        (
            {"mu": np.zeros(4), "sigma": np.eye(4)},
            r"sigma \(3, 3\), .* float64 \(4,\) and float64 \(4, 4\)",
        ),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "mu or sigma hold NaN or numbers"),
        ({"mu": np.full(3, 1e200), "sigma": np.eye(3)}, "beyond those of float32 features"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "sigma is not symmetric"),
        ({"mu": np.zeros(3), "sigma": np.diag([1, -1.5, 1])}, "below zero, -1.5 the lowest"),
        ({"mu": np.array([print] * 3), "sigma": np.eye(3)}, "allow_pickle=False"),
        ({"mu": np.array(["a"] * 3), "sigma": np.eye(3)}, "its mu is <U1, no numbers"),
        (
            {"mu": np.zeros(3), "sigma": np.eye(3), "label": np.array("a")},
            "its label is <U1, no num",
        ),
    ],
)
def test_what_holds_no_statistics_is_refused(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(DataError, match=message):
        ReferenceStatistics.load(tmp_path / "stats.npz", EXTRACTOR, foreign_images=10)


def forge(arrays: dict[str, np.ndarray], origin: str) -> None:
    """Replace the origin by another, with its right digest."""
    kept = {name: array for name, array in arrays.items() if name not in ("origin", "digest")}
    arrays |= {"origin": np.array(origin), "digest": np.array(_digest(kept, origin))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no JSON", "its origin is no JSON"),
        ("[" * 100_000, "its origin is no JSON"),
        ("[]", "its format is None"),
        ({"n": "40"}, "its origin says '40' images"),
        ({"n": True}, "its origin says True images"),
        ({"n": 10**400}, "its origin says 1000"),
        ({"n": 1}, "its origin says 1 images"),
        ({"name": None}, "its origin says 40 images, and None"),
        ({"extractor_fingerprint": ["sha256"]}, "its origin says 40 images, and 'noise/train', "),
        ({"n": 39}, r"its features are not finite floats \(39, 3\)"),
    ],
)
def test_a_forged_origin_is_refused(
    change: str | dict[str, object], message: str, path: Path
) -> None:
    def forged(arrays: dict[str, np.ndarray]) -> None:
        if isinstance(change, str):
            return forge(arrays, change)
        return forge(arrays, json.dumps(json.loads(str(arrays["origin"])) | change))

    rewrite(path, forged)
    with pytest.raises(DataError, match=message):
        ReferenceStatistics.load(path, EXTRACTOR)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.array("text")}, "its features is <U4, no numbers"),
        ({"features": np.zeros((40, 4))}, r"its features are not finite floats \(40, 3\)"),
        ({"features": np.full((40, 3), np.nan)}, "its features are not finite"),
        ({"sigma": np.diag([1, -1.5, 1])}, "below zero, -1.5 the lowest"),
    ],
)
def test_forged_arrays_are_refused(
    changes: dict[str, np.ndarray], message: str, path: Path
) -> None:
    def forged(arrays: dict[str, np.ndarray]) -> None:
        arrays |= changes
        with contextlib.suppress(ValueError):  # text has no digest
            forge(arrays, str(arrays["origin"]))

    rewrite(path, forged)
    with pytest.raises(DataError, match=message):
        ReferenceStatistics.load(path, EXTRACTOR)


def test_statistics_of_dark_images_are_warned_of() -> None:
    """As of images in 0 to 1, taken for 0 to 255."""
    images = replace(dataset(), images=dataset().images // 255)
    found = evaluate(generate, images, extractor=EXTRACTOR, num_samples=30)
    assert [warning.split(":")[0] for warning in found.warnings] == ["scales_differ"]
    assert not evaluate(generate, dataset(), extractor=EXTRACTOR, num_samples=30).warnings


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x80\x04K\x01.", b"PK\x03\x04cut"])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"stats\.npz must hold reference statistics"):
        ReferenceStatistics.load(path, EXTRACTOR)


def test_a_truncated_file_and_a_single_array_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="must hold reference statistics"):
        ReferenceStatistics.load(path, EXTRACTOR)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="must hold reference statistics"):
        ReferenceStatistics.load(tmp_path / "array.npz", EXTRACTOR)


@pytest.mark.parametrize("place", range(100, 4000, 300))
def test_a_compressed_file_with_a_hole_is_refused(place: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((30, 30))
    np.savez_compressed(tmp_path / "stats.npz", mu=values[0], sigma=values)  # as pytorch-fid does
    content = bytearray((tmp_path / "stats.npz").read_bytes())
    content[place : place + 8] = bytes(8)
    (tmp_path / "stats.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"stats\.npz must hold reference statistics"):
        ReferenceStatistics.load(tmp_path / "stats.npz", EXTRACTOR, foreign_images=10)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"none\.npz does not exist"):
        ReferenceStatistics.load(tmp_path / "none.npz", EXTRACTOR)


def test_another_suffix_and_a_protected_folder_are_refused(
    statistics: ReferenceStatistics, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"kept as \.npz, got stats\.pkl"):
        statistics.save("stats.pkl")
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    before = (tmp_path / "images.npz").read_bytes()
    with pytest.raises(ConfigurationError, match=r"images\.npz holds something else"):
        statistics.save(tmp_path / "images.npz")
    assert (tmp_path / "images.npz").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/stats\.npz cannot be written"):
        statistics.save(tmp_path / "file" / "stats.npz")


def test_a_write_that_fails_leaves_the_old_file(
    statistics: ReferenceStatistics, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        replace(statistics, name="other").save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


class Counting(ChannelMeans):
    """Counts the images that it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> object:
        self.seen += len(images)
        return super().__call__(images)


def test_the_cache_spares_the_extractor(tmp_path: Path) -> None:
    extractor = Counting()
    results = [
        ReferenceStatistics.cached(dataset(), extractor, tmp_path / "cache") for _ in range(3)
    ]
    assert extractor.seen == 40
    assert torch.equal(results[0].stats.covariance, results[2].stats.covariance)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("noise-train-channel_means-")


def test_other_pixels_weights_or_needs_make_other_files(tmp_path: Path) -> None:
    changed = dataset()
    changed.images[3, 0, 1, 1] ^= 1
    ReferenceStatistics.cached(dataset(), ChannelMeans(), tmp_path)
    found = ReferenceStatistics.cached(changed, ChannelMeans(), tmp_path)
    assert found.fingerprint == fingerprint_images(changed) != fingerprint_images(dataset())
    ReferenceStatistics.cached(dataset(), OtherExtractor(), tmp_path)
    kept = ReferenceStatistics.cached(dataset(), ChannelMeans(), tmp_path, keep_features=True)
    assert kept.features is not None
    assert len(list(tmp_path.iterdir())) == 4


def test_a_cache_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    ReferenceStatistics.cached(dataset(), ChannelMeans(), tmp_path)
    (file,) = tmp_path.iterdir()
    ReferenceStatistics.compute(dataset(30), ChannelMeans()).save(file)  # whole, but of others
    with pytest.raises(DataError, match=r"it holds sha256:.*, not sha256:.* Delete it"):
        ReferenceStatistics.cached(dataset(), ChannelMeans(), tmp_path)
    rewrite(file, poison_mean)
    with pytest.raises(DataError, match="changed after it was written"):
        ReferenceStatistics.cached(dataset(), ChannelMeans(), tmp_path)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_fingerprint_is_that_of_all_pixels_in_any_batches(batch_size: int) -> None:
    found = ReferenceStatistics.compute(dataset(), EXTRACTOR, batch_size=batch_size)
    assert found.fingerprint == fingerprint_images(dataset())
