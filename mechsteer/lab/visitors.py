"""Who is writing what: a visitor's new text ends the one before, and Stop ends it at the next token."""

from __future__ import annotations

import threading


class Visitors:
    """One event per visitor (Gradio's session hash), set when the text is to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, threading.Event] = {}

    def begin(self, visitor: str | None) -> threading.Event:
        """An event for a text that begins; an older text of the same visitor ends."""
        event = threading.Event()
        with self._lock:
            before = self._running.get(visitor or "")
            self._running[visitor or ""] = event
        if before is not None:
            before.set()
        return event

    def is_newest(self, visitor: str | None, event: threading.Event) -> bool:
        """Whether the visitor has begun nothing else since, and is still there: what is written is still to be shown."""
        with self._lock:
            return self._running.get(visitor or "") is event

    def stop(self, visitor: str | None) -> None:
        """End what the visitor has running; nothing where nothing runs."""
        with self._lock:
            event = self._running.get(visitor or "")
        if event is not None:
            event.set()

    def leave(self, visitor: str | None) -> None:
        """The visitor is gone: what runs is ended and forgotten."""
        with self._lock:
            event = self._running.pop(visitor or "", None)
        if event is not None:
            event.set()
