"""How each arm serves the embedded pair best, as `make tune` found it on two cores (docs/results.md)."""

from __future__ import annotations

from sglang_mirror.bench.arm_specs import OWN
from sglang_mirror.bench.pair import EMBEDDED, GAMMA

ENLARGED = "0.25b+12m"  # the target in a larger shape, with the draft that such a target has

# Settings by target and arm, as `NAME:key=value` has them.
Settings = dict[str, dict[str, str]]
_MIRROR = {"gamma": str(GAMMA), **{key: str(value) for key, value in EMBEDDED.items()}}
TUNED: dict[str, Settings] = {
    OWN: {
        "mirror": _MIRROR,
        "serial": {"gamma": str(GAMMA)},
        "standalone": {"steps": "5"},
        "eagle3": {"steps": "5"},
    },
    ENLARGED: {
        "mirror": _MIRROR,
        "serial": {"gamma": str(GAMMA)},
        "standalone": {"steps": "5"},
        "eagle3": {"steps": "5"},
    },
}
