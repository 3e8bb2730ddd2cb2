"""The known tables of time series: origin, digest, shape and licence of each file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from corollary.papers.matching import unknown


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file as its origin publishes it: where it comes from, and how to recognise it.

    Raises:
        ValueError: A field is outside its range.
    """

    name: str
    """Name in the papers, such as `ETTh2`. Lookups ignore case."""
    file: str
    """File name when it is not compressed. A copy may be called this, or this with `.gz`."""
    url: str | None
    """Address of a version that cannot change, compressed if it ends in `.gz`. `None` where there is none: place
    the file in the folder that `COROLLARY_DATA` names."""
    sha256: str | None
    """SHA-256 of the decompressed file, lower case. `None` where no digest is on record: the file is accepted
    with a warning that names its own digest, so that the user can compare."""
    bytes: int | None
    """Size of the decompressed file, `None` where it is not on record."""
    rows: int
    """What it holds: the time steps of a series, or the questions of a benchmark; a header does not count."""
    licence: str
    """What the origin says about use and redistribution."""
    attribution: str
    """Whom to name when the data are used."""
    note: str = ""
    """Where digest and shape come from, if not from the file itself, and what a user should know."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.file) or self.file.endswith(".gz"):
            raise ValueError(f"file must be a plain file name without folder and without .gz, got {self.file!r}")
        if self.url is not None and not re.match(r"https?://", self.url):
            raise ValueError(f"url must start with http:// or https://, or be None, got {self.url!r}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 must be 64 lower-case hexadecimal digits, or None, got {self.sha256!r}")
        if self.rows < 1:
            raise ValueError(f"rows must be >= 1, got {self.rows}")


@dataclass(frozen=True, kw_only=True)
class Dataset(DataFile):
    """One table of a multivariate time series.

    Raises:
        ValueError: A field is outside its range.
    """

    columns: int
    """Variables, without the date."""
    step: str
    """Nominal time between two rows, as pandas writes it: `15min`, `1h`, `1D`."""
    irregular_steps: int = 0
    """How many steps between neighbouring rows differ from the nominal one."""
    dated: bool = True
    """Whether the file has a header whose first name is `date`. If not, it has neither names nor dates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns < 1:
            raise ValueError(f"columns must be >= 1, got {self.columns}")


_ETT = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/1d16c8f4f943005d613b5bc962e9eeb06058cf07/ETT-small/"
_LSTNET = "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/7f402f185cc2435b5e66aed13a3b560ed142e023/"
_TSLIB = "https://huggingface.co/datasets/thuml/Time-Series-Library/resolve/2b66e59ee19dac8f6f19fb5d4997f289fdfea357/"

_NO_DERIVATIVES = "CC BY-ND 4.0: redistribute the unmodified file only, with attribution"
_TSLIB_LICENCE = "CC BY 4.0, as reported of the data card of thuml/Time-Series-Library"
_INFORMER = (
    "Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting, AAAI 2021, "
    "arXiv:2012.07436"
)
_AUTOFORMER = (
    "Wu et al., Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting, "
    "NeurIPS 2021, arXiv:2106.13008"
)
_PUBLISHED = "Digest and shape are those that several independent public repositories record for this file"


def _ett(name: str, *, rows: int, step: str, sha256: str, size: int | None, note: str = "") -> Dataset:
    return Dataset(
        name=name,
        file=f"{name}.csv",
        url=f"{_ETT}{name}.csv",
        sha256=sha256,
        bytes=size,
        rows=rows,
        columns=7,
        step=step,
        licence=_NO_DERIVATIVES,
        attribution=_INFORMER,
        note=note,
    )


_ENTRIES = (
    _ett(
        "ETTh1",
        rows=17_420,
        step="1h",
        sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        size=2_589_657,
    ),
    _ett(
        "ETTh2",
        rows=17_420,
        step="1h",
        sha256="a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
        size=2_417_960,
    ),
    _ett(
        "ETTm1",
        rows=69_680,
        step="15min",
        sha256="6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
        size=10_360_719,
    ),
    _ett(
        "ETTm2",
        rows=69_680,
        step="15min",
        sha256="db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd",
        size=None,
        note=f"{_PUBLISHED}; the same repositories record the digests of ETTh1, ETTh2 and ETTm1 that hold here.",
    ),
    Dataset(
        name="Weather",
        file="weather.csv",
        url=f"{_TSLIB}weather/weather.csv",
        sha256="34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        bytes=7_235_425,
        rows=52_696,
        columns=21,
        step="10min",
        irregular_steps=2,
        licence=_TSLIB_LICENCE,
        attribution=f"Max Planck Institute for Biogeochemistry, Jena (station data); {_AUTOFORMER}",
        note=f"{_PUBLISHED}. Lines end in CR LF; copies with LF hold the same numbers and have another digest. One "
        "date stands twice (2020-05-12 06:00) and 100 minutes pass before 2020-05-29 11:10.",
    ),
    Dataset(
        name="ECL",
        file="electricity.csv",
        url=f"{_TSLIB}electricity/electricity.csv",
        sha256="7e45845d54c5219bad0ae6bc1b5316cf8ff9cead5d33fa998a5a51c2e4a497ad",
        bytes=95_581_762,
        rows=26_304,
        columns=321,
        step="1h",
        licence=_TSLIB_LICENCE,
        attribution=f"Trindade, ElectricityLoadDiagrams20112014, UCI Machine Learning Repository; {_AUTOFORMER}",
        note=f"{_PUBLISHED}. The dates run from 2016 to 2019; the loads were measured from 2012 to 2014.",
    ),
    Dataset(
        name="Traffic",
        file="traffic.csv",
        url=f"{_TSLIB}traffic/traffic.csv",
        sha256="cb06463d56fa17d87f47027cd9389ceae82a69eddee51cdb61480e120dab0b16",
        bytes=136_478_119,
        rows=17_544,
        columns=862,
        step="1h",
        licence=_TSLIB_LICENCE,
        attribution=f"California Department of Transportation, Performance Measurement System; {_AUTOFORMER}",
        note=f"{_PUBLISHED}.",
    ),
    Dataset(
        name="Exchange",
        file="exchange_rate.txt",
        url=f"{_LSTNET}exchange_rate/exchange_rate.txt.gz",
        sha256="0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f",
        bytes=546_336,
        rows=7_588,
        columns=8,
        step="1D",
        dated=False,
        licence="none stated: download it, do not redistribute it",
        attribution="Lai et al., Modeling Long- and Short-Term Temporal Patterns with Deep Neural Networks, "
        "SIGIR 2018, arXiv:1703.07015",
        note="The original without dates; exchange_rate.csv of other collections is another file.",
    ),
)

DATASETS: Mapping[str, Dataset] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The known data sets by name."""


def find_dataset(name: str) -> Dataset:
    """The data set of this name.

    Args:
        name: A key of `DATASETS`, in upper or lower case.

    Returns:
        Its entry.

    Raises:
        ValueError: There is no such data set; the message lists those that come close.

    Example:
        >>> find_dataset("etth2").rows
        17420
    """
    folded = {known.casefold(): entry for known, entry in DATASETS.items()}
    try:
        return folded[name.casefold()]
    except KeyError:
        raise ValueError(unknown("data set", name, list(DATASETS))) from None


def describe() -> str:
    """The known data sets as a Markdown table: shape, step, size, licence and whom to name."""
    lines = ["| data set | rows x columns | step | size | licence | attribution |", "|---|---|---|---|---|---|"]
    for entry in DATASETS.values():
        size = "" if entry.bytes is None else f"{entry.bytes / 1e6:.1f} MB"
        shape = f"{entry.rows:,} x {entry.columns}"
        lines.append(f"| {entry.name} | {shape} | {entry.step} | {size} | {entry.licence} | {entry.attribution} |")
    return "\n".join(lines)
