"""The paper, and its claims as runnable objects.

Thresholds of the exact claims come from float64 arithmetic; those of the scaled claims are zero differences. Task, step
sizes and lengths were fixed from a pilot on seed 1001, before any run on the seeds of `experiments.SEEDS`.
"""

from itertools import pairwise

from corollary.papers import Claim, Gate, Level, Paper
from corollary_steer import exact, scaled, tables
from corollary_steer.experiments import (
    DOSES,
    SEEDS,
    TABLE_SEEDS,
    baseline_runs,
    dose_name,
    dose_runs,
    extreme_runs,
    mapping_runs,
    method_runs,
    tail_runs,
)
from corollary_steer.plots import draw
from corollary_steer.published import AT_PAPER_LEVEL

ROUNDING = 1e-12

COMPARED = {
    "base": "its base (lambda_min 1)",
    "grpo": "GRPO (0.2, 0.2)",
    "clip-higher": "clip-higher",
    "entropy-bonus": "entropy bonus",
    "forking-tokens": "forking tokens",
    "entropy-advantage": "entropy-based advantage",
    "clip-cov": "Clip-Cov",
    "kl-cov": "KL-Cov",
}

EXACT = (
    Claim(
        id="C1",
        statement="The building blocks of the estimate: dH/dz_a = -p_a (log p_a + H), and with dz = (1 - p_a) e_a the "
        "entropy changes by -p_a (1 - p_a)(log p_a + H).",
        source="Eqs. 20 and 23, Theorem 1; the change of a whole softmax is derived here",
        level=Level.EXACT,
        gates=(
            Gate("gradient", "largest error of dH/dz_a against central differences", below=1e-8),
            Gate("assumption", "the same of the ratio form, with one logit moved as in Assumption 1", below=1e-8),
            Gate("softmax", "the same of the exact form, with a softmax's gradient step", below=1e-8),
            Gate("released", "the same of the released form times p, with one logit moved", below=1e-8),
        ),
        measure=exact.identities,
    ),
    Claim(
        id="C2",
        statement="Where Assumption 1 holds, the ratio form with the clip indicator is the entropy change of a GRPO "
        "step to first order.",
        source="Theorem 1 (Eq. 17); with the ratio in place of 1/p_old, see Deviations",
        level=Level.EXACT,
        gates=(
            Gate("order_error", "halving the step divides the residual by 4, off by", below=0.4),
            Gate("pearson_ratio", "correlation with the true change, 500 states", above=0.99),
            Gate("pearson_released", "the same of the released form"),
        ),
        measure=exact.first_order,
    ),
    Claim(
        id="C4",
        statement="Four quadrants: the sign of a token's entropy change is that of -A (log p + H).",
        source="Theorem 1; quadrant ablation",
        level=Level.EXACT,
        gates=(
            Gate("violations", "tokens with the wrong sign, Assumption 1", below=0),
            Gate("estimate_violations", "the same of the released and the ratio form", below=0),
            Gate("softmax_agreement", "share of right signs among drawn tokens, whole softmax"),
        ),
        measure=exact.quadrants,
    ),
    Claim(
        id="C5",
        statement="The estimate vanishes on uniform distributions and where the token is certain.",
        source="Theorem 1",
        level=Level.EXACT,
        gates=tuple(
            Gate(f"{case}_{form}", f"largest |Omega|, {case} distribution, {form} form", below=ROUNDING)
            for case in ("uniform", "certain")
            for form in exact.FORMS
        ),
        measure=exact.vanishing,
    ),
    Claim(
        id="C6",
        statement="Weights lie in [lambda_min, 1], fall with |Omega|, give the largest change exactly lambda_min, do "
        "not depend on the scale of the advantages, and carry no gradient.",
        source="Eq. 9 and the released code",
        level=Level.EXACT,
        gates=(
            Gate("below", "how far below lambda_min", below=ROUNDING),
            Gate("above", "how far above 1", below=0),
            Gate("argmax", "weight of the largest change minus lambda_min, absolute", below=1e-6),
            Gate("increase", "largest increase of the weight from one |Omega| to the next larger", below=0),
            Gate("scaling", "change when all advantages are multiplied", below=ROUNDING),
            Gate("closed_form", "error against Eq. 9 written out", below=ROUNDING),
            Gate("floor", "the same for changes below the floor", below=ROUNDING),
            Gate("padding", "largest weight on padding", below=0),
            Gate("gradient", "whether a gradient flows", below=0),
            Gate("parity_exponential", "error against a hand-worked case, exponential", below=ROUNDING),
            Gate("parity_linear", "error against a hand-worked case, linear [0.8, 1.2]", below=ROUNDING),
        ),
        measure=exact.weight_properties,
    ),
    Claim(
        id="C6-loss",
        statement="The weights multiply the clipped loss, whose normaliser stays the number of tokens; they use the "
        "old policy's entropy; and the mini-batch maximum does not depend on the split into micro-batches.",
        source="Released code; the mini-batch maximum is ours",
        level=Level.EXACT,
        gates=(
            Gate("loss", "error of the loss against sum(m w l) / sum(m) written out", below=ROUNDING),
            Gate("gradient", "error of its gradient", below=ROUNDING),
            Gate("old_entropy", "error of token losses when the trained policy's entropy differs", below=ROUNDING),
            Gate("split", "change of token losses when the mini-batch is split in four", below=ROUNDING),
            Gate("released_split", "the same with the released micro-batch maximum", above=0.01),
        ),
        measure=exact.weighted_loss,
    ),
    Claim(
        id="C12",
        statement="lambda_min = 1 is the base method, to the bit.",
        source="Eq. 9",
        level=Level.EXACT,
        gates=(
            Gate("loss", "largest difference of the loss", below=0),
            Gate("gradient", "largest difference of its gradient", below=0),
        ),
        measure=exact.no_damping,
    ),
)

SCALED = (
    Claim(
        id="C2-softmax",
        statement="In a softmax, where Assumption 1 fails, the exact form predicts one token's change best, then the "
        "ratio form, then the released one.",
        source="Derived here: Assumption 1 leaves the other logits of a state alone, a softmax does not",
        level=Level.SCALED,
        gates=(
            Gate("exact_minus_ratio", "correlation with the true change, exact minus ratio form", above=0),
            Gate("ratio_minus_released", "the same, ratio minus released form", above=0),
            Gate("exact", "correlation, exact form"),
            Gate("ratio", "correlation, ratio form"),
            Gate("released", "correlation, released form"),
            Gate("surprise", "correlation, -(log p + H)"),
        ),
        measure=tables.forms_in_a_softmax,
        seeds=TABLE_SEEDS,
    ),
    Claim(
        id="C3",
        statement="The estimate predicts entropy changes better than the covariance estimator.",
        source="Table 1 (MSE, Pearson, Spearman on three language models)",
        level=Level.SCALED,
        gates=(
            Gate("pearson_gain", "Pearson correlation, ratio form minus covariance", above=0),
            Gate("spearman_gain", "Spearman correlation, ratio form minus covariance", above=0),
            Gate("log_error_ratio", "log of the mean squared error, ratio form over covariance", below=0),
            *(
                Gate(f"pearson_{name}", f"Pearson correlation, {label}")
                for name, label in (
                    ("covariance", "covariance"),
                    ("released", "released form"),
                    ("ratio", "ratio form"),
                    ("exact", "exact form"),
                )
            ),
            Gate("error_covariance", "mean squared error, covariance", unit="nats^2"),
            Gate("error_released", "mean squared error, released form", unit="nats^2"),
            Gate("error_ratio", "mean squared error, ratio form", unit="nats^2"),
            Gate("error_exact", "mean squared error, exact form", unit="nats^2"),
        ),
        measure=tables.against_the_covariance,
        seeds=TABLE_SEEDS,
    ),
    Claim(
        id="C7",
        statement="STEER slows the fall of the entropy, the more the smaller lambda_min.",
        source="Entropy curves; the doses are ours",
        level=Level.SCALED,
        gates=(
            *(
                Gate(
                    f"{weak:g} minus {strong:g}",
                    f"drop of entropy, lambda_min {weak:g} minus {strong:g}",
                    above=0,
                    unit="nats",
                )
                for weak, strong in pairwise(DOSES)
            ),
            *(Gate(dose_name(dose), f"drop of entropy, lambda_min {dose:g}", unit="nats") for dose in DOSES),
            *(
                Gate(
                    f"roughness {dose:g}",
                    f"std of the entropy's change per step, lambda_min {dose:g} minus 1",
                    unit="nats",
                )
                for dose in DOSES[1:]
            ),
        ),
        measure=scaled.doses,
        runs=dose_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C7-reward",
        statement="At equal reward STEER has kept more entropy than the base method.",
        source="Entropy curves, compared where runs of different speed have learned the same",
        level=Level.SCALED,
        gates=(
            *(
                Gate(dose_name(dose), f"entropy at equal reward, lambda_min {dose:g} minus 1", above=0, unit="nats")
                for dose in DOSES[1:]
            ),
            *(Gate(f"reward {dose:g}", f"final training reward, lambda_min {dose:g} minus 1") for dose in DOSES[1:]),
        ),
        measure=scaled.at_equal_reward,
        runs=dose_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C8",
        statement="Extreme clipping (0.99, 5) destabilises the base method, and STEER stabilises it.",
        source="Table 6 and the curves of the extreme scenario",
        level=Level.SCALED,
        gates=(
            Gate("clip: roughness", "base, extreme - usual clip: std of the entropy's change", above=0, unit="nats"),
            Gate("clip: reward", "base, extreme - usual clip: final training reward", below=0),
            Gate("steer: roughness", "extreme clip, STEER - base: std of the entropy's change", below=0, unit="nats"),
            Gate("steer: divergence", "extreme clip, STEER - base: KL from the old policy", below=0, unit="nats"),
            Gate("steer: reward", "extreme clip, STEER - base: final training reward", above=0),
            Gate("clip: divergence", "base, extreme - usual clip: KL from the old policy", unit="nats"),
            Gate("steer: accuracy", "extreme clip, STEER - base: held-out Avg@64"),
            Gate("steer: entropy at equal reward", "extreme clip, STEER - base: entropy at equal reward", unit="nats"),
        ),
        measure=scaled.extreme,
        runs=extreme_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C9",
        statement="STEER's held-out accuracy is above that of GRPO and of every other entropy intervention.",
        source="Tables 3, 4 and 12",
        level=Level.SCALED,
        gates=(
            *(Gate(f"{name}: avg", f"STEER - {label}: Avg@64", above=0) for name, label in COMPARED.items()),
            *(
                Gate(f"{name}: distinct", f"STEER - {label}: distinct correct answers")
                for name, label in COMPARED.items()
            ),
            Gate("steer: avg", "STEER: Avg@64"),
            Gate("steer: distinct", "STEER: distinct correct answers"),
        ),
        measure=scaled.accuracy,
        runs=method_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C10",
        statement="The exponential mapping is at least as good as the linear one, and that as the binary one.",
        source="Table 11",
        level=Level.SCALED,
        gates=(
            Gate("exponential minus linear", "held-out Avg@64, exponential minus linear", above=0),
            Gate("linear minus binary", "held-out Avg@64, linear minus binary (our reading)", above=0),
            *(Gate(name, f"Avg@64, {name}") for name in ("exponential", "linear", "binary")),
            *(
                Gate(f"{name}: distinct", f"distinct correct answers, {name}")
                for name in ("exponential", "linear", "binary")
            ),
        ),
        measure=scaled.mappings,
        runs=mapping_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C11",
        statement="STEER improves RLOO and OPO as well.",
        source="Appendix, other algorithms",
        level=Level.SCALED,
        gates=(
            Gate("rloo: avg", "RLOO, with STEER - without: held-out Avg@64", above=0),
            Gate("opo: avg", "OPO, with STEER - without: held-out Avg@64", above=0),
            *(
                Gate(f"{name}: {metric}", f"{name.upper()}, with STEER - without: {label}", unit=unit)
                for name in ("rloo", "opo")
                for metric, label, unit in (
                    ("distinct", "distinct correct answers", ""),
                    ("entropy", "final entropy", "nats"),
                    ("entropy at equal reward", "entropy at equal reward", "nats"),
                )
            ),
        ),
        measure=scaled.other_advantages,
        runs=baseline_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="tail",
        statement="The released form has the heavier tail: its maximum sits on rarer tokens and lies further out, and "
        "more tokens keep almost all of their weight.",
        source="Third parties' measurements on language models; here a table of 512 tokens with a long tail",
        level=Level.SCALED,
        paper="released vs ratio form: max/p99 6.4 vs 3.7, within 1 % of full weight 83 % vs 67 %, probability of the "
        "largest 2e-6 vs 0.30, rank correlation 0.945 (third parties)",
        gates=(
            Gate("tail", "largest |Omega| over its 99th percentile, released minus ratio form", above=0),
            Gate("near one", "share of tokens within 1 % of full weight, released minus ratio form", above=0),
            Gate("probability", "log10 of the probability of the largest, ratio minus released form", above=0),
            *(
                Gate(f"{form}: {name}", f"{form} form: {label}")
                for form in tables.TWO_FORMS
                for name, label in (
                    ("max over p99", "largest over 99th percentile"),
                    ("near one", "share within 1 % of full weight"),
                    ("log10 probability", "log10 of the probability of the largest"),
                    ("mean weight", "mean weight"),
                )
            ),
            Gate("rank correlation", "rank correlation of the two forms"),
            Gate("training: max over p99", "training run, released form: largest over 99th percentile"),
            Gate("training: near one", "training run: share within 1 % of full weight"),
            Gate("training: probability", "training run: probability of the token with the largest |Omega|"),
            Gate("training: mean weight", "training run: mean weight"),
        ),
        measure=scaled.tail,
        runs=tail_runs,
        seeds=SEEDS,
    ),
)

PAPER = Paper(
    slug="steer",
    title="Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective",
    authors=(
        "Zhezheng Hao",
        "Hong Wang",
        "Haoyang Liu",
        "Jian Luo",
        "Jiarui Yu",
        "Hande Dong",
        "Qiang Lin",
        "Can Wang",
        "Jiawei Chen",
    ),
    arxiv="2510.10150",
    year=2025,
    url_code="https://github.com/zz-haooo/STEER",
    bibtex="""@article{hao2025rethinking,
  title   = {Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective},
  author  = {Hao, Zhezheng and Wang, Hong and Liu, Haoyang and Luo, Jian and Yu, Jiarui and Dong, Hande and Lin, Qiang
             and Wang, Can and Chen, Jiawei},
  journal = {arXiv preprint arXiv:2510.10150},
  year    = {2025}
}""",
    summary="A first-order estimate of the entropy change that one token's update causes; STEER weights each token's "
    "loss down by the size of that change, so that the entropy moves slowly in either direction.",
    claims=(*EXACT, *SCALED, *AT_PAPER_LEVEL),
    plots=draw,
)
