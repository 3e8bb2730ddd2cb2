"""Arbitrary Entropy Policy Optimization, AEPO (arXiv:2510.08141)."""

from corollary_aepo.ablations import AblatedAEPO, AblatedAEPOConfig
from corollary_aepo.algorithms import AEPO, AEPOConfig, mc_entropy
from corollary_aepo.controller import EntropyController
from corollary_aepo.digit_strings import entropy_ceiling
from corollary_aepo.loss import aepo_loss
from corollary_aepo.mixing import implicit_alpha, mix_batch
from corollary_aepo.selection import select_reinforce
from corollary_aepo.tabular import PreviousDigit, RemainingSum
from corollary_aepo.tabular_start import TabularStart

__version__ = "0.1.0"

__all__ = [
    "AEPO",
    "AEPOConfig",
    "AblatedAEPO",
    "AblatedAEPOConfig",
    "EntropyController",
    "PreviousDigit",
    "RemainingSum",
    "TabularStart",
    "aepo_loss",
    "entropy_ceiling",
    "implicit_alpha",
    "mc_entropy",
    "mix_batch",
    "select_reinforce",
]
