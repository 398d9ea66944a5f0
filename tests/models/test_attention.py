"""Every back end against attention of each row on its own, in float64: outputs and all gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shinan.models import forest as forest_module
from shinan.models.attention import Backend, Layout, _attend
from shinan.models.forest import Forest, TokenRow, grow
from tests.models.test_forest import prefixes, row, token_rows

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPES = [(1, 1, 8), (4, 4, 8), (4, 2, 8), (6, 1, 16)]  # heads, heads of keys, their size
TREE = [row([*range(8), *branch]) for branch in ([20] * 9, [20, 21, 22], [30] * 5, [20, 21, 23, 24], [])] + [
    row([9] * 3)
]
ROOTS = [row([branch] * size) for branch, size in ((1, 9), (2, 1), (3, 17))]
Result = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Queries [1, h, t, d], keys and values [1, g, t, d], and the output's upstream gradient [1, t, h, d]."""

    query: Tensor
    key: Tensor
    value: Tensor
    upstream: Tensor
    window: int | None
    scaling: float = 0.3

    def to(self, device: str, dtype: torch.dtype = torch.float32) -> Case:
        q, k, v, upstream = (tensor.to(device, dtype) for tensor in (self.query, self.key, self.value, self.upstream))
        return Case(q, k, v, upstream, self.window)


def draw(size: int, shape: tuple[int, int, int], window: int | None) -> Case:
    """Random numbers for a layout of `size` tokens; scores are large enough for attention to choose."""
    heads, groups, dim = shape
    source = torch.Generator().manual_seed(size)
    return Case(
        torch.randn(1, heads, size, dim, generator=source) * 2,
        torch.randn(1, groups, size, dim, generator=source) * 2,
        torch.randn(1, groups, size, dim, generator=source),
        torch.randn(1, size, heads, dim, generator=source),
        window,
    )


def alone(rows: list[TokenRow], forest: Forest, case: Case) -> Result:
    """Output and gradients of the queries, keys and values, by causal attention of each row on its own."""
    place = {prefix: index for index, prefix in enumerate(prefixes(forest))}
    inputs = [x.double().requires_grad_() for x in (case.query, case.key, case.value)]
    repeats = case.query.shape[1] // case.key.shape[1]
    out: dict[int, Tensor] = {}
    for one in rows:
        path = [place[one.ids[: size + 1]] for size in range(len(one.ids))]
        q, k, v = (x[0, :, path] for x in inputs)
        k, v = (x.repeat_interleave(repeats, 0) for x in (k, v))
        back = torch.arange(len(path))[:, None] - torch.arange(len(path))
        hidden = (back < 0) | (back >= (case.window or len(path)))
        scores = (q @ k.mT * case.scaling).masked_fill(hidden, float("-inf"))
        for token, state in zip(path, (scores.softmax(-1) @ v).transpose(0, 1), strict=True):
            out.setdefault(token, state)
    output = torch.stack([out[token] for token in range(len(place))])[None]
    grads = torch.autograd.grad(output, inputs, case.upstream.double().cpu())
    return output.detach(), *grads


def together(forest: Forest, case: Case, backend: Backend) -> Result:
    """The same by a back end."""
    q, k, v = (x.clone().requires_grad_() for x in (case.query, case.key, case.value))
    output = attend(Layout.of(forest, backend, q.device), q, k, v, case)
    return output.detach(), *torch.autograd.grad(output, (q, k, v), case.upstream)


def attend(layout: Layout, query: Tensor, key: Tensor, value: Tensor, case: Case, dropout: float = 0.0) -> Tensor:
    """The call that transformers makes."""
    options: dict[str, Any] = {"scaling": case.scaling, "sliding_window": case.window, "dropout": dropout}
    output, probabilities = _attend(nn.Identity(), query, key, value, None, layout=layout, is_causal=None, **options)
    assert probabilities is None
    return output


def assert_equal(ours: Result, exact: Result, bound: float = 2e-6) -> None:
    """Relative to the norm, one tensor at a time."""
    for name, mine, theirs in zip(("output", "query", "key", "value"), ours, exact, strict=False):
        assert mine.shape == theirs.shape
        difference = float((mine.double().cpu() - theirs).norm())
        size = float(theirs.norm())
        assert difference <= bound * max(size, 10), f"{name}: {difference} of {size}"  # in a window of 1, queries get 0


@pytest.mark.promise9
@pytest.mark.parametrize("backend", ["dense", "tiles"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("rows", [TREE, ROOTS], ids=["tree", "roots"])
def test_output_and_gradients(
    rows: list[TokenRow],
    window: int | None,
    shape: tuple[int, int, int],
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forest_module, "_ROWS", 4)  # so that branches are cut, and some keys stand apart
    monkeypatch.setattr(forest_module, "_CALL", 4)
    forest = grow(rows)
    case = draw(len(forest.ids), shape, window)
    assert_equal(together(forest, case, backend), alone(rows, forest, case))


@pytest.mark.promise9
@given(rows=token_rows(), window=st.sampled_from([None, 1, 2, 5]), queries=st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_any_forest_in_tiles(rows: list[TokenRow], window: int | None, queries: int) -> None:
    forest = grow(rows)
    if len(forest.ids):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forest_module, "_ROWS", queries)
            patch.setattr(forest_module, "_CALL", 0)
            case = draw(len(forest.ids), (4, 2, 4), window)
            assert_equal(together(forest, case, "tiles"), alone(rows, forest, case), 1e-5)


def test_rows_longer_than_a_tile() -> None:
    rows = [row([*range(290), *[900 + branch] * 30]) for branch in range(2)]
    forest = grow(rows)
    case = draw(len(forest.ids), (2, 1, 8), 270)
    assert_equal(together(forest, case, "tiles"), alone(rows, forest, case))


@pytest.mark.parametrize("backend", ["dense", "tiles"])
def test_bf16_is_as_near_as_its_rounding(backend: Backend) -> None:
    forest = grow(TREE)
    case = draw(len(forest.ids), (4, 2, 8), None).to("cpu", torch.bfloat16)
    assert_equal(together(forest, case, backend), alone(TREE, forest, case), 0.02)


@pytest.mark.promise9
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rows", [TREE, ROOTS], ids=["tree", "roots"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # as it is on a CPU
def test_flex_forward(rows: list[TokenRow], window: int | None, shape: tuple[int, int, int]) -> None:
    forest = grow(rows)
    case = draw(len(forest.ids), shape, window)
    with torch.no_grad():
        output = attend(Layout.of(forest, "flex", CPU), case.query, case.key, case.value, case)
    assert_equal((output,), alone(rows, forest, case)[:1])


@CUDA
@pytest.mark.promise9
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rows", [TREE, ROOTS], ids=["tree", "roots"])
def test_flex_on_cuda(rows: list[TokenRow], window: int | None) -> None:
    forest = grow(rows)
    case = draw(len(forest.ids), (4, 2, 64), window)
    assert_equal(together(forest, case.to("cuda"), "flex"), alone(rows, forest, case), 5e-3)  # TF32


@CUDA
@pytest.mark.promise9
@pytest.mark.parametrize("window", [None, 3])
def test_varlen_on_cuda(window: int | None) -> None:
    forest = grow(ROOTS)
    case = draw(len(forest.ids), (4, 2, 64), window).to("cpu", torch.bfloat16)
    assert_equal(together(forest, case.to("cuda", torch.bfloat16), "varlen"), alone(ROOTS, forest, case), 0.02)


def test_varlen_is_for_roots_only() -> None:
    assert Layout.of(grow(ROOTS), "varlen", CPU).backend == "varlen"
    assert Layout.of(grow(TREE), "varlen", CPU).backend == "flex"


@pytest.mark.parametrize("backend", ["tiles", "flex"])
def test_dropout_goes_to_the_dense_mask(backend: Backend) -> None:
    forest = grow(TREE)
    case = draw(len(forest.ids), (4, 2, 8), 3)
    outputs = []
    for name in (backend, "dense"):
        torch.manual_seed(0)
        layout = Layout.of(forest, name, CPU)
        outputs.append(attend(layout, case.query, case.key, case.value, case, dropout=0.5))
    assert torch.equal(*outputs)
    assert (outputs[0] == 0).any()  # a token that sees few others may lose them all


def test_one_layout_serves_layers_of_several_kinds() -> None:
    forest = grow(TREE)
    layout = Layout.of(forest, "tiles", CPU)
    for shape in ((4, 2, 8), (4, 1, 8), (4, 4, 8)):
        for window in (None, 3):
            for dtype, bound in ((torch.float32, 2e-6), (torch.bfloat16, 0.02)):
                case = draw(len(forest.ids), shape, window).to("cpu", dtype)
                output = attend(layout, case.query, case.key, case.value, case)
                assert output.dtype == dtype
                assert_equal((output,), alone(TREE, forest, case)[:1], bound)
