"""The OpenAI client on a mirror server: nothing of it changes, and the server says what speculation did.

make serve
python examples/01_openai_client.py [URL]
"""

from __future__ import annotations

import json
import sys
import urllib.request

from openai import OpenAI

URL = "http://127.0.0.1:30000"


def main() -> None:
    """Stream one completion; the last line is the server's own report, as JSON."""
    url = sys.argv[1] if len(sys.argv) > 1 else URL
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    prompt = "def main(argv=None):\n    if argv is None:\n        argv = sys.argv[1:]\n"
    sys.stdout.write(prompt)
    for chunk in client.completions.create(
        model="default", prompt=prompt, max_tokens=64, temperature=0, stream=True
    ):
        sys.stdout.write(chunk.choices[0].text)
        sys.stdout.flush()
    with urllib.request.urlopen(f"{url}/server_info", timeout=10) as answer:
        report = json.load(answer)["mirror"]
    found = {name: report[name] for name in ("draft", "accept_len", "hit_rate", "hidden_fraction")}
    sys.stdout.write(f"\n\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
