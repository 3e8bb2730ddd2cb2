"""Experience replay: online gradient descent on the freshest pair and on pairs drawn from a memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import OnlineForecaster
from corollary.forecasting.experiment import OnlineMethod, Setting, pretrained
from corollary.forecasting.methods import GD_RATES
from corollary.forecasting.online import OnlineGD
from corollary.forecasting.problem import Problem
from corollary.forecasting.settings import published
from corollary.runs import RunStore


class Reservoir:
    """A uniform sample of everything that was ever stored (Vitter 1985, algorithm R).

    The first ``capacity`` records are kept; the n-th after that replaces a random one with probability capacity / n.

    Args:
        capacity: records kept at most.
        seed: of the generator that decides what is kept and what is drawn.

    Raises:
        ValueError: a capacity that is not positive.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity, self.seen = capacity, 0
        self.generator = torch.Generator().manual_seed(seed)
        self._columns: list[Tensor] = []

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def store(self, *record: Tensor) -> None:
        """Keep a record, in place of another one or not at all once the reservoir is full."""
        if not self._columns:
            self._columns = [torch.empty(self.capacity, *item.shape, dtype=item.dtype) for item in record]
        self.seen += 1
        place = self.seen - 1
        if place >= self.capacity:
            place = int(torch.randint(self.seen, (), generator=self.generator))
        if place < self.capacity:
            for column, item in zip(self._columns, record, strict=True):
                column[place] = item

    def draw(self, count: int) -> list[Tensor]:
        """At most ``count`` different records, stacked item by item.

        Raises:
            ValueError: the reservoir is empty.
        """
        if not self.seen:
            raise ValueError("nothing can be drawn from an empty reservoir")
        chosen = torch.randperm(len(self), generator=self.generator)[:count]
        return [column[chosen] for column in self._columns]

    def state_dict(self) -> dict[str, Any]:
        """The records, how many were seen, and the state of the generator."""
        return {
            "seen": self.seen,
            "records": [column[: len(self)] for column in self._columns],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of it."""
        self.seen = int(state["seen"])
        self._columns = [
            torch.cat([records, records.new_empty(self.capacity - len(records), *records.shape[1:])])
            for records in state["records"]
        ]
        self.generator.set_state(state["generator"])


class ER(OnlineGD):
    r"""Experience replay (Chaudhry et al., arXiv:1902.10486): one step on the freshest pair and on remembered ones.

    .. math:: \mathrm{MSE}(F(X), Y) + b\, \mathrm{MSE}(F(X'_m), Y'_m)

    with :math:`(X'_m, Y'_m)` drawn without replacement from the memory, a `Reservoir` of the pairs that were learned
    from. While it is empty there is only the first term.

    Args:
        model: maps (B, L, N + C) to (B, H, N).
        optimizer: over the parameters that learn.
        seed: of the memory.
        labels: b, weight of the remembered labels.
        capacity: pairs remembered.
        draws: pairs drawn at each step.

    Implementation notes:
        * Fresh and remembered pairs go through the model in one batch, which gives the same sum of gradients, unless
          the model has buffers: these may change at every forward pass, as those of batch normalisation do. Then each
          term has its own forward pass, the freshest pair first.
        * The class of this name in the official code of arXiv:2412.08435 fails at the first pair it stores; its
          numbers (500 pairs, 8 drawn, b = 0.2) are followed.

    Raises:
        ValueError: ``capacity`` or ``draws`` is not positive, or a weight is negative.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        labels: float = 0.2,
        capacity: int = 500,
        draws: int = 8,
    ) -> None:
        super().__init__(model, optimizer)
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        if labels < 0:
            raise ValueError(f"labels must be 0 or more, got {labels}")
        self.memory = Reservoir(capacity, seed=seed)
        self.labels, self.draws = labels, draws
        batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # couple the batch, with buffers or without
        self._joint = not list(model.buffers()) and not any(isinstance(module, batch_norms) for module in self._modules)

    def update(self, x: Tensor, y: Tensor) -> None:
        """One step; then the pair may be remembered."""
        self.train(True)
        self.optimizer.zero_grad()
        terms = self.remembered() if self.memory.seen else []
        fresh, *replayed = self._forward([x.unsqueeze(0), *(inputs for _, inputs, _ in terms)])
        loss = functional.mse_loss(fresh[0], y)
        for (weight, _, targets), forecasts in zip(terms, replayed, strict=True):
            loss = loss + weight * functional.mse_loss(forecasts, targets)
        loss.backward()
        self.optimizer.step()
        self.remember(x, y, fresh[0].detach())

    def remembered(self) -> list[tuple[float, Tensor, Tensor]]:
        """The terms of the memory: weight, inputs (B, L, N + C) and targets (B, H, N) of each."""
        x, y = self.memory.draw(self.draws)
        return [(self.labels, x, y)]

    def remember(self, x: Tensor, y: Tensor, forecast: Tensor) -> None:
        """Offer a pair to the memory."""
        self.memory.store(x, y)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser and memory."""
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all three."""
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])

    def _forward(self, inputs: list[Tensor]) -> list[Tensor]:
        if not self._joint:
            return [self.model(batch) for batch in inputs]
        return list(self.model(torch.cat(inputs)).split([len(batch) for batch in inputs]))


class DERpp(ER):
    r"""Dark experience replay (Buzzega et al. 2020, arXiv:2004.07211): hold on to earlier forecasts, not only labels.

    .. math:: \mathrm{MSE}(F(X), Y) + a\, \mathrm{MSE}(F(X_m), Z_m) + b\, \mathrm{MSE}(F(X'_m), Y'_m)

    with two independent draws from the memory, and :math:`Z` the forecast that the update on that pair made in its
    time: in training mode, before the step. With b = 0 this is DER, and there is no second draw.

    Args:
        model: maps (B, L, N + C) to (B, H, N).
        optimizer: over the parameters that learn.
        seed: of the memory.
        forecasts: a, weight of the remembered forecasts.
        labels: b, weight of the remembered labels.
        capacity: pairs remembered.
        draws: pairs in each draw.

    Implementation notes:
        * The class called DER++ in the official code of arXiv:2412.08435 has the first two terms only, with a = 0.2.
        * For the batches, see `ER`.

    Raises:
        ValueError: ``capacity`` or ``draws`` is not positive, or a weight is negative.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        forecasts: float = 0.2,
        labels: float = 0.2,
        capacity: int = 500,
        draws: int = 8,
    ) -> None:
        super().__init__(model, optimizer, seed=seed, labels=labels, capacity=capacity, draws=draws)
        if forecasts < 0:
            raise ValueError(f"forecasts must be 0 or more, got {forecasts}")
        self.forecasts = forecasts

    def remembered(self) -> list[tuple[float, Tensor, Tensor]]:
        """Forecasts of one draw, and labels of another."""
        x, _, forecast = self.memory.draw(self.draws)
        terms = [(self.forecasts, x, forecast)]
        if self.labels:
            x, y, _ = self.memory.draw(self.draws)
            terms.append((self.labels, x, y))
        return terms

    def remember(self, x: Tensor, y: Tensor, forecast: Tensor) -> None:
        """Offer a pair with its forecast to the memory."""
        self.memory.store(x, y, forecast)


@dataclass(frozen=True, kw_only=True)
class ERMethod(OnlineMethod):
    """Experience replay, with the pre-training optimiser at a rate of its own."""

    rate: float = 3e-5
    labels: float = 0.2
    """b, weight of the remembered labels."""

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """With the published rate of plain gradient descent; without one, the defaults."""
        rates = GD_RATES.get(setting.backbone)
        return cls() if rates is None else cls(rate=published(rates, setting.data))

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The backbone with its optimiser and an empty memory."""
        return ER(*pretrained(setting, seed, store, rate=self.rate), seed=seed, labels=self.labels)


@dataclass(frozen=True, kw_only=True)
class DERppMethod(OnlineMethod):
    """Dark experience replay. The defaults are DER++ as its paper defines it; the preset drops its last term."""

    rate: float = 3e-5
    forecasts: float = 0.2
    """a, weight of the remembered forecasts; 0.2 in the official code of arXiv:2412.08435."""
    labels: float = 0.2
    """b, weight of the remembered labels. That code has no such term; the default gives labels the weight of the
    forecasts, which is also that of `ERMethod`."""

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """As in the official code: b = 0, which is DER, with the published rate of plain gradient descent."""
        rates = GD_RATES.get(setting.backbone)
        return cls(labels=0.0) if rates is None else cls(rate=published(rates, setting.data), labels=0.0)

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The backbone with its optimiser and an empty memory."""
        model, optimizer = pretrained(setting, seed, store, rate=self.rate)
        return DERpp(model, optimizer, seed=seed, forecasts=self.forecasts, labels=self.labels)
