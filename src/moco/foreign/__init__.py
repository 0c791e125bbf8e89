"""Weights that other people's code wrote, read into ours."""

from moco.foreign.reading import read_foreign as read_foreign
from moco.foreign.weights import ForeignWeights as ForeignWeights
