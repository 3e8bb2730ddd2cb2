"""Draws docs/benchmarks/kernels.md and its plot from the CSVs that `kernels.py` wrote. No figure is typed."""

import csv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks" / "kernels.md"
PLOT = PAGE.with_suffix(".png")
NOT_RUN = "not run on a GPU yet"
Record = dict[str, str]

INTRODUCTION = """# Token statistics: speed, memory, error

<!-- written by `python benchmarks/kernels.py --page` from the CSVs in benchmarks/; do not edit -->

Log-probability, entropy and sums of `p` for every token, from logits (`token_stats`) and from hidden states and the
head's weight (`linear_token_stats`). *ratio* is eager's median time divided by the provider's, in wall time and (on a
CPU) in processor time, which hardly depends on what else the machine does. *limit* is the rate of the bytes that must
move, or of the operations that must be done, as a share of what a plain copy, or a plain matrix product, reached in the
same run on the same machine. For `linear_token_stats` with its backward pass that is 8NDV operations; a provider that
keeps all logits does 6NDV of them, and may so exceed 100 %. *extra* is the most memory beyond the inputs at one time,
results and gradients included (not counted for compiled code on a CPU). Errors are the largest against float64.
Statistics: `lp` log-probability, `lp+H` with entropy, `all` with `sum p^2` and `sum p^2 log p` too; `forward+backward`
differentiates all of them.
[The method](../../benchmarks/README.md), [what was tried](../../shared/src/corollary/kernels/NOTES.md).

![Share of the limit](kernels.png)
"""


@dataclass(frozen=True)
class Target:
    """A figure that was set before the measurement."""

    text: str
    device: str
    operation: str
    provider: str
    mode: str
    sizes: tuple[str, str, str]
    """N, D, V; D is empty for ``token_stats``."""
    figure: str
    """Column of the CSV, ``backward_percent``, ``extra_mib``, or ``ratio_to:PROVIDER``."""
    bound: float
    at_most: bool = False
    stats: str = "all"

    def verdict(self, records: list[Record]) -> str:
        """Met or missed with the figure, or that it was not run."""
        if not records:
            return NOT_RUN if self.device == "cuda" else "not run"
        value = self.value(records)
        if value is None:
            return "not run"
        met = value <= self.bound if self.at_most else value >= self.bound
        return f"**{'met' if met else 'missed'}**: {value:.4g}"

    def value(self, records: list[Record]) -> float | None:
        """The figure, or None where the CSV does not have it."""
        if self.figure == "backward_percent":
            both, forward = self._find(records, "forward+backward"), self._find(records, "forward")
            if not (both and forward):
                return None
            seconds = (float(both["ms"]) - float(forward["ms"])) / 1e3
            size = 2 * int(both["N"]) * int(both["V"]) * _bytes(both)
            return 100 * size / seconds / (float(both["limit"]) * 1e12)
        found = self._find(records, self.mode)
        if not found:
            return None
        if self.figure == "extra_mib":
            gradients = (int(found["N"]) + int(found["V"])) * int(found["D"]) * _bytes(found)
            return (int(found["peak_extra_bytes"]) - gradients) / 2**20
        if self.figure.startswith("ratio_to:"):
            other = self._find(records, self.mode, self.figure.partition(":")[2])
            return float(other["ms"]) / float(found["ms"]) if other else None
        return float(found[self.figure])

    def _find(self, records: list[Record], mode: str, provider: str = "") -> Record | None:
        wanted = (self.operation, provider or self.provider, mode, self.stats, *self.sizes)
        for r in records:
            key = (r["operation"], r["provider"], r["mode"], r["stats"], r["N"], r["D"], r["V"])
            if key == wanted and r["ms"]:
                return r
        return None


def _bytes(record: Record) -> int:
    return {"float32": 4, "bfloat16": 2, "float16": 2}[record["dtype"]]


BIG, HEAD, SMALL_HEAD = ("8192", "", "151936"), ("8192", "4096", "131072"), ("8192", "1024", "131072")
ON_CPU = ("4096", "", "32000")
FORWARD, BOTH = "forward", "forward+backward"
TARGETS = (
    Target("`token_stats` forward at N = 4096, V = 32000: eager's time / ours, at least 4", "cpu",
           "token_stats", "ours-torch", FORWARD, ON_CPU, "ratio", 4),
    Target("the same with `backend=\"compile\"`, at least 12", "cpu",
           "token_stats", "ours-compile", FORWARD, ON_CPU, "ratio", 12),
    Target("forward + backward there, at least 4", "cpu", "token_stats", "ours-torch", BOTH, ON_CPU, "ratio", 4),
    Target("`token_stats` forward at N = 8192, V = 151936, bfloat16: % of the copy bandwidth, at least 85", "cuda",
           "token_stats", "ours-triton", FORWARD, BIG, "percent_of_limit", 85),
    Target("its backward pass, at least 80", "cuda",
           "token_stats", "ours-triton", BOTH, BIG, "backward_percent", 80),
    Target("`linear_token_stats` forward + backward at N = 8192, D = 4096, V = 131072: TFLOP/s, at least 550", "cuda",
           "linear_token_stats", "ours-triton", BOTH, HEAD, "rate", 550, stats="lp+H"),
    Target("the same at D = 1024: Liger's time / ours, at least 1", "cuda",
           "linear_token_stats", "ours-triton", BOTH, SMALL_HEAD, "ratio_to:liger-flsce", 1, stats="lp+H"),
    Target("its peak extra memory at D = 4096 without the gradients: MiB, at most 512", "cuda",
           "linear_token_stats", "ours-triton", BOTH, HEAD, "extra_mib", 512, at_most=True, stats="lp+H"),
)  # fmt: skip


def records_of(device: str) -> list[Record]:
    """The lines of a device's CSV; none if it is not there."""
    path = HERE / f"kernels-{device}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def page() -> str:
    """The page's Markdown."""
    found = {device: records_of(device) for device in ("cpu", "cuda")}
    lines = [INTRODUCTION, "## Targets", "", "| target | machine | result |", "|---|---|---|"]
    for target in TARGETS:
        device = "CPU" if target.device == "cpu" else "GPU"
        lines.append(f"| {target.text} | {device} | {target.verdict(found[target.device])} |")
    lines += ["", *_section("CPU", found["cpu"]), *_section("GPU", found["cuda"])]
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, records: list[Record]) -> list[str]:
    lines = [f"## {title}", ""]
    if not records:
        notes = "[figures](../../shared/src/corollary/kernels/NOTES.md)"
        return [
            *lines,
            "**Not run on a GPU yet.** The kernels are tested under Triton's interpreter for their values, and",
            f"compiled for sm_90 for what they occupy ({notes}); none of that is a time.",
            "",
        ]
    one = records[0]
    driver = f", driver {one['driver']}" if one["driver"] else f", {one['threads']} of {one['cores']} cores used"
    lines += [
        f"{one['hardware']}{driver}, load of the machine before the run {one['load']}, torch {one['torch']}, triton "
        f"{one['triton']}, Python {one['python']}, commit {one['commit']}, {one['date']}.",
        "",
    ]
    for operation in dict.fromkeys(r["operation"] for r in records):
        mine = [r for r in records if r["operation"] == operation]
        timed = [r for r in mine if r["ms"]]
        limit = f"{float(timed[0]['limit']):.3g} {timed[0]['unit']}"
        lines += [f"### `{operation}` (limit {limit})", ""]
        shape = "N x D x V" if timed[0]["D"] else "N x V"
        columns = ["provider", "ms", "p20 to p80", "ratio", "ratio, processor", "% of limit", "extra MiB", "error"]
        lines.append(f"| {' | '.join([shape, 'stats', 'mode', *columns, 'gradient error'])} |")
        lines += ["|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        lines += [_line(r) for r in timed]
        absent = dict.fromkeys(f"{r['provider']} ({r['note']})" for r in mine if not r["ms"])
        if absent:
            lines += ["", f"Absent: {', '.join(absent)}."]
        lines.append("")
    return lines


def _line(r: Record) -> str:
    shape = " x ".join(filter(None, (r["N"], r["D"], r["V"])))
    extra = f"{int(r['peak_extra_bytes']) / 2**20:.1f}" if r["peak_extra_bytes"] else ""
    cells = [shape, r["stats"], r["mode"], r["provider"], r["ms"], f"{r['p20_ms']} to {r['p80_ms']}", r["ratio"]]
    cells += [r["cpu_ratio"], r["percent_of_limit"], extra, r["value_error"], r["gradient_error"]]
    return f"| {' | '.join(cells)} |"


def draw() -> None:
    """Draw each provider's share of the limit as bars; 100 % is the roofline."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    timed = [r for device in ("cpu", "cuda") for r in records_of(device) if r["ms"]]
    groups: dict[str, list[Record]] = {}
    for r in timed:
        shape = " x ".join(filter(None, (r["N"], r["D"], r["V"])))
        groups.setdefault(f"{shape}, {r['mode']}\n{r['stats']}, {r['dtype']}", []).append(r)
    names = list(dict.fromkeys(r["provider"] for r in timed))
    colours = dict(zip(names, plt.get_cmap("tab10").colors, strict=False))  # ty: ignore
    figure, axes = plt.subplots(figsize=(9, 0.22 * len(timed) + 0.35 * len(groups) + 1.2), layout="constrained")
    place, ticks = 0.0, []
    for label, members in groups.items():
        start = place
        for r in members:
            axes.barh(place, float(r["percent_of_limit"]), height=0.85, color=colours[r["provider"]])
            axes.text(
                float(r["percent_of_limit"]) + 0.6, place, f"{r['provider']} {r['ms']} ms", va="center", fontsize=7
            )
            place += 1
        ticks.append(((start + place - 1) / 2, label))
        place += 1
    axes.axvline(100, color="black", linewidth=1)
    axes.set_yticks([t for t, _ in ticks], [label for _, label in ticks], fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(0, 130)
    axes.set_xlabel("% of the limit measured in the same run (copy bandwidth, matrix product)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, dpi=110, metadata={"Software": ""})
    plt.close(figure)


def write_page() -> None:
    """Write the page and the plot."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    draw()
    print(f"wrote {PAGE} and {PLOT.name}")
