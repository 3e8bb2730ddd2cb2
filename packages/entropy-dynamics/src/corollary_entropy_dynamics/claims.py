"""The paper, and its claims as runnable objects.

Thresholds of the exact claims come from float64 arithmetic; those of the scaled claims are zero differences, chance
levels, or the sizes that the paper states. They were fixed, with tasks, step sizes and doses, from a pilot on seeds
from 1001, before any run on the seeds of `experiments.SEEDS`.
"""

from corollary.papers import Claim, Gate, Level, Paper
from corollary_entropy_dynamics import exact, scaled
from corollary_entropy_dynamics.experiments import (
    CLIP_B_DOSES,
    SEEDS,
    SIGNS,
    dose_runs,
    masking_runs,
    method_runs,
    network_runs,
    on_policy_and_control_runs,
    on_policy_runs,
)
from corollary_entropy_dynamics.plots import draw

ROUNDING = 1e-12

REWARD_MARGIN = 0.02
"""A difference of training reward that counts as no cost: less than the binomial standard error of one batch's mean
reward, 0.025 for 256 completions at reward 0.2."""

EXACT = (
    Claim(
        id="C1",
        statement="Moving one logit by eps changes the entropy by -eps S + O(eps^2), with S = p (H + log p).",
        source="Theorem 3.2",
        level=Level.EXACT,
        gates=(
            Gate("gradient_error", "largest error of dH/dz = -S against central differences", below=1e-8),
            Gate("order_error", "halving eps divides the residual by 4, off by", below=0.4),
        ),
        measure=exact.single_logit,
    ),
    Claim(
        id="C2",
        statement="S is positive exactly for tokens more probable than exp(-H); it sums to 0 over the vocabulary and "
        "is at least -exp(-1 - H).",
        source="Theorem 3.2 (sign); the sum and the bound are derived here",
        level=Level.EXACT,
        gates=(
            Gate("sign_violations", "tokens with the wrong sign", below=0),
            Gate("sum", "largest |sum of S|", below=ROUNDING),
            Gate("below_bound", "largest excess below the bound", below=ROUNDING),
        ),
        measure=exact.discriminator_facts,
    ),
    Claim(
        id="C3",
        statement="A policy-gradient step alpha (e_k - p) of the logits changes the entropy by "
        "-alpha (S_k - E_p[S]) + O(alpha^2).",
        source="Theorem 3.3",
        level=Level.EXACT,
        gates=(
            Gate("slope_error", "largest error of the slope against central differences", below=1e-8),
            Gate("relative_rms_0.01", "relative RMS error at alpha = 0.01", below=1e-2),
            Gate("order_error", "that error over the one at 0.001 is 10, off by", below=1.0),
            Gate("relative_rms_0.1", "relative RMS error at alpha = 0.1"),
            Gate("relative_rms_1", "relative RMS error at alpha = 1"),
            Gate("sign_agreement_0.1", "share of right signs at alpha = 0.1"),
            Gate("sign_agreement_1", "share of right signs at alpha = 1"),
        ),
        measure=exact.policy_gradient_step,
    ),
    Claim(
        id="C4",
        statement="The policy's own expectation of S_k - E_p[S] is zero at every state.",
        source="Corollary 3.4",
        level=Level.EXACT,
        gates=(Gate("expectation", "largest |expectation|", below=ROUNDING),),
        measure=exact.zero_mean,
    ),
    Claim(
        id="C9",
        statement="mu is a monotone dial: on a fixed batch a larger mu never drops more tokens.",
        source="Section 4, sweeps of mu",
        level=Level.EXACT,
        gates=(
            Gate("increase_b", "Clip_B: largest increase of the dropped share from one mu to the next", below=0),
            Gate("increase_v", "Clip_V: the same", below=0),
            Gate("span_b", "Clip_B: dropped share at mu = 0.25 minus at mu = 10", above=0.01),
            Gate("span_v", "Clip_V: the same", above=0.01),
        ),
        measure=exact.monotone_dose,
    ),
    Claim(
        id="C11",
        statement="Averaged over actions with centred advantages, the prediction is the covariance law: "
        "sum p A D = Cov_p(log p, p A).",
        source="Section 3, relation to the covariance view (arXiv:2505.22617)",
        level=Level.EXACT,
        gates=(Gate("error", "largest difference of the two sides", below=ROUNDING),),
        measure=exact.covariance_law,
    ),
)

SCALED = (
    Claim(
        id="C3-network",
        statement="In a network with shared weights the prediction still tells which updates lower the entropy.",
        source="Section 3 treats logits as free parameters; what is left of that in a transformer",
        level=Level.SCALED,
        gates=(
            Gate("correlation", "correlation of predicted and measured change, single-token SGD steps", above=0),
            Gate("sign_agreement", "share of right signs", above=0.5),
            Gate("training_correlation", "correlation over training steps with AdamW, whole batches"),
        ),
        measure=scaled.network_prediction,
        runs=network_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C5",
        statement="The on-policy batch mean of D = S - E_p[S] is zero, far below the mean of S.",
        source="Corollary 3.5 and the training curves",
        level=Level.SCALED,
        paper="|mean D| about 1000 times below mean S",
        gates=(
            Gate("z", "|mean of D| in standard errors, all tokens of a run", below=3),
            Gate("share_of_discriminator", "|mean of D| over mean of S", below=0.1),
            Gate("control_z", "control, sampled at temperature 0.7: mean of D in standard errors", above=3),
        ),
        measure=scaled.on_policy_mean,
        runs=on_policy_and_control_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C6",
        statement="Keeping only the gradients of one sign of A and one sign of D moves the entropy in the predicted "
        "direction, in all four cases.",
        source="Gradient-masking runs (paper: Qwen2.5-7B)",
        level=Level.SCALED,
        paper="four directions as predicted",
        gates=tuple(
            Gate(name, f"only {name}: change of entropy", unit="nats", **{"below" if a * d > 0 else "above": 0})
            for name, (a, d) in SIGNS.items()
        ),
        measure=scaled.masking,
        runs=masking_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C7",
        statement="Tokens that the upper clip holds back are improbable and have D < 0.",
        source="Histogram of clipped tokens",
        level=Level.SCALED,
        paper="clipped tokens have probability up to about 0.15",
        gates=(
            Gate("probability_gap", "mean old probability, unclipped minus clipped", above=0),
            Gate("negative_deviation", "share of clipped tokens with D < 0", above=0.5),
            Gate("old_probability", "mean old probability of clipped tokens"),
            Gate("share", "share of tokens that are clipped"),
        ),
        measure=scaled.upper_clip,
        runs=on_policy_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C8-entropy",
        statement="Clip_B and Clip_V slow the collapse of entropy at no cost in reward.",
        source="Main comparison with GRPO",
        level=Level.SCALED,
        gates=(
            Gate("clip-b: entropy", "Clip_B - GRPO: final entropy", above=0, unit="nats"),
            Gate("clip-v: entropy", "Clip_V - GRPO: final entropy", above=0, unit="nats"),
            Gate(
                "clip-b: entropy at equal reward",
                "Clip_B - GRPO: entropy at equal reward",
                above=0,
                unit="nats",
            ),
            Gate(
                "clip-v: entropy at equal reward",
                "Clip_V - GRPO: entropy at equal reward",
                above=0,
                unit="nats",
            ),
            Gate("clip-b: reward", "Clip_B - GRPO: final training reward", above=-REWARD_MARGIN),
            Gate("clip-v: reward", "Clip_V - GRPO: final training reward", above=-REWARD_MARGIN),
            Gate("clip-b: dropped", "Clip_B: share of tokens dropped", above=0),
            Gate("clip-v: dropped", "Clip_V: share of tokens dropped", above=0),
            Gate("clip-higher: entropy", "clip-higher - GRPO: final entropy", unit="nats"),
            Gate("clip-higher: reward", "clip-higher - GRPO: final training reward"),
        ),
        measure=scaled.collapse,
        runs=method_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C8-accuracy",
        statement="Clip_B and Clip_V improve held-out Avg@K and Pass@K, with more distinct correct answers.",
        source="Main table (AIME24, AIME25, DAPO500)",
        level=Level.SCALED,
        gates=(
            Gate("clip-b: avg", "Clip_B - GRPO: Avg@K", above=0),
            Gate("clip-b: pass", "Clip_B - GRPO: Pass@8", above=0),
            Gate("clip-b: distinct", "Clip_B - GRPO: distinct correct answers", above=0),
            Gate("clip-v: avg", "Clip_V - GRPO: Avg@K", above=0),
            Gate("clip-v: pass", "Clip_V - GRPO: Pass@8", above=0),
            Gate("clip-v: distinct", "Clip_V - GRPO: distinct correct answers", above=0),
            Gate("clip-higher: avg", "clip-higher - GRPO: Avg@K"),
            Gate("clip-higher: pass", "clip-higher - GRPO: Pass@8"),
            Gate("clip-higher: distinct", "clip-higher - GRPO: distinct correct answers"),
            Gate("grpo: avg", "GRPO: Avg@K"),
        ),
        measure=scaled.accuracy,
        runs=method_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C9-training",
        statement="A smaller mu of Clip_B ends with more entropy.",
        source="Section 4, sweeps of mu",
        level=Level.SCALED,
        gates=(
            Gate("small_minus_middle", "final entropy, mu 1 minus mu 1.75", above=0, unit="nats"),
            Gate("middle_minus_large", "final entropy, mu 1.75 minus mu 2.5", above=0, unit="nats"),
            *(Gate(f"mu={mu}", f"final entropy, mu {mu:g}", unit="nats") for mu in CLIP_B_DOSES),
        ),
        measure=scaled.dose,
        runs=dose_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C10",
        statement="Under Clip_B the pass rates of held-out prompts crowd less at none and all.",
        source="Histogram of pass rates",
        level=Level.SCALED,
        gates=(
            Gate("middle", "Clip_B - GRPO: share of held-out prompts with pass rate in (0.1, 0.9)", above=0),
            Gate("grpo", "GRPO: that share"),
        ),
        measure=scaled.pass_rate_middle,
        runs=method_runs,
        seeds=SEEDS,
    ),
)

_HARDWARE = "8 GPUs, DAPO-Math-17k, and the method inside verl or TRL"

AT_PAPER_LEVEL = (
    Claim(
        id="C8-AIME24",
        statement="Clip_B on Qwen2.5-7B-Instruct raises Avg@32 and Pass@32 on AIME24.",
        source="Main table",
        level=Level.PAPER,
        paper="Avg@32 16.88 -> 19.69, Pass@32 50.00 -> 56.67",
        needs=_HARDWARE,
    ),
    Claim(
        id="C8-AIME25",
        statement="Clip_V on Qwen2.5-7B-Instruct raises Pass@32 on AIME25.",
        source="Main table",
        level=Level.PAPER,
        paper="Pass@32 50.00 -> 56.67",
        needs=_HARDWARE,
    ),
    Claim(
        id="C8-DAPO500",
        statement="Clip_B and Clip_V on Qwen2.5-14B-Instruct raise Avg@8 on DAPO500.",
        source="Main table",
        level=Level.PAPER,
        paper="Avg@8 52.95 -> 60.35 (Clip_B), 61.92 (Clip_V)",
        needs=_HARDWARE,
    ),
)

PAPER = Paper(
    slug="entropy-dynamics",
    title="On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models",
    authors=(
        "Shumin Wang",
        "Yuexiang Xie",
        "Wenhao Zhang",
        "Yuchang Sun",
        "Yanxi Chen",
        "Yaliang Li",
        "Yanyong Zhang",
    ),
    arxiv="2602.03392",
    year=2026,
    url_code="https://github.com/agentscope-ai/Trinity-RFT/tree/main/examples/entropy",
    bibtex="""@article{wang2026entropydynamics,
  title   = {On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models},
  author  = {Wang, Shumin and Xie, Yuexiang and Zhang, Wenhao and Sun, Yuchang and Chen, Yanxi and Li, Yaliang and
             Zhang, Yanyong},
  journal = {arXiv preprint arXiv:2602.03392},
  year    = {2026}
}""",
    summary="One number per token, p (H + log p), says whether its update raises or lowers the entropy; two masks, "
    "Clip_B and Clip_V, drop its outliers from the GRPO loss to slow entropy collapse.",
    claims=(*EXACT, *SCALED, *AT_PAPER_LEVEL),
    plots=draw,
)
