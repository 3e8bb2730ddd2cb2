import math

import pytest

from corollary_aepo import EntropyController


def test_the_first_step_is_hot_even_for_target_zero():
    assert EntropyController(0.0).temperature() == 1.2
    assert EntropyController(0.5).temperature() == 1.2


@pytest.mark.parametrize(("entropy", "temperature"), [(0.49, 1.2), (0.5, 1.2), (0.500001, 0.8), (3.0, 0.8)])
def test_an_entropy_up_to_the_target_heats_and_one_above_cools(entropy, temperature):
    controller = EntropyController(0.5)
    controller.update(entropy)
    assert controller.temperature() == temperature


def test_the_temperatures_can_be_chosen():
    controller = EntropyController(0.5, 2.0, 0.25)
    assert controller.temperature() == 2.0
    controller.update(1.0)
    assert controller.temperature() == 0.25


def test_only_the_last_measurement_counts():
    controller = EntropyController(0.5)
    controller.update(2.0)
    controller.update(0.1)
    assert controller.heating


def test_the_state_goes_on():
    first, second = EntropyController(0.5), EntropyController(0.5)
    first.update(0.9)
    second.load_state_dict(first.state_dict())
    assert second.temperature() == 0.8
    assert second.state_dict() == {"entropy": 0.9}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": -0.1}, "target must be finite and at least 0, got -0.1"),
        ({"target": math.nan}, "target must be finite and at least 0, got nan"),
        ({"target": 0.5, "t_high": 1.0}, "t_high must be finite and larger than 1, got 1.0"),
        ({"target": 0.5, "t_low": 1.0}, r"t_low must be in \(0, 1\), got 1.0"),
        ({"target": 0.5, "t_low": 0.0}, r"t_low must be in \(0, 1\), got 0.0"),
        ({"target": 0.5, "vocab_size": 1}, "vocab_size must be at least 2, got 1"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EntropyController(**arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measurement_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=f"entropy must be finite, got {value}"):
        EntropyController(0.5).update(value)


def test_a_target_that_no_policy_reaches_warns():
    with pytest.warns(UserWarning, match=r"the target entropy 2.4 is above log\(10\) = 2.303 nats"):
        EntropyController(2.4, vocab_size=10)
    EntropyController(2.3, vocab_size=10)
