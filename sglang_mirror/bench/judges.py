"""What a results file says of a figure that was asked for, and whether that is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sglang_mirror.bench.results_latency import near, predictions, within
from sglang_mirror.bench.table import interval, ratio_text

Content = dict[str, Any]
# The figure and whether it is what was wanted; None if the file does not say.
Finding = tuple[str, str] | None
Judge = Callable[[Content], Finding]
Figure = Callable[[Content], float | None]


def entry(content: Content, arm: str, **facts: Any) -> Content | None:
    """The result of an arm in one cell."""
    for each in content["results"]:
        if each["arm"] == arm and all(each[name] == value for name, value in facts.items()):
            return dict(each)
    return None


def yes_no(met: bool) -> str:
    return "yes" if met else "**no**"


def verdict(ratio: Mapping[str, float | None], least: float) -> str:
    """Whether a ratio is large enough, and where its interval leaves that open."""
    value = ratio["of_totals"] or 0.0
    low, high = interval(ratio) or (value, value)
    if value >= least:
        return "yes" if low >= least else f"yes; interval from {low:.2f}"
    return yes_no(False) if high < least else f"{yes_no(False)}; interval to {high:.2f}"


def faster(least: float, than: str, **facts: Any) -> Judge:
    """Mirror's speed over another's of its group, of all tokens together."""

    def judge(content: Content) -> Finding:
        ours = entry(content, "mirror", **facts)
        ratio = (ours["speedup"] if than == "plain" else ours["ratios"].get(than)) if ours else None
        return (ratio_text(ratio), verdict(ratio, least)) if ratio else None

    return judge


def leading_mirror(least: float, than: str, **facts: Any) -> Judge:
    """The same of the first of mirror's arms in one cell, with its name: it was chosen before measuring."""

    def judge(content: Content) -> Finding:
        ours = [each for each in content["results"] if each["arm"].startswith("mirror")]
        ours = [each for each in ours if facts.items() <= each.items() and than in each["ratios"]]
        if not ours:
            return None
        ratio = ours[0]["ratios"][than]
        return f"{ratio_text(ratio)}, `{ours[0]['arm']}`", verdict(ratio, least)

    return judge


def fastest_of(*arms: str, **facts: Any) -> Judge:
    """Whether the first of some arms has the most tokens for plain decoding's time."""

    def judge(content: Content) -> Finding:
        found = [entry(content, arm, **facts) for arm in arms]
        speeds = [float(each["speedup"]["of_totals"]) for each in found if each]
        if len(speeds) < len(arms):
            return None
        others = ", ".join(f"{speed:.2f}" for speed in speeds[1:])
        return f"{speeds[0]:.2f} times plain; the others {others}", yes_no(speeds[0] > max(speeds[1:]))

    return judge


def at_least(least: float, figure: Figure) -> Judge:
    return _judged(figure, "{:.2f}", lambda value: yes_no(value >= least))


def at_most(most: float, figure: Figure, said: str = "{:.2f}") -> Judge:
    return _judged(figure, said, lambda value: yes_no(value <= most))


def stated(figure: Figure) -> Judge:
    """A figure that had only to be told."""
    return _judged(figure, "{:.2f}", lambda _value: "stated")


def _judged(figure: Figure, said: str, word: Callable[[float], str]) -> Judge:
    def judge(content: Content) -> Finding:
        value = figure(content)
        return None if value is None else (said.format(value), word(value))

    return judge


def field(arm: str, *path: str, **facts: Any) -> Figure:
    """One field of an arm's result, however deep."""

    def figure(content: Content) -> float | None:
        found: Any = entry(content, arm, **facts)
        for name in path:
            found = (found or {}).get(name)
        return found if found is None else float(found)

    return figure


def quotient(ours: Figure, theirs: Figure) -> Figure:
    """One figure of a file over another."""

    def figure(content: Content) -> float | None:
        above, below = ours(content), theirs(content)
        return above / below if above is not None and below else None

    return figure


def same_texts(content: Content) -> Finding:
    """Every arm's text at temperature 0."""
    shares = [each["text_equal"] for each in content["results"] if each["temperature"] == 0]
    shares = [share for share in shares if share is not None]
    same = sum(share == 1.0 for share in shares)
    return f"{same} of {len(shares)} results", yes_no(same == len(shares))


def least_same_text(**facts: Any) -> Judge:
    """The share of plain's texts that the worst of mirror's arms has in one cell."""

    def judge(content: Content) -> Finding:
        shares = [
            float(each["text_equal"])
            for each in content["results"]
            if each["arm"].startswith("mirror") and facts.items() <= each.items()
        ]
        return (f"{min(shares):.0%} of the texts", yes_no(min(shares) == 1.0)) if shares else None

    return judge


def mirrors_texts(content: Content) -> Finding:
    """Every text of mirror, in a file of texts alone."""
    ours = [each for each in content["results"] if each["arm"].startswith("mirror")]
    same, asked = (sum(each[name] for each in ours) for name in ("identical", "num_prompts"))
    return f"{same} of {asked} texts", yes_no(same == asked)


def rates_of_texts(content: Content) -> Finding:
    """The same where it had only to be told, of mirror's worst and best arm, plain decoding's beside it."""
    found: dict[tuple[str, int], list[int]] = {}
    for each in content["results"]:
        kind = each["arm"].partition(":")[0], each["concurrency"]
        if kind != ("plain", 1):  # what all are compared with
            found.setdefault(kind, []).append(each["identical"])
    said = (
        f"{arm} {' to '.join(map(str, sorted({min(same), max(same)})))} at {concurrency} at once"
        for (arm, concurrency), same in found.items()
    )
    return f"of {content['results'][0]['num_prompts']}: {'; '.join(said)}", "stated"


def lawful(content: Content) -> Finding:
    """Whether no setting of any arm speaks against the law."""
    results = content["results"]
    holds = sum(bool(each["holds"]) for each in results)
    tokens = min(sum(group["num_tokens"] for group in each["groups"].values()) for each in results)
    return f"{holds} of {len(results)} settings, {tokens:,} tokens or more each", yes_no(
        holds == len(results)
    )


def law_of_latency(content: Content) -> Finding:
    """By both readings."""
    found = list(predictions(content))
    alone = [each.off(each.alone_ms) for each in found]
    beside = [each.off(each.beside_ms) for each in found]
    said = f"from parts measured apart {within(alone)}; with the arm's own forward {within(beside)}"
    if all(near(each) for each in alone):
        return said, "yes"
    return said, "by the second reading only" if all(near(each) for each in beside) else yes_no(False)


def unharmed(content: Content) -> Finding:
    """A soak's requests."""
    lost, wrong = content["lost"], content["wrong_text"]
    faults = len(content["faults"])
    said = f"{lost} lost, {wrong} wrong of {content['requests']:,} requests, {faults} faults"
    return said, yes_no(not lost and not wrong)


def explained(content: Content) -> Finding:
    """Every text of the GPU's check, ties aside; what did not run is not right."""
    results = content["results"]
    right = sum(not each["failed"] for each in results)
    return f"{right} of {len(results)} servers", yes_no(right == len(results))
