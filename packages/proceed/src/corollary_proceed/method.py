"""Proceed as an installed online method, with the options of the official scripts."""

from dataclasses import dataclass
from typing import Self

from corollary.evaluation import OnlineForecaster
from corollary.forecasting import FitConfig, OnlineMethod, Problem, Setting, set_rate
from corollary.runs import Run, RunStore
from corollary_proceed.forecaster import ProceedForecaster, ValidationPass
from corollary_proceed.model import Drift
from corollary_proceed.tuning import ProceedConfig, ProceedTuning

PUBLISHED: dict[tuple[str, str, int], tuple[float, float, int, int, int]] = {
    ("tcn", "ETTh2", 24): (3e-3, 3e-5, 50, 32, 16),
    ("tcn", "ETTh2", 48): (3e-3, 3e-6, 50, 32, 16),
    ("tcn", "ETTh2", 96): (3e-3, 3e-6, 100, 64, 16),
    ("patchtst", "ETTh2", 48): (3e-3, 3e-4, 200, 48, 16),
    ("patchtst", "ETTh2", 96): (3e-4, 1e-5, 200, 48, 16),
    ("patchtst", "ETTm1", 24): (1e-3, 1e-5, 250, 48, 16),
    ("patchtst", "ETTm1", 48): (1e-3, 1e-5, 250, 48, 16),
    ("patchtst", "ETTm1", 96): (1e-3, 1e-5, 150, 48, 16),
    ("patchtst", "Weather", 24): (1e-4, 3e-7, 150, 32, 8),
    ("patchtst", "Weather", 48): (1e-4, 3e-7, 150, 48, 8),
    ("patchtst", "Weather", 96): (3e-6, 1e-7, 150, 64, 8),
    ("patchtst", "ECL", 24): (1e-3, 1e-6, 100, 24, 8),
    ("patchtst", "ECL", 48): (1e-3, 1e-6, 100, 24, 8),
    ("patchtst", "ECL", 96): (1e-3, 3e-7, 100, 16, 8),
    ("patchtst", "Traffic", 24): (1e-3, 1e-5, 150, 48, 4),
    ("patchtst", "Traffic", 48): (1e-3, 1e-5, 200, 48, 4),
    ("patchtst", "Traffic", 96): (3e-4, 1e-6, 200, 48, 4),
    ("itransformer", "ECL", 24): (1e-3, 3e-6, 200, 32, 8),
    ("itransformer", "ECL", 48): (1e-3, 1e-6, 200, 32, 8),
    ("itransformer", "ECL", 96): (1e-3, 1e-6, 200, 32, 8),
    ("itransformer", "Traffic", 24): (1e-3, 1e-5, 150, 32, 8),
    ("itransformer", "Traffic", 48): (1e-3, 3e-6, 150, 32, 8),
    ("itransformer", "Traffic", 96): (1e-3, 3e-6, 150, 32, 8),
    ("tcn", "Traffic", 24): (1e-2, 1e-4, 50, 32, 16),
    ("tcn", "Traffic", 48): (1e-2, 1e-4, 50, 32, 16),
    ("tcn", "Traffic", 96): (1e-2, 3e-5, 100, 24, 16),
} | {
    (backbone, data, horizon): values
    for (backbone, data), values in {
        ("tcn", "ETTm1"): (1e-3, 1e-5, 150, 48, 16),
        ("tcn", "Weather"): (3e-3, 1e-5, 150, 24, 16),
        ("tcn", "ECL"): (3e-3, 3e-5, 100, 48, 16),
        ("itransformer", "ETTh2"): (3e-3, 3e-5, 50, 48, 32),
        ("itransformer", "ETTm1"): (1e-3, 1e-5, 150, 32, 16),
        ("itransformer", "Weather"): (1e-3, 3e-6, 100, 24, 16),
    }.items()
    for horizon in (24, 48, 96)
}
"""Tuning rate, online rate, d_c, r and batch size, by backbone, data set and horizon (scripts at commit 466b682)."""

PATCHTST = (3e-3, 3e-4, 200, 32, 16)
"""For PatchTST on ETTh2 at other horizons, such as 24, which have no script: rates of H = 48, default sizes."""

LINEAR = (3e-3, 1e-4, 50, 32, 16)
"""For NLinear and DLinear, which have no script: those of the reference runs of the official code on ETTh2."""

SYNTHETIC = (1e-3, 1e-3, 16, 16, 16)
"""For the embedded stream."""


@dataclass(frozen=True, kw_only=True)
class ProceedMethod(OnlineMethod):
    """Tune the backbone with its encoders and generator on shuffled batches, then go online."""

    rate: float = 3e-3
    """Of the tuning on synthetic drift."""
    online_rate: float = 3e-5
    """Of the validation pass and the online phase."""
    selection_rate: float | None = None
    """Online rate at which epochs are judged during tuning; the online rate if not given."""
    concept_dim: int = 50
    bottleneck_dim: int = 32
    batch_size: int = 16
    clip: bool = True
    drift: Drift = "difference"
    shuffle: bool = True
    """Tune on batches in random order; False takes them in time order (a control)."""
    learn_offsets: bool = True
    """Whether the generator's offsets learn online."""
    validation_pass: ValidationPass = "alternate"
    """What is learned from the validation rows."""
    other_times: bool = False
    """Adapt online to the drift of a random other time (a control); the tuning is the same."""

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """The options of the official script for a setting; of ETTh2 where there is none for the data."""
        if setting.backbone == "linear":
            values = SYNTHETIC
        else:
            default = PATCHTST if setting.backbone == "patchtst" else LINEAR
            at_home = PUBLISHED.get((setting.backbone, "ETTh2", setting.horizon), default)
            values = PUBLISHED.get((setting.backbone, setting.data, setting.horizon), at_home)
        rate, online_rate, concept_dim, bottleneck_dim, batch_size = values
        return cls(
            rate=rate,
            online_rate=online_rate,
            concept_dim=concept_dim,
            bottleneck_dim=bottleneck_dim,
            batch_size=batch_size,
            clip=not (setting.backbone == "patchtst" and setting.data == "ETTm1"),
            # With 300 validation rows of hardly two regimes, steps of the generator there would undo its training.
            validation_pass="online" if setting.backbone == "linear" else "alternate",
        )

    def tuning(self, setting: Setting) -> ProceedTuning:
        """The tuning run of this method on a setting; as long as pre-training where that has no early stopping."""
        patience = setting.fit.patience
        return ProceedTuning(
            setting=setting,
            fit=FitConfig(
                rate=self.rate,
                optimizer=setting.fit.optimizer,
                batch_size=self.batch_size,
                epochs=setting.fit.epochs if patience is None else 25,
                patience=patience,
                decay=setting.fit.decay,
                shuffle=self.shuffle,
            ),
            method=ProceedConfig(
                concept_dim=self.concept_dim, bottleneck_dim=self.bottleneck_dim, clip=self.clip, drift=self.drift
            ),
            online_rate=self.online_rate if self.selection_rate is None else self.selection_rate,
        )

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """The tuned model."""
        return (Run(self.tuning(setting), seed),)

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The tuned model at the online rate, moments kept."""
        model, optimizer = self.tuning(setting).load(problem, store, seed=seed)
        set_rate(optimizer, self.online_rate)
        return ProceedForecaster(
            model,
            optimizer,
            learn_offsets=self.learn_offsets,
            validation_pass=self.validation_pass,
            other_times=self.other_times,
        )
