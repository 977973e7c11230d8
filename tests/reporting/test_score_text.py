from nacgen.metrics.result import EvaluationProtocol, EvaluationResult, Score
from nacgen.reporting.blocks import score_text


def test_each_score_has_a_line_with_what_helps_to_judge_it() -> None:
    scores = {
        "fid": Score(value=12.5, raw=12.5, bias=3.15),
        "inception_score": Score(
            value=9.25, raw=9.25, bias=None, spread=0.125, spread_kind="deviation over splits"
        ),
        "kid": Score(value=-0.5, raw=-0.5, bias=0.0),
    }
    protocol = EvaluationProtocol(
        extractor="inception",
        extractor_fingerprint="sha256:0",
        independent_of_nac=True,
        reference="cifar10/train",
        reference_fingerprint="sha256:1",
        num_reference=50_000,
        num_samples=10_000,
        quantization="uint8",
        resize="pytorch_fid",
        feature_dim=2048,
        dtype="float32",
        seed=0,
        model="ema",
        ddof=1,
    )
    assert score_text(EvaluationResult(scores=scores, protocol=protocol)).splitlines() == [
        "fid              12.5        independent samples of one Gaussian would score about 3.15 (real images "
        "some 15 % more, with few of them twice as much and more; splits with balanced classes less)",
        "inception_score  9.25        ± 0.125, deviation over splits",
        "kid              -0.5",
    ]
