"""Window geometry against a direct reading of its definition."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.model.families.nougat.windows import BLOCKED, Geometries, relative_index

GRIDS = [(14, 14, 7, 3), (9, 14, 7, 3), (8, 10, 4, 2), (6, 5, 3, 1), (6, 6, 3, 0), (7, 20, 7, 3)]


@pytest.mark.parametrize("grid", GRIDS)
def test_join_undoes_split(grid: tuple[int, int, int, int]) -> None:
    rows, columns, window, shift = grid
    geometry = Geometries().get(rows, columns, window, shift)
    x = mx.random.normal((2, rows * columns, 3))
    windows = geometry.split(x)
    assert windows.shape[1] == window * window
    assert mx.array_equal(geometry.join(windows), x).item()


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if min(grid[:2]) > grid[2]])
def test_split_rolls_pads_and_parts(grid: tuple[int, int, int, int]) -> None:
    rows, columns, window, shift = grid
    x = np.random.default_rng(0).standard_normal((1, rows, columns, 2)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (0, -rows % window), (0, -columns % window), (0, 0)])
    rolled = np.roll(padded, (-shift, -shift), (1, 2))[0]
    found = np.array(Geometries().get(rows, columns, window, shift).split(mx.array(x.reshape(1, -1, 2))))
    index = 0
    for top in range(0, rolled.shape[0], window):
        for left in range(0, rolled.shape[1], window):
            expected = rolled[top : top + window, left : left + window].reshape(-1, 2)
            np.testing.assert_array_equal(found[index], expected)
            index += 1
    assert index == len(found)


def test_cells_that_were_not_neighbours_are_blocked() -> None:
    geometry = Geometries().get(8, 8, 4, 2)
    assert geometry.mask is not None
    mask = np.array(geometry.mask)[:, 0]
    assert not mask[0].any()
    assert mask[3, 0, 15] == mask[3, 0, 2] == BLOCKED
    assert mask[3, 0, 1] == 0
    np.testing.assert_array_equal(mask, mask.swapaxes(1, 2))


def test_a_grid_as_small_as_the_window_is_not_shifted() -> None:
    geometries = Geometries()
    assert geometries.get(7, 20, 7, 3).mask is None
    assert geometries.get(7, 20, 7, 3) is geometries.get(7, 20, 7, 0)
    assert geometries.get(8, 20, 7, 3).mask is not None


def test_relative_index_by_hand() -> None:
    assert relative_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_index(7)[0, 48] == 0
    assert relative_index(7)[48, 0] == 168
