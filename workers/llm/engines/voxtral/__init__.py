"""Voxtral Mini, run here. The engine is in `engine`; importing this package imports no library."""
