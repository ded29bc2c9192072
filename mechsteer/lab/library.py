"""The one place that imports Gradio, the extra `mechsteer[lab]`; without it all names here are None.

`mechsteer lab` says so before it imports this room.
"""

from __future__ import annotations

try:
    import gradio as gr
    from gradio import Request
    from gradio.themes import Default as Theme
    from starlette.middleware import Middleware
except ImportError:  # an optional extra: the command says what is missing
    gr = Request = Theme = Middleware = None

__all__ = ["Middleware", "Request", "Theme", "gr"]
