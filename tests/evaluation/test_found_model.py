from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from made_runs import RECIPE, answers, made_encoder, made_run
from safetensors.torch import save_file
from torch import nn

from moco.checkpoint_reading import read_train_state
from moco.encoders import Encoder
from moco.errors import CheckpointError, MocoError, UsageError
from moco.evaluation.finetune_files import save_finetuned
from moco.evaluation.frozen import fingerprint
from moco.found_model import find_model
from moco.library_models import build_library_model
from moco.pickle_builds import check_builds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("found") / "run", 7)


def refused(word: str, kind: type[MocoError] = UsageError, **options: Any) -> str:
    with pytest.raises(MocoError) as caught:
        find_model(word, **options)
    assert type(caught.value) is kind, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_and_its_checkpoint_are_their_backbone_or_head(run: Path) -> None:
    encoder = made_encoder(7)
    for path in (run, run / "checkpoints" / "step_00000001"):
        found = find_model(str(path))
        assert (found.views, found.recipe, found.title) == (RECIPE.views, "tiny", str(path))
        assert torch.equal(answers(found), answers(encoder.backbone))
        head = find_model(str(path), layer="head")
        assert torch.equal(answers(head), answers(encoder))
        assert head.encoder != found.encoder


def test_equal_weights_elsewhere_are_the_same_encoder_and_other_weights_are_not(
    run: Path, tmp_path: Path
) -> None:
    own = find_model(str(run)).encoder
    assert find_model(str(made_run(tmp_path / "copy", 7))).encoder == own
    assert find_model(str(made_run(tmp_path / "other", 8))).encoder != own
    mean = replace(RECIPE, views=replace(RECIPE.views, mean=(0.485, 0.456, 0.4060001)))
    assert find_model(str(made_run(tmp_path / "mean", 7, mean))).encoder != own
    assert str(run) not in own


def test_equal_weights_used_otherwise_are_another_encoder(tmp_path: Path) -> None:
    strided = replace(RECIPE, encoder=replace(RECIPE.encoder, stem="strided"))
    small = replace(RECIPE, encoder=replace(RECIPE.encoder, stem="small"))
    first, second = (
        find_model(
            str(made_run(tmp_path / recipe.encoder.stem, 7, recipe, encoder=made_encoder(7, small)))
        )
        for recipe in (strided, small)
    )
    assert first.network is not None
    assert second.network is not None
    assert fingerprint(first.network) == fingerprint(second.network)
    assert first.encoder != second.encoder


def test_a_fine_tuned_network_is_its_backbone(tmp_path: Path) -> None:
    encoder = made_encoder(9)
    whole = Encoder(encoder.backbone, nn.Linear(64, 3), RECIPE.views)
    save_finetuned(tmp_path, whole.state_dict(), RECIPE, ["a", "b", "c"], {})
    found = find_model(str(tmp_path))
    assert torch.equal(answers(found), answers(encoder.backbone))
    assert found.views == RECIPE.views
    assert "its head gives classes" in refused(str(tmp_path), layer="head")
    os.remove(tmp_path / "weights.safetensors")
    os.mkfifo(tmp_path / "weights.safetensors")  # which nobody writes to
    assert "no ordinary file" in refused(str(tmp_path), CheckpointError)


def test_a_fine_tuned_network_as_large_as_it_likes_costs_nothing(tmp_path: Path) -> None:
    about = {"classes": [], "recipe": {}, "format_version": 1, "figures": {}}
    (tmp_path / "finetuned.json").write_text(json.dumps(about))
    assert "no fine-tuned network" in refused(str(tmp_path), CheckpointError)
    (tmp_path / "finetuned.json").write_text("[" * 100_000)
    assert "no fine-tuned network" in refused(str(tmp_path), CheckpointError)


def test_untrained_is_the_same_network_with_other_weights(run: Path) -> None:
    state = torch.get_rng_state()
    found = find_model(f"untrained:{run}")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(answers(found), answers(made_encoder(0).backbone))
    assert find_model(f"untrained:{run}").encoder == found.encoder
    assert find_model(str(run)).encoder != found.encoder
    assert found.recipe == ""
    head = find_model(f"untrained:{run}", layer="head")
    assert torch.equal(answers(head), answers(made_encoder(0)))


def test_pixels_are_no_network_with_somebodys_views(run: Path) -> None:
    assert find_model("pixels").views.evaluation_size == 32
    assert find_model("pixels").network is None
    assert find_model(f"pixels:{run}").views == RECIPE.views
    assert find_model("pixels", like=RECIPE.views).encoder == find_model(f"pixels:{run}").encoder
    assert find_model("pixels").encoder != find_model(f"pixels:{run}").encoder
    assert "leave --layer out" in refused("pixels", layer="head")


def save_as_trained(model: nn.Module, path: Path) -> None:
    """Save it as official scripts do: of a module in DistributedDataParallel, beside others."""
    wrapped = nn.ModuleDict({"module": model}).state_dict()
    torch.save({"epoch": 9, "state_dict": wrapped, "best": 0.5}, path)


FILES: dict[str, Callable[[nn.Module, Path], None]] = {
    "plain.safetensors": lambda model, path: save_file(dict(model.state_dict()), path),
    "plain.pth": lambda model, path: torch.save(dict(model.state_dict()), path),
    "module.pt": lambda model, path: torch.save(model.state_dict(), path),
    "model.pt": lambda model, path: torch.save({"model": model.state_dict(), "epoch": 1}, path),
    "trained.pth": save_as_trained,
}


def test_weights_of_a_file_are_loaded_without_the_classifier(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model: Any = timm.create_model("test_resnet")
    found = {}
    for name, save in FILES.items():
        save(model, tmp_path / name)
        found[name] = find_model(f"timm:test_resnet@{tmp_path / name}")
    model.reset_classifier(0)
    for one in found.values():
        assert torch.equal(answers(one, 64), answers(model.eval(), 64))
    assert len({one.encoder for one in found.values()}) == 1
    assert find_model("timm:test_resnet").encoder != one.encoder


def test_torchvisions_resnet_is_timms_with_the_same_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    model.fc = nn.Identity()
    expected = answers(model.eval(), 64)
    for library in ("timm", "torchvision"):
        found = find_model(f"{library}:resnet18@{tmp_path / 'x.pth'}")
        torch.testing.assert_close(answers(found, 64), expected, rtol=1e-5, atol=1e-5)


def test_random_weights_are_the_same_each_time_and_leave_the_random_state() -> None:
    state = torch.get_rng_state()
    for word in ("timm:test_resnet", "torchvision:squeezenet1_1"):
        first = find_model(word)
        torch.set_rng_state(torch.Generator().manual_seed(5).get_state())
        again = find_model(word)
        torch.set_rng_state(state)
        assert first.encoder == again.encoder
        assert torch.equal(answers(first, 64), answers(again, 64))
    assert torch.equal(torch.get_rng_state(), state)


def test_views_are_those_the_library_names() -> None:
    views = build_library_model("timm", "resnet18.a1_in1k").views
    config = timm.create_model("resnet18.a1_in1k").pretrained_cfg
    assert (views.evaluation_size, views.mean) == (224, config["mean"])
    assert views.evaluation_resize == int(224 / config["crop_pct"])
    tagged = build_library_model("timm", "vit_tiny_patch16_224.augreg_in21k").views
    assert tagged.mean == (0.5, 0.5, 0.5)
    look = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    views = build_library_model("torchvision", "resnet50").views
    assert (views.evaluation_resize, views.evaluation_size) == (look.resize_size[0], 224)
    assert views.std == tuple(look.std)


TORCHVISION = {"squeezenet1_1": 512, "mobilenet_v3_small": 1024, "shufflenet_v2_x0_5": 1024}


@pytest.mark.parametrize(("name", "features"), TORCHVISION.items())
def test_what_gives_the_classes_is_removed_whatever_it_is_called(name: str, features: int) -> None:
    found = build_library_model("torchvision", name).network
    assert answers(found, 64).shape == (2, features)


def test_nothing_is_asked_of_the_network_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is downloaded")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_model("timm:resnet18.a1_in1k")
        find_model("torchvision:googlenet")
    for word in ("timm:hf-hub:timm/resnet18.a1_in1k", "timm:hf_hub:x/y", "timm:local-dir:/tmp"):
        assert "has no model" in refused(word)


def test_names_that_are_none_are_told_the_nearest() -> None:
    assert "did you mean resnet18" in refused("timm:resnt18")
    assert "did you mean resnet18" in refused("torchvision:Resnet_18")
    assert "leave out what is behind the dot" in refused("timm:resnet18.nobody")
    assert "did you mean timm:resnet18?" in refused("tim:resnet18")
    assert "did you mean pixels" in refused("pixel")
    assert "did you mean untrained:runs/a?" in refused("untraned:runs/a")
    assert "did you mean timm:resnet50 or torchvision:resnet50?" in refused("resnet50")
    assert "write timm:resnet50" in refused("timm")
    assert "names no model" in refused("untrained:")
    assert "names no model" in refused("pixels:")
    assert "names no file" in refused("timm:resnet18@")
    assert "has no projection head" in refused("timm:resnet18", layer="head")
    assert "did you mean" in refused("torchvision:fcn_resnet50")
    for word in ("/nowhere", "untrained:/nowhere", "pixels:/nowhere", "x\0y", "a:b"):
        assert "does not exist" in refused(word, CheckpointError)


def test_a_directory_called_as_a_word_is_named_with_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(Path("pixels"), 7)
    made_run(Path("timm"), 7)
    assert find_model("pixels").network is None
    assert find_model("./pixels").recipe == "tiny"
    assert "./timm" in refused("timm")


def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    models: dict[str, nn.Module] = {
        "timm:test_resnet": timm.create_model("test_resnet"),
        "torchvision:squeezenet1_1": torchvision.models.squeezenet1_1(weights=None),
    }
    for word, model in models.items():
        state = dict(model.state_dict())
        first, *_, last = (name for name in state if not name.startswith(("fc.", "classifier.")))
        classes = {name: value for name, value in state.items() if name not in (first, last)}
        save_file(classes, file)
        assert f"has no {first}, {last}; name" in refused(f"{word}@{file}", CheckpointError)
        save_file({**state, "layer5.weight": torch.zeros(2)}, file)
        assert "has also layer5.weight" in refused(f"{word}@{file}", CheckpointError)
        save_file({**state, last: torch.zeros(2)}, file)
        assert f"another shape of {last}" in refused(f"{word}@{file}", CheckpointError)
        save_file({"x": torch.zeros(2)}, file)
        assert f"has no {first}, " in (told := refused(f"{word}@{file}", CheckpointError))
        assert " more; " in told
    file, word = tmp_path / "x.pth", f"timm:test_resnet@{tmp_path / 'x.pth'}"
    torch.save({"state_dict": {"conv1.weight": "text"}}, file)
    assert "'conv1.weight' is no tensor" in refused(word, CheckpointError)
    assert "cannot be read" in refused(f"timm:test_resnet@{tmp_path / 'no'}", CheckpointError)
    assert "cannot be read" in refused(f"timm:test_resnet@{tmp_path}", CheckpointError)


@pytest.mark.parametrize(
    ("target", "state", "allowed"),
    [
        (b"ccollections\nOrderedDict\n)R", b"}U\x01aK\x01s", True),
        (b"ccollections\nOrderedDict\n)R", b")", False),  # attributes that are no dict
        (b"}", b"}", False),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", b"}", False),
        (b"ccollections\nOrderedDict\n)Rq\x00}h\x00", b"}", True),  # fetched from the memo
        (b"}q\x00ccollections\nOrderedDict\n)Rh\x00", b"}", False),
        (b"ccollections\nOrderedDict\n", b"}", False),  # the class itself
    ],
)
def test_only_ordered_dicts_are_given_attributes(
    target: bytes, state: bytes, allowed: bool
) -> None:
    content = b"\x80\x02" + target + state + b"b."
    if allowed:
        check_builds(content)
    else:
        with pytest.raises(ValueError, match="only state dicts have attributes"):
            check_builds(content)


@pytest.mark.parametrize("content", [b"b.", b"0.", b"t.", b"}b.", b"q\x00.", b"}u.", b"2."])
def test_a_pickle_that_takes_what_is_not_there_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="more from its stack"):
        check_builds(content)


def test_a_run_may_still_have_no_attributes_in_its_state(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "x.pt")
    assert set(read_train_state(tmp_path / "x.pt", of_modules=True)) == {"weight", "bias"}
    with pytest.raises(ValueError, match="BUILD"):
        read_train_state(tmp_path / "x.pt")


@pytest.mark.parametrize("method", ["get", "items", "values"])
def test_a_file_may_not_replace_what_its_dicts_do(method: str, tmp_path: Path) -> None:
    state: Any = timm.create_model("test_resnet").state_dict()
    state.__dict__["x" * len(method)] = "text"
    torch.save(state, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        content = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value.replace(b"x" * len(method), method.encode()))
    word = f"timm:test_resnet@{tmp_path / 'y.pth'}"
    plain = find_model(f"timm:test_resnet@{tmp_path / 'x.pth'}")
    assert find_model(word).encoder == plain.encoder
    # what torch wrote before 1.6, as torchvision's older files are
    torch.save(state, tmp_path / "y.pth", _use_new_zipfile_serialization=False)
    assert find_model(word).encoder == plain.encoder


class Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def test_a_strangers_pickle_is_never_run(tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "x.pth"
    for content in ({"conv1.weight": Runs(canary)}, Runs(canary), {"model": [Runs(canary)]}):
        torch.save(content, file)
        assert "only tensors and values" in refused(f"timm:test_resnet@{file}", CheckpointError)
        torch.save(content, file, _use_new_zipfile_serialization=False)
        refused(f"timm:test_resnet@{file}", CheckpointError)
        file.write_bytes(pickle.dumps(content))
        refused(f"timm:test_resnet@{file}", CheckpointError)
    assert not canary.exists()
