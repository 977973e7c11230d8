import pytest
import torch

from nacgen.system.randomness import generator, seeded


def test_a_seeded_block_draws_by_seed_and_purpose_and_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    draws = []
    for seed, purpose in ((0, "a"), (0, "a"), (0, "b"), (1, "a")):
        with seeded(seed, purpose):
            draws.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], torch.rand(3, generator=generator(0, "a")))
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_a_seeded_block_is_undone_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0, "a"):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seeded_block_does_not_touch_the_generators_of_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with seeded(0, "a"):
        pass
    assert seeds == []
    torch.manual_seed(0)  # which is how they would be
    assert seeds == [0]
