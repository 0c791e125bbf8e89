"""The formats' names, for the command line; no torch in here."""

from __future__ import annotations

FORMAT_NAMES = {
    "torchvision": "a .pth state dict for torchvision's ResNets",
    "safetensors": "the same tensors in a file that cannot run code, of any backbone",
    "timm": "a directory for timm.create_model('local-dir:...', pretrained=True)",
    "hf": "a directory for transformers' AutoModel: its ResNet and ViT",
}
"""What each is, in few words."""
UNKNOWN_LICENSE = "unknown"
README = "README.md"
RECORD = "export.json"
"""By which an earlier export is known."""
