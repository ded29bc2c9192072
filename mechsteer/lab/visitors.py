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

    def stop(self, visitor: str | None) -> None:
        """End what the visitor has running; nothing where nothing runs."""
        with self._lock:
            event = self._running.pop(visitor or "", None)
        if event is not None:
            event.set()
