from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from moco.errors import UsageError
from moco.recipe import Recipe
from moco.recipe_files import recipe_to_dict, set_fields
from moco.recipes import MOCO_V1, MOCO_V2, RECIPES

# ALGORITHM.md, sections 3 and 4, with the views of section 7
IMAGENET_V1 = {
    "encoder.backbone": "resnet50",
    "encoder.stem": "imagenet",
    "encoder.width": 1.0,
    "encoder.stage_blocks": (),
    "encoder.head": "linear",
    "encoder.token_drop": 0.0,
    "encoder.dim": 128,
    "encoder.zero_init_residual": False,
    "encoder.predictor": "none",
    "mechanism": "queue",
    "dictionary.size": 65536,
    "dictionary.filled_only": False,
    "dictionary.fill_first": False,
    "dictionary.key_precision": "float32",
    "dictionary.exclude_same_image": False,
    "views.image_size": 224,
    "views.first_size": 0,
    "views.order": ("crop", "gray", "jitter", "horizontal_flip"),
    "views.crop_scale": (0.2, 1.0),
    "views.gray_probability": 0.2,
    "views.jitter_probability": 1.0,
    "views.jitter": (0.4, 0.4, 0.4, 0.4),
    "views.flip_probability": 0.5,
    "views.mean": (0.485, 0.456, 0.406),
    "views.std": (0.229, 0.224, 0.225),
    "views.evaluation_resize": 256,
    "views.evaluation_size": 224,
    "optimizer.algorithm": "sgd",
    "optimizer.learning_rate": 0.03,
    "optimizer.weight_decay": 1e-4,
    "optimizer.sgd_momentum": 0.9,
    "optimizer.schedule": "step",
    "optimizer.milestones": (120, 160),
    "temperature": 0.07,
    "last_temperature": 0.0,
    "key_momentum": 0.999,
    "key_momentum_schedule": "constant",
    "symmetric": False,
    "loss_scale": 1.0,
    "batch_norm_groups": 8,
    "epochs": 200,
    "batch_size": 256,
}
V2_CHANGES = {
    "encoder.head": "mlp",
    "views.order": ("crop", "jitter", "gray", "blur", "horizontal_flip"),
    "views.jitter": (0.4, 0.4, 0.4, 0.1),
    "views.jitter_probability": 0.8,
    "views.blur_probabilities": (0.5, 0.5),
    "views.blur_radius": (0.1, 2.0),
    "temperature": 0.2,
    "optimizer.schedule": "cosine",
}
CIFAR = {
    "encoder.backbone": "resnet18",
    "encoder.stem": "small",
    "encoder.width": 1.0,
    "encoder.stage_blocks": (),
    "encoder.head": "linear",
    "encoder.token_drop": 0.0,
    "encoder.dim": 128,
    "encoder.zero_init_residual": False,
    "encoder.predictor": "none",
    "mechanism": "queue",
    "dictionary.size": 4096,
    "dictionary.filled_only": False,
    "dictionary.fill_first": False,
    "dictionary.key_precision": "float32",
    "dictionary.exclude_same_image": False,
    "views.image_size": 32,
    "views.first_size": 0,
    "views.order": ("crop", "horizontal_flip", "jitter", "gray"),
    "views.crop_scale": (0.08, 1.0),
    "views.gray_probability": 0.2,
    "views.jitter_probability": 0.8,
    "views.jitter": (0.4, 0.4, 0.4, 0.1),
    "views.flip_probability": 0.5,
    "views.mean": (0.4914, 0.4822, 0.4465),
    "views.std": (0.2023, 0.1994, 0.2010),
    "views.evaluation_resize": 32,
    "views.evaluation_size": 32,
    "optimizer.algorithm": "sgd",
    "optimizer.learning_rate": 0.06,
    "optimizer.weight_decay": 5e-4,
    "optimizer.sgd_momentum": 0.9,
    "optimizer.schedule": "cosine_from_one",
    "temperature": 0.1,
    "last_temperature": 0.0,
    "key_momentum": 0.99,
    "key_momentum_schedule": "constant",
    "symmetric": False,
    "loss_scale": 1.0,
    "batch_norm_groups": 8,
    "epochs": 200,
    "batch_size": 512,
}
# ALGORITHM.md, section 5, with the views of section 7
V3_RESNET50_100 = {
    "encoder.backbone": "resnet50",
    "encoder.stem": "imagenet",
    "encoder.width": 1.0,
    "encoder.stage_blocks": (),
    "encoder.head": "mlp_bn",
    "encoder.head_layers": 2,
    "encoder.head_width": 4096,
    "encoder.predictor": "mlp",
    "encoder.token_drop": 0.0,
    "encoder.dim": 256,
    "encoder.zero_init_residual": True,
    "encoder.freeze_patch_projection": False,
    "mechanism": "in_batch",
    "views.image_size": 224,
    "views.first_size": 0,
    "views.order": ("crop", "jitter", "gray", "blur", "solarize", "horizontal_flip"),
    "views.crop_scale": (0.2, 1.0),
    "views.gray_probability": 0.2,
    "views.jitter_probability": 0.8,
    "views.jitter": (0.4, 0.4, 0.2, 0.1),
    "views.blur_probabilities": (1.0, 0.1),
    "views.blur_radius": (0.1, 2.0),
    "views.solarize_probabilities": (0.0, 0.2),
    "views.flip_probability": 0.5,
    "views.mean": (0.485, 0.456, 0.406),
    "views.std": (0.229, 0.224, 0.225),
    "views.evaluation_resize": 256,
    "views.evaluation_size": 224,
    "optimizer.algorithm": "lars",
    "optimizer.learning_rate": pytest.approx(9.6),
    "optimizer.weight_decay": 1e-6,
    "optimizer.sgd_momentum": 0.9,
    "optimizer.schedule": "warmup_cosine",
    "optimizer.warmup_epochs": 10,
    "temperature": 1.0,
    "last_temperature": 0.0,
    "key_momentum": 0.99,
    "key_momentum_schedule": "cosine",
    "symmetric": True,
    "loss_scale": 2.0,
    "batch_norm_groups": 1,
    "epochs": 100,
    "batch_size": 4096,
}
V3_RESNET50_300 = V3_RESNET50_100 | {"epochs": 300, "optimizer.learning_rate": pytest.approx(4.8)}
V3_VIT_SMALL = V3_RESNET50_100 | {
    "encoder.backbone": "moco_v3_vit_small",
    "encoder.head_layers": 3,
    "encoder.predictor": "mlp_bn",
    "encoder.zero_init_residual": False,
    "encoder.freeze_patch_projection": True,
    "views.crop_scale": (0.08, 1.0),
    "optimizer.algorithm": "adamw",
    "optimizer.learning_rate": pytest.approx(2.4e-3),
    "optimizer.weight_decay": 0.1,
    "optimizer.warmup_epochs": 40,
    "temperature": 0.2,
    "loss_scale": 0.4,
    "epochs": 300,
}
TABLE = {
    "moco-v3-resnet50": V3_RESNET50_100,
    "moco-v3-resnet50-300": V3_RESNET50_300,
    "moco-v3-resnet50-1000": V3_RESNET50_300
    | {"epochs": 1000, "optimizer.weight_decay": 1.5e-6, "key_momentum": 0.996},
    "moco-v3-vit-small": V3_VIT_SMALL,
    "moco-v3-vit-base": V3_VIT_SMALL | {"encoder.backbone": "moco_v3_vit_base"},
    "moco-v1": IMAGENET_V1,
    "moco-v2": IMAGENET_V1 | V2_CHANGES,
    "moco-v2-800": IMAGENET_V1 | V2_CHANGES | {"epochs": 800},
    "cifar10-resnet18": CIFAR,
    "cifar10-resnet18-symmetric": CIFAR | {"symmetric": True},
}


def value_of(recipe: Recipe, field: str) -> object:
    found: object = recipe
    for part in field.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", TABLE)
def test_has_every_figure_of_the_table(name: str) -> None:
    recipe = RECIPES[name]
    assert {field: value_of(recipe, field) for field in TABLE[name]} == TABLE[name]


def test_names() -> None:
    assert set(RECIPES) == set(TABLE)
    assert all(recipe.name == name and recipe.source for name, recipe in RECIPES.items())


def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        inside = isinstance(value, dict)
        found |= flat(value, f"{prefix}{name}.") if inside else {prefix + name: value}
    return found


def test_v2_is_v1_with_head_views_temperature_and_schedule_changed() -> None:
    one, two = flat(recipe_to_dict(MOCO_V1)), flat(recipe_to_dict(MOCO_V2))
    assert {name for name in one if one[name] != two[name]} == {
        "name",
        "source",
        "encoder.head",
        "views.order",
        "views.jitter",
        "views.jitter_probability",
        "temperature",
        "optimizer.schedule",
    }


def test_v2_800_is_v2_for_longer() -> None:
    longer = replace(RECIPES["moco-v2-800"], name=MOCO_V2.name, epochs=200)
    assert longer == MOCO_V2


def test_recipes_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        MOCO_V1.temperature = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["dictionary.size=255"], ["255", "256", "dictionary.size", "batch_size"]),
        (["batch_size=131072"], ["65536", "131072", "dictionary.size", "batch_size"]),
        (["batch_size=250"], ["250", "batch_size", "batch_norm_groups"]),
        (["batch_norm_groups=7"], ["batch_size", "batch_norm_groups 7"]),
        (["batch_norm_groups=256"], ["batch_size", "batch_norm_groups 256"]),
        (["batch_norm_groups=0"], ["batch_norm_groups 0"]),
        (["batch_norm_groups=-8"], ["batch_norm_groups -8"]),
        (
            ["schedule=warmup_cosine", "warmup_epochs=200"],
            ["optimizer.warmup_epochs", "epochs 200"],
        ),
        (["fill_first=true", "mechanism=in_batch"], ["dictionary.fill_first", "mechanism is in_"]),
        (["evaluation_size=300"], ["views.evaluation_resize", "views.evaluation_size"]),
    ],
)
def test_values_that_do_not_go_together_are_refused_by_both_names(
    settings: list[str], named: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        set_fields(MOCO_V1, settings)
    assert all(text in str(caught.value) for text in named)


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("encoder.dim", ["0", "-1"], ["1"]),
        ("encoder.head_layers", ["1", "0"], ["2", "4"]),
        ("encoder.head_width", ["-1"], ["0", "8"]),
        ("encoder.width", ["0", "-1"], ["0.125", "4"]),
        ("encoder.stage_blocks", ["[1]", "[1, 1, 1]", "[1, 1, 1, 0]"], ["[]", "[1, 2, 3, 4]"]),
        ("encoder.token_drop", ["-0.1", "1"], ["0", "0.99"]),
        ("dictionary.size", ["0", "-5"], ["256", "257", "1000000"]),
        ("dictionary.bank_momentum", ["-0.1", "1"], ["0", "0.99"]),
        ("mechanism", ["moco", "1"], ["queue", "in_batch", "end_to_end", "memory_bank"]),
        ("views.image_size", ["7", "-224"], ["8", "600"]),
        ("views.first_size", ["7", "-1", "225"], ["0", "8", "160", "224"]),
        ("views.size_step", ["0", "-32"], ["1", "32"]),
        ("views.full_size_from", ["-0.1", "1"], ["0", "0.99"]),
        ("views.crop_scale", ["[0, 1]", "[0.5, 0.4]", "[0.5, 1.1]"], ["[1, 1]", "[0.01, 0.02]"]),
        ("views.gray_probability", ["-0.1", "1.1"], ["0", "1"]),
        ("views.jitter_probability", ["-0.1", "1.1"], ["0", "1"]),
        ("views.blur_probabilities", ["[-0.1, 0]", "[0, 1.1]", "0.5"], ["[0, 1]", "[0.3, 0.1]"]),
        ("views.solarize_probabilities", ["[-0.1, 0]", "[0, 1.1]"], ["[0, 1]", "[0.3, 0.1]"]),
        ("views.flip_probability", ["-0.1", "1.1"], ["0", "1"]),
        (
            "views.jitter",
            ["[-0.1, 0, 0, 0]", "[0, 0, 0, 0.6]", "[0, 0, 0, -0.1]"],
            ["[0, 9, 0, 0]"],
        ),
        ("views.blur_radius", ["[0, 1]", "[2, 1]"], ["[1, 1]"]),
        ("views.std", ["[1, 0, 1]", "[1, 1, -1]"], ["[1, 1, 1]"]),
        ("optimizer.learning_rate", ["0", "-1"], ["30"]),
        ("optimizer.weight_decay", ["-0.1"], ["0", "1"]),
        ("optimizer.sgd_momentum", ["-0.1", "1"], ["0", "0.99"]),
        ("optimizer.warmup_epochs", ["-1"], ["0", "2.5"]),
        ("temperature", ["0", "-0.1"], ["1e-3", "2"]),
        ("last_temperature", ["-0.1"], ["0", "2"]),
        ("loss_scale", ["0", "-1"], ["0.4", "2"]),
        ("key_momentum", ["-0.1", "1.01"], ["0", "1"]),
        ("epochs", ["0", "-1"], ["1"]),
        ("batch_size", ["0", "1", "-256"], ["16", "1024"]),
    ],
)
def test_ranges(field: str, bad: list[str], good: list[str]) -> None:
    for text in good:
        set_fields(MOCO_V1, [f"{field}={text}"])
    for text in bad:
        with pytest.raises(UsageError, match=field):
            set_fields(MOCO_V1, [f"{field}={text}"])


@pytest.mark.parametrize("mechanism", ["in_batch", "end_to_end", "memory_bank"])
def test_only_a_queue_must_hold_a_batch(mechanism: str) -> None:
    changed = set_fields(MOCO_V1, [f"mechanism={mechanism}", "dictionary.size=5"])
    assert changed.dictionary.size == 5


@pytest.mark.parametrize(
    ("name", "settings", "candidates", "chance"),
    [  # ALGORITHM.md, section 14
        ("moco-v1", [], 65537, 11.0904),
        ("moco-v2", [], 65537, 11.0904),
        ("moco-v1", ["mechanism=memory_bank"], 65537, 11.0904),
        ("moco-v1", ["mechanism=end_to_end"], 256, 5.5452),
        ("cifar10-resnet18", [], 4097, 8.3180),
        ("cifar10-resnet18-symmetric", [], 4097, 2 * 8.3180),
        ("moco-v3-resnet50", [], 4096, 33.27),
        ("moco-v3-vit-small", [], 4096, 6.65),
        ("moco-v3-vit-small", ["batch_size=1024"], 1024, 5.55),
    ],
)
def test_chance_is_a_guess_among_all_candidates(
    name: str, settings: list[str], candidates: int, chance: float
) -> None:
    recipe = set_fields(RECIPES[name], settings)
    assert recipe.candidates == candidates
    assert recipe.chance_loss == pytest.approx(chance, abs=0.005)


@pytest.mark.parametrize(
    ("name", "settings", "shuffles", "leaks"),
    [
        ("moco-v1", [], True, False),
        ("moco-v1", ["batch_norm_groups=1"], False, True),
        ("moco-v1", ["shuffle_keys=false"], False, True),
        ("moco-v1", ["mechanism=end_to_end"], True, False),
        ("moco-v1", ["mechanism=end_to_end", "batch_norm_groups=1"], False, True),
        ("moco-v1", ["mechanism=memory_bank"], False, False),
        ("moco-v1", ["mechanism=memory_bank", "batch_norm_groups=1"], False, False),
        ("moco-v3-resnet50", [], False, False),
        ("moco-v3-resnet50", ["batch_norm_groups=8"], True, False),
    ],
)
def test_who_shuffles_keys_and_who_ought_to(
    name: str, settings: list[str], shuffles: bool, leaks: bool
) -> None:
    recipe = set_fields(RECIPES[name], settings)
    assert (recipe.shuffles_keys, recipe.may_leak) == (shuffles, leaks)


@pytest.mark.parametrize("order", ["[]", "[gray, jitter]"])
def test_views_without_a_crop_are_refused_as_images_differ_in_size(order: str) -> None:
    with pytest.raises(UsageError, match=r"views\.order"):
        set_fields(MOCO_V1, [f"views.order={order}"])


def test_evaluation_smaller_than_a_network_can_see_is_refused_for_that_reason() -> None:
    with pytest.raises(UsageError, match="at least 8"):
        set_fields(MOCO_V1, ["views.evaluation_size=4"])


def test_groups_of_two_images_are_the_smallest() -> None:
    assert set_fields(MOCO_V1, ["batch_norm_groups=128"]).batch_norm_groups == 128
    assert set_fields(MOCO_V1, ["batch_norm_groups=1"]).batch_norm_groups == 1


@pytest.mark.parametrize("mechanism", ["in_batch", "end_to_end", "memory_bank"])
def test_only_a_queue_rounds_its_keys(mechanism: str) -> None:
    with pytest.raises(UsageError, match=f"needs a queue, mechanism is {mechanism}; set it to"):
        set_fields(MOCO_V2, [f"mechanism={mechanism}", "key_precision=bfloat16"])


def test_a_queue_of_rounded_keys_is_told() -> None:
    words = MOCO_V2.dictionary_in_words
    rounded = set_fields(MOCO_V2, ["key_precision=bfloat16"])
    assert rounded.dictionary_in_words == f"{words} in bfloat16"
