"""Backbones for other libraries: files they load, checked by loading them there."""
