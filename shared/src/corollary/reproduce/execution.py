"""One reproduction from start to end: exact claims, training runs, measurements, result files, plots."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from corollary.papers import Budget, Claim, Level, Measurement, Paper, PlotInputs
from corollary.reproduce.display import Display
from corollary.reproduce.measuring import Measured, Provenance, find_provenance, judge, lacking, measure_seed, not_run
from corollary.reproduce.results import ClaimResult, write_result
from corollary.reproduce.training import Interrupted, OutputError, Training, warnings_as_lines
from corollary.reproduce.workers import Job, Outcome, one_line, one_torch_thread
from corollary.runs import Progress, Run, RunStore, with_requirements


@dataclass(kw_only=True)
class Reproduction:
    """The state of one reproduction; `corollary.reproduce.reproduce` is its front."""

    paper: Paper
    claims: tuple[Claim, ...]
    budget: Budget
    workers: int
    folder: Path
    """Where results and plots go."""
    store: RunStore
    fresh: bool
    keep_recorded: bool
    """Whether a claim that cannot be measured leaves an older result in place."""
    display: Display
    results: dict[str, ClaimResult] = field(default_factory=dict)
    runs: dict[str, dict[int, dict[str, Run]]] = field(default_factory=dict)
    """Runs by claim id, seed and name, as the claims ask for them."""

    def __post_init__(self) -> None:
        self.training = Training(into=self.store, fresh=self.fresh, workers=self.workers, display=self.display)

    def execute(self) -> tuple[list[ClaimResult], list[Path], str | None]:
        """Do everything.

        Returns:
            The results in the paper's order, the plots, and why the plots failed if they did.
        """
        number = f"{len(self.claims)} claim{'s' * (len(self.claims) != 1)}"
        self.display.note(f"{self.paper.slug}: {number}, budget {self.budget}")
        try:
            with self.display, warnings_as_lines(self.display):
                provenance = find_provenance(self.paper)
                for claim in self.claims:
                    if claim.measure is not None and claim.level is Level.EXACT:
                        self._measure_exact(claim, provenance)
                others = [claim for claim in self.claims if claim.id not in self.results]
                needs = {claim.id: self._lacking(claim) for claim in others}
                self._train_and_measure([claim for claim in others if needs[claim.id] is None], provenance)
                for claim in others:
                    if claim.id not in self.results:
                        self._finish(not_run(self.paper, claim, self.budget, needs=needs[claim.id]))
            results = [self.results[claim.id] for claim in self.claims]
            return results, *self._plot()
        except KeyboardInterrupt as interrupt:
            raise Interrupted(self.training.describe_stop(), 128 + getattr(interrupt, "number", 2)) from None

    def _measure_exact(self, claim: Claim, provenance: Provenance) -> None:
        self.display.tick({claim.id: Progress(done=0, total=0, note=claim.statement)}, 0, 0, 0.0, None)
        measured = {}
        try:
            with one_torch_thread():
                for seed in claim.seeds_for(self.budget):
                    inputs = Measurement(seed=seed, budget=self.budget, runs={})
                    measured[seed] = measure_seed(claim, inputs)
        except Exception as error:  # one claim that cannot be measured must not stop the others
            self._finish(not_run(self.paper, claim, self.budget, error=one_line(error)))
        else:
            self._finish(judge(self.paper, claim, self.budget, measured, {}, provenance))

    def _lacking(self, claim: Claim) -> str | None:
        """What the claim lacks here; one that cannot even be asked fails, and the others go on."""
        try:
            return lacking(claim, self.budget)
        except Exception as error:
            self._finish(not_run(self.paper, claim, self.budget, error=one_line(error)))
            return ""

    def _train_and_measure(self, claims: list[Claim], provenance: Provenance) -> None:
        claims = [claim for claim in claims if self._ask_for_runs(claim)]
        named = [runs for claim in claims for runs in self.runs[claim.id].values()]
        jobs = self.training.plan(run for runs in named for run in runs.values())
        seeds: dict[str, tuple[Claim, int]] = {}
        for claim in claims:
            for seed, runs in self.runs[claim.id].items():
                job = self._measuring_job(claim, seed, runs)
                seeds[job.name] = claim, seed
                jobs.append(job)
        gathered: dict[str, dict[int, Outcome]] = {claim.id: {} for claim in claims}

        def on_measured(outcome: Outcome) -> None:
            claim, seed = seeds[outcome.job.name]
            gathered[claim.id][seed] = outcome
            if len(gathered[claim.id]) == len(self.runs[claim.id]):
                self._conclude(claim, gathered[claim.id], provenance)

        self.training.execute(jobs, on_other=on_measured)

    def _ask_for_runs(self, claim: Claim) -> bool:
        """Let the claim name its runs; one that fails at it is not run, and the others go on."""
        try:
            self.runs[claim.id] = {
                seed: dict(claim.runs_for(self.budget, seed)) for seed in claim.seeds_for(self.budget)
            }
        except Exception as error:
            self._finish(not_run(self.paper, claim, self.budget, error=one_line(error)))
            return False
        return True

    def _measuring_job(self, claim: Claim, seed: int, named: dict[str, Run]) -> Job:
        folders = {name: self.training.store.path(run) for name, run in named.items()}
        return Job(
            name=f"{claim.id}, seed {seed}",
            label=f"measure {claim.id}, seed {seed}",
            call=measure_seed,
            arguments=(claim, Measurement(seed=seed, budget=self.budget, runs=folders)),
            needs=self.training.needed(named.values()),
            urgent=True,
        )

    def _conclude(self, claim: Claim, outcomes: dict[int, Outcome], provenance: Provenance) -> None:
        """All seeds of a claim are measured, or have failed."""
        errors = [outcomes[seed].error for seed in sorted(outcomes) if outcomes[seed].error is not None]
        if errors:
            self._finish(not_run(self.paper, claim, self.budget, error=errors[0]))
            return
        measured: dict[int, Measured] = {seed: outcomes[seed].value for seed in self.runs[claim.id]}
        complete = self.training.records
        records = {
            seed: {name: complete[run.key] for name, run in named.items()}
            for seed, named in self.runs[claim.id].items()
        }
        required = {
            other.key: record
            for other in with_requirements(run for named in self.runs[claim.id].values() for run in named.values())
            if (record := complete.get(other.key) or self.training.store.find(other)) is not None
        }
        self._finish(judge(self.paper, claim, self.budget, measured, records, provenance, required=required))

    def _finish(self, result: ClaimResult) -> None:
        self.results[result.claim] = result
        if result.findings or not self.keep_recorded:
            try:
                write_result(result, self.folder)
            except OSError as error:
                file = self.folder / f"{result.claim}.json"
                raise OutputError(f"cannot write {file}: {error.strerror or error}") from error
        self.display.claim(result)

    def _plot(self) -> tuple[list[Path], str | None]:
        if self.paper.plots is None:
            return [], None
        os.environ.setdefault("MPLBACKEND", "Agg")  # no window, and no need for a display
        measured = {identifier: result for identifier, result in self.results.items() if result.findings}
        folders = {
            identifier: {
                seed: {name: self.store.path(run) for name, run in named.items()} for seed, named in seeds.items()
            }
            for identifier, seeds in self.runs.items()
            if identifier in measured
        }
        try:
            # Drawn beside the results and then moved: a plot that fails or is interrupted leaves no half image.
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".plots-") as drawing:
                inputs = PlotInputs(budget=self.budget, out=Path(drawing), results=measured, runs=folders)
                drawn = sorted(Path(path) for path in self.paper.plots(inputs))
                for path in drawn:
                    os.replace(path, self.folder / path.name)
            return [self.folder / path.name for path in drawn], None
        except Exception as error:  # the numbers are safe, and a plot is no reason to lose them
            return [], one_line(error)
