"""The paper's own results on real models and data: listed with its figures, not run here."""

from corollary.papers import Claim, Level

_HARDWARE = "8 GPUs, DAPO-Math-17k, and the method inside verl or TRL"

AT_PAPER_LEVEL = (
    Claim(
        id="C9-table3",
        statement="STEER has the best average over six mathematics benchmarks, Qwen2.5-Math-7B.",
        source="Table 3",
        level=Level.PAPER,
        paper="Avg (AIME24): base 21.2 (13.8), GRPO 44.2 (28.0), OPO 46.4 (32.2), Entro. Adv. 45.1 (27.5), "
        "Clip-Cov 45.7 (32.5), KL-Cov 44.4 (32.8), STEER 48.6 (36.2)",
        needs=_HARDWARE,
    ),
    Claim(
        id="C9-table4",
        statement="The same, Qwen2.5-14B.",
        source="Table 4",
        level=Level.PAPER,
        paper="Avg (AIME24): base 20.6 (3.9), GRPO 42.9 (17.2), OPO 42.9 (17.8), Entro. Adv. 41.0 (14.6), "
        "Clip-Cov 41.2 (14.1), STEER 45.2 (19.3)",
        needs=_HARDWARE,
    ),
    Claim(
        id="C9-table12",
        statement="The same, Qwen2.5-Math-1.5B.",
        source="Table 12",
        level=Level.PAPER,
        paper="Avg (AIME24): base 14.9 (4.1), GRPO 35.8 (16.2), OPO 36.0 (14.8), Entro. Adv. 35.3 (15.0), "
        "Clip-Cov 35.5 (14.7), STEER 38.2 (17.4)",
        needs=_HARDWARE,
    ),
    Claim(
        id="C8-table6",
        statement="STEER has the best average under extreme clipping, Qwen2.5-Math-7B.",
        source="Table 6",
        level=Level.PAPER,
        paper="Avg (AIME24): GRPO 44.9 (31.6), Entro. Adv. 44.6 (34.8), Entro. Loss 46.0 (32.7), Clip-Cov 45.8 (30.4), "
        "STEER 48.5 (36.1)",
        needs=_HARDWARE,
    ),
    Claim(
        id="C10-table11",
        statement="The exponential mapping has the best average, Qwen2.5-Math-7B.",
        source="Table 11",
        level=Level.PAPER,
        paper="Avg: exponential 48.6, linear 48.0, binary 46.5",
        needs=_HARDWARE,
    ),
    Claim(
        id="C11-figure",
        statement="STEER raises the averages of RLOO and OPO.",
        source="Appendix, other algorithms",
        level=Level.PAPER,
        paper="Avg: RLOO 45.8 -> 46.8, OPO 46.4 -> 47.5",
        needs=_HARDWARE,
    ),
)
