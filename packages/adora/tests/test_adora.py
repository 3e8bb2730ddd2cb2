import json
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch

from corollary.models import SmallModel
from corollary.rl import (
    GRPO,
    METRICS,
    Algorithm,
    GRPOConfig,
    Rollouts,
    TrainConfig,
    Trainer,
    group_advantages,
    make_algorithm,
)
from corollary.tasks import make_task
from corollary_adora import Adora, AdoraAlgorithmConfig, AdoraConfig, RandomAdora

TASK = make_task("parity")
CONFIG = TrainConfig(steps=3, prompts_per_step=8, group_size=4, mini_batches=2, learning_rate=1e-3)
PRESET = {"preset": "llm_2025", "correct_threshold": 0.5, "max_length": 16}
SCORES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0)
"""Four prompts: a length advantage, a disadvantage, all right, none right."""
SIZES = (9, 5, 5, 8, 3, 12, 4, 4, 2, 2)
MEMBERS = (0, 0, 0, 1, 1, 1, 2, 2, 3, 3)


class EasyTask:
    """Prompts of parity with a reward that an untrained policy sometimes gets, and no stop before the end."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def reward(self, prompt, completion):
        return float(sum(completion) % 3 == 0)


def rollouts_of(scores=SCORES, lengths=SIZES, members=MEMBERS, *, prompts=None, width=20, dtype=torch.float64):
    """Completions padded to ``width``, with the number of the group as the prompt."""
    size = len(scores)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return Rollouts(
        prompt_ids=torch.tensor(members if prompts is None else prompts)[:, None],
        prompt_mask=torch.ones(size, 1, dtype=torch.bool),
        completion_ids=torch.zeros(size, width, dtype=torch.long),
        completion_mask=mask,
        sampling_log_probs=torch.zeros(size, width),
        rewards=torch.tensor(scores, dtype=dtype),
        group_ids=torch.tensor(members),
        temperatures=torch.ones(size),
    )


def trainer(algorithm, config=CONFIG, seed=0, **options):
    torch.set_num_threads(1)
    model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(TASK.vocab_size, seed=0)
    return Trainer(model, EasyTask(), algorithm, config, seed=seed, **options)


def trained(algorithm, config=CONFIG):
    run = trainer(algorithm, config)
    metrics = [run.step() for _ in range(config.steps)]
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]), metrics


def logged(algorithm, rollouts):
    """What the algorithm logs of rollouts, without a trainer."""
    return algorithm._metrics(rollouts)


WEIGHTS = {
    "llm_2025": [1, 1, 1, 0.1, 0.1, 0.1, 1, 1, 0.1, 0.1],
    "vl": [1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 1, 1],
    "llm_2026": [2, 2, 2, 1, 1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("preset", sorted(WEIGHTS))
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_grpo_times_the_weight(preset, scale):
    options = {"correct_threshold": 0.5, "max_length": 16, "advantage_scale": scale, "advantage_eps": 1e-4}
    algorithm = make_algorithm("adora", preset=preset, **options)
    rollouts = rollouts_of()
    expected = group_advantages(rollouts.rewards, rollouts.group_ids, scale=scale, eps=1e-4)
    assert torch.equal(algorithm.advantages(rollouts), expected * torch.tensor(WEIGHTS[preset], dtype=torch.float64))


def test_any_estimator_can_be_weighted():
    def raw(rollouts):
        return rollouts.rewards - 0.25

    def per_token(rollouts):
        return rollouts.completion_mask.double() * rollouts.rewards[:, None]

    rollouts, weights = rollouts_of(), torch.tensor(WEIGHTS["vl"], dtype=torch.float64)
    config = AdoraAlgorithmConfig(preset="vl")
    assert torch.equal(Adora(config, estimator=raw).advantages(rollouts), raw(rollouts) * weights)
    assert torch.equal(Adora(config, estimator=per_token).advantages(rollouts), per_token(rollouts) * weights[:, None])


def test_another_algorithm_of_the_family_can_be_weighted():
    class Raw(Algorithm):
        def advantages(self, rollouts):
            return rollouts.rewards

    class AdoraRaw(Adora, Raw):
        pass

    rollouts = rollouts_of()
    weights = torch.tensor(WEIGHTS["vl"], dtype=torch.float64)
    assert torch.equal(AdoraRaw(AdoraAlgorithmConfig(preset="vl")).advantages(rollouts), rollouts.rewards * weights)


def test_a_weighting_of_ones_own_is_a_class_with_weights():
    class ByLength(Adora):
        def weights(self, rollouts):
            return rollouts.lengths / 10

    rollouts = rollouts_of()
    expected = group_advantages(rollouts.rewards, rollouts.group_ids) * (torch.tensor(SIZES) / 10).double()
    assert torch.equal(ByLength(AdoraAlgorithmConfig(**PRESET)).advantages(rollouts), expected)


def test_weights_of_the_algorithm_have_mean_one_if_normalised():
    rollouts = rollouts_of()
    plain = Adora(AdoraAlgorithmConfig(**PRESET))
    normal = Adora(AdoraAlgorithmConfig(**PRESET, normalise=True))
    assert normal.weights(rollouts).mean().item() == pytest.approx(1.0)
    ratio = normal.advantages(rollouts)[0] / plain.advantages(rollouts)[0]
    assert ratio.item() == pytest.approx(10 / 5.5)


def test_equal_weights_of_one_train_exactly_as_grpo():
    idle = make_algorithm("adora", **PRESET, w_tds=1.0)
    assert torch.equal(trained(idle)[0], trained(GRPO())[0])


def test_weights_train_differently_from_grpo_and_from_random_ones():
    base = trained(GRPO())[0]
    ours, metrics = trained(Adora(AdoraAlgorithmConfig(**PRESET, w_tds=0.0)))
    random, _ = trained(RandomAdora(AdoraAlgorithmConfig(**PRESET, w_tds=0.0)))
    assert 0 < metrics[0]["adora/tas"] < 1
    assert not torch.equal(ours, base)
    assert not torch.equal(random, base)
    assert not torch.equal(random, ours)


def test_random_weights_are_those_of_the_rule_on_other_groups_with_a_gradient():
    config = AdoraAlgorithmConfig(**PRESET)
    run = trainer(GRPO(), replace(CONFIG, prompts_per_step=32))
    plain = run._batch(run._next_prompts(), 1.0)
    rollouts = plain.rollouts
    ours = RandomAdora(config).prepare(plain)
    used = plain.advantages != 0
    dealt = torch.where(used, ours.advantages / torch.where(used, plain.advantages, 1.0), 0.0)
    rule = Adora(config).weights(rollouts)
    mixed = used.any(-1)
    per_group = [
        torch.stack([weights[(rollouts.group_ids == g) & mixed].max() for g in rollouts.group_ids[mixed].unique()])
        for weights in (dealt.amax(-1), rule)
    ]
    torch.testing.assert_close(per_group[0].sort().values, per_group[1].sort().values)
    assert not torch.allclose(per_group[0], per_group[1])
    assert len(per_group[1].unique()) == 2


def test_the_metrics_are_those_of_the_rollouts():
    values = logged(Adora(AdoraAlgorithmConfig(**{**PRESET, "max_length": 12})), rollouts_of())
    # Without the failure of 12 tokens, the second prompt still has one of 8, longer than its success.
    assert values["adora/tas"] == 2 / 4
    assert values["adora/weight"] == pytest.approx(5.5 / 10)
    assert values["adora/length_success"] == (9 + 3 + 4 + 4) / 4
    assert values["adora/length_failure"] == (5 + 5 + 8 + 2 + 2) / 5
    assert values["adora/overlong"] == 1 / 10
    assert values["adora/flips"] != values["adora/flips"]  # no prompt was seen before


def test_flips_are_counted_over_prompts_that_were_seen_before():
    algorithm = Adora(AdoraAlgorithmConfig(**PRESET))
    logged(algorithm, rollouts_of())
    assert logged(algorithm, rollouts_of())["adora/flips"] == 0.0
    longer = (4, *SIZES[1:])  # the first prompt's success is now shorter than its failures
    assert logged(algorithm, rollouts_of(lengths=longer))["adora/flips"] == 1 / 4
    moved = logged(algorithm, rollouts_of(prompts=(7, 7, 7, 1, 1, 1, 2, 2, 3, 3)))
    assert moved["adora/flips"] == 0.0  # the first prompt is another one, and the others are as they were
    assert logged(algorithm, rollouts_of())["adora/flips"] == 1 / 4  # the first is back, and longer again


def test_the_table_of_labels_is_part_of_the_state():
    first = Adora(AdoraAlgorithmConfig(**PRESET))
    logged(first, rollouts_of())
    second = Adora(AdoraAlgorithmConfig(**PRESET))
    second.load_state_dict(first.state_dict())
    logged(first, rollouts_of(lengths=(4, *SIZES[1:])))  # does not reach into the copy
    assert logged(second, rollouts_of())["adora/flips"] == 0.0


def test_a_resumed_run_logs_what_an_uninterrupted_one_does(tmp_path):
    few = replace(CONFIG, prompts_per_step=80, checkpoint_every=2, steps=6)

    def lines(name, *steps):
        for count in steps:
            trainer(
                RandomAdora(AdoraAlgorithmConfig(**PRESET)), replace(few, steps=count), directory=tmp_path / name
            ).train()
        return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    whole = lines("whole", 6)
    assert lines("parts", 4, 6) == whole
    flips = [row["adora/flips"] for row in whole]
    # A pass has 240 prompts: from the fourth step on all have been seen.
    assert flips[:3] == [None] * 3
    assert all(0 <= share <= 1 for share in flips[3:])


def test_an_algorithm_logs_its_glossary_and_no_more():
    for kind in (Adora, RandomAdora):
        assert set(trainer(kind(AdoraAlgorithmConfig(**PRESET))).step()) == set(METRICS) | set(kind.metrics)


def test_padding_is_no_length():
    narrow, wide = (Adora(AdoraAlgorithmConfig(**PRESET)).advantages(rollouts_of(width=w)) for w in (12, 40))
    assert torch.equal(narrow, wide)


def test_options_change_the_preset_and_nothing_else():
    config = AdoraAlgorithmConfig(preset="vl", w_tds=0.3, tau=0.25)
    assert config.rule == replace(AdoraConfig.vl(), w_tds=0.3, tau=0.25)
    assert AdoraAlgorithmConfig().rule == AdoraConfig.llm_2025()
    assert make_algorithm("adora", preset="llm_2026").rule == AdoraConfig.llm_2026()
    assert isinstance(make_algorithm("adora-random"), RandomAdora)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "llm_2027"}, r"preset must be one of \('llm_2025', 'vl', 'llm_2026'\), got 'llm_2027'"),
        ({"w_tds": -0.1}, "w_tds must be finite and at least 0, got -0.1"),
        ({"tau": 2.0}, r"tau must be in \[0, 1\], got 2.0"),
        ({"clip_low": 2.0}, r"clip_low must be in \[0, 1\), got 2.0"),
        ({"lambda": 0.1}, "adora has no option 'lambda'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm("adora", **options)


def test_the_script_of_the_repository_warns():
    with pytest.warns(UserWarning, match="max_length 3900 is never reached"):
        make_algorithm("adora", max_length=3900, generation_limit=2048)


def test_groups_of_one_warn_and_keep_their_score():
    rollouts = rollouts_of((3.0, -1.0), (5, 5), (0, 1))
    with pytest.warns(UserWarning, match="single response"):
        values = Adora(AdoraAlgorithmConfig(advantage_eps=0.0)).advantages(rollouts)
    assert values.tolist() == [3.0, -0.1]


def test_a_weight_does_not_touch_the_clip_or_the_aggregation():
    algorithm = make_algorithm("adora", clip_high=0.28, aggregation="dr_grpo")
    assert algorithm.token_loss.__func__ is Algorithm.token_loss
    assert (algorithm.config.clip_high, algorithm.config.aggregation) == (0.28, "dr_grpo")


def test_estimators_may_be_built_from_the_core():
    estimator = partial(GRPO.advantages, GRPO(GRPOConfig(advantage_scale="none")))
    config = AdoraAlgorithmConfig(**PRESET, advantage_scale="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = Adora(AdoraAlgorithmConfig(**PRESET), estimator=estimator).advantages(rollouts_of())
    assert torch.equal(ours, Adora(config).advantages(rollouts_of()))
