from __future__ import annotations

import numpy as np
import pytest

from pytest_h2o.codecs.base import Rope
from pytest_h2o.codecs.rotation import Turner, build_rotation


@pytest.mark.parametrize("theta", [1.0, 1e4, 1e5, 5e5, 123_456.789])
@pytest.mark.parametrize("head_dim", [2, 64, 96, 128])
def test_cosine_and_sine_are_rounded_to_a_step(theta: float, head_dim: int) -> None:
    rotation = build_rotation(Rope(theta), head_dim)
    for distances in (np.arange(-300, 300), np.array([-1_000_000, 131_072, 999_999])):
        cos, sin = rotation.cos_sin(distances)
        angle = distances[:, None] * theta ** (-np.arange(head_dim // 2) / (head_dim // 2))
        assert np.abs(cos[:, : head_dim // 2] - np.cos(angle)).max() < 2.0**-16 * 1.01
        assert np.abs(sin[:, head_dim // 2 :] - np.sin(angle)).max() < 2.0**-16 * 1.01
        assert np.array_equal(sin[:, : head_dim // 2], -sin[:, head_dim // 2 :])
        assert np.array_equal(cos * 2**15, np.rint(cos * 2**15))


def test_far_and_near_distances_agree() -> None:
    rotation = build_rotation(Rope(1e4), 16)
    near = rotation.cos_sin(np.arange(5))
    far = rotation.cos_sin(np.array([0, 1, 2, 3, 4, 10**7]))
    assert np.array_equal(near[0], far[0][:5])
    assert np.array_equal(near[1], far[1][:5])


def test_recorded_values() -> None:
    """Frequencies and table entries are part of the format: they must never change."""
    rotation = build_rotation(Rope(1e5), 64)
    assert rotation.steps[:2] == (2935890503282001226, 2048754186989806249)
    cos, sin = rotation.cos_sin(np.array([1, 191, 5000]))
    cosines = [
        [17705, 32743, 32768],
        [-26339, 11506, 32768],
        [5068, 4574, 32684],
    ]
    assert (cos[:, [0, 9, 31]] * 2**15).tolist() == cosines
    sines = [
        [27573, 1286, 0],
        [19494, 30682, 90],
        [-32374, 32447, 2346],
    ]
    assert (sin[:, [32, 41, 63]] * 2**15).tolist() == sines


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rotate(pairing: str) -> None:
    rotation = build_rotation(Rope(1e4, pairing), 8)  # type: ignore[arg-type]
    rows = np.random.default_rng(0).normal(0, 1, (20, 3, 8)).astype(np.float32)
    distances = np.arange(20) * 3 - 30
    turned = Turner(rotation, 3).turn(rows.reshape(20, -1).copy(), distances).reshape(rows.shape)
    first, second = rotation.first_and_second(1)
    pairs = rows[..., first] + 1j * rows[..., second]
    expected = pairs * np.exp(1j * distances[:, None, None] * 1e4 ** (-np.arange(4) / 4))
    assert np.abs(turned[..., first] - expected.real).max() < 1e-3
    assert np.abs(turned[..., second] - expected.imag).max() < 1e-3
