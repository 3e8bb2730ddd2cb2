import math

import pytest
import torch

from corollary_aepo import select_reinforce

ADVANTAGES = torch.tensor([0.9, -0.9, 0.05, 0.0, 0.06, 1.5])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
MASK = torch.ones(6, 3)


def rows(*args, **options):
    return select_reinforce(*args, **options).tolist()


def test_the_released_rule_takes_advantages_above_the_threshold_in_order():
    assert rows(ADVANTAGES, MASK, 60) == [0, 4, 5]


def test_the_formula_takes_every_rewarded_response():
    """Row 3 stands for an all-correct group: reward 1, advantage 0."""
    assert rows(ADVANTAGES, MASK, 60, select="reward", rewards=REWARDS) == [0, 3, 4, 5]


def test_the_cap_keeps_the_first():
    assert rows(ADVANTAGES, MASK, 2) == [0, 4]
    assert rows(ADVANTAGES, MASK, 0) == []


@pytest.mark.parametrize(
    ("entropy", "most", "expected"),
    [(0.6, 60, [0]), (0.5, 60, [0, 4, 5]), (0.4, 60, [0, 4, 5]), (0.6, 2, [0]), (0.6, 1, [])],
)
def test_cooling_halves_what_is_left_after_the_cap(entropy, most, expected):
    assert rows(ADVANTAGES, MASK, most, entropy=entropy, target=0.5) == expected


def test_halving_can_be_switched_off():
    """The released code before 2025-11-08."""
    assert rows(ADVANTAGES, MASK, 60, entropy=9.0, target=0.5, halve_when_cooling=False) == [0, 4, 5]


def test_advantages_of_tokens_are_those_of_the_first_valid_one():
    tokens = ADVANTAGES[:, None] * torch.tensor([0.0, 1.0, 1.0])
    mask = torch.tensor([0.0, 1.0, 1.0]).expand(6, 3)
    assert rows(tokens, mask, 60) == [0, 4, 5]


def test_a_response_without_tokens_is_never_chosen():
    mask = MASK.clone()
    mask[4] = 0
    assert rows(ADVANTAGES, mask, 60) == [0, 5]
    assert rows(ADVANTAGES, mask, 60, select="reward", rewards=REWARDS) == [0, 3, 5]


def test_nothing_correct_is_an_empty_choice():
    chosen = select_reinforce(-torch.ones(3), torch.ones(3, 2), 60)
    assert (chosen.shape, chosen.dtype) == ((0,), torch.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"advantages": torch.ones(5)},
            r"mask must be \(B, T\) and advantages \(B,\) or \(B, T\), got \(6, 3\) and \(5,",
        ),
        ({"advantages": torch.full((6,), math.nan)}, "advantages must be finite, got nan"),
        ({"max_num": -1}, "max_num must be at least 0, got -1"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\), got 1.0"),
        ({"threshold": -0.1}, r"threshold must be in \[0, 1\), got -0.1"),
        ({"select": "luck"}, r"select must be one of \('advantage', 'reward'\), got 'luck'"),
        ({"select": "reward"}, "select='reward' needs rewards, got None"),
        ({"select": "reward", "rewards": torch.ones(5)}, r"rewards must be \(B,\) = \(6,\), got \(5,\)"),
        ({"select": "reward", "rewards": torch.full((6,), math.inf)}, "rewards must be finite"),
        ({"entropy": 1.0}, "give both entropy and target, or none, got 1.0 and None"),
        ({"mask": torch.full((6, 3), 0.5)}, "mask must hold only 0 and 1, got 0.5"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"advantages": ADVANTAGES, "mask": MASK, "max_num": 60, **change}
    with pytest.raises(ValueError, match=message):
        select_reinforce(**arguments)
