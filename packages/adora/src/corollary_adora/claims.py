"""The paper, and its claims as runnable objects.

Thresholds of the exact claims come from float64 arithmetic; those of the scaled claims are zero differences, and the
three points of C7 that the specification of this reproduction set before anything was run. Task, step size, steps and
factors were fixed on seed 1001, before any run on the seeds of `experiments.SEEDS`.
"""

from itertools import product

from corollary.papers import Claim, Gate, Level, Paper
from corollary_adora import exact, scaled
from corollary_adora.experiments import (
    RATE_OF_CODE,
    RATE_OF_PAPER,
    SEEDS,
    SENSITIVITY_SEEDS,
    TAU,
    W_TAS,
    W_TDS,
    amplification_runs,
    criteria_runs,
    length_runs,
    main_runs,
    sensitivity_runs,
    step_size_runs,
)
from corollary_adora.plots import draw

ROUNDING = 1e-12

ACCURACY_MARGIN = 0.02
"""A difference of held-out accuracy that counts as none: less than two binomial standard errors of one run's 960
samples at an accuracy of 0.8."""

SPREAD = 0.03
"""Three points of accuracy: what "no sensitive tuning" may mean at most."""

EXACT = (
    Claim(
        id="C5-length",
        statement="Attenuation without a length advantage pushes length up relative to GRPO: among right responses and "
        "among wrong ones it prefers the long.",
        source="derived here; the blog reports longer answers",
        level=Level.EXACT,
        gates=(
            Gate("pairs", "closed form of the mean advantages for groups of 2, largest error", below=ROUNDING),
            Gate("brute", "enumeration for groups of 3 to 5 against ordered groups, largest error", below=ROUNDING),
            Gate("preference", "smallest preference for long over GRPO's, all policies and weights", above=ROUNDING),
            Gate("covariance", "smallest gain of Cov(length, wA) over GRPO's", above=ROUNDING),
            Gate("softmax_down", "share of policies whose length drift in a softmax bandit is below GRPO's"),
        ),
        measure=exact.enumeration,
    ),
    Claim(
        id="C5-bias",
        statement="The weight is no factor of the step: its expectation with the gradient is not the product of "
        "expectations, and may have another sign of length drift than GRPO.",
        source="Section 3.2 is summarised as unbiased since w is constant over tokens; the contrary is derived here",
        level=Level.EXACT,
        gates=(
            Gate("constant", "a constant weight scales GRPO, largest error", below=ROUNDING),
            Gate("gap", "relative distance of E[w A g] and E[w] E[A g] on one policy, groups of 5", above=0.01),
            Gate("drift_of_product", "length drift of E[w] E[A g] there", below=-1e-3),
            Gate("drift", "length drift of E[w A g] there", above=1e-3),
            Gate("accuracy_of_product", "accuracy drift of E[w] E[A g] there"),
            Gate("accuracy", "accuracy drift of E[w A g] there"),
        ),
        measure=exact.not_a_factor,
    ),
    Claim(
        id="C8",
        statement="Labels are noisy: between two rollouts of the same prompt and policy they flip with the binomial "
        "probability (DA), and nearly every second time at the threshold, however large the group.",
        source="objection of a reviewer; formula derived here",
        level=Level.EXACT,
        gates=(
            Gate("z_difficulty", "DA simulated against the formula, largest |z| of 9", below=4),
            Gate("z_length", "LA simulated against enumeration, largest |z| of 4", below=4),
            *(
                Gate(
                    f"{kind} {success} {size}",
                    f"{kind.upper()} flips, success rate {success}, groups of {size}",
                    above=0.4 if (kind, success) == ("da", 0.5) else None,
                )
                for kind, success, size in product(("da", "la"), exact.SUCCESS, exact.GROUP_SIZES)
            ),
        ),
        measure=exact.label_noise,
    ),
    Claim(
        id="C9",
        statement="Weights and weighted advantages are those of the released code, for language models and for "
        "vision-language models.",
        source="github.com/ShadeCloak/ADORA, folders ADORA and ADORA_VL; 28 prompts worked out by hand",
        level=Level.EXACT,
        gates=(
            Gate("llm_2025: weights", "language models: wrong weights", below=0),
            Gate("llm_2025: advantages", "language models: wrong advantages of padded rollouts", below=0),
            Gate("vl: weights", "vision-language models: wrong weights", below=0),
            Gate("vl: advantages", "vision-language models: wrong advantages of padded rollouts", below=0),
            Gate("by_hand", "advantages of a group worked out by hand, largest error", below=ROUNDING),
        ),
        measure=exact.published_cases,
    ),
)

SCALED = (
    Claim(
        id="C1",
        statement="Responses grow longer under ADORA (attenuation) than under GRPO.",
        source="blog and paper: longer responses, more reflection words",
        level=Level.SCALED,
        gates=(
            Gate("end", "ADORA - GRPO: mean length, last 25 steps", above=0, unit="tokens"),
            Gate("run", "ADORA - GRPO: mean length, whole run", unit="tokens"),
            Gate("grpo growth", "GRPO: growth of length over the run", unit="tokens"),
        ),
        measure=scaled.length_growth,
        runs=length_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2",
        statement="Attenuation has a lower training reward early, no lower held-out accuracy at the end, and a higher "
        "one out of distribution.",
        source="table of the blog (Knights and Knaves, AIME, AMC)",
        level=Level.SCALED,
        paper="K&K in distribution .33 -> .75 (GRPO), .24 -> .74 (ADORA), steps 100 to 350; AIME 6 -> 8, AMC 34 -> 35 "
        "at step 350",
        gates=(
            Gate("early", "ADORA - GRPO: training reward, first third", below=0),
            Gate("held out", "ADORA - GRPO: held-out accuracy", above=-ACCURACY_MARGIN),
            Gate("long", "ADORA - GRPO: accuracy on 12 bits", above=0),
            Gate("paper: held out", "amplification - GRPO: held-out accuracy"),
            Gate("paper: long", "amplification - GRPO: accuracy on 12 bits"),
            Gate("grpo: held out", "GRPO: held-out accuracy"),
            Gate("grpo: long", "GRPO: accuracy on 12 bits"),
        ),
        measure=scaled.accuracy_and_speed,
        runs=main_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C3",
        statement="Amplification (weights 2 and 1) learns faster than GRPO.",
        source="Setting for language models; the paper reports the accuracy that is reached",
        level=Level.SCALED,
        gates=(
            Gate("area", "amplification - GRPO: mean training reward over the run", above=0),
            Gate("end", "amplification - GRPO: training reward, last 25 steps"),
            Gate("advantageous", "amplification: share of advantageous prompts"),
        ),
        measure=scaled.amplification,
        runs=amplification_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C4",
        statement="The criteria matter: weights by length or difficulty learn faster than the same weights at random.",
        source="Figure 2 (ablation of the criteria)",
        level=Level.SCALED,
        gates=(
            Gate("code", "attenuation by LA - random: mean training reward over the run", above=0),
            Gate("and", "amplification by LA and DA - random: the same", above=0),
            Gate("length", "amplification by LA - random of LA and DA: the same"),
            Gate("difficulty", "amplification by DA - random of LA and DA: the same"),
            Gate("or", "amplification by LA or DA - random of LA and DA: the same"),
            Gate("random", "random of LA and DA - GRPO: the same"),
            Gate("code: length", "attenuation by LA - random: mean length, last 25 steps", unit="tokens"),
        ),
        measure=scaled.criteria,
        runs=criteria_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C6",
        statement="The effects on length (C1) and speed (C3) are not those of another step size.",
        source="objection of a reviewer; control of this reproduction",
        level=Level.SCALED,
        gates=(
            Gate(
                "length, matched",
                f"attenuation - GRPO at {RATE_OF_CODE} of the rate: length, last 25 steps",
                above=0,
                unit="tokens",
            ),
            Gate("length, normalised", "attenuation with mean weight 1 - GRPO: the same", above=0, unit="tokens"),
            Gate(
                "area, matched",
                f"amplification - GRPO at {RATE_OF_PAPER} of the rate: mean training reward",
                above=0,
            ),
            Gate("area, normalised", "amplification with mean weight 1 - GRPO: the same", above=0),
            Gate("rate: length", f"GRPO at {RATE_OF_CODE} of the rate - GRPO: length, last 25 steps", unit="tokens"),
            Gate("rate: area", f"GRPO at {RATE_OF_PAPER} of the rate - GRPO: mean training reward"),
        ),
        measure=scaled.step_size,
        runs=step_size_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C7",
        statement="No sensitive tuning: the reward that is reached hardly depends on the weights and the threshold, "
        "but a weight of 0 is worse than 0.1.",
        source="Abstract (no sensitive tuning); blog (0 is worse)",
        level=Level.SCALED,
        gates=(
            Gate("w_tds", f"spread of final training reward over w_tds {', '.join(map(str, W_TDS))}", below=SPREAD),
            Gate("w_tas", f"the same over w_tas {', '.join(map(str, W_TAS))}", below=SPREAD),
            Gate("tau", f"the same over tau {', '.join(map(str, TAU))}", below=SPREAD),
            Gate("zero", "w_tds 0.1 minus w_tds 0", above=0),
            *(Gate(f"w_tds {w:g}", f"final training reward, w_tds {w:g}") for w in W_TDS),
            *(Gate(f"w_tas {w:g}", f"final training reward, w_tas {w:g}") for w in W_TAS),
            *(Gate(f"tau {t:g}", f"final training reward, tau {t:g}") for t in TAU),
        ),
        measure=scaled.sensitivity,
        runs=sensitivity_runs,
        seeds=SENSITIVITY_SEEDS,
    ),
)

AT_PAPER_LEVEL = (
    Claim(
        id="C2-knights",
        statement="On Qwen2.5-7B-Instruct trained on Knights and Knaves, ADORA reaches GRPO's accuracy there and more "
        "on AIME and AMC.",
        source="table of the repository and blog, step 350",
        level=Level.PAPER,
        paper="K&K ID .75 (GRPO), .74 (ADORA); OOD .50, .44; AIME 6, 8; AMC 34, 35",
        needs="4 to 8 A100 for about 1.5 days, Logic-RL's data, and the method inside verl",
    ),
    Claim(
        id="C2-vision",
        statement="On Qwen2.5-VL-7B-Instruct trained on Geometry3K, ADORA beats GRPO on MathVista and MMStar.",
        source="table of the repository and blog",
        level=Level.PAPER,
        paper="MathVista 70.2 (GRPO), 73.5 (ADORA); MMStar 61.9, 63.8",
        needs="8 A800 for about 1.5 days, Geometry3K, and the method inside OpenRLHF",
    ),
    Claim(
        id="C3-math",
        statement="On Qwen2.5-7B and mathematics, amplification beats GRPO on average.",
        source="paper, as quoted by its public reviews",
        level=Level.PAPER,
        paper="+3.5 points on average; three runs, no significance test",
        needs="a node of GPUs, the paper's training data, and the method inside verl or TRL",
    ),
)

PAPER = Paper(
    slug="adora",
    title="ADORA: Training Reasoning Models with Dynamic Advantage Estimation on Reinforcement Learning",
    authors=(
        "Qingnan Ren",
        "Shiting Huang",
        "Zhen Fang",
        "Zehui Chen",
        "Lin Chen",
        "Lijun Li",
        "Feng Zhao",
    ),
    arxiv="2602.10019",
    year=2026,
    url_code="https://github.com/ShadeCloak/ADORA",
    bibtex="""@article{ren2026adora,
  title   = {{ADORA}: Training Reasoning Models with Dynamic Advantage Estimation on Reinforcement Learning},
  author  = {Ren, Qingnan and Huang, Shiting and Fang, Zhen and Chen, Zehui and Chen, Lin and Li, Lijun and Zhao, Feng},
  journal = {arXiv preprint arXiv:2602.10019},
  year    = {2026}
}""",
    summary="Each prompt's advantages are multiplied by one of two weights, by whether its longest right answer is "
    "longer than its wrong ones on average, and by whether few of its answers are right.",
    claims=(*EXACT, *SCALED, *AT_PAPER_LEVEL),
    plots=draw,
)
