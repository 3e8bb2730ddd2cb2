"""The paper, and its claims as runnable objects.

Thresholds of the exact claims come from float64 arithmetic; those of the scaled claims are zero differences or the
bands that the claims state. They were fixed, with step sizes and lengths, from a pilot on seeds from 1001, before any
run on the seeds of `experiments.SEEDS`.
"""

from itertools import pairwise

from corollary.papers import Claim, Gate, Level, Paper
from corollary_aepo import exact, scaled
from corollary_aepo.experiments import (
    ABLATIONS,
    COEFFICIENTS,
    CONTROLLED,
    DOSE_TARGET,
    MEMORY_TARGET,
    NETWORK_TARGETS,
    SEEDS,
    SHARE,
    SMALLER_SHARES,
    TABLE_TARGETS,
    ablation_runs,
    bonus_runs,
    collapse_runs,
    dose_runs,
    memory_runs,
    network_runs,
    released_runs,
    table_runs,
)
from corollary_aepo.plots import draw

ROUNDING = 1e-12

SAMPLER_ROUNDING = 1e-5
"""The sampler works in float32."""

LEVEL = 0.15
"""The mean entropy of the last quarter is this close to the target, relative to it."""

DRIFT = 0.1
"""It moves by less than this share of the target per 100 steps."""

COLLAPSED = 0.25
"""Share of the starting entropy below which a policy has collapsed."""


def control_gates(targets: tuple[float, ...]) -> tuple[Gate, ...]:
    """What it means to hold the entropy at each of several targets."""
    return (
        *(Gate(f"error {t:g}", f"H = {t:g}: relative error of the final entropy", below=LEVEL) for t in targets),
        *(Gate(f"drift {t:g}", f"H = {t:g}: drift per 100 steps, as a share of H", below=DRIFT) for t in targets),
        *(
            Gate(f"order {low:g}", f"final entropy at H = {high:g} minus at {low:g}", above=0, unit="nats")
            for low, high in pairwise(targets)
        ),
        *(Gate(f"end {t:g}", f"H = {t:g}: final entropy", unit="nats") for t in targets),
        Gate("grpo", "GRPO: final entropy", unit="nats"),
        Gate("reward", "lowest final training reward of these runs"),
        Gate("grpo reward", "GRPO: final training reward"),
        Gate("num_reinforce", "mean number of REINFORCE samples, of 256"),
    )


EXACT = (
    Claim(
        id="C7",
        statement="REINFORCE on rewarded samples at temperature T raises the entropy for T > 1, leaves it for T = 1 "
        "and lowers it for T < 1, to first order, if all samples are rewarded; one rewarded action: T does nothing.",
        source="The theorem of v5/v6 (its own wording was not readable); derived here",
        level=Level.EXACT,
        gates=(
            Gate("wrong_signs", "(p, T) pairs with the wrong sign, plain and natural gradient", below=0),
            Gate("neutral", "largest gradient or slope at T = 1", below=ROUNDING),
            Gate("slope_error", "largest error of the slope against central differences", below=1e-8),
            Gate("single_correct", "one rewarded action: slope at T = 1.2 minus at 0.8, largest", below=ROUNDING),
            *(
                Gate(f"ordered_{s:g}", f"{s:.0%} of 20 actions rewarded: share with slopes ordered by T")
                for s in exact.SHARES
            ),
            *(
                Gate(f"hot_lowers_{s:g}", f"{s:.0%} of 20 actions rewarded: share where T = 1.2 lowers the entropy")
                for s in exact.SHARES
            ),
        ),
        measure=exact.sign_proposition,
    ),
    Claim(
        id="C8",
        statement="A REINFORCE sample in the PPO loss has the gradient of -log pi at temperature 1; replacing m of B "
        "responses is GRPO plus alpha times REINFORCE; the Monte-Carlo entropy is biased on mixed batches only.",
        source="The gradient of the README, and the released code",
        level=Level.EXACT,
        gates=(
            Gate("reinforce_gradient", "(i) gradient against mean (p - e_a)", below=ROUNDING),
            Gate("replace_mode", "(ii) replace mode against (1 - w) (GRPO' + alpha REINFORCE)", below=ROUNDING),
            Gate("additive_mode", "(ii) additive mode against the formula, any lengths", below=ROUNDING),
            Gate("scored_at_1", "(iii) second sample's log-probabilities against T = 1", below=ROUNDING),
            Gate("sampled_at_t", "(iii) the sampler's own against T = 1.2", below=SAMPLER_ROUNDING),
            Gate("split_groups", "(iii) groups of the second sample that are split", below=0),
            Gate("shared_groups", "(iii) group ids that the two samples share", below=0),
            Gate("mc_bias", "(iv) Monte-Carlo minus analytic entropy, on-policy frequencies", below=ROUNDING),
            Gate("mc_hot", "(iv) the same with hot samples mixed in", above=0.01, unit="nats"),
            Gate("mc_cold", "(iv) the same with cold samples mixed in", below=-0.01, unit="nats"),
        ),
        measure=exact.gradient_identities,
    ),
    Claim(
        id="C10",
        statement="Temperatures, selection, halving and mixing follow the released code's rules step by step.",
        source="Released code after 2025-11-24",
        level=Level.EXACT,
        gates=(
            Gate("temperature", "scripted steps (of 60) with another temperature", below=0),
            Gate("rows", "with other rows", below=0),
            Gate("advantages", "with other advantages", below=0),
            Gate("heating", "steps that heated", above=1),
            Gate("cooling", "steps that cooled", above=1),
        ),
        measure=exact.released_rules,
    ),
)

SCALED = (
    Claim(
        id="C1",
        statement="Under GRPO the entropy falls steadily and collapses.",
        source="Motivation and Figure 1",
        level=Level.SCALED,
        gates=(
            Gate("left", "transformer: final entropy as a share of the first", below=COLLAPSED),
            Gate("rise", "largest rise between blocks of 25 steps", below=0.05, unit="nats"),
            Gate("start", "first entropy", unit="nats"),
            Gate("end", "final entropy", unit="nats"),
            Gate("reward", "final training reward"),
        ),
        measure=scaled.collapse,
        runs=collapse_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2",
        statement="AEPO holds the entropy at the chosen target, for any target (fully observed table, every correct "
        "sample selected, at most a quarter of the batch).",
        source="Figure 1 (five targets)",
        level=Level.SCALED,
        gates=control_gates(TABLE_TARGETS),
        measure=scaled.table_control,
        runs=table_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2-released",
        statement="The same with the released code's selection: advantage above 0.05, hence no all-correct group.",
        source="Figure 1, with the released code's rule",
        level=Level.SCALED,
        gates=control_gates(TABLE_TARGETS),
        measure=scaled.table_control,
        runs=released_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2-share",
        statement=f"A small share of REINFORCE samples controls the entropy (table, H = {DOSE_TARGET:g}).",
        source="The released script: 60 of 2560, the smallest number that controls",
        level=Level.SCALED,
        gates=(
            Gate(
                f"m={SMALLER_SHARES[0]:.3f}",
                f"at most {SMALLER_SHARES[0]:.1%} of the batch: relative error of the final entropy",
                below=LEVEL,
            ),
            *(Gate(f"m={s:.3f}", f"at most {s:.1%}: the same") for s in (*SMALLER_SHARES[1:], SHARE)),
        ),
        measure=scaled.share,
        runs=dose_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2-memory",
        statement="Negative control: where being right requires a low entropy, AEPO collapses as GRPO does "
        f"(table that remembers one digit, H = {MEMORY_TARGET:g}).",
        source="Derived here: AEPO cannot hold an entropy that the correct answers do not have",
        level=Level.SCALED,
        gates=(
            Gate("grpo: left", "GRPO: final entropy as a share of the first", below=COLLAPSED),
            Gate("released: left", "AEPO: the same", below=COLLAPSED),
            Gate("hotter: left", "AEPO, every correct sample, T = 3 and 0.5: the same"),
            Gate("grpo: reward", "GRPO: final training reward"),
            Gate("released: reward", "AEPO: the same"),
            Gate("hotter: reward", "AEPO, every correct sample, T = 3 and 0.5: the same"),
        ),
        measure=scaled.memory,
        runs=memory_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2-network",
        statement="AEPO holds the entropy of the transformer at the chosen target (every correct sample selected).",
        source="Figure 1 (five targets)",
        level=Level.SCALED,
        gates=control_gates(CONTROLLED),
        measure=scaled.network_control,
        runs=network_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C3",
        statement="At the best target AEPO costs no accuracy, and pass@64 is above GRPO's and not below the base's.",
        source="Main tables",
        level=Level.SCALED,
        gates=(
            Gate("accuracy", "AEPO - GRPO: held-out pass@1", above=-scaled.MATCHED),
            Gate("over grpo", "AEPO - GRPO: held-out pass@64", above=0),
            Gate("over base", "AEPO - base: held-out pass@64", above=-scaled.MATCHED),
            Gate("distinct", "AEPO - GRPO: distinct correct answers"),
            Gate("target", "the target with the highest training reward", unit="nats"),
            Gate("grpo", "GRPO: held-out pass@1"),
        ),
        measure=scaled.no_cost,
        runs=network_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C4",
        statement="Performance first rises and then falls with the target entropy.",
        source="v1 to v4, claim 2",
        level=Level.SCALED,
        gates=tuple(
            gate
            for metric in ("pass@1", "pass@64")
            for gate in (
                Gate(f"{metric}: over low", f"{metric}: mean of inner H minus H = {NETWORK_TARGETS[0]:g}", above=0),
                Gate(f"{metric}: over high", f"{metric}: the same minus H = {NETWORK_TARGETS[-1]:g}", above=0),
                *(Gate(f"{metric}: {t:g}", f"{metric} at H = {t:g}") for t in NETWORK_TARGETS),
            )
        ),
        measure=scaled.interior,
        runs=network_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C5",
        statement="AEPO explores beyond the base policy: pass@256 is not below the base's, where GRPO's is.",
        source="v5/v6: above the base model at pass@1024",
        level=Level.SCALED,
        gates=(
            Gate("aepo", "AEPO - base: held-out pass@256", above=-scaled.MATCHED),
            Gate("grpo", "GRPO - base: held-out pass@256", below=0),
            Gate("base", "base: held-out pass@256"),
        ),
        measure=scaled.exploration,
        runs=network_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C6",
        statement="No coefficient of an entropy bonus holds the entropy as well as AEPO does at matched accuracy.",
        source="Comparison with Entropy-Reg",
        level=Level.SCALED,
        gates=(
            *(
                Gate(
                    f"worse {t:g}",
                    f"H = {t:g}: least that a coefficient is worse, in relative error or in accuracy beyond 0.02",
                    above=0,
                )
                for t in CONTROLLED
            ),
            *(
                gate
                for name in (*(f"H={t:g}" for t in CONTROLLED), *(f"bonus {c:g}" for c in COEFFICIENTS))
                for gate in (
                    Gate(f"{name}: entropy", f"{name}: final entropy", unit="nats"),
                    Gate(f"{name}: reward", f"{name}: final training reward"),
                )
            ),
        ),
        measure=scaled.bonus,
        runs=bonus_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C9",
        statement="Without the temperature, without the selection of correct samples, or with group advantages in "
        "place of 1, the entropy follows the target less.",
        source="The ablations of section 6 (not readable); expected from the method",
        level=Level.SCALED,
        gates=(
            *(
                Gate(
                    f"without {part}",
                    f"span of final entropies, AEPO minus without {part}",
                    above=0,
                    unit="nats",
                )
                for part in ABLATIONS
            ),
            *(
                Gate(
                    f"span: {part}",
                    f"final entropy at H = {TABLE_TARGETS[-1]:g} minus at {TABLE_TARGETS[0]:g}, "
                    + ("AEPO" if part == "whole" else f"without {part}"),
                    unit="nats",
                )
                for part in ("whole", *ABLATIONS)
            ),
        ),
        measure=scaled.ablations,
        runs=ablation_runs,
        seeds=SEEDS,
    ),
)

_HARDWARE = "8 GPUs, DAPO-Math-17k, and the method inside verl (a trainer with a second rollout)"

AT_PAPER_LEVEL = (
    Claim(
        id="T1",
        statement="AEPO at H = 0.75 beats GRPO, Entropy-Reg and Entropy-Adv with Qwen2.5-Math-7B, on the average of "
        "AIME24, AMC, College Math, GSM8K, MATH, Minerva and Olympiad.",
        source="v1, table of the README",
        level=Level.PAPER,
        paper="base 37.66, GRPO 57.96, Entropy-Reg 57.39, Entropy-Adv 58.18, AEPO 61.36",
        needs=_HARDWARE,
    ),
    Claim(
        id="T2",
        statement="The same with Qwen2.5-Math-7B in the authors' later run (AIME24, AIME25 and AMC as Avg@32).",
        source="README of the follow-up DCPO (arXiv:2601.12730)",
        level=Level.PAPER,
        paper="average: base 32.56, GRPO 51.60, Entropy-Reg 51.10, Entropy-Adv 51.76, AEPO 53.87",
        needs=_HARDWARE,
    ),
    Claim(
        id="T3",
        statement="AEPO beats GRPO with Qwen2.5-7B.",
        source="README of the follow-up DCPO",
        level=Level.PAPER,
        paper="average: GRPO 47.70, AEPO 49.57",
        needs=_HARDWARE,
    ),
    Claim(
        id="T4",
        statement="AEPO beats GRPO, Entropy-Reg and Entropy-Adv with Qwen3-4B.",
        source="README of the follow-up DCPO",
        level=Level.PAPER,
        paper="average: base 34.33, GRPO 44.63, Entropy-Reg 44.48, Entropy-Adv 44.08, AEPO 45.31; pass@128 of AEPO and "
        "GRPO alike on AIME24, AIME25 and HMMT25: 83.3, 76.7, 66.7",
        needs=_HARDWARE,
    ),
)

PAPER = Paper(
    slug="aepo",
    title="Arbitrary Entropy Policy Optimization Breaks The Exploration Bottleneck of Reinforcement Learning",
    authors=(
        "Chen Wang",
        "Zhaochun Li",
        "Jionghao Bai",
        "Yuzhi Zhang",
        "Shisheng Cui",
        "Zhou Zhao",
        "Yue Wang",
    ),
    arxiv="2510.08141",
    year=2025,
    url_code="https://github.com/597358816/AEPO",
    bibtex="""@article{wang2025aepo,
  title   = {Arbitrary Entropy Policy Optimization Breaks The Exploration Bottleneck of Reinforcement Learning},
  author  = {Wang, Chen and Li, Zhaochun and Bai, Jionghao and Zhang, Yuzhi and Cui, Shisheng and Zhao, Zhou and
             Wang, Yue},
  journal = {arXiv preprint arXiv:2510.08141},
  year    = {2025}
}""",
    summary="A second sample at a temperature above or below 1, of which only correct answers are learned, steers the "
    "policy's entropy to a target in place of an entropy bonus.",
    claims=(*EXACT, *SCALED, *AT_PAPER_LEVEL),
    plots=draw,
)
