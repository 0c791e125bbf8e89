"""`--to hf`: a directory that transformers' `AutoModel.from_pretrained` loads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from moco.export.check import Check, compare_features
from moco.export.formats import Format
from moco.export.hf_names import resnet_names, vit_names
from moco.export.resnet_shape import ResNetShape, resnet_shape
from moco.export.safetensors_format import FILE, write_tensors
from moco.export.source import ExportSource
from moco.export.timm_names import VITS
from moco.vision_transformer import MOCO_V3_VITS, PATCH_SIZE

BILINEAR = 2
"""Pillow's number."""


def refusal(source: ExportSource) -> str:
    """Say why transformers has no such network, "" where it has."""
    if importlib.util.find_spec("transformers") is None:
        return "transformers, which checks it, is not installed (pip install 'moco-torch[hf]')"
    if source.encoder.backbone in VITS:
        return ""
    shape = resnet_shape(source.backbone)
    if shape is None or shape.groups > 1 or shape.group_width != 64:
        return f"transformers' ResNet and ViT are not built as '{source.encoder.backbone}'"
    if shape.stem != "imagenet":
        return f"transformers' ResNet has no {shape.stem} stem"
    return ""


def write(source: ExportSource, folder: Path) -> None:
    """Write configuration, tensors, and how images are prepared."""
    is_vit = source.encoder.backbone in VITS
    names = vit_names(source.state) if is_vit else resnet_names(source.state)
    write_tensors(folder / FILE, names)
    config = _vit_config(source) if is_vit else _resnet_config(source)
    for name, content in (("config", config), ("preprocessor_config", _preprocessing(source))):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _resnet_config(source: ExportSource) -> dict[str, Any]:
    shape = cast(ResNetShape, resnet_shape(source.backbone))
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": shape.channels,
        "embedding_size": shape.stem_width,
        "hidden_sizes": list(shape.outputs),
        "depths": list(shape.blocks),
        "layer_type": shape.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _vit_config(source: ExportSource) -> dict[str, Any]:
    shape = MOCO_V3_VITS[source.encoder.backbone]
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.attention_heads,
        "intermediate_size": 4 * shape.width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": source.views.image_size,
        "patch_size": PATCH_SIZE,
        "num_channels": source.views.channels,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pooler_act": "linear",
    }


def _preprocessing(source: ExportSource) -> dict[str, Any]:
    views = source.views
    side = views.evaluation_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": views.evaluation_resize},
        "resample": BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(views.mean),
        "image_std": list(views.std),
        "do_convert_rgb": views.channels == 3,
    }


def check(source: ExportSource, folder: Path) -> Check:
    """Load the directory by transformers and compare both of its outputs."""
    import transformers

    model, information = _load(folder)
    if wrong := {kind: names for kind, names in information.items() if names}:
        raise ValueError(f"transformers says {wrong}")
    is_vit = source.encoder.backbone in VITS

    def features(images: Tensor) -> Tensor:
        found = model(images)
        tokens, pooled = found.last_hidden_state, found.pooler_output.flatten(1)
        if is_vit and not torch.equal(tokens[:, 0], pooled):
            raise ValueError("its pooler changes the class token")
        return cast(Tensor, pooled)

    return compare_features(source, features, f"transformers {transformers.__version__}")


def _load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return transformers' model in eval mode, and the names that did not fit; nothing is told."""
    from transformers import AutoModel
    from transformers.utils import logging as of_transformers

    logging: Any = of_transformers

    told, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            model, information = AutoModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
    finally:
        logging.set_verbosity(told)
        if bars:
            logging.enable_progress_bar()
    return model.eval(), dict(information)


def snippet(_source: ExportSource) -> str:
    """Return Python that loads the directory."""
    lines = [
        "from transformers import AutoModel",
        "",
        'model = AutoModel.from_pretrained(".", local_files_only=True)',
        "model.eval()",
        "# model(images).pooler_output.flatten(1) has the features",
    ]
    return "\n".join(lines)


HF = Format("hf", "transformers", refusal, write, check, snippet)
