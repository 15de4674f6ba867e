"""The platform's tests need torch and sglang, which a draft's machine may lack."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("sglang") else ["test_*.py"]
