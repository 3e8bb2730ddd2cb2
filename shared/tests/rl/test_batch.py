import pytest
import torch

from corollary.kernels import TokenStats
from corollary.rl import Batch, Rollouts, concatenate


def batch(rows, width, length, *, group, stats=("log_prob", "entropy"), per_token=("weight",)):
    """A batch of recognisable numbers."""
    generator = torch.Generator().manual_seed(group)
    completion_mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1), generator=generator)

    def numbers():
        return torch.rand(rows, length, generator=generator) * completion_mask

    return Batch(
        rollouts=Rollouts(
            prompt_ids=torch.randint(1, 9, (rows, width), generator=generator),
            prompt_mask=torch.ones(rows, width, dtype=torch.bool),
            completion_ids=torch.randint(1, 9, (rows, length), generator=generator),
            completion_mask=completion_mask,
            sampling_log_probs=numbers(),
            rewards=torch.rand(rows, generator=generator),
            group_ids=torch.full((rows,), group),
            temperatures=torch.full((rows,), float(group)),
        ),
        advantages=numbers(),
        behaviour=TokenStats(**{name: numbers() for name in stats}),
        mask=completion_mask,
        per_token={name: numbers() for name in per_token},
        metrics={"first": float(group)},
    )


def test_concatenation_pads_prompts_at_the_left_and_completions_at_the_right():
    short, long = batch(2, 3, 4, group=1), batch(3, 5, 6, group=2)
    joined = concatenate([short, long])
    assert len(joined) == 5
    rollouts = joined.rollouts
    assert torch.equal(rollouts.prompt_ids[:2, 2:], short.rollouts.prompt_ids)
    assert not rollouts.prompt_mask[:2, :2].any()
    assert torch.equal(rollouts.completion_ids[:2, :4], short.rollouts.completion_ids)
    assert not rollouts.completion_mask[:2, 4:].any()
    for pick in (
        lambda b: b.advantages,
        lambda b: b.behaviour.entropy,
        lambda b: b.old_log_probs,
        lambda b: b.per_token["weight"],
        lambda b: b.rollouts.sampling_log_probs,
    ):
        assert torch.equal(pick(joined)[:2, :4], pick(short))
        assert (pick(joined)[:2, 4:] == 0).all()
        assert torch.equal(pick(joined)[2:], pick(long))
    assert rollouts.group_ids.tolist() == [1, 1, 2, 2, 2]
    assert rollouts.temperatures.tolist() == [1, 1, 2, 2, 2]
    assert joined.behaviour.sum_p2 is None
    assert joined.metrics == {"first": 1.0}


def test_rows_of_a_concatenation_are_the_parts():
    parts = [batch(2, 3, 4, group=1), batch(3, 3, 4, group=2)]
    second = concatenate(parts).rows(torch.arange(2, 5))
    for name, value in vars(parts[1].rollouts).items():
        assert torch.equal(getattr(second.rollouts, name), value), name
    assert torch.equal(second.mask, parts[1].mask)
    assert second.metrics == {}


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \['log_prob', 'entropy'\] and \['log_prob'\]"):
        concatenate([batch(1, 2, 2, group=1), batch(1, 2, 2, group=2, stats=("log_prob",))])
    with pytest.raises(ValueError, match=r"\['weight'\] and \[\]"):
        concatenate([batch(1, 2, 2, group=1), batch(1, 2, 2, group=2, per_token=())])
    with pytest.raises(ValueError, match="at least one batch"):
        concatenate([])
