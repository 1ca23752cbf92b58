from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from ocr_mlx.model.layers.decoder import Decoder, DecoderConfig, place, rope_periods

CONFIG = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}


def test_a_config_is_read_over_defaults() -> None:
    config = DecoderConfig.read(CONFIG | {"rope_parameters": {"rope_theta": 5.0}, "sliding_window": 3}, qk_norm=True)
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta, config.qk_norm) == (4, 6, 5.0, True)
    assert DecoderConfig.read(CONFIG | {"rope_theta": 7, "num_key_value_heads": 2}).num_key_value_heads == 2
    with pytest.raises(KeyError, match="vocab_size"):
        DecoderConfig.read({name: value for name, value in CONFIG.items() if name != "vocab_size"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("max_position_embeddings", "many"),
        ("num_attention_heads", 2.5),
        ("rope_theta", -1),
        ("head_dim", True),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}, not a positive"):
        DecoderConfig.read(CONFIG | {name: value})


def turned(x: NDArray[np.float32], start: int, theta: float) -> NDArray[np.float32]:
    """The textbook's rotation of x [length, size], positions from `start` on."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(start, start + len(x)), theta ** (-np.arange(half) / half))
    cos, sin = np.cos(angles), np.sin(angles)
    left, right = x[:, :half], x[:, half:]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], -1).astype(np.float32)


def test_rows_turn_from_their_own_starts() -> None:
    config = DecoderConfig.read(CONFIG | {"rope_theta": 100.0, "head_dim": 8})
    x = np.random.default_rng(1).standard_normal((2, 1, 3, 8), np.float32)
    for starts in ([4, 4], [0, 2000]):
        found = np.array(Decoder(config).rotation(starts)(mx.array(x)))
        for row, start in enumerate(starts):
            np.testing.assert_allclose(found[row, 0], turned(x[row, 0], start, 100.0), rtol=0, atol=2e-4)
    np.testing.assert_allclose(rope_periods(8, 100.0), [1, 100**0.25, 10, 100**0.75], rtol=1e-6)


def test_without_a_cache_is_as_with_one() -> None:
    decoder = Decoder(DecoderConfig.read(CONFIG | {"num_key_value_heads": 2}, qkv_bias=True, qk_norm=True))
    x = mx.array(np.random.default_rng(2).standard_normal((2, 5, 24), np.float32))
    state = decoder.new_state(2)
    cached = mx.concatenate([decoder(x[:, :3], state), decoder(x[:, 3:], state)], axis=1)
    np.testing.assert_allclose(np.array(decoder.forward_plain(x, "causal")), np.array(cached), rtol=0, atol=1e-5)
    assert state.starts == [5, 5]


def test_shifts_follow_their_rows() -> None:
    decoder = Decoder(DecoderConfig.read(CONFIG))
    state, other = decoder.new_state(2, [3, 0]), decoder.new_state(1, [-2])
    decoder(mx.zeros((2, 4, 24)), state)
    decoder(mx.zeros((1, 6, 24)), other)
    state.merge(other)
    assert state.starts == [7, 4, 4]
    state.keep([2, 0])
    assert (state.starts, state.shifts, state.rows) == ([4, 7], [-2, 3], 2)
    state.trim([1, 2])
    assert state.starts == [3, 5]


def test_features_go_to_the_image_tokens_of_each_row() -> None:
    embeddings = mx.zeros((2, 4, 2))
    features = mx.array([[[1.0, 1.0], [2.0, 2.0]], [[3.0, 3.0], [4.0, 4.0]]])
    placed = np.array(place(embeddings, [[9, 7, 7, 0], [7, 0, 0, 7]], 7, features))
    assert placed[..., 0].tolist() == [[0, 1, 2, 0], [3, 0, 0, 4]]
    with pytest.raises(ValueError, match=r"\[2, 1\] image tokens, the pictures give 2"):
        place(embeddings, [[9, 7, 7, 0], [7, 0, 0, 0]], 7, features)
