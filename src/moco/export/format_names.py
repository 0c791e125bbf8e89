"""The formats' names, for the command line; no torch in here."""

from __future__ import annotations

FORMAT_NAMES = {
    "torchvision": "a .pth state dict for torchvision's ResNets",
    "safetensors": "the same tensors in a file that cannot run code, of any backbone",
    "timm": "a directory for timm.create_model('local-dir:...', pretrained=True)",
    "hf": "a directory for transformers' AutoModel: its ResNet and ViT",
    "detectron2": "a pickle for Detectron2's MODEL.WEIGHTS",
    "mmdet": "a .pth file for MMDetection's init_cfg",
    "mmpretrain": "the same for MMPreTrain, ViTs too",
    "official": "a checkpoint for the official linear evaluation and detection scripts",
    "onnx": "a graph for ONNX Runtime, of any number of images",
    "torch-export": "a graph for torch.export.load, of any number of images",
}
"""What each is, in few words."""
UNKNOWN_LICENSE = "unknown"
GRAPHS = ("onnx", "torch-export")
"""Those for which --dynamic-size has a meaning."""
README = "README.md"
RECORD = "export.json"
"""By which an earlier export is known."""
