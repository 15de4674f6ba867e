"""Packed products are the layer's own products, also after its weight has changed in any way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sglang_mirror.platform import packed


def unpacked(_method: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Stands for SGLang's product; marks its results."""
    return F.linear(x, layer.weight, bias) + 1000.0


@pytest.fixture
def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(48, 80).requires_grad_(False)


def product(layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    result: torch.Tensor = packed.around_linear(unpacked, None, layer, x, bias)
    return result


@pytest.mark.parametrize("rows", [1, 2, 8, 64, 200])
@pytest.mark.parametrize("biased", [False, True])
def test_the_product_is_the_layers_own(layer: torch.nn.Linear, rows: int, biased: bool) -> None:
    bias = layer.bias if biased else None
    x = torch.randn(rows, 48)
    torch.testing.assert_close(product(layer, x, bias), F.linear(x, layer.weight, bias), atol=1e-5, rtol=1e-5)


def test_after_each_way_to_change_a_weight(layer: torch.nn.Linear) -> None:
    x = torch.randn(4, 48)
    product(layer, x)
    with torch.no_grad():
        layer.weight.mul_(2.0)
    torch.testing.assert_close(product(layer, x), F.linear(x, layer.weight))
    layer.weight.data = torch.randn(80, 48)
    torch.testing.assert_close(product(layer, x), F.linear(x, layer.weight))
    # What leaves no trace on the parameter is an update through SGLang.
    packed.around_update(lambda: layer.weight.data.copy_(torch.randn(80, 48)))
    torch.testing.assert_close(product(layer, x), F.linear(x, layer.weight))


def test_an_update_that_fails_half_way_counts(layer: torch.nn.Linear) -> None:
    x = torch.randn(4, 48)
    product(layer, x)

    def fail() -> None:
        layer.weight.data.copy_(torch.randn(80, 48))
        raise ValueError

    with pytest.raises(ValueError):
        packed.around_update(fail)
    torch.testing.assert_close(product(layer, x), F.linear(x, layer.weight))


@pytest.mark.parametrize("case", ["no rows", "bfloat16", "three dimensions", "no room"])
def test_what_is_not_packed_is_left_to_sglang(
    layer: torch.nn.Linear, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    x = torch.randn(0 if case == "no rows" else 4, 48)
    if case == "bfloat16":
        layer, x = layer.bfloat16(), x.bfloat16()
    if case == "three dimensions":
        x = x[None]
    if case == "no room":
        monkeypatch.setattr(packed, "_copies", packed._Copies())
        monkeypatch.setattr(packed, "MOST_BYTES", 2 * 80 * 48 * 4 - 1)
        other = torch.nn.Linear(48, 80).requires_grad_(False)
        for _ in range(3):  # made anew, a copy takes its own place
            packed.around_update(lambda: product(other, x))
        torch.testing.assert_close(product(other, x), F.linear(x, other.weight))
    assert torch.equal(product(layer, x), unpacked(None, layer, x, None))


def test_the_head_is_packed_where_it_is_a_plain_product(layer: torch.nn.Linear) -> None:
    def original(_processor: Any, x: torch.Tensor, head: Any, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        return F.linear(x, head.weight) + 1000.0

    x, processor = torch.randn(4, 48), SimpleNamespace(rl_on_policy_target=None)
    plain = packed.around_head(original, processor, x, layer, None, out=None)
    torch.testing.assert_close(plain, F.linear(x, layer.weight))
    for args, kwargs in (((torch.zeros(80),), {}), ((None,), {"out": torch.empty(4, 80)})):
        assert float(packed.around_head(original, processor, x, layer, *args, **kwargs).mean()) > 500
