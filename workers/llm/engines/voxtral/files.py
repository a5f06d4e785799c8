"""The files that Voxtral is loaded from, for whoever asks whether they are there. Imports no library."""

from __future__ import annotations

FILES = ("config.json", "preprocessor_config.json", "tekken.json", "model*.safetensors")
"""Of a repository on the hub: all but `consolidated.safetensors`, the same weights in another layout."""

COMMAND = "parley models pull voxtral"
"""What gets them."""
