import math
import warnings
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corollary_adora import AdoraConfig, adora_labels, adora_weights, difficulty_advantage, length_advantage
from corollary_adora.code_cases import LLM, VL, flat

RIGHT = torch.tensor([True, True, False, False])
LENGTHS = torch.tensor([2, 9, 4, 8])
ONE = torch.zeros(4, dtype=torch.long)


def by_definition(correct, lengths, group_ids, config):
    """Equations 5 to 8 in plain Python, one group at a time."""
    weights = []
    for group in group_ids:
        member = [row for row, other in enumerate(group_ids) if other == group]
        successes = [lengths[row] for row in member if correct[row]]
        limit = math.inf if config.max_length is None else config.max_length
        failures = [lengths[row] for row in member if not correct[row] and lengths[row] < limit]
        empty = -math.inf if config.empty_failure == "neg_inf" else math.inf
        mean = sum(failures) / len(failures) if failures else empty
        la = max(successes, default=-math.inf) > mean
        if config.no_success == "neutral" and not successes:
            la = True
        da = len(successes) / len(member) <= config.tau
        tas = {"length": la, "difficulty": da, "and": la and da, "or": la or da}[config.criteria]
        weights.append(config.w_tas if tas else config.w_tds)
    return weights


RULES = st.builds(
    AdoraConfig,
    w_tas=st.sampled_from([1.0, 2.0]),
    w_tds=st.sampled_from([0.0, 0.1, 1.0]),
    criteria=st.sampled_from(["length", "difficulty", "and", "or"]),
    tau=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    max_length=st.sampled_from([None, 3, 5]),
    empty_failure=st.sampled_from(["neg_inf", "pos_inf"]),
    no_success=st.sampled_from(["tds", "neutral"]),
)
BATCH = st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(-1, 2)), min_size=1, max_size=16)


@settings(deadline=None, max_examples=200)
@given(config=RULES, batch=BATCH)
def test_every_rule_is_the_definition(config, batch):
    correct, lengths, group_ids = map(list, zip(*batch, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = adora_weights(torch.tensor(correct), torch.tensor(lengths), torch.tensor(group_ids), config=config)
    expected = torch.tensor(by_definition(correct, lengths, group_ids, config), dtype=torch.float32)
    assert torch.equal(weights, expected)


@pytest.mark.parametrize(("preset", "cases"), [("llm_2025", LLM), ("vl", VL)])
def test_cases_of_the_released_code(preset, cases):
    config = getattr(AdoraConfig, preset)()
    for case in cases:
        batch = flat([case])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = adora_weights(batch.scores, batch.lengths, batch.group_ids, config=config)
        assert weights.tolist() == [case.weight] * len(case.scores), case.name


def test_the_two_codes_differ_exactly_on_empty_sets():
    different = {a.name for a, b in zip(LLM, VL, strict=True) if a.weight != b.weight}
    assert different == {
        "no success",
        "no success, all cut off",
        "all right",
        "right, and failures that were all cut off",
        "a single success",
        "a single failure",
        "a score of 1.01 is no success",
    }


def test_the_presets_are_those_of_the_specification():
    llm, vl, paper = AdoraConfig.llm_2025(), AdoraConfig.vl(), AdoraConfig.llm_2026()
    assert (llm.w_tas, llm.w_tds, llm.criteria, llm.correct_threshold, llm.max_length) == (1, 0.1, "length", 1.01, 4054)
    assert (llm.empty_failure, llm.no_success) == ("neg_inf", "tds")
    assert (vl.w_tas, vl.w_tds, vl.criteria, vl.correct_threshold, vl.max_length) == (1, 0.1, "length", 0.5, 4094)
    assert (vl.empty_failure, vl.no_success) == ("pos_inf", "neutral")
    assert (paper.w_tas, paper.w_tds, paper.criteria, paper.tau) == (2, 1, "and", 0.5)
    assert (paper.correct_threshold, paper.max_length) == (0.5, None)


@pytest.mark.parametrize(
    ("tau", "successes", "expected"), [(0.5, 2, True), (0.5, 3, False), (0.0, 0, True), (0.0, 1, False), (1.0, 4, True)]
)
def test_difficulty_counts_equality(tau, successes, expected):
    correct = torch.arange(4) < successes
    assert difficulty_advantage(correct, ONE, tau=tau).tolist() == [expected] * 4


def test_both_criteria_in_all_four_combinations():
    # Longer success with one of four right, shorter success with one of four, and the same with three of four.
    right = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]).bool().flatten()
    lengths = torch.tensor([[9, 5, 5, 5], [4, 5, 5, 5], [9, 1, 1, 5], [4, 4, 4, 5]]).flatten()
    group_ids = torch.arange(4).repeat_interleave(4)

    def labels(criteria):
        config = AdoraConfig(criteria=criteria, max_length=None)
        return adora_labels(right, lengths, group_ids, config=config)[::4].tolist()

    assert labels("length") == [True, False, True, False]
    assert labels("difficulty") == [True, True, False, False]
    assert labels("and") == [True, False, False, False]
    assert labels("or") == [True, True, True, False]


def test_rewards_and_booleans_give_the_same():
    config = AdoraConfig(correct_threshold=0.5)
    expected = adora_weights(RIGHT, LENGTHS, ONE, config=config)
    for dtype in (torch.float16, torch.float32, torch.int64):
        assert torch.equal(adora_weights(RIGHT.to(dtype), LENGTHS, ONE, config=config), expected)


def test_float64_rewards_give_float64_weights_without_gradient():
    rewards = RIGHT.double().requires_grad_()
    weights = adora_weights(rewards, LENGTHS + 20 * ~RIGHT, ONE, config=AdoraConfig(correct_threshold=0.5))
    assert (weights.dtype, weights.requires_grad) == (torch.float64, False)
    assert weights.tolist() == [0.1] * 4


def test_the_order_of_rows_and_the_names_of_groups_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    correct = torch.rand(40, generator=generator) < 0.5
    lengths = torch.randint(1, 9, (40,), generator=generator)
    group_ids = torch.arange(40) % 8
    order = torch.randperm(40, generator=generator)
    config = AdoraConfig.llm_2025()
    whole = adora_weights(correct, lengths, group_ids, config=config)
    shuffled = adora_weights(correct[order], lengths[order], 100 - 7 * group_ids[order], config=config)
    assert torch.equal(shuffled, whole[order])
    assert len(whole.unique()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_tas": -1.0}, "w_tas must be finite and at least 0, got -1.0"),
        ({"w_tds": math.inf}, "w_tds must be finite and at least 0, got inf"),
        ({"w_tds": math.nan}, "w_tds must be finite and at least 0, got nan"),
        ({"tau": 1.5}, r"tau must be in \[0, 1\], got 1.5"),
        ({"tau": -0.1}, r"tau must be in \[0, 1\], got -0.1"),
        ({"criteria": "both"}, r"criteria must be one of \('length', 'difficulty', 'and', 'or'\), got 'both'"),
        ({"empty_failure": "zero"}, "empty_failure must be one of"),
        ({"no_success": "tas"}, "no_success must be one of"),
        ({"max_length": 0}, "max_length must be at least 1, or None, got 0"),
        ({"generation_limit": 0}, "generation_limit must be at least 1, or None, got 0"),
        ({"correct_threshold": math.nan}, "correct_threshold must be a number, got nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdoraConfig(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": LENGTHS[:3]}, r"must all be \(B,\), got \(4,\), \(3,\) and \(4,\)"),
        ({"correct": RIGHT[:, None]}, r"must all be \(B,\), got \(4, 1\)"),
        ({"group_ids": ONE.float()}, "group_ids must be integers, got torch.float32"),
        ({"group_ids": ONE.bool()}, "group_ids must be integers, got torch.bool"),
        ({"lengths": LENGTHS - 2}, "lengths must be positive, got 0"),
        ({"correct": torch.tensor([1.0, math.nan, 0.0, 0.0])}, "rewards must be numbers, got nan"),
    ],
)
def test_bad_batches_are_refused(changes, message):
    batch = {"correct": RIGHT, "lengths": LENGTHS, "group_ids": ONE, **changes}
    with pytest.raises(ValueError, match=message):
        adora_weights(**batch, config=AdoraConfig())


def test_an_empty_batch_is_refused():
    nothing = torch.zeros(0, dtype=torch.long)
    with pytest.raises(ValueError, match="at least one response, got an empty batch"):
        adora_weights(nothing.bool(), nothing, nothing, config=AdoraConfig())


def test_a_group_of_one_warns():
    with pytest.warns(UserWarning, match=r"2 group\(s\) have a single response"):
        adora_weights(RIGHT, LENGTHS, torch.tensor([0, 1, 2, 2]), config=AdoraConfig())


def test_a_length_limit_that_no_response_can_reach_warns():
    with pytest.warns(UserWarning, match="max_length 3900 is never reached: responses end at 2048 tokens"):
        AdoraConfig(max_length=3900, generation_limit=2048)
    AdoraConfig(max_length=2048, generation_limit=2048)
    AdoraConfig(max_length=None, generation_limit=2048)


def test_extremes_and_means_on_every_small_group():
    """All groups of three with lengths 1 to 3 and a limit of 3."""
    for right in product([False, True], repeat=3):
        for lengths in product([1, 2, 3], repeat=3):
            la = length_advantage(
                torch.tensor(right), torch.tensor(lengths), torch.zeros(3, dtype=torch.long), max_length=3
            )
            config = AdoraConfig(w_tas=1.0, w_tds=0.0, max_length=3)
            expected = by_definition(right, lengths, [0, 0, 0], config)
            assert la.double().tolist() == expected


def test_rewards_of_zero_and_one_need_a_threshold_below_one():
    rewards, lengths = torch.tensor([1.0, 0.0]), torch.tensor([4, 5])
    groups = torch.tensor([0, 0])
    with pytest.raises(ValueError, match=r"rewards from 0 to 1 need a correct_threshold below 1, .* got 1.01"):
        adora_weights(rewards, lengths, groups, config=AdoraConfig.llm_2025())
    for scores in (torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0]), torch.tensor([0.0, 0.0])):  # not of that kind
        adora_weights(scores, lengths, groups, config=AdoraConfig.llm_2025())
