import numpy as np
import pytest

from corollary.forecasting import SwitchingLevels, switching_levels
from corollary.forecasting.synthetic import persistence


def segment_lengths(stream: SwitchingLevels) -> list[int]:
    changes = np.flatnonzero(np.diff(stream.concept)) + 1
    return np.diff([0, *changes, len(stream.concept)]).tolist()


def test_segments_are_of_random_length_within_bounds() -> None:
    *inner, last = segment_lengths(switching_levels(0, rows=60000))
    assert min(inner) >= 150
    assert max(inner) <= 349
    assert last <= 349
    assert len(set(inner)) > 50
    assert 220 < np.mean(inner) < 280


def test_segments_can_be_chosen() -> None:
    *inner, last = segment_lengths(switching_levels(3, rows=1000, segment=(7, 8)))
    assert set(inner) == {7}
    assert last == 1000 % 7


def test_concept_is_uniform_and_persistence_follows() -> None:
    stream = switching_levels(0, rows=200000)
    concepts = np.unique(stream.concept)
    assert -1 < concepts.min() < -0.98
    assert 0.98 < concepts.max() < 1
    assert abs(concepts.mean()) < 0.08
    phi = persistence(stream.concept)
    assert phi.min() > 0.32
    assert phi.max() < 0.98
    np.testing.assert_allclose(persistence(np.array([-1.0, 0.0, 1.0])), [0.32, 0.65, 0.98], rtol=1e-15)


def test_values_follow_the_recursion_with_standard_noise() -> None:
    stream = switching_levels(1, rows=20000)
    deviations = stream.values - 2 * stream.concept[:, None]
    phi = persistence(stream.concept)[1:, None]
    noise = (deviations[1:] - phi * deviations[:-1]) / np.sqrt(1 - phi**2)
    assert noise.shape == (19999, 8)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs(deviations.std() - 1) < 0.05  # stationary within every regime
    correlations = np.corrcoef(noise.T) - np.eye(8)
    assert np.abs(correlations).max() < 0.04
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.01


def test_oracle_by_hand() -> None:
    stream = switching_levels(2, rows=500, variates=3)
    origins = np.array([10, 333, 499])
    forecasts = stream.oracle(origins, 4)
    assert forecasts.shape == (3, 4, 3)
    for i, origin in enumerate(origins):
        c = stream.concept[origin]
        for h in range(1, 5):
            expected = 2 * c + (0.65 + 0.33 * c) ** h * (stream.values[origin] - 2 * c)
            np.testing.assert_allclose(forecasts[i, h - 1], expected, rtol=1e-13)


def test_error_of_the_oracle_is_the_variance_of_the_noise_ahead() -> None:
    stream = switching_levels(0, rows=60000, levels=False)
    origins = np.arange(100, 59000)
    forecasts = stream.oracle(origins, 6)
    for h in range(1, 7):
        error = np.mean((forecasts[:, h - 1] - stream.values[origins + h]) ** 2)
        assert error == pytest.approx(1 - 0.65 ** (2 * h), rel=0.02)


def test_control_has_the_same_noise_and_no_drift() -> None:
    control = switching_levels(5, levels=False)
    assert not control.concept.any()
    drifting = switching_levels(5)

    def noise(stream: SwitchingLevels) -> np.ndarray:
        deviations = stream.values - 2 * stream.concept[:, None]
        phi = persistence(stream.concept)[1:, None]
        return (deviations[1:] - phi * deviations[:-1]) / np.sqrt(1 - phi**2)

    np.testing.assert_allclose(noise(control), noise(drifting), atol=1e-9)


def test_seed_decides_everything() -> None:
    first, again, other = switching_levels(0), switching_levels(0), switching_levels(1)
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.concept, again.concept)
    assert not np.array_equal(first.values, other.values)
    assert first.values.shape == (6000, 8)
    # Recorded results hang on this stream: a change of these numbers is a change of the stream.
    np.testing.assert_allclose(first.concept[0], EXPECTED_CONCEPT, rtol=1e-12)
    np.testing.assert_allclose(first.values[-1, :2], EXPECTED_LAST, rtol=1e-9)


EXPECTED_CONCEPT = -0.4604265724722594
EXPECTED_LAST = (-0.7822438413288875, -1.9027514019780654)
