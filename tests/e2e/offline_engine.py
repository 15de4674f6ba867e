"""Generates with `sglang.Engine`, as a user's script would; the job is a JSON argument."""

from __future__ import annotations

import json
import sys
from typing import Any

import sglang

from sglang_mirror.errors import SettingsError


def refused(**settings: Any) -> None:
    """Settings that cannot work end here, before a process is started."""
    try:
        sglang.Engine(**settings)
    except SettingsError as error:
        assert "--speculative-num-draft-tokens 9" in str(error)
    else:
        raise AssertionError("the engine started")


def main() -> None:
    job = json.loads(sys.argv[1])
    settings: dict[str, Any] = {
        "model_path": job["target"],
        "speculative_algorithm": "mirror",
        "speculative_draft_model_path": job["draft"],
        "speculative_num_steps": job["gamma"],
        "device": "cpu",
        "dtype": "float32",
        "attention_backend": "torch_native",
        "max_total_tokens": 8192,
        "log_level": "warning",
    }
    refused(**settings, speculative_num_draft_tokens=9)
    engine = sglang.Engine(**settings)
    sampling = {"temperature": 0, "max_new_tokens": job["num_tokens"]}
    answers = [engine.generate(prompt, sampling) for prompt in job["prompts"]]
    info = engine.get_server_info()
    assert info["internal_states"][0]["mirror"]["draft"] == "ready"
    assert all(answer["meta_info"]["spec_verify_ct"] > 0 for answer in answers)
    engine.shutdown()
    sys.stdout.write("\n" + json.dumps([answer["text"] for answer in answers]) + "\n")


if __name__ == "__main__":
    main()
