"""What the leading rank tells its draft of requests that SGLang takes back, and of windows that come late."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_mirror.core.window import Window
from sglang_mirror.engine.leading_rank import LeadingRank, _tokens_of
from sglang_mirror.engine.request import Request
from sglang_mirror.engine.signal import addresses


def request(rid: str, **state: Any) -> Any:
    facts = {"is_retracted": False, "finished": lambda: False}
    facts |= {"origin_input_ids": [1], "multimodal_inputs": None, "output_ids": []}
    facts |= {"sampling_params": SamplingParams(max_new_tokens=9)}
    return SimpleNamespace(rid=rid, **{**facts, **state})


def test_requests_that_may_never_come_back_are_closed() -> None:
    """Ended at their prefill, or taken back: SGLang does not say what becomes of them."""
    rank, said = LeadingRank.__new__(LeadingRank), list[Any]()
    rank._prefilled, rank._metrics = {}, None
    rank._client = SimpleNamespace(  # type: ignore[assignment]
        open=lambda rid, _tokens: said.append(("open", rid)), close=lambda rids: said.append(("close", *rids))
    )
    first, second, third = request("a"), request("b"), request("c")
    rank.open([first, second, third])
    first.is_retracted, second.finished = True, lambda: True
    rank.open([request("d")])
    assert said[4:] == [("close", "a", "b"), ("open", "d")]
    first.is_retracted = False  # it is being prefilled again
    rank.open([first])
    assert said[6:] == [("close",), ("open", "a")]
    assert list(rank._prefilled) == ["c", "d", "a"]


def test_a_request_of_one_token_is_not_for_a_draft() -> None:
    rank, said = LeadingRank.__new__(LeadingRank), list[Any]()
    rank._prefilled, rank._metrics = {}, None
    rank._client = SimpleNamespace(open=lambda rid, _tokens: said.append(rid), close=lambda _rids: None)  # type: ignore[assignment]
    rank.open([request(str(most), sampling_params=SamplingParams(max_new_tokens=most)) for most in range(4)])
    assert said == ["2", "3"]
    assert len(rank._prefilled) == 4  # overlapped, one may be verified before its end is seen: it is closed


def test_the_draft_reads_the_prompt_as_it_was_before_images_were_put_in() -> None:
    image = Req(
        "a",
        "",
        array("q", [1, 10**9, 10**9, 2]),
        SamplingParams(),
        origin_input_ids_unpadded=array("q", [1, 3, 2]),
    )
    image.output_ids.append(4)
    image.multimodal_inputs = object()  # type: ignore[assignment]
    assert _tokens_of(image) == [1, 3, 2, 4]


def test_a_prompt_that_is_turned_down_is_not_read() -> None:
    """SGLang puts next to nothing in its place, and computes that."""
    long = Req("a", "", array("q", range(1000)), SamplingParams())
    long.origin_input_ids = array("q", [0])
    assert _tokens_of(long) == [0]


def test_a_signal_is_of_the_windows_that_are_verified() -> None:
    """One that came after the step's windows were taken is not among them."""
    window = Window((5, 6, 7), (-1, 0, 1))
    early, late = (Request(rid, 1, [5], epoch=1, window=window) for rid in "ab")
    unheld = Request("c", 3, [5])
    found = addresses([early, late, unheld], [window, None, None])
    assert found == [(early.stamp, 3), (late.stamp, 1), (unheld.stamp, 0)]
