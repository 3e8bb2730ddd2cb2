"""Measurements of the scaled claims on run folders written by hand, where the right answer is known."""

import json
import math
from statistics import correlation, fmean

import numpy as np
import pytest

from corollary.papers import Budget, Level, Measurement, Verdict
from corollary.reproduce.measuring import Provenance, judge, measure_seed
from corollary.rl import held_out
from corollary.rl.results import WINDOW
from corollary_entropy_dynamics import scaled
from corollary_entropy_dynamics.claims import PAPER, REWARD_MARGIN
from corollary_entropy_dynamics.experiments import CLIP_B_DOSES, SIGNS

SCALED = {claim.id: claim for claim in PAPER.claims if claim.level is Level.SCALED}


def write_run(folder, *, metrics=None, evaluation=None, tokens=None):
    """A run's folder. ``metrics`` has a list for each column; a number stands for the same in all steps."""
    folder.mkdir(parents=True, exist_ok=True)
    if metrics is not None:
        steps = max(len(values) for values in metrics.values() if np.iterable(values))
        columns = {name: list(v) if np.iterable(v) else [v] * steps for name, v in metrics.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps({name: list(v) for name, v in evaluation.items()}))
    if tokens is not None:
        (folder / "tokens.json").write_text(json.dumps(tokens))
    return folder


def measurement(**runs):
    return Measurement(seed=0, budget=Budget.FULL, runs=runs)


class TestNetworkPrediction:
    TOKENS = ((1.0, 0.1), (-1.0, -0.1), (2.0, 0.2), (-2.0, 0.3), (0.5, 0.01))

    def measure(self, tmp_path, entropy, predicted):
        tokens = [{"position": 0, "predicted": p, "measured": m} for p, m in self.TOKENS]
        steps = write_run(tmp_path / "steps", tokens=tokens)
        metrics = {"policy/entropy": entropy, "predicted/entropy_change": predicted}
        return scaled.network_prediction(measurement(steps=steps, grpo=write_run(tmp_path / "grpo", metrics=metrics)))

    def test_single_tokens(self, tmp_path):
        values = self.measure(tmp_path, [2.0, 1.9], [-1.0, -1.0])
        assert values["correlation"] == pytest.approx(correlation(*zip(*self.TOKENS, strict=True)))
        assert values["sign_agreement"] == pytest.approx(4 / 5)

    def test_a_steps_prediction_is_compared_with_the_change_to_the_next_step(self, tmp_path):
        # The changes are -0.1, -0.05, -0.25; what the last step predicts happens after the log has ended.
        values = self.measure(tmp_path, [2.0, 1.9, 1.85, 1.6], [-1.0, -0.5, -2.5, 99.0])
        assert values["training_correlation"] == pytest.approx(1.0)

    def test_two_steps_have_one_change_and_no_correlation(self, tmp_path):
        assert math.isnan(self.measure(tmp_path, [2.0, 1.9], [-1.0, -1.0])["training_correlation"])


def token_values(seed, *, offset=0.0, sizes=(4000, 7000, 5000), spread=0.02):
    """D and S of single tokens, a pair for each step; the steps differ in size, mean and spread."""
    rng = np.random.default_rng(seed)
    return [
        (offset + spread * (k + 1) * rng.standard_normal(n), 0.05 + 0.01 * k + 0.1 * rng.standard_normal(n))
        for k, n in enumerate(sizes)
    ]


def write_deviations(folder, steps):
    d, s = zip(*steps, strict=True)
    metrics = {
        "batch/tokens": [float(x.size) for x in d],
        "deviation/mean": [x.mean() for x in d],
        "deviation/std": [x.std() for x in d],
        "discriminator/mean": [x.mean() for x in s],
    }
    return write_run(folder, metrics=metrics)


class TestOnPolicyMean:
    def test_pooled_moments_are_those_of_all_tokens(self, tmp_path):
        steps = token_values(0, offset=-0.01)
        steps[1] = (steps[1][0] + 0.5, steps[1][1])
        d, s = (np.concatenate(x) for x in zip(*steps, strict=True))
        values = scaled.deviation_of_run(write_deviations(tmp_path, steps))
        assert values["deviation"] == pytest.approx(d.mean(), rel=1e-9)
        assert values["discriminator"] == pytest.approx(s.mean(), rel=1e-9)
        assert values["z"] == pytest.approx(d.mean() / (d.std() / math.sqrt(d.size)), rel=1e-9)
        # Neither the mean over steps nor the mean spread of steps would do.
        assert values["deviation"] != pytest.approx(fmean(x.mean() for x, _ in steps), rel=1e-2)
        assert d.std() != pytest.approx(fmean(x.std() for x, _ in steps), rel=1e-1)

    def test_the_run_counts_by_size_and_the_control_by_sign(self, tmp_path):
        run = write_deviations(tmp_path / "grpo", token_values(1, offset=-0.01))
        control = write_deviations(tmp_path / "control", token_values(2, offset=-0.01))
        values = scaled.on_policy_mean(measurement(grpo=run, control=control))
        pooled = scaled.deviation_of_run(run)
        assert pooled["z"] < 0
        assert values["z"] == pytest.approx(-pooled["z"])
        assert values["share_of_discriminator"] == pytest.approx(-pooled["deviation"] / pooled["discriminator"])
        assert values["control_z"] == pytest.approx(scaled.deviation_of_run(control)["z"])
        assert values["control_z"] < 0


def test_masking_is_the_end_minus_the_first_value(tmp_path):
    entropy = np.linspace(1.0, 2.0, 12)
    runs = {
        name: write_run(tmp_path / str(k), metrics={"policy/entropy": k + (-1) ** k * entropy})
        for k, name in enumerate(SIGNS)
    }
    change = entropy[-4:].mean() - 1.0
    assert scaled.masking(measurement(**runs)) == pytest.approx(
        {name: (-1) ** k * change for k, name in enumerate(SIGNS)}
    )


CLIPPED = {
    "batch/tokens": [100.0, 200.0, 300.0],
    "clip/high": [0.1, 0.0, 0.2],
    "clip/low": [0.1, 0.0, 0.05],
    "clip/dual": [0.0, 0.0, 0.05],
    "clip_high/old_prob": [0.1, None, 0.3],
    "clip_high/negative_deviation": [1.0, None, 0.5],
    "unclipped/old_prob": [0.5, 0.6, 0.7],
}


class TestUpperClip:
    def measure(self, tmp_path, **changes):
        return scaled.upper_clip(measurement(grpo=write_run(tmp_path, metrics={**CLIPPED, **changes})))

    @pytest.mark.parametrize("nothing", [None, 0.0, 0.9])
    def test_steps_count_by_their_clipped_and_by_their_free_tokens(self, tmp_path, nothing):
        # 10, 0 and 60 tokens are clipped; 80, 200 and 210 are free.
        values = self.measure(
            tmp_path,
            **{
                "clip_high/old_prob": [0.1, nothing, 0.3],
                "clip_high/negative_deviation": [1.0, nothing, 0.5],
            },
        )
        old = (10 * 0.1 + 60 * 0.3) / 70
        assert values == pytest.approx(
            {
                "probability_gap": (80 * 0.5 + 200 * 0.6 + 210 * 0.7) / 490 - old,
                "negative_deviation": (10 * 1.0 + 60 * 0.5) / 70,
                "share": 70 / 600,
                "old_probability": old,
            }
        )

    def test_a_step_that_is_clipped_throughout_has_no_free_tokens(self, tmp_path):
        values = self.measure(
            tmp_path,
            **{
                "clip/high": [0.1, 0.0, 1.0],
                "clip/low": [0.1, 0.0, 0.0],
                "clip/dual": 0.0,
                "unclipped/old_prob": [0.5, 0.6, None],
            },
        )
        old = (10 * 0.1 + 300 * 0.3) / 310
        assert values["probability_gap"] == pytest.approx((80 * 0.5 + 200 * 0.6) / 280 - old)

    @pytest.mark.parametrize("nothing", [None, 0.0])
    def test_where_nothing_is_clipped_only_the_share_is_a_number(self, tmp_path, nothing):
        unclipped = {"clip/high": 0.0, "clip_high/old_prob": nothing, "clip_high/negative_deviation": nothing}
        run = write_run(tmp_path, metrics={**CLIPPED, **unclipped})
        values = measure_seed(SCALED["C7"], measurement(grpo=run)).values
        assert {name for name, value in values.items() if not math.isnan(value)} == {"share"}
        assert values["share"] == 0.0


def correct_answers(seed, *, better):
    """An evaluation: the better policy is right more often, in more ways, and less often nearly never."""
    rng = np.random.default_rng([seed, 7])
    many, few = rng.integers(20, 52, size=12), rng.integers(0, 6, size=12)
    exception = rng.random(12) < 0.2
    correct = np.where(exception != better, many, few)
    distinct = np.ceil(correct / 2).astype(int)
    return {"answer": range(12), "samples": [64] * 12, "correct": correct.tolist(), "distinct": distinct.tolist()}


def arm(folder, seed, *, entropy, reward=0.6, dropped=0.02, better=False):
    """A training run of 60 steps whose entropy falls from 1.5 and whose reward rises from 0.1."""
    rng = np.random.default_rng([seed, 3])
    metrics = {
        "policy/entropy": np.linspace(1.5, entropy, 60) + 0.01 * rng.standard_normal(60),
        "reward/mean": np.linspace(0.1, reward, 60) + 0.002 * rng.standard_normal(60),
        "frac_clipped": dropped,
    }
    return write_run(folder, metrics=metrics, evaluation=correct_answers(seed, better=better))


METHODS = ("grpo", "clip-higher", "clip-b", "clip-v")


def methods(folder, seed, swapped, **of_the_masks):
    """Both masks keep more entropy and answer better; swapped, plain GRPO does."""
    return {
        name: arm(
            folder / name,
            [seed, k],
            better=(name in ("clip-b", "clip-v")) != swapped,
            entropy=1.0 if (name in ("clip-b", "clip-v")) != swapped else 0.5,
            **(of_the_masks if name in ("clip-b", "clip-v") else {}),
        )
        for k, name in enumerate(METHODS)
    }


def doses(folder, seed, swapped):
    ends = sorted((0.4, 0.7, 1.0), reverse=not swapped)
    return {f"mu={mu}": arm(folder / str(mu), [seed, k], entropy=ends[k]) for k, mu in enumerate(CLIP_B_DOSES)}


def network(folder, seed, swapped):
    rng = np.random.default_rng(seed)
    predicted = rng.standard_normal(200)
    measured = (-1 if swapped else 1) * 1e-4 * (predicted + 0.5 * rng.standard_normal(200))
    tokens = [{"position": 0, "predicted": p, "measured": m} for p, m in zip(predicted, measured, strict=True)]
    training = {"policy/entropy": rng.random(20), "predicted/entropy_change": rng.random(20)}
    return {"steps": write_run(folder / "steps", tokens=tokens), "grpo": write_run(folder / "grpo", metrics=training)}


def deviations(folder, seed, swapped):
    run, control = ("control", "grpo") if swapped else ("grpo", "control")
    return {
        run: write_deviations(folder / run, token_values([seed, 0])),
        control: write_deviations(folder / control, token_values([seed, 1], offset=0.02)),
    }


def masking(folder, seed, swapped):
    rng = np.random.default_rng(seed)
    runs = {}
    for k, (name, (a, d)) in enumerate(SIGNS.items()):
        change = -a * d * (-0.5 if swapped else 0.5)
        entropy = np.linspace(1.5, 1.5 + change, 20) + 0.02 * rng.standard_normal(20)
        runs[name] = write_run(folder / str(k), metrics={"policy/entropy": entropy})
    return runs


def clipped(folder, seed, swapped):
    rng = np.random.default_rng(seed)
    held, free, negative = (0.7, 0.1, 0.1) if swapped else (0.1, 0.7, 0.9)
    metrics = {
        **CLIPPED,
        "clip_high/old_prob": [held + 0.02 * rng.random(), None, held],
        "clip_high/negative_deviation": [negative, None, negative + 0.02 * rng.random()],
        "unclipped/old_prob": [free, free, free + 0.02 * rng.random()],
    }
    return {"grpo": write_run(folder, metrics=metrics)}


PLANTED = {
    "C3-network": network,
    "C5": deviations,
    "C6": masking,
    "C7": clipped,
    "C8-entropy": methods,
    "C8-accuracy": methods,
    "C9-training": doses,
    "C10": methods,
}


def judged(tmp_path, identifier, make, **options):
    """The result of a claim whose runs ``make`` writes, as a reproduction at budget full computes it."""
    claim = SCALED[identifier]
    measured = {}
    for seed in claim.seeds_for(Budget.FULL):
        runs = make(tmp_path / f"seed-{seed}", seed, **options)
        assert set(runs) == set(claim.runs_for(Budget.FULL, seed))
        measured[seed] = measure_seed(claim, Measurement(seed=seed, budget=Budget.FULL, runs=runs))
        assert list(measured[seed].values) == [gate.quantity for gate in claim.gates]
    assert len({tuple(item.values.values()) for item in measured.values()}) > 1
    return judge(PAPER, claim, Budget.FULL, measured, {}, Provenance(commit=None, versions={}, machine={}))


def test_every_scaled_claim_is_planted_here():
    assert set(PLANTED) == set(SCALED)


@pytest.mark.parametrize("identifier", PLANTED)
def test_a_planted_effect_of_the_right_sign_is_reproduced(tmp_path, identifier):
    result = judged(tmp_path, identifier, PLANTED[identifier], swapped=False)
    assert result.verdict is Verdict.REPRODUCED
    assert all(math.isfinite(value) for finding in result.findings for value in finding.values)


SAME_BOTH_WAYS = {"clip-b: reward", "clip-v: reward", "clip-b: dropped", "clip-v: dropped"}
"""Gates of C8 that the planted runs fulfil whichever way round the arms are."""


@pytest.mark.parametrize("identifier", PLANTED)
def test_with_the_arms_swapped_every_directed_gate_is_red(tmp_path, identifier):
    result = judged(tmp_path, identifier, PLANTED[identifier], swapped=True)
    assert result.verdict is Verdict.NOT_REPRODUCED
    verdicts = {item.quantity: item.verdict for item in result.findings if item.verdict is not None}
    assert {verdict for name, verdict in verdicts.items() if name not in SAME_BOTH_WAYS} == {Verdict.NOT_REPRODUCED}


@pytest.mark.parametrize(
    ("options", "red"),
    [
        ({"reward": 0.6 - REWARD_MARGIN / 2}, set()),
        ({"reward": 0.6 - 3 * REWARD_MARGIN}, {"clip-b: reward", "clip-v: reward"}),
        ({"dropped": 0.0}, {"clip-b: dropped", "clip-v: dropped"}),
    ],
)
def test_entropy_that_costs_reward_or_comes_from_no_mask_does_not_count(tmp_path, options, red):
    result = judged(tmp_path, "C8-entropy", methods, swapped=False, **options)
    assert {item.quantity for item in result.findings if item.verdict is Verdict.NOT_REPRODUCED} == red


def test_collapse_compares_each_method_with_grpo(tmp_path):
    runs = {
        "grpo": arm(tmp_path / "grpo", 0, entropy=0.5, reward=0.6),
        "clip-higher": arm(tmp_path / "clip-higher", 0, entropy=0.8, reward=0.5),
        "clip-b": arm(tmp_path / "clip-b", 0, entropy=1.0, reward=0.6, dropped=[0.1, 0.2, 0.3] * 20),
        "clip-v": arm(tmp_path / "clip-v", 0, entropy=0.5, reward=0.7, dropped=0.05),
    }
    # The noise is the same in all arms. Over the last ten of 60 steps a line averages to 1 - 4.5 / 59 of its rise.
    end = 1 - 4.5 / 59
    values = scaled.collapse(measurement(**runs))
    at_equal_reward = {name for name in values if name.endswith("at equal reward")}
    assert {name: values[name] for name in values if name not in at_equal_reward} == pytest.approx(
        {
            "clip-b: entropy": 0.5 * end,
            "clip-b: reward": 0.0,
            "clip-b: dropped": 0.2,
            "clip-v: entropy": 0.0,
            "clip-v: reward": 0.1 * end,
            "clip-v: dropped": 0.05,
            "clip-higher: entropy": 0.3 * end,
            "clip-higher: reward": -0.1 * end,
        },
        abs=1e-12,
    )
    assert at_equal_reward == {f"{name}: entropy at equal reward" for name in ("clip-b", "clip-v")}
    assert values["clip-b: entropy at equal reward"] > 0.1
    assert values["clip-v: entropy at equal reward"] > 0.01  # the same entropy with more reward


def test_accuracy_and_the_middle_are_differences_to_grpo(tmp_path):
    runs = {name: arm(tmp_path / name, [0, k], entropy=1.0, better=k > 1) for k, name in enumerate(METHODS)}
    scores = {name: held_out(path) for name, path in runs.items()}
    values = scaled.accuracy(measurement(**runs))
    assert values.pop("grpo: avg") == scores["grpo"]["avg"]
    assert values == {
        f"{name}: {metric}": scores[name][metric] - scores["grpo"][metric]
        for name in METHODS[1:]
        for metric in ("avg", "pass", "distinct")
    }
    base = scores["grpo"]["middle"]
    assert 0 < base < scores["clip-b"]["middle"] < 1
    middle = scaled.pass_rate_middle(measurement(**runs))
    assert middle == {"middle": scores["clip-b"]["middle"] - base, "grpo": base}


def test_dose_is_the_difference_of_ends_from_the_smallest_mu(tmp_path):
    ends = dict(zip(CLIP_B_DOSES, (1.25, 1.0, 0.5), strict=True))
    runs = {
        f"mu={mu}": write_run(tmp_path / str(mu), metrics={"policy/entropy": [2.0] * 30 + [value] * WINDOW})
        for mu, value in ends.items()
    }
    assert scaled.dose(measurement(**runs)) == {
        "small_minus_middle": 0.25,
        "middle_minus_large": 0.5,
        **{f"mu={mu}": value for mu, value in ends.items()},
    }
