"""Where a draft process is reached, and who may reach it."""

from __future__ import annotations

import contextlib
import socket
import stat
import tempfile
import time
from pathlib import Path

import zmq
import zmq.auth

from sglang_mirror.errors import SettingsError

DRAFT_KEY = "draft"
TARGET_KEY = "target"
_PRIVATE = "sglang-mirror-"
_LEFT_AFTER_S = 600.0  # a younger one may be about to be served


def endpoint_problems(
    endpoint: str, *, side: str, curve_dir: Path | None, insecure_tcp: bool, insecure_flag: str
) -> list[str]:
    """Every reason why `endpoint` cannot be used with these keys; empty if it can.

    `ipc://` is guarded by file permissions. `tcp://` needs CURVE keys, or the word that it may do without.

    Args:
        endpoint: of the draft.
        side: whose end is ours, DRAFT_KEY or TARGET_KEY.
        curve_dir: folder of the keys.
        insecure_tcp: whether that word was said.
        insecure_flag: how it is said on this side.
    """
    if endpoint.startswith("ipc://"):
        return _path_problems(endpoint)
    if not endpoint.startswith("tcp://"):
        return [f"draft endpoint {endpoint!r}: give ipc://PATH or tcp://HOST:PORT"]
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    problems = []
    if not host or not (port == "*" or (port.isdigit() and 0 < int(port) < 65536)):
        problems.append(f"draft endpoint {endpoint!r}: tcp:// needs HOST:PORT with a port from 1 to 65535")
    if curve_dir is None and not insecure_tcp:
        problems.append(
            f"draft endpoint {endpoint!r}: tcp:// is open to everyone on the network; give the folder of "
            f"CURVE keys (`sglang-mirror keys FOLDER` makes one), or say {insecure_flag}"
        )
    if curve_dir is not None:
        problems += [
            f"CURVE key file {path} is missing; `sglang-mirror keys FOLDER` makes all of them"
            for path in _files_read(curve_dir, side)
            if not path.exists()
        ]
    return problems


def _path_problems(endpoint: str) -> list[str]:
    path = endpoint.removeprefix("ipc://")
    if not path:
        return ["draft endpoint 'ipc://' names no path; give ipc://PATH"]
    if path.startswith("@"):
        return [f"draft endpoint {endpoint!r}: names with @ are open to every user; give the path of a file"]
    return []


def _files_read(folder: Path, side: str) -> list[Path]:
    """Its own secret, and the other side's public key."""
    other = TARGET_KEY if side == DRAFT_KEY else DRAFT_KEY
    return [folder / f"{side}.key_secret", folder / f"{other}.key"]


def _key_files(folder: Path) -> list[Path]:
    return [folder / f"{DRAFT_KEY}.key", folder / f"{TARGET_KEY}.key"]


def private_ipc_endpoint() -> str:
    """A new `ipc://` endpoint in a folder of its own, which only this user enters.

    Those go that were left by servers that were ended at once with their drafts.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*/draft"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_AFTER_S and not is_served(left):
                remove_private(f"ipc://{left}")
    folder = Path(tempfile.mkdtemp(prefix=_PRIVATE))  # mkdtemp: mode 0700
    return f"ipc://{folder / 'draft'}"


def is_served(path: Path) -> bool:
    """Whether a process listens at the socket `path`, or may: it is another user's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return path.exists()
        return True


def remove_private(endpoint: str) -> None:
    """Remove a private endpoint and its folder, once nobody is reached there; any other stays."""
    path = Path(endpoint.removeprefix("ipc://"))
    if endpoint.startswith("ipc://") and path.parent.name.startswith(_PRIVATE):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def make_keys(folder: Path) -> None:
    """Write CURVE key pairs for the draft and the target into `folder`, readable by their owner only.

    Raises:
        SettingsError: the folder has keys already.
    """
    existing = [path for path in _key_files(folder) if path.exists()]
    if existing:
        raise SettingsError([f"{existing[0]} exists; remove it or name another folder"])
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(stat.S_IRWXU)
    for name in (DRAFT_KEY, TARGET_KEY):
        _, secret = zmq.auth.create_certificates(folder, name)
        Path(secret).chmod(stat.S_IRUSR | stat.S_IWUSR)


def secure_target(socket: zmq.Socket[bytes], folder: Path) -> None:
    """Let a connecting socket prove itself with the target's key to a draft with the draft's key."""
    public, secret = zmq.auth.load_certificate(folder / f"{TARGET_KEY}.key_secret")
    draft_public, _ = zmq.auth.load_certificate(folder / f"{DRAFT_KEY}.key")
    socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, draft_public


def secure_draft(socket: zmq.Socket[bytes], folder: Path) -> None:
    """Let a binding socket answer with the draft's key; who may enter, an authenticator decides."""
    public, secret = zmq.auth.load_certificate(folder / f"{DRAFT_KEY}.key_secret")
    socket.curve_publickey, socket.curve_secretkey, socket.curve_server = public, secret, True
