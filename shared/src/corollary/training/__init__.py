"""A user's own run with the reference trainer: any local or hub model, a real data set, one folder of results."""

from corollary.training.choices import DTYPES, TASKS, chosen_algorithm, chosen_task
from corollary.training.evaluation import Evaluation, held_out_accuracy
from corollary.training.folder import RunFolder
from corollary.training.language_model import LanguageModel, load_language_model
from corollary.training.run import Outcome, OwnRun
from corollary.training.settings import Settings

__all__ = [
    "DTYPES",
    "TASKS",
    "Evaluation",
    "LanguageModel",
    "Outcome",
    "OwnRun",
    "RunFolder",
    "Settings",
    "chosen_algorithm",
    "chosen_task",
    "held_out_accuracy",
    "load_language_model",
]
