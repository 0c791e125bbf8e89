"""How other projects spell the names of a network's tensors that are ours too.

Fragments say how theirs are turned into ours: theirs, ours; one that begins with ^ stands at the
beginning alone. They are turned in order, and backwards to say which name a file lacks.
"""

from __future__ import annotations

Fragments = tuple[tuple[str, str], ...]
COUNTED = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")
"""A torchvision ResNet's modules in order: as nn.Sequential they are called by their number."""
SEQUENTIAL: Fragments = tuple((f"^{n}.", f"^{name}.") for n, name in enumerate(COUNTED) if name)
NOTEBOOK: Fragments = (
    ("^0.", "^conv1."),
    ("^1.", "^bn1."),
    *((f"^{stage + 2}.", f"^layer{stage}.") for stage in (1, 2, 3, 4)),
)
"""The same without its max-pool."""
DETECTRON2: Fragments = (
    ("^stem.conv1.norm.", "^bn1."),
    ("^stem.conv1.", "^conv1."),
    *((f"^res{stage + 1}.", f"^layer{stage}.") for stage in (1, 2, 3, 4)),
    *((f".conv{number}.norm.", f".bn{number}.") for number in (1, 2, 3)),
    (".shortcut.norm.", ".downsample.1."),
    (".shortcut.", ".downsample.0."),
)
TORCHVISION_VIT: Fragments = (
    ("^class_token", "^cls_token"),
    ("^conv_proj.", "^patch_embed.proj."),
    ("^encoder.pos_embedding", "^pos_embed"),
    ("^encoder.layers.encoder_layer_", "^blocks."),
    ("^encoder.ln.", "^norm."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".self_attention.in_proj_", ".attn.qkv."),
    (".self_attention.out_proj.", ".attn.proj."),
    (".mlp.linear_1.", ".mlp.fc1."),
    (".mlp.linear_2.", ".mlp.fc2."),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.3.", ".mlp.fc2."),
)
MM_VIT: Fragments = (
    ("^layers.", "^blocks."),
    ("^ln1.", "^norm."),
    ("^norm1.", "^norm."),
    ("^patch_embed.projection.", "^patch_embed.proj."),
    (".ln1.", ".norm1."),
    (".ln2.", ".norm2."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
)
MM_NECK: Fragments = (
    ("^mlp.", "^"),
    ("^fc.", "^"),
    *((f"^fc{layer}.", f"^{3 * layer}.") for layer in (0, 1, 2)),
    *((f"^bn{layer}.", f"^{3 * layer + 1}.") for layer in (0, 1, 2)),
)


def ours(name: str, fragments: Fragments) -> str:
    """Return how a tensor is called here that a file calls by a name."""
    for theirs, own in fragments:
        name = _turned(name, theirs, own)
    return name


def theirs(name: str, fragments: Fragments) -> str:
    """Return how a file would call a tensor of ours."""
    for other, own in fragments:
        name = _turned(name, own, other)
    return name


def _turned(name: str, before: str, after: str) -> str:
    if before.startswith("^"):
        begin = before[1:]
        return after[1:] + name[len(begin) :] if name.startswith(begin) else name
    return name.replace(before, after)
