import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nacgen.errors import DataError
from nacgen.probes.retrieval.evaluate import RetrievalResult, evaluate_retrieval
from nacgen.probes.retrieval.protocols import RetrievalProtocol, build_protocol
from tests.reference import retrieval as reference


def random_case(seed: int = 0, bits: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes that know something of three classes."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(3, bits, generator=generator) < 0.5
    labels = torch.randint(3, (60,), generator=generator)
    flips = torch.rand(60, bits, generator=generator) < 0.25
    codes = centers[labels] ^ flips
    return codes[:20], labels[:20], codes[20:], labels[20:]


def evaluate(case: tuple[Tensor, Tensor, Tensor, Tensor], **options: object) -> RetrievalResult:
    return evaluate_retrieval(*case, **options)  # type: ignore[arg-type]


def test_figures_are_means_over_queries_of_what_loops_give() -> None:
    queries, query_labels, gallery, gallery_labels = random_case()
    result = evaluate((queries, query_labels, gallery, gallery_labels))
    stable, ball, empty = [], [], 0
    for code, label in zip(queries.tolist(), query_labels.tolist(), strict=True):
        distances = [reference.hamming(code, item) for item in gallery.tolist()]
        relevant = [other == label for other in gallery_labels.tolist()]
        order = sorted(range(len(distances)), key=distances.__getitem__)
        stable.append(reference.average_precision([relevant[i] for i in order]))
        inside = [r for d, r in zip(distances, relevant, strict=True) if d <= 2]
        empty += not inside
        ball.append(sum(inside) / len(inside) if inside else 0.0)
    assert result.mean_average_precision_stable == pytest.approx(np.mean(stable), abs=1e-12)
    assert result.precision_within_radius_2 == pytest.approx(np.mean(ball), abs=1e-12)
    assert result.num_empty_balls == empty > 0
    chance = (query_labels[:, None] == gallery_labels).double().mean()
    assert result.chance == pytest.approx(chance.item(), abs=1e-12)
    assert result.chance < result.mean_average_precision < 1
    assert result.precision_at.keys() == {"1", "10"}
    assert result.mean_average_precision_at_1000 is None
    assert result.curve.recall[-1] == 1
    assert result.curve.precision[-1] == pytest.approx(chance.item(), abs=1e-12)


def test_the_order_of_the_gallery_moves_nothing_but_the_stable_value() -> None:
    queries, query_labels, gallery, gallery_labels = random_case(bits=4)
    result = evaluate((queries, query_labels, gallery, gallery_labels))
    turned = evaluate((queries, query_labels, gallery.flip(0), gallery_labels.flip(0)))
    assert turned.mean_average_precision_stable != result.mean_average_precision_stable
    same = {"mean_average_precision_stable": result.mean_average_precision_stable}
    assert asdict(turned) | same == asdict(result)


def test_perfect_codes_score_one_and_empty_codes_the_share() -> None:
    labels = torch.arange(4).repeat(300)
    perfect = (torch.eye(4) > 0)[labels].repeat(1, 3)
    result = evaluate((perfect[:40], labels[:40], perfect, labels))
    assert result.mean_average_precision == result.mean_average_precision_stable == 1
    assert result.precision_at["100"] == result.precision_within_radius_2 == 1
    constant = torch.zeros_like(perfect)
    result = evaluate((constant[:40], labels[:40], constant, labels))
    assert result.mean_average_precision == pytest.approx(result.chance, abs=5e-3)
    assert result.precision_at["1000"] == pytest.approx(0.25, abs=1e-12)
    assert result.mean_average_precision_at_1000 == pytest.approx(0.25, abs=5e-3)


def test_the_result_survives_json_and_says_how_it_came_about() -> None:
    labels = torch.arange(10).repeat(120)
    own = torch.arange(1_200)
    protocol = RetrievalProtocol("own", 3, own[1_100:], own[:1_100], own[:9], "sha256:0", top=1_000)
    codes = (torch.eye(10) > 0)[labels]
    result = evaluate_retrieval(
        *(codes[protocol.query], labels[protocol.query]),
        *(codes[protocol.gallery], labels[protocol.gallery]),
        protocol=protocol,
    )
    fields = json.loads(json.dumps(asdict(result), allow_nan=False))
    assert fields["mean_average_precision"] == fields["mean_average_precision_at_1000"] == 1
    settings = fields["protocol"]
    assert settings["fingerprint"] == protocol.fingerprint
    expected = {"name": "own", "seed": 3, "top": 1_000, "ranking": "hamming"}
    expected |= {"num_queries": 100, "num_gallery": 1_100, "code_dim": 10}
    assert settings.items() >= expected.items()


def test_a_protocol_may_rank_its_first_items_only() -> None:
    case = random_case()
    labels = torch.cat([case[3], case[1]])
    protocol = build_protocol("split", labels, num_train=40)
    assert evaluate(case, protocol=protocol).protocol["top"] is None
    cut = evaluate(case, protocol=replace(protocol, top=5))
    assert cut.protocol["top"] == 5
    assert cut.mean_average_precision != evaluate(case).mean_average_precision


def test_multi_hot_labels_are_relevant_where_they_share_one() -> None:
    queries, query_labels, gallery, gallery_labels = random_case()
    hot = (queries, torch.eye(3)[query_labels] > 0, gallery, torch.eye(3)[gallery_labels] > 0)
    result = evaluate(hot)
    plain = evaluate((queries, query_labels, gallery, gallery_labels))
    assert result.mean_average_precision == plain.mean_average_precision
    assert result.protocol["relevant"] == "any shared label"
    assert plain.protocol["relevant"] == "equal class"


def test_the_reference_ranking_is_named_and_differs() -> None:
    case = random_case()
    result = evaluate(case, ranking="reference")
    assert result.protocol["ranking"] == "reference"
    assert result.mean_average_precision < evaluate(case).mean_average_precision


def test_queries_without_relevant_items_count_as_zero() -> None:
    queries, query_labels, gallery, gallery_labels = random_case()
    query_labels = query_labels.clone()
    query_labels[[4, 9]] = 7
    case = (queries, query_labels, gallery, gallery_labels)
    result = evaluate(case)
    assert result.protocol["num_queries_without_relevant"] == 2
    found = query_labels != 7
    rest = evaluate((queries[found], query_labels[found], gallery, gallery_labels))
    assert result.mean_average_precision == pytest.approx(0.9 * rest.mean_average_precision)
    assert rest.protocol["num_queries_without_relevant"] == 0
    none = (queries, torch.full_like(query_labels, 7), gallery, gallery_labels)
    with pytest.raises(DataError, match="none of 20 has one"):
        evaluate(none)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_evaluated_is_named() -> None:
    queries, query_labels, gallery, gallery_labels = random_case()
    with pytest.raises(ValueError, match="gallery_labels is None"):
        evaluate((queries, query_labels, gallery, None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"query_codes must be bits.*got torch.float32"):
        evaluate((queries.float(), query_labels, gallery, gallery_labels))
    with pytest.raises(ValueError, match="one code length, got 12 and 11 bits"):
        evaluate((queries, query_labels, gallery[:, 1:], gallery_labels))
    with pytest.raises(ValueError, match=r"query_codes must be \(n, k\).*got \(0, 12\)"):
        evaluate((queries[:0], query_labels[:0], gallery, gallery_labels))
