"""The command `mechsteer lab`: its words read, the model loaded, the page served on this machine alone."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError, closest
from mechsteer.lab.choosing import chosen
from mechsteer.lab.library import Middleware
from mechsteer.lab.page import STYLE, build, theme
from mechsteer.lab.workbench import Workbench
from mechsteer.models.load import DTYPES

HOST = "127.0.0.1"
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'self'; base-uri 'self'"
)
"""Of the page: it loads from this machine or not at all. (Gradio's page needs inline scripts; texts are in frames.)"""
_MORE = "mechsteer lab --help tells more"


@dataclass(frozen=True, kw_only=True)
class LabCommand:
    """What the words of the command line ask for."""

    model: str | None = None
    """None chooses among what lies on this machine"""
    port: int = 7860
    folder: str = "runs/lab"
    device: str | None = None
    dtype: str | None = None
    study: str | None = None
    """a run whose features are shown; None takes the newest below runs/"""

    @classmethod
    def of(cls, words: Sequence[str]) -> LabCommand:
        """Raises ConfigError for unknown keys, keys given twice, and what is no port."""
        given: dict[str, str] = {}
        known = tuple(cls.__dataclass_fields__)
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or key not in known:
                near = closest(key, known)
                raise ConfigError(f"lab has no key {key!r}", f"the nearest are {near}" if near else _MORE)
            if key in given or not value:
                raise ConfigError(f"{key} is {value!r}" if not value else f"{key} is given twice", _MORE)
            given[key] = value
        port = given.pop("port", str(cls.port))
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ConfigError(f"port is {port!r:.40}", "give a number from 1 to 65535, such as port=7860")
        if (dtype := given.get("dtype")) is not None and dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r:.40}", f"it is one of {list(DTYPES)}")
        return cls(port=int(port), **given)


def require_folder(folder: Path) -> None:
    """Raises ConfigError where the lab's folder cannot be made or written to; makes it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"the folder {folder} cannot be written to: {error.strerror}", "give another: folder="
        ) from error


def require_free(port: int) -> None:
    """Raises ConfigError where something listens on the port already, or it may not be used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is taken: {error.strerror}", f"another lab may be running; try port={port % 65535 + 1}"
            ) from error


def lab_command(words: Sequence[str], say: Callable[[str], None]) -> None:
    """Serve the lab until it is interrupted. `say` is told what happens. Raises MechsteerError."""
    asked = LabCommand.of(words)
    require_free(asked.port)
    require_folder(Path(asked.folder))
    model, source = chosen(asked.model, say, device=asked.device, dtype=asked.dtype)
    bench = Workbench(model, name=source.name, folder=Path(asked.folder), source=source)
    say("vectors of the concepts (read from disk where they were made before)")
    bench.prepare()
    with serving(bench, asked.port, None if asked.study is None else Path(asked.study)):
        say(f"The lab: http://{HOST}:{asked.port}   (Ctrl-C ends it)")
        threading.Event().wait()


@contextlib.contextmanager
def serving(bench: Workbench, port: int, study: Path | None = None) -> Iterator[None]:
    """A block during which the page is served on this machine's own address, and concepts are checked beside it."""
    checks = threading.Thread(target=bench.check_all, name="checks of concepts", daemon=True)
    demo = build(bench, study).queue(default_concurrency_limit=4)
    demo.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        inbrowser=False,
        ssr_mode=False,
        prevent_thread_lock=True,
        theme=theme(),
        css=STYLE,
        footer_links=[],
        enable_monitoring=False,
        mcp_server=False,
        allowed_paths=[str(bench.folder.resolve())],
        app_kwargs={"middleware": [Middleware(OwnMachineOnly)]},
    )
    checks.start()
    try:
        yield
    finally:
        bench.closing.set()
        demo.close(verbose=False)
        checks.join()  # it ends with the concept that it is at


class OwnMachineOnly:
    """Puts the policy on every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)
