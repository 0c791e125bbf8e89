from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from moco.batch_norm import group_batch_norm
from moco.data.sources.folder import FolderImages
from moco.encoders import Encoder, build_encoder
from moco.errors import DataError, UsageError
from moco.evaluation import features as features_module
from moco.evaluation.features import extract_features
from moco.evaluation.labelled import LabelledImages, matching_images
from moco.evaluation.monitor import knn_monitor
from moco.specs import EncoderSpec, ViewsSpec

CPU = torch.device("cpu")
VIEWS = ViewsSpec(image_size=16, evaluation_resize=18, evaluation_size=16)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    spec = EncoderSpec(backbone="resnet18", width=0.125, stage_blocks=(1, 1, 1, 1), dim=16)
    built = build_encoder(spec)
    group_batch_norm(built, 2)
    built.train()(torch.randn(8, 3, 16, 16))  # so that its statistics are not those of a new one
    return built


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part", ["encoder", "backbone"])
def test_extraction_changes_not_one_bit_of_the_network(
    encoder: Encoder, photos: Path, training: bool, part: str
) -> None:
    network = encoder if part == "encoder" else encoder.backbone
    network.train(training)
    before = state_of(encoder)
    found = extract_features(network, FolderImages(photos), VIEWS, device=CPU)
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {module.training for module in network.modules()} == {training}
    assert all(weight.grad is None for weight in encoder.parameters())
    assert not found.rows.requires_grad


def test_extraction_draws_nothing_from_the_random_state_that_training_uses(
    encoder: Encoder, photos: Path
) -> None:
    before = torch.get_rng_state()
    extract_features(encoder, FolderImages(photos), VIEWS, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_the_networks_answer_in_eval_mode_to_the_evaluation_view(
    encoder: Encoder, photos: Path
) -> None:
    images = FolderImages(photos)
    found = extract_features(encoder, images, VIEWS, device=CPU)
    look = transforms.Compose(
        [
            transforms.Resize(18),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize(VIEWS.mean, VIEWS.std),
        ]
    )
    inputs = torch.stack(
        [look(Image.open(photos / images.name(number)).convert("RGB")) for number in range(64)]
    )
    with torch.no_grad():
        expected = encoder.eval()(inputs)
    # Pillow's resizing differs by a level of 255 in some pixels
    torch.testing.assert_close(found.rows, expected, rtol=0, atol=0.01)
    assert float((found.rows - expected).abs().mean()) < 5e-4
    assert found.rows.dtype == torch.float32
    assert torch.equal(found.image_ids, torch.arange(64))
    assert found.skipped == []


def test_batches_and_workers_change_nothing_and_progress_is_told(
    encoder: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = FolderImages(photos)
    whole = extract_features(encoder, images, VIEWS, device=CPU)
    monkeypatch.setattr(features_module, "FEATURE_BATCH", 10)
    told: list[tuple[int, int]] = []
    found = extract_features(
        encoder, images, VIEWS, device=CPU, workers=2, report=lambda *done: told.append(done)
    )
    torch.testing.assert_close(found.rows, whole.rows, rtol=1e-4, atol=1e-5)
    assert told == [(min(64, 10 * number), 64) for number in range(1, 8)]


def test_files_that_cannot_be_read_are_left_out_and_named(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    whole = extract_features(encoder, FolderImages(folder), VIEWS, device=CPU)
    names = [FolderImages(folder).name(number) for number in range(64)]
    bad = [0, 5, 63]
    for number in bad:
        (folder / names[number]).write_bytes(b"no image")
    found = extract_features(encoder, FolderImages(folder), VIEWS, device=CPU)
    assert [name for name, reason in found.skipped if reason] == [names[number] for number in bad]
    good = [number for number in range(64) if number not in bad]
    assert found.image_ids.tolist() == good
    torch.testing.assert_close(found.rows, whole.rows[good], rtol=1e-4, atol=1e-5)


def test_nothing_readable_is_a_data_error_and_the_mode_is_restored(
    encoder: Encoder, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    encoder.train()
    with pytest.raises(DataError, match=r"none of the 3 images.*0\.png"):
        extract_features(encoder, FolderImages(tmp_path), VIEWS, device=CPU)
    assert encoder.training


def test_no_network_gives_the_pixels(photos: Path) -> None:
    found = extract_features(None, FolderImages(photos), VIEWS, device=CPU)
    assert found.rows.shape == (64, 3 * 16 * 16)


def test_labels_are_the_first_folder_and_classes_sorted(class_folders: Path) -> None:
    train, test = matching_images(class_folders / "train", class_folders / "test")
    assert train.classes == test.classes == ["blue", "red"]
    for images in (train, test):
        names = [images.name(number).split("/")[0] for number in range(len(images))]
        assert [images.classes[label] for label in images.labels] == names


def test_folders_inside_a_class_belong_to_it(class_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(class_folders / "test" / "red", tmp_path / "warm" / "red")
    shutil.copytree(class_folders / "test" / "blue", tmp_path / "cold" / "blue" / "deep")
    images = LabelledImages(tmp_path)
    assert images.classes == ["cold", "warm"]
    assert images.labels.tolist() == [0] * 8 + [1] * 8


def test_folders_that_are_no_class_folders_are_refused(
    class_folders: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos / "odd", tmp_path / "odd")
    with pytest.raises(DataError, match="one class folder"):
        LabelledImages(tmp_path)
    with pytest.raises(DataError, match="outside class folders"):
        LabelledImages(photos / "odd")
    with pytest.raises(DataError, match=r"different class folders: .*even"):
        matching_images(class_folders / "train", photos)


def test_the_monitor_scores_the_backbone_and_needs_both_folders(
    encoder: Encoder, class_folders: Path
) -> None:
    train, test = class_folders / "train", class_folders / "test"
    assert knn_monitor(None, None, VIEWS, CPU) is None
    for one, other in ((train, None), (None, test)):
        with pytest.raises(UsageError, match="--monitor-train and --monitor-test"):
            knn_monitor(one, other, VIEWS, CPU)
    monitor = knn_monitor(train, test, VIEWS, CPU)
    assert monitor is not None
    before = state_of(encoder)
    scores = monitor(encoder)
    assert set(scores) == {"knn_top1", "knn_roc_auc", "knn_head_top1"}
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores["knn_top1"] > 0.7  # even random features tell red from blue
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
