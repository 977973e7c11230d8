import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import nacgen
from nacgen.comparison.paired_comparison import Comparison, compare, compare_arms
from nacgen.errors import ConfigurationError, NonFiniteError
from nacgen.reporting.recorded_runs import RecordedEvaluation, RecordedRun
from tests.reporting.folders import MakeRun

RANDOM = {0: (27.5, 14.0), 1: (32.2, 13.6), 2: (26.6, 15.0)}
NAC = {0: (25.6, 11.6), 1: (24.4, 11.8), 2: (24.0, 11.8)}


@pytest.fixture
def arms(make_run: MakeRun) -> tuple[list[Path], list[Path]]:
    """Three seeds of random and of NAC initialisation."""
    random, nac = (
        [
            make_run({5120: early, 15360: 17.0, 25600: end}, seed=seed, init=init)
            for seed, (early, end) in table.items()
        ]
        for init, table in (("random", RANDOM), ("nac", NAC))
    )
    return random, nac


def test_every_figure_follows_from_the_scores(arms: tuple[list[Path], list[Path]]) -> None:
    comparison = compare(*arms)
    end, early = comparison.end, comparison.early
    assert early is not None
    assert (comparison.arm_a, comparison.arm_b) == ("random", "nac")
    assert (end.images_seen, end.seeds) == (25600, (0, 1, 2))
    assert end.scores_a == (14.0, 13.6, 15.0)
    assert end.scores_b == (11.6, 11.8, 11.8)
    assert early.images_seen == 5120
    assert early.scores_b == (25.6, 24.4, 24.0)
    expected = [math.log(11.6 / 14.0), math.log(11.8 / 13.6), math.log(11.8 / 15.0)]
    assert end.log_ratios == pytest.approx(expected)
    assert end.mean_log_ratio == pytest.approx(sum(expected) / 3)
    assert end.interval == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(expected), stats.sem(expected))
    )
    assert (end.p_value, end.smallest_p_value, end.num_lower, end.num_higher) == (0.25, 0.25, 3, 0)
    assert comparison.differences == {"init": (("random",), ("nac",))}


def test_runs_are_paired_by_seed_in_any_order(arms: tuple[list[Path], list[Path]]) -> None:
    random, nac = arms
    assert compare(random[::-1], [nac[1], nac[2], nac[0]]).to_dict() == compare(*arms).to_dict()


def test_the_verdict_is_about_the_end(arms: tuple[list[Path], list[Path]]) -> None:
    comparison = compare(*arms)
    assert "lower (better) than random at the end (" in comparison.verdict
    names = [point.when for point in comparison.points]
    assert names == ["at 20 %", "over all of training", "at the end"]


def test_the_area_is_that_of_the_common_evaluations(make_run: MakeRun) -> None:
    random = make_run({1000: 16.0, 2000: 1.0, 3000: 4.0}, init="random")
    nac = make_run({1000: 8.0, 3000: 2.0})
    area = compare([random], [nac]).area
    assert area is not None
    assert area.scores_a == pytest.approx((8.0,))  # the geometric mean of 16 and 4
    assert area.scores_b == pytest.approx((4.0,))
    once = compare([make_run({5: 1.0}, init="a")], [make_run({5: 2.0}, init="b")])
    assert once.area is once.early is once.to_dict()["early"] is None


def test_time_to_a_score_is_that_of_the_common_evaluations(make_run: MakeRun) -> None:
    random = make_run({1000: 9.0, 2000: 4.0, 3000: 3.0}, init="random")
    nac = make_run({1000: 9.0, 3000: 2.0})
    time = compare([random], [nac], target=4.0).images_to_score
    assert (time.images_a, time.images_b) == ((3000,), (3000,))
    assert (time.num_sooner, time.num_later, time.num_censored) == (0, 0, 0)
    never = compare([random], [nac], target=2.5).images_to_score
    assert (never.images_a, never.images_b) == ((None,), (3000,))
    assert (never.num_sooner, never.num_censored, never.log_ratios) == (1, 1, None)


def test_the_target_is_the_controls_mean_unless_given(
    arms: tuple[list[Path], list[Path]],
) -> None:
    expected = (14.0 * 13.6 * 15.0) ** (1 / 3)
    assert compare(*arms).images_to_score.target == pytest.approx(expected)
    time = compare(*arms, target=25.0).images_to_score
    assert time.target == 25.0
    assert time.images_a == (15360, 15360, 15360)
    assert time.images_b == (15360, 5120, 5120)


@pytest.mark.parametrize("value", [1e-310, 1e300])
def test_scores_whose_ratios_leave_the_range_of_numbers_are_refused(
    make_run: MakeRun, value: float
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"positive and finite .* but is {re.escape(str(value))}"
    ):
        compare([make_run({5: 1.0}, init="a")], [make_run({5: value}, init="b")])


def test_a_single_folder_is_no_arm() -> None:
    with pytest.raises(
        ConfigurationError, match=r"a list of runs, got runs/x alone. Give \[runs/x\]"
    ):
        compare("runs/x", "runs/y")


def test_higher_scores_may_be_better(make_run: MakeRun) -> None:
    arms = [
        [
            make_run({10: 0.5, 50: 0.5 + gain}, seed=seed, init=init, metric="recall")
            for seed in (0, 1)
        ]
        for init, gain in (("random", 0.0), ("nac", 0.2))
    ]
    comparison = compare(*arms, target=0.6)
    assert "nac scored higher (better) than random" in comparison.verdict
    assert comparison.images_to_score.images_b == (50, 50)
    assert comparison.images_to_score.images_a == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0.0}, "between 0 and 1, got 0"),
        ({"level": 1.0}, "between 0 and 1, got 1"),
        ({"target": -1.0}, "positive and finite, got -1"),
        ({"target": math.nan}, "positive and finite, got nan"),
        ({"diverged": ((0, 1, 2), ())}, "1 to 40 runs, one for each seed, got 0"),
    ],
)
def test_options_out_of_range_are_refused(
    arms: tuple[list[Path], list[Path]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        compare(*arms, **options)


def test_the_level_sets_the_interval(arms: tuple[list[Path], list[Path]]) -> None:
    comparison = compare(*arms, level=0.2)
    ratios = comparison.end.log_ratios
    expected = stats.t.interval(0.8, 2, np.mean(ratios), stats.sem(ratios))
    assert comparison.end.interval == pytest.approx(expected)
    assert "80 % interval" in comparison.verdict


def test_the_package_offers_the_function(arms: tuple[list[Path], list[Path]]) -> None:
    assert nacgen.reporting.compare is compare
    assert isinstance(nacgen.reporting.compare(*arms), Comparison)


def test_the_early_point_is_the_common_score_nearest_to_a_fifth(make_run: MakeRun) -> None:
    random = make_run({1000: 9.0, 2000: 8.0, 4000: 7.0, 10000: 5.0}, init="random")
    nac = make_run({1000: 8.0, 4000: 6.0, 10000: 4.0})
    early = compare([random], [nac]).early
    assert early is not None
    assert early.images_seen == 1000


def test_unlike_protocols_are_refused_with_both_values(make_run: MakeRun) -> None:
    random = make_run({640: 9.0}, init="random")
    nac = make_run({640: 8.0}, protocol={"num_samples": 500, "ddof": 1})
    message = r"random-seed0 and \S+nac-seed0 differ in num_samples \(2000 and 500\), ddof \('absent' and 1\)"
    with pytest.raises(ConfigurationError, match=message):
        compare([random], [nac])


def test_settings_of_a_score_belong_to_its_protocol() -> None:
    arms = [
        RecordedRun(
            path=Path(arm),
            config={"seed": 0, "init": arm},
            environment={},
            evaluations=(
                RecordedEvaluation(
                    images_seen=9,
                    scores={"kid": {"value": 0.1, "settings": {"subsets": subsets}}},
                    protocol={"extractor": "inception"},
                ),
            ),
            summary={"images_seen": 9},
        )
        for arm, subsets in (("random", 100), ("nac", 10))
    ]
    with pytest.raises(ConfigurationError, match=r"differ in kid\.subsets \(100 and 10\)"):
        compare(arms[:1], arms[1:])
    assert compare(arms[:1], arms[:1], names=("a", "b")).end.protocol["kid.subsets"] == 100


def test_protocols_are_compared_across_seeds_too(make_run: MakeRun) -> None:
    arms: list[list[Path]] = [
        [
            make_run({640: 9.0}, init=init, seed=seed, protocol={"num_samples": 500 * (1 + seed)})
            for seed in (0, 1)
        ]
        for init in ("random", "nac")
    ]
    with pytest.raises(ConfigurationError, match=r"num_samples \(500 and 1000\)"):
        compare(*arms)


def test_the_evaluation_seed_may_change_between_pairs_but_not_within(make_run: MakeRun) -> None:
    a, b = (
        [
            make_run({640: 9.0 + seed}, init=init, seed=seed, protocol={"seed": seed})
            for seed in (0, 1)
        ]
        for init in ("random", "nac")
    )
    assert compare(a, b).end.protocol["seed"] == "one for each pair"
    c = make_run({640: 9.0}, init="shuffled", seed=0, protocol={"seed": 7})
    with pytest.raises(ConfigurationError, match=r"differ in seed \(0 and 7\)"):
        compare(a[:1], [c])


def test_unpaired_seeds_are_named(make_run: MakeRun) -> None:
    random = [make_run({640: 9.0}, init="random", seed=seed) for seed in (0, 1, 2)]
    nac = [make_run({640: 9.0}, seed=seed) for seed in (0, 3)]
    message = r"random has seeds 0, 1, 2 and nac has 0, 3. Train or leave out 1, 2, 3"
    with pytest.raises(ConfigurationError, match=message):
        compare(random, nac)


def test_an_unfinished_run_is_refused(make_run: MakeRun) -> None:
    nac = make_run({640: 9.0}, is_finished=False)
    with pytest.raises(
        ConfigurationError, match=r"nac-seed0 has no summary\.json\. Run its command"
    ):
        compare([make_run({640: 9.0}, init="random")], [nac])


def test_unlike_budgets_are_refused(make_run: MakeRun) -> None:
    random, nac = make_run({640: 9.0, 25600: 7.0}, init="random"), make_run({640: 9.0, 12800: 8.0})
    with pytest.raises(
        ConfigurationError, match=r"random-seed0 was last scored at 25,600 .* 12,800"
    ):
        compare([random], [nac])


def test_a_run_without_a_score_at_its_end_is_refused(make_run: MakeRun) -> None:
    random = make_run({640: 9.0}, init="random")
    (random / "summary.json").write_text('{"images_seen": 1280, "seconds": 1.0}')
    with pytest.raises(ConfigurationError, match=r"random-seed0 was last scored at 640 of 1,280"):
        compare([random], [make_run({640: 9.0})])


@pytest.mark.parametrize("value", [0.0, -0.001, math.nan, math.inf])
def test_a_score_without_a_logarithm_is_refused(make_run: MakeRun, value: float) -> None:
    random = make_run({640: 9.0}, init="random")
    with pytest.raises(ConfigurationError, match=rf"is {value} in \S+nac-seed0 at 640 images"):
        compare([random], [make_run({640: value})])


def test_an_arm_of_two_encoders_under_one_path_is_refused(make_run: MakeRun) -> None:
    arms = [
        [make_run({640: 9.0 + seed}, init=init, seed=seed) for seed in (0, 1, 2)]
        for init in ("random", "nac")
    ]
    for runs in arms:
        for folder in runs[:2]:  # the last one is of an earlier version
            inputs = {"encoder": {"model.safetensors": "aa"}, "extractor": "sha256:bb"}
            content = {"configuration": "x", "inputs": inputs}
            (folder / "fingerprints.json").write_text(json.dumps(content))
    assert compare(*arms).end.seeds == (0, 1, 2)
    content["inputs"]["encoder"] = {"model.safetensors": "cc"}  # type: ignore[index]
    (arms[1][1] / "fingerprints.json").write_text(json.dumps(content))
    message = r"nac-seed0 and \S+nac-seed1 are not \(encoder: model\.safetensors aa there, model\.safetensors cc"
    with pytest.raises(ConfigurationError, match=message):
        compare(*arms)


def test_two_runs_of_one_seed_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run({640: 9.0})
    again = first.rename(tmp_path / "again")
    with pytest.raises(ConfigurationError, match=r"nac-seed0 and \S+again both have seed 0"):
        compare([make_run({640: 9.0}), again], [make_run({640: 8.0}, init="random")])


def test_arms_of_one_init_need_names(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run({640: 9.0}).rename(tmp_path / "slow")
    second = make_run({640: 8.0}, config={"batch_size": 128})
    with pytest.raises(ConfigurationError, match="both are called nac"):
        compare([first], [second])
    comparison = compare([first], [second], names=("small batch", "large batch"))
    assert comparison.verdict.startswith("In the one paired seed large batch scored lower")
    assert comparison.differences == {"batch_size": (("absent",), ("128",))}


def test_a_run_of_an_earlier_version_compares_with_one_of_today(make_run: MakeRun) -> None:
    earlier, today = (
        make_run(
            {640: 9.0},
            init=init,
            protocol={protocol: "uint8"},
            config={"discriminator": {option: None}},
        )
        for init, protocol, option in (
            ("random", "quantisation", "taps"),
            ("nac", "quantization", "return_nodes"),
        )
    )
    comparison = compare([earlier], [today])
    assert comparison.end.protocol["quantization"] == "uint8"
    assert comparison.differences == {"init": (("random",), ("nac",))}


def invented(arm: str, seed: int, score: float) -> RecordedRun:
    """A finished run that nobody trained."""
    evaluation = RecordedEvaluation(
        images_seen=100, scores={"fid": {"value": score}}, protocol={"extractor": "inception"}
    )
    return RecordedRun(
        path=Path(f"{arm}-seed{seed}"),
        config={"seed": seed, "init": arm},
        environment={},
        evaluations=(evaluation,),
        summary={"images_seen": 100},
    )


def drawn(
    draw: np.random.Generator, effects: dict[str, float], num_pairs: int
) -> dict[str, list[RecordedRun]]:
    """Scores whose logarithms have a large part common to a seed, and a small one of their own."""
    seeds = draw.normal(0, 1.0, num_pairs)
    return {
        arm: [
            invented(arm, seed, math.exp(2 + effect + common + draw.normal(0, 0.1)))
            for seed, common in enumerate(seeds)
        ]
        for arm, effect in effects.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("num_pairs", [3, 8])
def test_the_interval_misses_the_truth_as_often_on_either_side(num_pairs: int) -> None:
    """Two-sided coverage: 2.5 % of intervals lie below the true effect, 2.5 % above it."""
    draw, num_draws, below, above = np.random.default_rng(0), 2000, 0, 0
    for _ in range(num_draws):
        arms = drawn(draw, {"random": 0.0, "nac": -0.3}, num_pairs)
        interval = compare(arms["random"], arms["nac"]).end.interval
        assert interval is not None
        below += interval[1] < -0.3
        above += interval[0] > -0.3
    error = 3.5 * math.sqrt(0.025 * 0.975 / num_draws)
    assert below / num_draws == pytest.approx(0.025, abs=error)
    assert above / num_draws == pytest.approx(0.025, abs=error)


@pytest.mark.slow
def test_equal_arms_are_seldom_told_apart() -> None:
    """All claims of a report together are wrong in no more than 5 % of reports."""
    draw, num_draws = np.random.default_rng(1), 600
    effects = dict.fromkeys(("random", "a", "b", "c"), 0.0)
    wrong = sum(
        any(each.is_claim for each in compare_arms(drawn(draw, effects, 8)))
        for _ in range(num_draws)
    )
    assert wrong / num_draws <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / num_draws)
    clear = effects | {"a": -0.5}
    found = sum(compare_arms(drawn(draw, clear, 8))[0].is_claim for _ in range(50))
    assert found >= 48  # and what there is, is found


def test_several_arms_are_corrected_after_holm() -> None:
    def arm(name: str, *changes: float) -> list[RecordedRun]:
        return [invented(name, seed, 10 * (1 + change)) for seed, change in enumerate(changes)]

    arms = {
        "random": arm("random", *[0.0] * 8),
        "nac": arm("nac", *[-0.2 - 0.01 * i for i in range(8)]),
        "shuffled": arm("shuffled", 0.1, 0.2, 0.11, 0.12, 0.13, 0.14, 0.15, -0.01),
    }
    nac, shuffled = compare_arms(arms)
    assert (nac.end.p_value, shuffled.end.p_value) == (2 / 256, 4 / 256)
    assert (nac.adjusted_p_value, shuffled.adjusted_p_value) == (4 / 256, 4 / 256)
    assert "p-value, corrected for 2 comparisons, is 0.016 and the interval" in nac.verdict
    assert nac.to_dict()["num_comparisons"] == 2
    (alone,) = compare_arms({name: arms[name] for name in ("random", "nac")})
    assert alone == compare(arms["random"], arms["nac"])


def test_a_seed_that_diverged_leaves_every_arm(folders: dict[str, list[Path]]) -> None:
    arms = {**folders, "nac": [folders["nac"][0], folders["nac"][2]]}
    nac, shuffled = compare_arms(arms, diverged={"nac": [1]})
    assert nac.end.seeds == shuffled.end.seeds == (0, 2)
    assert (nac.diverged_a, nac.diverged_b, shuffled.diverged_b) == ((), (1,), ())
    assert nac.verdict.endswith("; left out: nac diverged with seed 1.")
    assert "diverged" not in shuffled.verdict


def test_without_a_pair_left_nothing_is_compared(folders: dict[str, list[Path]]) -> None:
    arms = {"random": folders["random"][:1], "nac": folders["nac"][1:]}
    fell = {"random": [1, 2], "nac": [0]}
    with pytest.raises(NonFiniteError, match=r"none is left: .* \(random: 1, 2; nac: 0\)"):
        compare_arms(arms, diverged=fell)
    with pytest.raises(NonFiniteError, match=r"\(nac: 0, 1, 2\)"):
        compare_arms({**arms, "nac": []}, diverged={"nac": [0, 1, 2]})


def test_an_arm_that_always_diverged_does_not_spoil_the_others(
    folders: dict[str, list[Path]],
) -> None:
    arms = {**folders, "shuffled": []}
    (nac,) = compare_arms(arms, diverged={"shuffled": [0, 1, 2]})
    assert (nac.arm_b, nac.end.seeds, nac.num_comparisons) == ("nac", (0, 1, 2), 1)


def test_one_arm_is_no_comparison(folders: dict[str, list[Path]]) -> None:
    with pytest.raises(ConfigurationError, match="two arms or more are compared, got nac"):
        compare_arms({"nac": folders["nac"]})
