"""All formats."""

from __future__ import annotations

from moco.export.detectron2_format import DETECTRON2
from moco.export.formats import Format
from moco.export.graph_formats import ONNX, TORCH_EXPORT
from moco.export.hf_format import HF
from moco.export.mm_format import MMDET, MMPRETRAIN
from moco.export.official_format import OFFICIAL
from moco.export.safetensors_format import SAFETENSORS
from moco.export.source import ExportSource
from moco.export.timm_format import TIMM
from moco.export.torchvision_format import TORCHVISION

FORMATS: tuple[Format, ...] = (
    TORCHVISION,
    SAFETENSORS,
    TIMM,
    HF,
    DETECTRON2,
    MMDET,
    MMPRETRAIN,
    OFFICIAL,
    ONNX,
    TORCH_EXPORT,
)


def able_formats(source: ExportSource) -> list[str]:
    """Return the names of the formats that can hold a backbone."""
    return [each.name for each in FORMATS if not each.refusal(source)]
