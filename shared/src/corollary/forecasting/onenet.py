"""OneNet: two forecasters, across time and across variates, mixed by a slow and a fast weight."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import OnlineForecaster
from corollary.forecasting.backbones.fsnet import LastRows, make_fsnet, set_online
from corollary.forecasting.experiment import MODEL, OnlineMethod, Pretrain, Setting, pretrained
from corollary.forecasting.fitting import fit, make_optimizer, mean_squared_error, set_rate
from corollary.forecasting.fsnet import fsnet_setting
from corollary.forecasting.methods import GD_RATES
from corollary.forecasting.online import Frozen
from corollary.forecasting.problem import Problem
from corollary.forecasting.settings import published
from corollary.runs import Recipe, Run, RunDirectory, RunStore, load_checkpoint, save_checkpoint, write_atomically

ONENET_RATES = {"ETTh2": 3e-4, "ETTm1": 1e-4, "Weather": 1e-5, "ECL": 1e-4, "Traffic": 3e-5}
"""Online rates of the two FSNets: the scripts of arXiv:2412.08435."""

PRETRAINING_RATES = {"ETTh2": 1e-3}
MIXTURE_RATE = 1e-3
CONVOLUTIONAL = {"tcn", "fsnet", "fsnet-plain"}
"""Backbones for which both forecasters are FSNets."""


class MixtureLosses(NamedTuple):
    """What the two weights descend, and the fast weight itself."""

    slow: Tensor
    """Loss of w."""
    fast: Tensor
    """Loss of the network that gives b."""
    bias: Tensor
    """b, (B, N)."""


class Mixture(nn.Module):
    r"""Two forecasts mixed, for every variate by a slow weight w and a fast bias b.

    .. math:: \hat Y = s\,\hat Y^{(1)} + (1 - s)\,\hat Y^{(2)}, \qquad s = \sigma(w + b)

    w is a parameter; b comes from the last labelled sample, with :math:`s_0 = \sigma(w)`, along time:

    .. math:: b = \mathrm{MLP}([s_0 \hat Y^{(1)};\ (1 - s_0)\,\hat Y^{(2)};\ Y])

    w descends the error of the mixture without b, the network (3 H to 32 to 32 to 1, tanh, dropout) that with b.
    (Wen et al., NeurIPS 2023, arXiv:2309.12659, as run for arXiv:2412.08435.)

    Args:
        variates: N.
        horizon: H.
        hidden: width of the network.
        dropout: before each tanh.

    Implementation notes:
        * The paper moves w by exponentiated gradients on the simplex; the code of both papers by Adam.
        * In that code the loss of b leaves a gradient at w too, which the step of w adds to its own. Here w follows
          its own loss only.
        * b is computed in training mode, so with dropout, before the network steps.
    """

    bias: Tensor

    def __init__(self, variates: int, horizon: int, *, hidden: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(variates))
        self.network = nn.Sequential(
            *(nn.Linear(3 * horizon, hidden), nn.Dropout(dropout), nn.Tanh()),
            *(nn.Linear(hidden, hidden), nn.Dropout(dropout), nn.Tanh()),
            nn.Linear(hidden, 1),
        )
        self.register_buffer("bias", torch.zeros(variates))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The mixture of two forecasts (B, H, N), with b as it stands."""
        return torch.lerp(second, first, torch.sigmoid(self.weight + self.bias))

    def losses(self, first: Tensor, second: Tensor, y: Tensor) -> MixtureLosses:
        """Losses of one batch of forecasts without gradient and their labels, (B, H, N) each."""
        weight = self.weight.detach()
        share = torch.sigmoid(weight)
        bias = self.network(torch.cat([share * first, (1 - share) * second, y], 1).mT).squeeze(-1)
        fast = torch.lerp(second, first, torch.sigmoid(weight + bias).unsqueeze(1))
        slow = torch.lerp(second, first, torch.sigmoid(self.weight))
        return MixtureLosses(functional.mse_loss(slow, y), functional.mse_loss(fast, y), bias.detach())

    def learn(self, optimizer: torch.optim.Optimizer, first: Tensor, second: Tensor, y: Tensor) -> Tensor:
        """One step of both weights: no loss reaches what the other moves, so one backward pass serves. Gives b."""
        optimizer.zero_grad()
        losses = self.losses(first.detach(), second.detach(), y)
        (losses.slow + losses.fast).backward()
        optimizer.step()
        return losses.bias


class OneNet(nn.Module):
    """Two forecasters and their mixture.

    Args:
        first: maps (B, L, N + C) to (B, H, N); the one across time.
        second: likewise; the one across variates.
        variates: N.
        horizon: H.
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, variates: int, horizon: int) -> None:
        super().__init__()
        self.forecasters = nn.ModuleList([first, second])
        self.mixture = Mixture(variates, horizon)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two forecasts, (B, H, N) each."""
        first, second = self.forecasters
        return first(x), second(x)

    def forward(self, x: Tensor) -> Tensor:
        """The mixture (B, H, N) from (B, L, N + C)."""
        return self.mixture(*self.both(x))


class OneNetForecaster(Frozen):
    """Each step: both forecasters descend their own errors, then the weights of the mixture that of the mixture.

    Args:
        model: the two forecasters and the mixture; their memories, if they have any, open.
        optimizers: of the forecasters.
        mixing: Adam over the mixture's parameters.
    """

    def __init__(
        self, model: OneNet, optimizers: Sequence[torch.optim.Optimizer], mixing: torch.optim.Optimizer
    ) -> None:
        super().__init__(model)
        self.network, self.optimizers, self.mixing = model, optimizers, mixing
        set_online(model, True)

    def update(self, x: Tensor, y: Tensor) -> None:
        """One step of everything; b of this sample is what the next forecast uses."""
        self.train(True)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        label = y.unsqueeze(0)
        first, second = self.network.both(x.unsqueeze(0))
        (functional.mse_loss(first, label) + functional.mse_loss(second, label)).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        bias = self.network.mixture.learn(self.mixing, first, second, label)
        self.network.mixture.bias.copy_(bias.squeeze(0))

    def state_dict(self) -> dict[str, Any]:
        """Models, mixture and all optimisers."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "mixing": self.mixing.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self.mixing.load_state_dict(state["mixing"])


class PretrainedOneNet(NamedTuple):
    """What joint pre-training leaves."""

    model: OneNet
    optimizer: torch.optim.Optimizer
    mixing: torch.optim.Optimizer


@dataclass(frozen=True, kw_only=True)
class PretrainOneNet(Recipe):
    r"""Train two FSNets and their mixture together on the training rows.

    As in the official code: the forecasters descend :math:`\mathrm{MSE}(\hat Y^{(1)}) + \mathrm{MSE}(\hat Y^{(2)})`,
    the mixture learns beside them at a rate of its own, and the validation error of the mixture without b stops.

    Implementation notes:
        * Across time means each variate alone, as in the paper: one network of one variate, shared by all, under
          RevIN. The code gives the windows to a linear map and convolves along the order of the variates, without
          RevIN.
        * w, its network and their moments go on from here into the online phase; in the code of OneNet's own paper
          w starts again at zero.
    """

    name: ClassVar[str] = "onenet"
    version: ClassVar[int] = 1

    setting: Setting
    """That of FSNet, with OneNet's rate."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"pre-training OneNet ({self.setting.label})"

    def make(self, seed: int) -> PretrainedOneNet:
        """Everything as it is before training, initialised from the global generator."""
        problem, config = self.setting.problem(seed), self.setting.fit
        columns, horizon, variates = problem.values.shape[1], problem.horizon, problem.variates
        first, second = (make_fsnet(columns, horizon, variates, across=across) for across in (False, True))
        model = OneNet(first, second, variates=variates, horizon=horizon)
        return PretrainedOneNet(
            model,
            make_optimizer(config.optimizer, model.forecasters.parameters(), config.rate),
            make_optimizer("adam", model.mixture.parameters(), MIXTURE_RATE),
        )

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Train; an interrupted run starts again, to the same numbers."""
        torch.manual_seed(seed)
        problem, config = self.setting.problem(seed), self.setting.fit
        model, optimizer, mixing = self.make(seed)
        held_out = problem.windows(problem.validation_origins)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            first, second = model.both(x)
            model.mixture.learn(mixing, first, second, y)
            return functional.mse_loss(first, y) + functional.mse_loss(second, y)

        history = fit(
            model,
            optimizer,
            problem.windows(problem.training_origins),
            config,
            loss=loss,
            validate=(lambda: mean_squared_error(model, held_out, part=64)) if config.patience is not None else None,
            on_epoch=lambda epoch, value: directory.progress(epoch, config.epochs, f"loss {value:.3f}"),
        )
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "mixing": mixing.state_dict()}
        save_checkpoint(directory.path / MODEL, state)
        write_atomically(directory.path / "history.json", json.dumps(asdict(history)))
        directory.progress(config.epochs, config.epochs)

    def load(self, store: RunStore, *, seed: int) -> PretrainedOneNet:
        """What the complete run left."""
        state, made = load_checkpoint(store.open(Run(self, seed)) / MODEL), self.make(seed)
        made.model.load_state_dict(state["model"])
        made.optimizer.load_state_dict(state["optimizer"])
        made.mixing.load_state_dict(state["mixing"])
        return made


@dataclass(frozen=True, kw_only=True)
class OneNetMethod(OnlineMethod):
    """OneNet (Wen et al., NeurIPS 2023, arXiv:2309.12659).

    For a convolutional backbone both forecasters are FSNets, pre-trained together. For any other the first is the
    comparison's backbone and the second FSNet on the last rows, each pre-trained by itself, with a new mixture.
    """

    rate: float = 3e-4
    """Online rate of both forecasters."""

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """With the published rate; for other backbones, which have none, with that of gradient descent on them."""
        rates = ONENET_RATES if setting.backbone in CONVOLUTIONAL else GD_RATES[setting.backbone]
        return cls(rate=published(rates, setting.data))

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """Both forecasters."""
        if setting.backbone in CONVOLUTIONAL:
            return (Run(self._joint(setting), seed),)
        return (Run(Pretrain(setting=setting), seed), Run(Pretrain(setting=fsnet_setting(setting)), seed))

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """Forecasters with their optimisers at the online rate; the mixture keeps its own."""
        if setting.backbone in CONVOLUTIONAL:
            joint = self._joint(setting)
            model, optimizer, mixing = joint.load(store, seed=seed)
            model.forecasters = nn.ModuleList(LastRows(part, joint.setting.lookback) for part in model.forecasters)
            set_rate(optimizer, self.rate)
            return OneNetForecaster(model, [optimizer], mixing)
        own = fsnet_setting(setting)
        first, first_optimizer = pretrained(setting, seed, store, rate=self.rate)
        second, second_optimizer = pretrained(own, seed, store, rate=self.rate)
        second = LastRows(second, own.lookback)
        model = OneNet(first, second, variates=problem.variates, horizon=problem.horizon)
        mixing = make_optimizer("adam", model.mixture.parameters(), MIXTURE_RATE)
        return OneNetForecaster(model, [first_optimizer, second_optimizer], mixing)

    def _joint(self, setting: Setting) -> PretrainOneNet:
        return PretrainOneNet(setting=fsnet_setting(setting, rates=PRETRAINING_RATES))
