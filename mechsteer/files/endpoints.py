"""Asking an endpoint on the web: JSON there and JSON back, and every failure one error of the asker's kind."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from mechsteer.errors import ConfigError, MechsteerError


def require_address(url: str) -> None:
    """Raises ConfigError for what is no web address: a path would be read as a file."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no web address", "such as http://localhost:8000/v1")


def ask(
    address: str,
    asked: Mapping[str, Any],
    *,
    refusal: type[MechsteerError],
    key_variable: str | None = None,
    timeout_s: float = 60.0,
) -> Any:
    """What `address` answers to the JSON of `asked`, read as JSON.

    The key is read from the environment variable `key_variable` when asked, and kept nowhere. Raises `refusal`: the
    variable is not set, nobody answers, an error, or something that is no JSON.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "mechsteer"}
    if key_variable is not None:
        if not (key := os.environ.get(key_variable)):
            raise refusal(f"the variable {key_variable} is not set", "set it to the endpoint's key")
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, json.dumps(asked).encode("utf-8"), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise refusal(f"{address} answers {error.code} {error.reason}", "look at its log") from error
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise refusal(f"{address} gives no answer: {error}", "is it running, and OpenAI-compatible?") from error
