"""Keeps a draft at the other end of the line: starts it, listens for it, starts it again."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sglang_mirror.config import MirrorConfig
from sglang_mirror.core.growth import WindowShape
from sglang_mirror.draft.launcher import DraftCommand, DraftProcess
from sglang_mirror.engine.draft_client import DraftClient
from sglang_mirror.engine.metrics import Counters
from sglang_mirror.engine.placing import SHARE
from sglang_mirror.engine.probe import hello
from sglang_mirror.errors import REFUSAL, DraftError
from sglang_mirror.protocol.channel import TargetChannel
from sglang_mirror.protocol.endpoint import private_ipc_endpoint, remove_private
from sglang_mirror.protocol.liveness import Peer

logger = logging.getLogger(__name__)

# A draft that runs already answers at once; one that we start has a model to load first.
REMOTE_START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 3.0
# A server whose draft has ended so often before it served once is refused. One that serves goes on trying.
MOST_EARLY_ENDS = 3
# A draft of ours that has served, lives and has been lost for so long hangs, in its device's driver say.
HUNG_AFTER_S = 60.0


class DraftSupervisor:
    """Owns the line, the thread that listens on it, and the draft process if it is ours.

    Args:
        config: the settings.
        shape: bounds of a window.
        target: the target's model folder or name; its tokenizer must be the draft's.
        device: where a draft that we start computes.
        threads: that it has, on a CPU.
        vocab_size: the target's token ids are below it.
        counters: where to count.
    """

    def __init__(
        self,
        config: MirrorConfig,
        *,
        shape: WindowShape,
        target: str,
        device: str,
        threads: int,
        vocab_size: int,
        counters: Counters,
    ) -> None:
        self._config, self._counters = config, counters
        curve_dir = Path(config.curve_dir) if config.curve_dir else None
        endpoint = config.draft_endpoint
        self._process: DraftProcess | None = None
        if endpoint is None:
            endpoint = private_ipc_endpoint()
            self._process = DraftProcess(_command(config, endpoint, device, threads))
        self.endpoint = endpoint
        self._channel = TargetChannel(endpoint, curve_dir=curve_dir)
        self.client = DraftClient(
            self._channel,
            hello(config, shape=shape, target=target),
            vocab_size=vocab_size,
            lost_after_s=config.lost_after_ms / 1000,
            counters=counters,
        )
        self._failure: str | None = None
        # Of the process that runs: one that has not served yet may be loading, however long that takes.
        self._has_served, self._lost_since_s = False, math.inf
        self._said: str | None = None  # of what went wrong in our thread, the last
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror-draft", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def wait_until_ready(self) -> None:
        """Wait for the draft at the server's start; without one in time the server serves plainly.

        Raises:
            DraftError: the draft process cannot serve this target; waiting would not help.
        """
        remote = self._config.draft_endpoint is not None
        deadline = time.monotonic() + (REMOTE_START_TIMEOUT_S if remote else self._config.start_timeout_s)
        while time.monotonic() < deadline and self.client.peer is not Peer.READY:
            if reason := self._failure or self.client.refusal or self._stillborn():
                self.stop()
                raise DraftError(f"{REFUSAL} {reason}")
            time.sleep(0.02)
        if self.client.peer is not Peer.READY:
            logger.warning(
                "mirror: no draft is reachable at %s; serving plainly until one answers", self.endpoint
            )

    def _stillborn(self) -> str:
        """Why our draft ends again and again before it has served once; empty if it does not."""
        if self._process is None or self._process.num_failures < MOST_EARLY_ENDS:
            return ""
        return self._process.last_words()

    def stop(self) -> None:
        """End the thread, the process and the line. Safe to call again."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._process is not None:
            self._process.stop(STOP_TIMEOUT_S)
            remove_private(self.endpoint)
        self._channel.close()

    def report(self) -> dict[str, Any]:
        """Who the draft is and how it is."""
        draft = self.client.draft
        return {
            "draft": self.client.peer.value,
            "draft_model": draft.draft if draft else self._config.draft_model,
            "draft_device": draft.device if draft else self._config.draft_device,
            "draft_pid": draft.pid if draft else None,
            "endpoint": self.endpoint,
            "requests": self.client.num_requests,
            "roots": self._config.roots,
            "root_budget": self._config.root_budget,
            "kappa": self._config.kappa,
        }

    def _run(self) -> None:
        # The process is started here: the kernel ends it with this thread, which lives as long as we do.
        if self._process is not None:
            with self._going_on():
                self._start(self._process)
        while not self._stop.wait(self._config.beat_ms / 1000):
            with self._going_on():
                self.client.tick()
                if self._process is not None and self._failure is None:
                    self._watch(self._process)

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Whatever goes wrong in here is logged once: without this thread no draft would ever come back."""
        try:
            yield
        except Exception as error:
            if self._said != repr(error):
                self._said = repr(error)
                logger.exception("mirror: looking after the draft failed; each beat tries again")

    def _watch(self, process: DraftProcess) -> None:
        if process.alive():
            self._end_if_hung(process)
            return
        self.client.lost()
        # It said why, on its standard error. One that has served before met something that may pass.
        if process.gave_up() and self.client.draft is None:
            self._failure = process.last_words() or "the draft process ended at its start"
            logger.error("mirror: %s; requests decode plainly", self._failure)
        elif process.is_due(time.monotonic()):
            logger.warning("mirror: the draft process ended; it is started again")
            self._counters.restarts += self._start(process)

    def _end_if_hung(self, process: DraftProcess) -> None:
        """It is started again like any other that has ended."""
        now_s = time.monotonic()
        if self.client.peer is Peer.READY:
            self._has_served, self._lost_since_s = True, math.inf
        elif self.client.peer is Peer.LOST and self._has_served:
            self._lost_since_s = min(self._lost_since_s, now_s)
            if now_s - self._lost_since_s > HUNG_AFTER_S:
                logger.warning("mirror: the draft has been silent for %.0f s and is ended", HUNG_AFTER_S)
                process.stop(STOP_TIMEOUT_S)

    def _start(self, process: DraftProcess) -> bool:
        """Whether the operating system lets us; if not, it is a short life, and due again after its pause."""
        self._has_served, self._lost_since_s = False, math.inf
        try:
            process.start(time.monotonic())
        except DraftError as error:
            logger.error("mirror: %s; requests decode plainly until it can be", error)
            return False
        return True


def _command(config: MirrorConfig, endpoint: str, device: str, threads: int) -> DraftCommand:
    assert config.draft_model is not None, "settings.problems() lets nothing else through"
    share = {} if config.draft_share is None else {SHARE: str(config.draft_share)}
    return DraftCommand(
        model=config.draft_model,
        device=device,
        backend=config.draft_backend,
        endpoint=endpoint,
        dtype=config.draft_dtype,
        memory_gb=config.draft_memory_gb,
        threads=threads,
        cpus=config.draft_cpus,
        trace=config.draft_trace,
        environment=share,
    )
