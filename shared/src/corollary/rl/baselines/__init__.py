"""Published relatives of GRPO, one file each: what a new method is compared with."""

from corollary.rl.baselines.adaptive_entropy_bonus import (
    AdaptiveEntropyBonus,
    AdaptiveEntropyBonusConfig,
    next_coefficient,
)
from corollary.rl.baselines.clip_cov import ClipCov, ClipCovConfig, clip_cov_choice
from corollary.rl.baselines.clip_higher import ClipHigher, ClipHigherConfig
from corollary.rl.baselines.covariance import token_covariance
from corollary.rl.baselines.entropy_bonus import EntropyBonus, EntropyBonusConfig, entropy_estimate
from corollary.rl.baselines.kl_cov import KLCov, KLCovConfig, kl_cov_choice, kl_cov_loss
from corollary.rl.baselines.masked_mean import masked_mean
from corollary.rl.baselines.opo import OPO, OPOConfig
from corollary.rl.baselines.rloo import RLOO, RLOOConfig

__all__ = [
    "OPO",
    "RLOO",
    "AdaptiveEntropyBonus",
    "AdaptiveEntropyBonusConfig",
    "ClipCov",
    "ClipCovConfig",
    "ClipHigher",
    "ClipHigherConfig",
    "EntropyBonus",
    "EntropyBonusConfig",
    "KLCov",
    "KLCovConfig",
    "OPOConfig",
    "RLOOConfig",
    "clip_cov_choice",
    "entropy_estimate",
    "kl_cov_choice",
    "kl_cov_loss",
    "masked_mean",
    "next_coefficient",
    "token_covariance",
]
