from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from ocr_mlx.model.layers import few_rows, host

RANDOM = np.random.default_rng(7)


def numbers(*shape: int) -> mx.array:
    return mx.array(RANDOM.standard_normal(shape, np.float32))


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 16])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 33), (3001, 257), (130, 8192)])
def test_a_product_is_the_matrix_product_for_any_pieces(rows: int, outputs: int, inputs: int) -> None:
    x, weight = (RANDOM.standard_normal(shape, np.float32) for shape in ((rows, inputs), (outputs, inputs)))
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    np.testing.assert_allclose(few_rows.product(x, weight), exact, atol=1e-4 * np.sqrt(inputs))


def test_a_row_has_the_same_product_whoever_stands_beside_it() -> None:
    weight = RANDOM.standard_normal((900, 640), np.float32)
    x = RANDOM.standard_normal((8, 640), np.float32)
    other = np.concatenate([x[:1], RANDOM.standard_normal((7, 640), np.float32)])
    assert np.array_equal(few_rows.product(x, weight)[0], few_rows.product(other, weight)[0])


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.layers = [nn.Linear(24, 24), nn.Linear(24, 24, bias=False)]
        self.norm = nn.LayerNorm(24)

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return self.embed.as_linear(self.norm(x))


@pytest.mark.parametrize("shape", [(1, 1, 24), (3, 5, 24), (2, 40, 24)])
def test_a_graph_that_may_choose_gives_the_same_under_the_same_names(shape: tuple[int, ...]) -> None:
    graph, x = Graph(), numbers(*shape)
    before, names = np.asarray(graph(x)), [name for name, _ in tree_flatten(graph.parameters())]
    few_rows.prefer_few_rows(graph)
    assert [name for name, _ in tree_flatten(graph.parameters())] == names
    assert {type(layer) for layer in graph.layers} == {few_rows.FewRowsLinear}
    np.testing.assert_allclose(np.asarray(graph(x)), before, atol=1e-5)


def test_many_rows_and_other_types_go_through_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows, "product", lambda *_: pytest.fail("went through numpy"))
    layer = few_rows.FewRowsLinear(nn.Linear(8, 4))
    mx.eval(layer(numbers(few_rows.MOST_ROWS + 1, 8)), layer(numbers(1, 8).astype(mx.float16)))


def test_all_work_is_done_once_and_an_error_comes_out() -> None:
    done: list[int] = []
    host.share(done.append, 100)
    assert sorted(done) == list(range(100))

    def fails(index: int) -> None:
        if index == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        host.share(fails, 8)


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 17) + 3])
def test_elementwise_reaches_every_number(size: int) -> None:
    x = numbers(size)

    def twice(given: host.Floats, out: host.Floats) -> None:
        np.multiply(given, 2, out=out)

    assert np.array_equal(np.asarray(host.elementwise(x, twice)), np.asarray(x) * 2)


def test_each_row_is_mapped_by_the_matrix_of_its_id() -> None:
    x, weights, ids = numbers(5, 12), numbers(3, 7, 12), [2, 0, 2, 1, 0]
    mapped = np.asarray(few_rows.each_by_its_own(x, weights, mx.array(ids, dtype=mx.uint32)))
    exact = np.stack([np.asarray(weights)[i] @ np.asarray(x)[row] for row, i in enumerate(ids)])
    np.testing.assert_allclose(mapped, exact, atol=1e-5)


def test_the_sum_of_exponentials_is_mlx_s() -> None:
    logits = numbers(3, 2, 500) * 30
    np.testing.assert_allclose(np.asarray(host.logsumexp(logits)), np.asarray(mx.logsumexp(logits, axis=-1)), rtol=1e-6)
    odd = mx.array([[1.0, float("nan")], [-float("inf"), 2.0]])
    assert np.isnan(np.asarray(host.logsumexp(odd))[0]) and np.asarray(host.logsumexp(odd))[1] == 2.0
