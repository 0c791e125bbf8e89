"""Strangers' files of weights, read without running anything of theirs: nothing is unpickled."""
