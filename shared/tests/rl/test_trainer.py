import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from corollary.models import SmallModel
from corollary.rl import (
    GRPO,
    METRICS,
    Algorithm,
    ClipHigher,
    GRPOConfig,
    RolloutRequest,
    TrainConfig,
    Trainer,
    TrainingError,
    algorithm_names,
    concatenate,
    make_algorithm,
    score,
)
from corollary.tasks import make_task

TASK = make_task("digit-sum")
MODEL = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48)
CONFIG = TrainConfig(steps=6, prompts_per_step=6, group_size=4, mini_batches=2, learning_rate=1e-2, checkpoint_every=2)


class EasyTask:
    """digit-sum's prompts, but every small first digit counts: an untrained policy gets rewards of both kinds."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def reward(self, prompt, completion):
        return float(completion[0] < 5)


def trainer(config=CONFIG, *, algorithm=None, seed=0, dtype=torch.float32, **options):
    torch.set_num_threads(1)
    model = MODEL.build(TASK.vocab_size, seed=0).to(dtype)
    return Trainer(model, EasyTask(), algorithm or GRPO(), config, seed=seed, **options)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def logged(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_the_policy_learns():
    run = trainer(replace(CONFIG, steps=25))
    rewards = [run.step()["reward/mean"] for _ in range(25)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.25


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    first, second, other = trainer(), trainer(), trainer(seed=1)
    for run in (first, second, other):
        run.train()
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_the_metrics_of_a_tiny_run_are_pinned():
    # If this changes, the meaning of the recipe "rlvr" has changed: raise RLVR.version.
    run = trainer(algorithm=ClipHigher(), dtype=torch.float64)
    for _ in range(3):
        metrics = run.step()
    assert metrics == pytest.approx(
        {
            "reward/mean": 0.5,
            "reward/mixed_groups": 1.0,
            "policy/entropy": 2.576176,
            "policy/log_prob": -2.571303,
            "completion/length": 4.875,
            "loss/kept": 1.0,
            "loss/policy": -0.0071546,
            "grad/norm": 1.046550,
            "clip/high": 2 / 117,
            "clip/low": 2 / 117,
            "clip/dual": 0.0,
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, stop_after):
    whole = trainer(directory=tmp_path / "whole")
    whole.train()

    class Stop(Exception):
        pass

    def stop(step, _):
        if step == stop_after:
            raise Stop

    with pytest.raises(Stop):
        trainer(directory=tmp_path / "parts", on_step=stop).train()
    resumed = trainer(directory=tmp_path / "parts")
    resumed.train()
    assert torch.equal(weights(resumed), weights(whole))
    assert (tmp_path / "parts/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


KILLED = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import test_trainer as t
def on_step(step, metrics):
    print(step, flush=True)
t.trainer(directory=Path({directory!r}), on_step=on_step).train()
"""


def test_a_run_killed_with_sigkill_resumes_to_the_same_bits(tmp_path):
    whole = trainer(directory=tmp_path / "whole")
    whole.train()
    code = KILLED.format(folder=str(Path(__file__).parent), directory=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while process.stdout.readline().strip() != "3":
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    resumed = trainer(directory=tmp_path / "killed")
    resumed.train()
    assert torch.equal(weights(resumed), weights(whole))
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_a_finished_run_does_nothing_more(tmp_path):
    trainer(directory=tmp_path).train()
    before = (tmp_path / "metrics.jsonl").read_text()
    trainer(directory=tmp_path, on_step=lambda *_: pytest.fail("trained on")).train()
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_broken_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"checkpoint.pt is not a readable checkpoint .* delete it"):
        trainer(directory=tmp_path).train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "made with seed 0, got seed 1"),
        ({"config": replace(CONFIG, learning_rate=2e-2)}, "made with training .*learning_rate=0.01.* got training "),
        ({"algorithm": ClipHigher()}, "made with algorithm GRPO.* got algorithm ClipHigher"),
        ({"algorithm": GRPO(GRPOConfig(clip_low=0.1))}, "made with algorithm GRPO"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    trainer(replace(CONFIG, steps=2), directory=tmp_path).train()
    with pytest.raises(ValueError, match=message):
        trainer(**{"config": CONFIG, "directory": tmp_path, **change}).train()


def test_timings_are_kept_apart_from_the_metrics(tmp_path):
    trainer(directory=tmp_path).train()
    rows = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{f"time/{p}_s" for p in ("rollout", "reward", "score", "update")}] * 6
    assert not any(name.startswith("time/") for row in logged(tmp_path) for name in row)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "dr_grpo"])
@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_micro_batches_change_memory_and_not_the_result(aggregation, micro_batch_size):
    algorithm = GRPO(GRPOConfig(aggregation=aggregation))
    whole = trainer(dtype=torch.float64, algorithm=algorithm)
    parts = trainer(replace(CONFIG, micro_batch_size=micro_batch_size), dtype=torch.float64, algorithm=algorithm)
    for _ in range(2):
        a, b = whole.step(), parts.step()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-12)
    assert a == pytest.approx(b)


class Strongest(Algorithm):
    """The tokens whose log-probability moved most, by the mini-batch's own maximum, weigh least."""

    metrics = {"strongest/shift": "Largest change of a log-probability in a mini-batch."}

    def prepare_mini_batch(self, batch, stats):
        assert not stats.log_prob.requires_grad
        shift = (stats.log_prob - batch.old_log_probs).abs() * batch.mask
        weight = 1 - shift / (shift.max() + 1e-3)
        return replace(
            batch,
            per_token={"weight": weight},
            mask=batch.mask & (shift < 0.9 * shift.max() + 1e-3),
            metrics={"strongest/shift": shift.max().item()},
        )

    def token_loss(self, batch, stats):
        return batch.per_token["weight"] * super().token_loss(batch, stats)


@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_what_is_relative_to_a_mini_batch_does_not_depend_on_micro_batches(micro_batch_size):
    whole = trainer(dtype=torch.float64, algorithm=Strongest())
    parts = trainer(replace(CONFIG, micro_batch_size=micro_batch_size), dtype=torch.float64, algorithm=Strongest())
    plain = trainer(dtype=torch.float64)
    for _ in range(2):
        a, b, _ = whole.step(), parts.step(), plain.step()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-12)
    assert a == pytest.approx(b)
    assert a["strongest/shift"] > 0
    assert (weights(plain) - weights(whole)).abs().max() > 1e-4


def test_a_mini_batch_shows_the_policy_as_it_is_now():
    seen = []

    class Watching(Algorithm):
        def prepare_mini_batch(self, batch, stats):
            seen.append(float(((stats.log_prob - batch.old_log_probs) * batch.mask).abs().max()))
            return batch

    watched, plain = trainer(algorithm=Watching()), trainer()
    watched.step(), plain.step()
    assert seen[0] == 0 < seen[1]
    assert torch.equal(weights(watched), weights(plain)), "looking changes nothing"


class FirstHalfOnly(Algorithm):
    """The second half of the rows has no advantage."""

    def prepare(self, batch):
        half = torch.arange(len(batch)) < len(batch) // 2
        return replace(batch, advantages=batch.advantages * half[:, None], in_order=True)

    def prepare_mini_batch(self, batch, stats):
        return replace(batch, metrics={"seen": float((batch.advantages != 0).any())})


def test_a_batch_in_order_is_not_shuffled():
    run = trainer(replace(CONFIG, epochs=2), algorithm=FirstHalfOnly())
    metrics = run.step()
    assert metrics["seen"] == 0.5, "of both mini-batches, in both epochs, the first alone learns"


def test_an_object_may_ask_for_statistics_of_its_own():
    asking = GRPO()
    asking.behaviour_stats = asking.behaviour_stats | {"sum_p2"}
    for algorithm, present in ((asking, True), (GRPO(), False)):
        run = trainer(algorithm=algorithm)
        behaviour = run._batch(run._next_prompts(), 1.0).behaviour
        assert (behaviour.sum_p2 is not None) == present


def test_one_on_policy_step_is_the_policy_gradient():
    # SGD in place of AdamW; before the first update the ratio is 1, so the gradient is that of -mean(A log p).
    run = trainer(replace(CONFIG, mini_batches=1, max_grad_norm=1e9), dtype=torch.float64)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    reference = trainer(replace(CONFIG, mini_batches=1), dtype=torch.float64)
    batch = reference._batch(reference._next_prompts(), 1.0)
    log_prob = score(reference.model, batch.rollouts).log_prob
    rewards = batch.rollouts.rewards.view(6, 4).double()
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)).view(-1, 1)
    mask = batch.rollouts.completion_mask
    (-(advantages * log_prob * mask).sum() / mask.sum()).backward()
    before = weights(run)
    run.step()
    gradient = torch.cat([p.grad.flatten() for p in reference.model.parameters()])
    assert gradient.norm() > 1e-3
    torch.testing.assert_close(before - weights(run), gradient, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_to_the_norm():
    run = trainer(replace(CONFIG, mini_batches=1, max_grad_norm=1e-3), dtype=torch.float64)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    before = weights(run)
    norm = run.step()["grad/norm"]
    assert norm > 1e-2
    assert (before - weights(run)).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_ratio_is_one_and_nothing_is_clipped_in_the_first_mini_batch():
    metrics = trainer(replace(CONFIG, mini_batches=1, learning_rate=1.0)).step()
    assert metrics["clip/high"] == metrics["clip/low"] == metrics["clip/dual"] == 0.0


def test_later_mini_batches_are_off_policy_and_clipped():
    metrics = trainer(replace(CONFIG, mini_batches=6, learning_rate=3e-2)).step()
    assert metrics["clip/high"] > 0
    assert metrics["clip/low"] > 0


def test_old_log_probs_are_scored_at_the_training_temperature():
    run = trainer(replace(CONFIG, temperature=0.5, score_temperature=1.0))
    batch = run._batch(run._next_prompts(), 0.5)
    at_one = score(run.model, batch.rollouts, temperature=1.0).log_prob
    torch.testing.assert_close(batch.behaviour.log_prob, at_one.detach())
    assert (batch.behaviour.log_prob - batch.rollouts.sampling_log_probs).abs().max() > 0.01


def test_prompts_pass_over_the_training_split_without_repetition():
    run = trainer(replace(CONFIG, prompts_per_step=11))
    seen = []
    for _ in range(3):
        seen += [prompt.answer for prompt in run._next_prompts()]
        run.steps_done += 1
    assert sorted(seen) == sorted(prompt.answer for prompt in TASK.prompts("train"))
    assert seen != sorted(seen)


class Poisoned(Algorithm):
    """GRPO whose loss turns NaN in step 3."""

    healthy = False
    step = 0

    def token_loss(self, batch, stats):
        poison = self.step == 3 and not self.healthy
        return super().token_loss(batch, stats) * (math.nan if poison else 1.0)

    def observe(self, metrics):
        self.step += 1


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"step 3: the loss is nan .* last good checkpoint is .*checkpoint.pt"):
        trainer(directory=tmp_path, algorithm=Poisoned()).train()
    assert len(logged(tmp_path)) == 3
    Poisoned.healthy = True
    whole, resumed = trainer(), trainer(directory=tmp_path, algorithm=Poisoned())
    whole.train()
    resumed.train()
    assert torch.equal(weights(resumed), weights(whole))
    Poisoned.healthy = False


def test_without_a_directory_the_error_says_that_nothing_was_kept():
    with pytest.raises(TrainingError, match="no checkpoint was written"):
        trainer(algorithm=Poisoned()).train()


class Hot(Algorithm):
    """Asks for hot rollouts of the first two prompts, and trains on them alone; counts its steps."""

    steps_seen = 0

    def extra_rollouts(self, step):
        return RolloutRequest(temperature=3.0, prompts=2)

    def prepare(self, batch):
        assert (batch.extra.rollouts.temperatures == 3.0).all()
        assert len(batch.extra) == 2 * 4
        assert torch.equal(batch.extra.rollouts.prompt_ids, batch.rollouts.prompt_ids[:8])
        return replace(batch.extra, metrics={"hot/steps": float(self.steps_seen)})

    def observe(self, metrics):
        self.steps_seen += 1

    def state_dict(self):
        return {"steps_seen": self.steps_seen}

    def load_state_dict(self, state):
        self.steps_seen = state["steps_seen"]


def test_an_algorithm_may_ask_for_more_rollouts_and_replace_the_batch():
    run = trainer(algorithm=Hot())
    batch = run._batch(run._next_prompts()[:2], 3.0)
    assert (batch.behaviour.log_prob - batch.rollouts.sampling_log_probs).abs().max() > 0.01  # scored at 1
    metrics = run.step()
    assert metrics["grad/norm"] > 0


class Mixing(Algorithm):
    """Replaces the first responses by hot ones with advantage 1."""

    seen = None

    def extra_rollouts(self, step):
        return RolloutRequest(temperature=3.0, prompts=2)

    def prepare(self, batch):
        chosen = batch.extra.rows(torch.arange(3))
        chosen = replace(chosen, advantages=chosen.mask.double())
        Mixing.seen = concatenate([chosen, batch.rows(torch.arange(3, len(batch)))])
        return Mixing.seen


def test_an_algorithm_may_mix_two_samples():
    metrics = trainer(algorithm=Mixing()).step()
    mixed = Mixing.seen
    assert len(mixed) == 24
    assert mixed.rollouts.temperatures.tolist() == [3.0] * 3 + [1.0] * 21
    assert mixed.rollouts.group_ids.tolist() == [6] * 3 + [0] + [g for g in range(1, 6) for _ in range(4)]
    assert metrics["grad/norm"] > 0


def test_more_prompts_than_the_step_has_are_refused():
    class Greedy(Hot):
        def extra_rollouts(self, step):
            return RolloutRequest(temperature=1.0, prompts=7)

    with pytest.raises(ValueError, match="a request must be for 1 to 6 prompts, got 7"):
        trainer(algorithm=Greedy()).step()


@pytest.mark.parametrize(
    ("fraction", "available", "prompts"),
    [
        (0.25, 512, 128),
        (0.25, 7, 1),
        (0.25, 3, 1),
        (0.25, 1, 1),
        (1.0, 6, 6),
        (0.3, 10, 3),
        (0.7, 10, 7),
        (0.29, 100, 29),
    ],
)
def test_a_share_of_the_prompts_is_whole_prompts_and_at_least_one(fraction, available, prompts):
    assert RolloutRequest(temperature=1.0, fraction=fraction).count(available) == prompts


def test_a_share_of_the_prompts_is_sampled_in_whole_groups():
    class Share(Hot):
        def extra_rollouts(self, step):
            return RolloutRequest(temperature=3.0, fraction=0.4)

    assert trainer(algorithm=Share()).step() == trainer(algorithm=Hot()).step()  # 0.4 of 6 prompts are 2


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"temperature": 1.0}, "give prompts or fraction, got prompts=None and fraction=None"),
        ({"temperature": 1.0, "prompts": 2, "fraction": 0.5}, "give prompts or fraction, got prompts=2 and fraction"),
        ({"temperature": 1.0, "fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"temperature": 1.0, "fraction": 1.5}, r"fraction must be in \(0, 1\], got 1.5"),
        ({"temperature": 0.0, "prompts": 1}, "temperature must be finite and larger than 0, got 0.0"),
        ({"temperature": math.inf, "prompts": 1}, "temperature must be finite and larger than 0, got inf"),
    ],
)
def test_bad_requests_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        RolloutRequest(**request_)


def test_a_request_for_no_prompts_is_refused():
    with pytest.raises(ValueError, match="a request must be for 1 to 6 prompts, got 0"):
        RolloutRequest(temperature=1.0, prompts=0).count(6)


def test_a_batch_smaller_than_the_mini_batches_still_trains():
    class One(Algorithm):
        def prepare(self, batch):
            return batch.rows(torch.arange(1))

    assert math.isfinite(trainer(replace(CONFIG, mini_batches=4), algorithm=One()).step()["loss/policy"])


def test_randomness_of_an_algorithm_is_part_of_the_run(tmp_path):
    class Random(Algorithm):
        def prepare(self, batch):
            kept = torch.rand(batch.mask.shape, generator=batch.generator) < 0.5
            return replace(batch, mask=batch.mask & kept)

    whole = trainer(algorithm=Random())
    whole.train()
    trainer(replace(CONFIG, steps=4), directory=tmp_path, algorithm=Random()).train()
    resumed = trainer(directory=tmp_path, algorithm=Random())
    resumed.train()
    assert torch.equal(weights(resumed), weights(whole))


def test_a_float_mask_of_zeros_and_ones_is_taken():
    class Float(Algorithm):
        def prepare(self, batch):
            return replace(batch, mask=batch.mask.float())

    assert trainer(algorithm=Float()).step() == trainer().step()


def test_weights_that_are_not_finite_are_a_training_error(tmp_path):
    trainer(replace(CONFIG, steps=2), directory=tmp_path).train()
    broken = trainer(directory=tmp_path)

    def poison(step, _):
        next(broken.model.parameters()).data[0, 0] = math.nan

    broken.on_step = poison
    with pytest.raises(TrainingError, match=r"step 3: the model's weights are not finite; .* last good checkpoint"):
        broken.train()


def test_bad_input_is_not_taken_for_a_broken_model():
    class Wrong(Algorithm):
        def prepare(self, batch):
            raise ValueError("a bug of the method")

    with pytest.raises(ValueError, match="a bug of the method"):
        trainer(algorithm=Wrong()).train()


def test_means_over_nothing_are_nan_and_null_in_the_file(tmp_path):
    class Rare(Algorithm):
        def update_metrics(self, batch, stats):
            return {"rare": (torch.tensor(0.0), torch.tensor(0))}

    assert math.isnan(trainer(algorithm=Rare()).step()["rare"])
    trainer(replace(CONFIG, steps=1), directory=tmp_path, algorithm=Rare()).train()
    assert logged(tmp_path)[0]["rare"] is None


def test_an_algorithms_own_state_is_part_of_the_checkpoint(tmp_path):
    trainer(replace(CONFIG, steps=2), directory=tmp_path, algorithm=Hot()).train()
    algorithm = Hot()
    trainer(replace(CONFIG, steps=4), directory=tmp_path, algorithm=algorithm).train()
    assert [row["hot/steps"] for row in logged(tmp_path)] == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="GRPO keeps no state"):
        GRPO().load_state_dict(algorithm.state_dict())


def test_a_mask_that_drops_everything_gives_a_loss_of_zero_and_no_nan():
    class Nothing(Algorithm):
        def prepare(self, batch):
            return replace(batch, mask=torch.zeros_like(batch.mask))

    run = trainer(replace(CONFIG, learning_rate=1e-3), algorithm=Nothing())
    metrics = run.step()
    assert metrics["loss/policy"] == metrics["grad/norm"] == metrics["loss/kept"] == 0.0


def test_the_glossary_is_what_is_logged():
    assert set(trainer().step()) == set(METRICS)


@dataclass(frozen=True, kw_only=True)
class OtherConfig(GRPOConfig):
    weight: float = 1.0


def test_algorithms_are_found_by_name():
    assert {"grpo", "clip-higher"} <= set(algorithm_names())
    assert make_algorithm("grpo", clip_low=0.1).config == GRPOConfig(clip_low=0.1)
    assert make_algorithm("clip-higher").config.clip_high == 0.28
    assert make_algorithm("clip-higher").config.clip_low == 0.2
    with pytest.raises(ValueError, match=r"unknown algorithm 'gpro'; installed: .*grpo"):
        make_algorithm("gpro")
    with pytest.raises(ValueError, match="grpo has no option 'cliplow'; it has: clip_low, "):
        make_algorithm("grpo", cliplow=0.1)
    with pytest.raises(TypeError, match="ClipHigher takes a ClipHigherConfig, got OtherConfig"):
        ClipHigher(OtherConfig())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1"),
        ("group_size", 0, "group_size must be at least 1"),
        ("mini_batches", 25, "mini_batches must be at most the batch's 24 completions, got 25"),
        ("micro_batch_size", 0, "micro_batch_size must be at least 1"),
        ("learning_rate", 0.0, "learning_rate must be finite and larger than 0"),
        ("temperature", -1.0, "temperature must be finite and larger than 0"),
        ("score_temperature", 0.0, "score_temperature must be finite and larger than 0, got 0.0"),
        ("top_p", 5.0, r"top_p must be in \(0, 1\], got 5.0"),
        ("betas", (2.0, 3.0), r"betas must be in \[0, 1\)"),
        ("weight_decay", -1.0, "weight_decay must be finite and at least 0"),
    ],
)
def test_bad_configurations_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("clip_high", -1.0, "clip_high must be at least 0, got -1.0"),
        ("dual_clip", 0.5, "dual_clip must be larger than 1"),
        ("aggregation", "mean", "aggregation must be one of"),
        ("advantage_scale", "std", "scale must be one of"),
        ("singleton", "skip", "singleton must be one of"),
    ],
)
def test_bad_options_of_grpo_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        GRPOConfig(**{field: value})
