"""Bad input gives one clear error with what was expected and what came."""

import pytest
import torch

from corollary.kernels import token_stats

LOGITS = torch.zeros(2, 3, 5)
TARGETS = torch.zeros(2, 3, dtype=torch.long)


def with_value(value: float, *place: int) -> torch.Tensor:
    logits = LOGITS.clone()
    logits[place] = value
    return logits


CASES = {
    "integer logits": ({"logits": LOGITS.long()}, r"floating tensor, got torch\.int64"),
    "no tensor": ({"logits": [[1.0, 2.0]]}, "floating tensor, got list"),
    "no vocabulary": ({"logits": torch.zeros(2, 3, 0)}, r"V >= 1, got shape \(2, 3, 0\)"),
    "no axis": ({"logits": torch.tensor(1.0), "targets": torch.tensor(0)}, r"V >= 1, got shape \(\)"),
    "shape": ({"targets": TARGETS[:, :2]}, r"\(2, 3\), got \(2, 2\)"),
    "no silent broadcast": ({"targets": TARGETS[:1]}, r"\(2, 3\), got \(1, 3\)"),
    "float targets": ({"targets": TARGETS.float()}, r"integer tensor, got torch\.float32"),
    "bool targets": ({"targets": TARGETS.bool()}, r"integer tensor, got torch\.bool"),
    "target too large": ({"targets": TARGETS + 5}, r"0\.\.4 on valid tokens, got 5"),
    "target negative": ({"targets": TARGETS - 100}, r"0\.\.4 on valid tokens, got -100"),
    "temperature zero": ({"temperature": 0.0}, r"finite and > 0, got 0\.0"),
    "temperature negative": ({"temperature": -1}, "finite and > 0, got -1"),
    "temperature nan": ({"temperature": float("nan")}, "finite and > 0, got nan"),
    "temperature infinite": ({"temperature": float("inf")}, "finite and > 0, got inf"),
    "one bad temperature": ({"temperature": torch.tensor([1.0, 1.0, -2.0])}, r"valid tokens, got -2\.0"),
    "temperature tensor nan": (
        {"temperature": torch.tensor([1.0, torch.nan, 1.0])},
        "valid tokens, got nan",
    ),
    "temperature tensor infinite": ({"temperature": torch.tensor([1.0, torch.inf, 1.0])}, "tokens, got inf"),
    "temperature shape": ({"temperature": torch.ones(2)}, r"leading axes of logits, \(2, 3\), got \(2,\)"),
    "temperature too large": ({"temperature": torch.ones(4, 2, 3)}, r"\(2, 3\), got \(4, 2, 3\)"),
    "temperature gradient": (
        {"temperature": torch.ones(3, requires_grad=True)},
        "must not require a gradient",
    ),
    "unknown statistic": ({"stats": ("entropy", "skew")}, "sum_p2_log_p, varentropy; got 'skew'"),
    "a string": ({"stats": "entropy"}, r"write \('entropy',\)"),
    "log_z on request": ({"stats": ("log_z",)}, "got 'log_z'"),
    "unknown backend": ({"backend": "numpy"}, "auto, torch, compile, triton; got 'numpy'"),
    "mask values": ({"mask": torch.full((2, 3), 0.5)}, r"only 0 and 1, got 0\.5"),
    "mask nan": ({"mask": torch.full((2, 3), torch.nan)}, "only 0 and 1, got nan"),
    "mask shape": ({"mask": torch.ones(3)}, r"\(2, 3\), got \(3,\)"),
    "mask no tensor": ({"mask": [[True]]}, "tensor or None, got list"),
    "nan": ({"logits": with_value(torch.nan, 1, 2, 0)}, r"NaN logits on a valid token: row \(1, 2\);"),
    "nan beside others": ({"logits": with_value(torch.nan, 1)}, r"token: row \(1, 0\) \(and 2 more\)"),
    "plus infinity": (
        {"logits": with_value(torch.inf, 0, 1, 3)},
        r"\+inf logits on a valid token: row \(0, 1\)",
    ),
    "only minus infinity": ({"logits": with_value(-torch.inf, 0, 2)}, r"only -inf .* row \(0, 2\)"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("gradient", [False, True])
def test_bad_input_is_refused_with_expected_and_got(case, gradient: bool) -> None:
    change, message = case
    arguments = {"logits": LOGITS, "targets": TARGETS, **change}
    if gradient and isinstance(arguments["logits"], torch.Tensor) and arguments["logits"].is_floating_point():
        arguments["logits"] = arguments["logits"].clone().requires_grad_()
    logits, targets = arguments.pop("logits"), arguments.pop("targets")
    with pytest.raises(ValueError, match=message):
        token_stats(logits, targets, **arguments)


def test_a_bad_row_behind_a_mask_is_named_by_its_own_place() -> None:
    mask = torch.tensor([[0, 1, 0], [0, 1, 1]])
    with pytest.raises(ValueError, match=r"NaN logits on a valid token: row \(1, 1\)"):
        token_stats(with_value(torch.nan, 1, 1, 4), TARGETS, mask=mask)


@pytest.mark.parametrize("stats", [(), ("sum_p2",)])
def test_nan_is_found_whatever_was_asked_for(stats: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="NaN logits"):
        token_stats(with_value(torch.nan, 0, 0, 0), TARGETS, stats=stats)


def test_inplace_backward_refuses_a_leaf() -> None:
    with pytest.raises(ValueError, match="got a leaf"):
        token_stats(LOGITS.clone().requires_grad_(), TARGETS, inplace_backward=True)


def test_inplace_backward_refuses_strides_without_a_flat_view() -> None:
    logits = (torch.zeros(2, 4, 5, requires_grad=True) * 1)[:, :-1]
    with pytest.raises(ValueError, match=r"viewed as \(N, V\), got shape \(2, 3, 5\) with strides \(20, 5, 1\)"):
        token_stats(logits, TARGETS, inplace_backward=True)


def test_the_environment_variable_picks_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLARY_TOKEN_STATS_BACKEND", "numpy")
    with pytest.raises(ValueError, match=r"COROLLARY_TOKEN_STATS_BACKEND must be one of .*; got 'numpy'"):
        token_stats(LOGITS, TARGETS)
    token_stats(LOGITS, TARGETS, backend="torch")


def test_required_statistics_are_returned_in_order_or_named_as_missing() -> None:
    stats = token_stats(LOGITS, TARGETS, stats=("entropy", "log_prob"))
    log_prob, entropy = stats.required("log_prob", "entropy")
    assert log_prob is stats.log_prob
    assert entropy is stats.entropy
    with pytest.raises(ValueError, match=r"missing sum_p2, got \['log_prob', 'entropy', 'log_z'\]"):
        stats.required("entropy", "sum_p2")
