"""Which files a checkpoint of Kokoro is made of. Imports nothing, so that anybody may ask."""

from __future__ import annotations

FILES = ("config.json", "*.pth", "voices/*.pt")
"""As patterns, below the checkpoint's folder: what it is, its weights, its voices."""

COMMAND = "parley models pull kokoro"
"""What fetches them."""
