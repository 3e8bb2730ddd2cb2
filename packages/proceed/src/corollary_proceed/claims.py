"""The paper's claims with the functions that measure them."""

from collections.abc import Callable, Mapping

from corollary.papers import Budget, Claim, Gate, Level, Paper
from corollary.runs import Run
from corollary_proceed import exact_adaptation as adaptation
from corollary_proceed import exact_online as online
from corollary_proceed import scaled
from corollary_proceed.experiments import (
    FULL_ONLY,
    GD_RATES,
    SEEDS,
    delay_runs,
    etth1_runs,
    etth2_runs,
    other_times_runs,
    stream_runs,
    tcn_runs,
)
from corollary_proceed.plots import draw

ROUNDING = 1e-12
DERIVED = "derived from the equations"

EXACT = (
    Claim(
        id="E1",
        statement="The drift is E'(X_t) - E(X_{t-H}, Y_{t-H}), each concept a mean over variates, "
        "the reference over its "
        "pairs too.",
        source="Equations 1 and 2",
        level=Level.EXACT,
        gates=(Gate("error", "largest difference to the equations written out", below=ROUNDING),),
        measure=adaptation.drift_equation,
    ),
    Claim(
        id="E2",
        statement="The generator scales rows and columns by 1 + W2 sigmoid(W1 delta + b) + o and shifts the bias.",
        source="Equations 3 and 4",
        level=Level.EXACT,
        gates=(Gate("error", "largest difference to the equations written out", below=ROUNDING),),
        measure=adaptation.generator_equation,
    ),
    Claim(
        id="C3",
        statement="Before training the adapted network is the given one.",
        source="Section 4.2, the +1 of equation 3",
        level=Level.EXACT,
        gates=(
            Gate("merged", "largest difference, merged weights", below=0),
            Gate("scaled", "largest difference, scaled activations", below=ROUNDING),
        ),
        measure=adaptation.identity_start,
    ),
    Claim(
        id="E3",
        statement="Merging the scales into the weights and scaling the activations give the same "
        "forecasts and gradients.",
        source=DERIVED,
        level=Level.EXACT,
        gates=(
            Gate("output", "largest difference of forecasts", below=ROUNDING),
            Gate("gradient", "largest difference of gradients", below=ROUNDING),
        ),
        measure=adaptation.two_paths,
    ),
    Claim(
        id="E4",
        statement="The weights of an adapted layer differ from its own by a mask of rank one.",
        source="Equation 4",
        level=Level.EXACT,
        gates=(Gate("ratio", "largest second singular value over the first", below=ROUNDING),),
        measure=adaptation.rank_one,
    ),
    Claim(
        id="E5",
        statement="The gradients of an online step have the closed form that the fast path uses.",
        source=DERIVED,
        level=Level.EXACT,
        gates=(Gate("error", "largest difference to autograd", below=ROUNDING),),
        measure=adaptation.closed_gradients,
    ),
    Claim(
        id="E6",
        statement="At the start the encoders, W1 and b have no gradient and W2 has one.",
        source=DERIVED,
        level=Level.EXACT,
        gates=(
            Gate("silent", "largest gradient of encoders, W1 and b", below=0),
            Gate("loud", "smallest largest gradient of W2", above=1e-6),
        ),
        measure=adaptation.first_gradients,
    ),
    Claim(
        id="E7",
        statement="The clip keeps drifts in the unit ball and their direction.",
        source="Official code",
        level=Level.EXACT,
        gates=(
            Gate("excess", "largest norm minus 1", below=ROUNDING),
            Gate("direction", "largest 1 - cosine", below=ROUNDING),
            Gate("inside", "largest change of a drift inside the ball", below=0),
            Gate("gradient at zero", "gradients at zero that are not finite", below=0),
        ),
        measure=adaptation.clipped_drift,
    ),
    Claim(
        id="E8",
        statement="Scales respond to any drift by at most the row sums of |W2|.",
        source=DERIVED,
        level=Level.EXACT,
        gates=(Gate("excess", "largest response minus its bound", below=ROUNDING),),
        measure=adaptation.bounded_response,
    ),
    Claim(
        id="E9",
        statement="(beta / c, c alpha) gives the same weights.",
        source=DERIVED,
        level=Level.EXACT,
        gates=(Gate("difference", "largest difference", below=ROUNDING),),
        measure=adaptation.scaling_invariance,
    ),
    Claim(
        id="C6",
        statement="The mapping adds few parameters: sum over groups of r d_c + n r + r m + n m.",
        source="Section 4.2; counts of the official classes, TCN, N = 7, H = 24",
        level=Level.EXACT,
        paper="O(r (#layers + d_c + d_in + d_out)); counted: 124,862 beside 692,022",
        gates=tuple(
            Gate(name, f"difference to the count: {name}", below=0)
            for name in ("backbone", "encoder of the window", "encoder of the pair", "generator", "online", "formula")
        ),
        measure=adaptation.parameter_counts,
    ),
    Claim(
        id="E10",
        statement="Validation pass and online phase are the published algorithm, reference and order "
        "of steps included.",
        source="Section 4.3 and the official code",
        level=Level.EXACT,
        gates=(Gate("error", "largest difference of forecasts to the algorithm written out", below=1e-10),),
        measure=online.online_algorithm,
    ),
    Claim(
        id="E11",
        statement="Online, encoders, W1, W2, b and the biases of adapted layers stay bit-identical; the rest learns.",
        source="Section 4.3",
        level=Level.EXACT,
        gates=(
            Gate("frozen", "largest change of what is frozen", below=0),
            Gate("moving", "smallest largest change of what learns", above=1e-6),
        ),
        measure=online.frozen_set,
    ),
    Claim(
        id="C7",
        statement="No forecast depends on a value that is observed after its origin.",
        source="Section 3, the delayed protocol",
        level=Level.EXACT,
        gates=(
            Gate("change", "largest change of forecasts when all later values are replaced", below=0),
            Gate("leaky gradient descent", "control, leaky protocol: that change", above=1e-3),
            Gate("leaky validation pass", "control, validation pass of the official code: that change", above=1e-3),
        ),
        measure=online.no_leakage,
    ),
    Claim(
        id="C1-one-step",
        statement="For H = 1 the delayed and the leaky protocol coincide.",
        source=DERIVED,
        level=Level.EXACT,
        gates=(Gate("difference", "difference of the errors", below=ROUNDING),),
        measure=online.coinciding_protocols,
    ),
)

SCALED = (
    Claim(
        id="C1-stream",
        statement="Waiting for complete labels costs accuracy, more so for longer horizons.",
        source="Figure 1 and section 3",
        level=Level.SCALED,
        paper="107 % on average over five data sets and three horizons",
        gates=(
            Gate("gap 6", "relative gap of delayed to leaky gradient descent, H = 6", above=0),
            Gate("gap 24", "the same, H = 24", above=0),
            Gate("growth 1 to 6", "gap at H = 6 minus at H = 1", above=0),
            Gate("growth 6 to 24", "gap at H = 24 minus at H = 6", above=0),
        ),
        measure=scaled.cost_of_delay,
        runs=delay_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C2-stream",
        statement="Where the drift can be read off the window, Proceed forecasts better than "
        "gradient descent and the frozen "
        "model, and does no harm without drift.",
        source="Main comparison, on the embedded stream",
        level=Level.SCALED,
        gates=(
            Gate("below gd", "gradient descent - Proceed: MSE", above=0),
            Gate("below frozen", "frozen - Proceed: MSE", above=0),
            Gate("above oracle", "Proceed - oracle: MSE", above=0),
            Gate("share proceed", "share of the gap from frozen to oracle that Proceed closes", above=0.3),
            Gate("control", "constant level: relative excess of Proceed over frozen", below=0.03),
            Gate("share official pass", "that share with the generator's steps in the validation pass"),
            Gate("mse oracle", "MSE of the oracle"),
            Gate("mse frozen", "MSE of the frozen model"),
            Gate("mse gd", "MSE of gradient descent"),
            Gate("mse proceed", "MSE of Proceed"),
        ),
        measure=scaled.closed_gap,
        runs=stream_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C4-stream",
        statement="The gain comes from the drift signal.",
        source="Ablations, on the embedded stream",
        level=Level.SCALED,
        gates=(
            Gate("share none", "share of the gap closed with the drift set to zero", below=0.15),
            Gate("drift adds", "share closed by Proceed minus that share", above=0),
            Gate("share current", "share closed by the current concept alone"),
            Gate("share one-encoder", "share closed with one encoder that sees no labels"),
        ),
        measure=scaled.closed_gap,
        runs=stream_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C4-other-times",
        statement="The gain needs the drift of the forecast's own time: that of a random other time does not give it.",
        source="Ablations, on the embedded stream",
        level=Level.SCALED,
        gates=(
            Gate("own time adds", "share closed by Proceed minus that with the drift of a random other time", above=0),
            Gate("share other times", "share of the gap closed with the drift of a random other time", below=0.15),
            Gate("share proceed", "share closed by Proceed"),
            Gate("mse other times", "MSE with the drift of a random other time"),
        ),
        measure=scaled.other_times,
        runs=other_times_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C5",
        statement="Tuning on shuffled batches, whose concepts differ, generalises to unseen drift "
        "better than in time order.",
        source="Section 4.3",
        level=Level.SCALED,
        gates=(
            Gate("shuffling helps", "time order - shuffled: MSE", above=0),
            Gate("mse chronological", "MSE when tuned in time order"),
        ),
        measure=scaled.closed_gap,
        runs=stream_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C8",
        statement="Adapting costs little next to the update itself.",
        source="Latency",
        level=Level.SCALED,
        gates=(
            Gate("ratio", "time of a step of Proceed over one of gradient descent, embedded stream"),
            Gate("gd update", "gradient descent: update", unit="ms"),
            Gate("gd forecast", "gradient descent: forecast", unit="ms"),
            Gate("proceed update", "Proceed: update", unit="ms"),
            Gate("proceed forecast", "Proceed: forecast", unit="ms"),
        ),
        measure=scaled.latency,
        runs=stream_runs,
        seeds=SEEDS,
    ),
    Claim(
        id="C1-ETTh2",
        statement="On ETTh2 waiting for complete labels costs accuracy.",
        source="Figure 1 and section 3",
        level=Level.SCALED,
        paper="107 % on average over five data sets and three horizons",
        gates=(
            Gate("delay costs", "delayed - leaky gradient descent, NLinear, H = 24: MSE", above=0),
            Gate("relative delay", "the same, relative"),
        ),
        measure=scaled.real_data,
        runs=etth2_runs,
        seeds=SEEDS,
        data=("ETTh2",),
    ),
)


def _linear_claim(
    data: str, runs: Callable[[Budget, int], Mapping[str, Run]], seeds: Mapping[Budget, tuple[int, ...]], level: Level
) -> Claim:
    return Claim(
        id=f"C2-{data}",
        statement=f"On {data} with NLinear, H = 24, Proceed forecasts better than gradient descent "
        "at its best rate, which "
        "is better than no learning.",
        source="Main comparison",
        level=level,
        gates=(
            Gate("below best gd", "best gradient descent - Proceed: MSE", above=0),
            Gate("gd below frozen", "frozen - best gradient descent: MSE", above=0),
            Gate("relative", "relative gain over the best gradient descent"),
            Gate("relative at equal rate", "relative gain over gradient descent at Proceed's rate"),
            Gate("drift adds", "C4: drift set to zero - Proceed: MSE"),
            Gate("mse proceed", "MSE of Proceed"),
            Gate("mse none", "MSE of Proceed with the drift set to zero"),
            Gate("drift norm", "median norm of the drift before the clip"),
            Gate("clipped", "share of forecasts whose drift is clipped"),
            *(Gate(f"mse gd {rate:g}", f"MSE of gradient descent at {rate:g}") for rate in GD_RATES),
            Gate("mse leaky", "MSE of gradient descent at 1e-4, leaky protocol"),
            Gate("mse frozen", "MSE of the frozen model"),
            Gate("mse ridge", "MSE of the online ridge regression"),
            Gate("mse persistence", "MSE of persistence"),
            Gate("mse seasonal-naive", "MSE of the value a day before"),
        ),
        measure=scaled.real_data,
        runs=runs,
        seeds=seeds,
        data=(data,),
    )


REAL = (
    _linear_claim("ETTh2", etth2_runs, SEEDS, Level.SCALED),
    Claim(
        id="C2-TCN",
        statement="With the TCN on ETTh2, H = 24, Proceed forecasts better than gradient descent and the frozen model.",
        source="Main table",
        level=Level.PAPER,
        paper="9.8 % below gradient descent",
        gates=(
            Gate("below gd", "gradient descent - Proceed: MSE", above=0),
            Gate("below frozen", "frozen - Proceed: MSE", above=0),
            Gate("relative", "relative gain over gradient descent"),
            Gate("mse proceed", "MSE of Proceed"),
            Gate("mse gd", "MSE of gradient descent"),
            Gate("mse frozen", "MSE of the frozen model"),
        ),
        measure=scaled.paper_setting,
        runs=tcn_runs,
        seeds=FULL_ONLY,
        data=("ETTh2",),
    ),
    Claim(
        id="C4-TCN",
        statement="With the TCN on ETTh2, H = 24, the gain comes from the drift signal.",
        source="Ablations",
        level=Level.PAPER,
        gates=(
            Gate("drift adds", "drift set to zero - Proceed: MSE", above=0),
            Gate("mse none", "MSE with the drift set to zero"),
        ),
        measure=scaled.paper_setting,
        runs=tcn_runs,
        seeds=FULL_ONLY,
        data=("ETTh2",),
    ),
    _linear_claim("ETTh1", etth1_runs, FULL_ONLY, Level.PAPER),
)

_MORE = "the other data sets, a GPU or days of CPU time"

NOT_RUN = (
    Claim(
        id="C2-average",
        statement="Over five data sets, three horizons and three backbones Proceed is better than "
        "the other online methods.",
        source="Main table",
        level=Level.PAPER,
        paper="21.9 % below no online learning, 10.9 % below online methods; FSNet 12.5 %, OneNet "
        "13.6 %, SOLID++ 6.7 %",
        needs=_MORE,
    ),
    Claim(
        id="C2-Weather",
        statement="With the TCN on Weather, H = 96, Proceed is better than gradient descent.",
        source="Main table",
        level=Level.PAPER,
        paper="26.9 % below gradient descent",
        needs="Weather, and a GPU or a day of CPU time",
    ),
    Claim(
        id="C2-PatchTST",
        statement="With PatchTST on ETTh2, H = 24, Proceed is better than gradient descent.",
        source="Main table",
        level=Level.PAPER,
        paper="17.1 % below gradient descent",
        needs="the settings of that run, which has no published script",
    ),
    Claim(
        id="C2-iTransformer",
        statement="With iTransformer on ECL, H = 24, Proceed is better than gradient descent.",
        source="Main table",
        level=Level.PAPER,
        paper="3.9 % below gradient descent",
        needs="ECL and a GPU",
    ),
    Claim(
        id="C4-encoders",
        statement="With PatchTST the drift is better than the current concept alone, and two encoders than one.",
        source="Ablations",
        level=Level.PAPER,
        paper="6.5 % and 7.8 %; sharing W1 and W2 costs 0.4 to 1.9 %",
        needs="the settings of those runs",
    ),
)

PAPER = Paper(
    slug="proceed",
    title="Proactive Model Adaptation Against Concept Drift for Online Time Series Forecasting",
    authors=("Lifan Zhao", "Yanyan Shen"),
    arxiv="2412.08435",
    year=2025,
    url_code="https://github.com/SJTU-DMTai/OnlineTSF",
    bibtex="""@inproceedings{zhao2025proceed,
  title     = {Proactive Model Adaptation Against Concept Drift for Online Time Series Forecasting},
  author    = {Zhao, Lifan and Shen, Yanyan},
  booktitle = {Proceedings of the 31st ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  pages     = {2020--2031},
  year      = {2025},
  doi       = {10.1145/3690624.3709210},
  note      = {arXiv:2412.08435}
}""",
    summary="The label of a forecast is complete only H steps later, so every online update is late. "
    "Proceed estimates how "
    "far the concept has drifted since, and scales the forecaster's layers by it before it forecasts.",
    claims=(*EXACT, *SCALED, *REAL, *NOT_RUN),
    plots=draw,
)
