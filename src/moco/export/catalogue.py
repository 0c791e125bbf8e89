"""All formats."""

from __future__ import annotations

from moco.export.formats import Format
from moco.export.hf_format import HF
from moco.export.safetensors_format import SAFETENSORS
from moco.export.source import ExportSource
from moco.export.timm_format import TIMM
from moco.export.torchvision_format import TORCHVISION

FORMATS: tuple[Format, ...] = (TORCHVISION, SAFETENSORS, TIMM, HF)


def able_formats(source: ExportSource) -> list[str]:
    """Return the names of the formats that can hold a backbone."""
    return [each.name for each in FORMATS if not each.refusal(source)]
