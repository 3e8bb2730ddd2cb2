"""Published relatives of GRPO, one file each: what a new method is compared with."""

from corollary.rl.baselines.adaptive_entropy_bonus import (
    AdaptiveEntropyBonus,
    AdaptiveEntropyBonusConfig,
    next_coefficient,
)
from corollary.rl.baselines.clip_cov import ClipCov, ClipCovConfig, clip_cov_choice
from corollary.rl.baselines.clip_higher import ClipHigher, ClipHigherConfig
from corollary.rl.baselines.covariance import token_covariance
from corollary.rl.baselines.dapo import DAPO, DAPOConfig, has_signal, overlong_penalty
from corollary.rl.baselines.dr_grpo import DrGRPO, DrGRPOConfig
from corollary.rl.baselines.entropy_advantage import EntropyAdvantage, EntropyAdvantageConfig, entropy_advantages
from corollary.rl.baselines.entropy_bonus import EntropyBonus, EntropyBonusConfig, entropy_estimate
from corollary.rl.baselines.forking_tokens import (
    ForkingChoice,
    ForkingTokens,
    ForkingTokensConfig,
    high_entropy_tokens,
)
from corollary.rl.baselines.kl_cov import KLCov, KLCovConfig, kl_cov_choice, kl_cov_loss
from corollary.rl.baselines.masked_mean import masked_mean
from corollary.rl.baselines.opo import OPO, OPOConfig
from corollary.rl.baselines.rloo import RLOO, RLOOConfig
from corollary.rl.baselines.w_reinforce import WReinforce, WReinforceConfig, weighted_rewards

__all__ = [
    "DAPO",
    "OPO",
    "RLOO",
    "AdaptiveEntropyBonus",
    "AdaptiveEntropyBonusConfig",
    "ClipCov",
    "ClipCovConfig",
    "ClipHigher",
    "ClipHigherConfig",
    "DAPOConfig",
    "DrGRPO",
    "DrGRPOConfig",
    "EntropyAdvantage",
    "EntropyAdvantageConfig",
    "EntropyBonus",
    "EntropyBonusConfig",
    "ForkingChoice",
    "ForkingTokens",
    "ForkingTokensConfig",
    "KLCov",
    "KLCovConfig",
    "OPOConfig",
    "RLOOConfig",
    "WReinforce",
    "WReinforceConfig",
    "clip_cov_choice",
    "entropy_advantages",
    "entropy_estimate",
    "has_signal",
    "high_entropy_tokens",
    "kl_cov_choice",
    "kl_cov_loss",
    "masked_mean",
    "next_coefficient",
    "overlong_penalty",
    "token_covariance",
    "weighted_rewards",
]
