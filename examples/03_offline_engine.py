"""Mirror without a server: `sglang.Engine` takes the same settings.

    python examples/03_offline_engine.py

Here with the embedded pair on a CPU. What has no argument of SGLang's is set by the environment, or in a file
that `SGLANG_MIRROR_CONFIG` names; `sglang-mirror config` lists it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import sglang

MODELS = Path(__file__).resolve().parent / "models"
PROMPTS = [
    "def main(argv=None):\n    if argv is None:\n        argv = sys.argv[1:]\n",
    "class TestStack(unittest.TestCase):\n    def test_push(self):\n        stack = Stack()\n"
    "        stack.push(1)\n        self.assertEqual(",
]


def main() -> None:
    """Generate, and say what speculation did for each answer."""
    os.environ.setdefault("SGLANG_MIRROR_ROOT_BUDGET", "16")
    engine = sglang.Engine(
        model_path=str(MODELS / "target"),
        speculative_algorithm="mirror",
        speculative_draft_model_path=str(MODELS / "draft"),
        speculative_num_steps=8,
        device="cpu",
        dtype="float32",
        attention_backend="torch_native",
        max_total_tokens=8192,
        log_level="warning",
    )
    for prompt in PROMPTS:
        answer = engine.generate(prompt, {"temperature": 0, "max_new_tokens": 64})
        meta = answer["meta_info"]
        sys.stdout.write(f"{prompt}{answer['text']}\n")
        sys.stdout.write(
            f"  -- {meta['completion_tokens']} tokens in {meta['spec_verify_ct']} verifications\n\n"
        )
    engine.shutdown()


if __name__ == "__main__":  # SGLang starts processes that import this file
    main()
