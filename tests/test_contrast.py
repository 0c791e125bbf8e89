from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.batch_norm import group_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import InBatch, MemoryBank, Queue
from moco.info_nce import pretext_scores

IMAGES, DIM, SIZE, TEMPERATURE = 8, 5, 21, 0.2
IDS = torch.arange(100, 100 + IMAGES)


def toy_encoder(groups: int = 1) -> nn.Module:
    """Return a backbone with batch norm and a head, in float64."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
    )
    encoder = nn.Sequential(backbone, nn.Linear(96, DIM)).double()
    if groups > 1:
        group_batch_norm(encoder, groups)
    return encoder


def toy_contrast(
    *,
    groups: int = 1,
    symmetric: bool = False,
    shuffle_keys: bool = True,
    exclude_same_image: bool = False,
) -> Contrast:
    torch.manual_seed(0)
    contrast = Contrast(
        toy_encoder(groups),
        Queue(SIZE, DIM, exclude_same_image=exclude_same_image).double(),
        temperature=TEMPERATURE,
        symmetric=symmetric,
        shuffle_keys=shuffle_keys,
        seed=3,
    )
    return contrast.train()


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    view_a = torch.randn(IMAGES, 3, 8, 8, generator=generator, dtype=torch.float64)
    return view_a, view_a + torch.randn(view_a.shape, generator=generator, dtype=torch.float64)


def take_step(contrast: Contrast, step: int, key_momentum: float = 0.9) -> Tensor:
    """Train one step with a large learning rate; return the keys that were stored."""
    optimizer = torch.optim.SGD(contrast.encoder.parameters(), lr=0.5)
    contrasted = contrast(*views(step), IDS, step)
    optimizer.zero_grad()
    contrasted.loss.backward()
    optimizer.step()
    contrast.advance(contrasted.keys, IDS, key_momentum)
    return contrasted.keys


def keys_in_eval(contrast: Contrast, *, shuffle: bool) -> Tensor:
    """Return keys that are each image's own affair: no image sees another."""
    contrast.shuffle_keys = shuffle
    return contrast.eval()(*views(), IDS, 0).keys


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_same(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_key_encoder_starts_as_an_own_copy_head_too() -> None:
    contrast = toy_contrast()
    assert_same(parameters(contrast.key_encoder), parameters(contrast.encoder))
    assert_same(buffers(contrast.key_encoder), buffers(contrast.encoder))
    own = {weight.data_ptr() for weight in contrast.encoder.parameters()}
    assert not own & {weight.data_ptr() for weight in contrast.key_encoder.parameters()}
    assert any(name.startswith("1.") for name in parameters(contrast.key_encoder))


@pytest.mark.parametrize("symmetric", [False, True])
def test_forward_changes_no_weight_no_key_and_no_slot(symmetric: bool) -> None:
    contrast = toy_contrast(groups=2, symmetric=symmetric)
    take_step(contrast, 0)
    weights, stored = parameters(contrast), buffers(contrast.dictionary)
    first = contrast(*views(1), IDS, 1)
    first.loss.backward()
    second = contrast(*views(1), IDS, 1)
    assert_same(tuple(first), tuple(second))
    assert_same(parameters(contrast), weights)
    assert_same(buffers(contrast.dictionary), stored)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_reaches_every_weight_of_the_encoder_and_nothing_else(symmetric: bool) -> None:
    contrast = toy_contrast(groups=2, symmetric=symmetric)
    contrasted = contrast(*views(), IDS, 0)
    contrasted.loss.backward()
    for name, weight in contrast.encoder.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
    for name, weight in contrast.key_encoder.named_parameters():
        assert not weight.requires_grad, name
        assert weight.grad is None, name
    assert not any(value.requires_grad for value in contrast.dictionary.buffers())
    assert not contrasted.keys.requires_grad
    assert not any(score.requires_grad for score in contrasted.scores)


def test_no_gradient_passes_through_the_keys_even_to_their_view() -> None:
    contrast = toy_contrast(groups=2)
    view_a, view_b = (view.requires_grad_() for view in views())
    contrasted = contrast(view_a, view_b, IDS, 0)
    assert not contrasted.keys.requires_grad
    contrasted.loss.backward()
    assert view_a.grad is not None
    assert view_b.grad is None


def test_no_gradient_passes_through_the_keys_were_the_key_encoder_trainable() -> None:
    contrast = toy_contrast()
    contrast.key_encoder.requires_grad_(True)
    contrasted = contrast(*views(), IDS, 0)
    contrasted.loss.backward()
    assert all(weight.grad is None for weight in contrast.key_encoder.parameters())


@pytest.mark.parametrize("key_momentum", [0.0, 0.3, 0.99, 1.0])
def test_advance_keeps_the_share_key_momentum_of_the_key_weights(key_momentum: float) -> None:
    contrast = toy_contrast()
    take_step(contrast, 0)  # so that the two encoders differ
    optimizer = torch.optim.SGD(contrast.encoder.parameters(), lr=0.5)
    contrasted = contrast(*views(1), IDS, 1)
    contrasted.loss.backward()
    optimizer.step()
    key_weights, query_weights = parameters(contrast.key_encoder), parameters(contrast.encoder)
    contrast.advance(contrasted.keys, IDS, key_momentum)
    for name, weight in contrast.key_encoder.named_parameters():
        old, target = key_weights[name], query_weights[name]
        assert (old - target).abs().max() > 1e-6, name
        expected = key_momentum * old + (1 - key_momentum) * target
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-14)
    assert_same(parameters(contrast.encoder), query_weights)


def test_statistics_of_the_key_encoder_move_by_its_own_forwards_only() -> None:
    contrast = toy_contrast()
    alone = copy.deepcopy(contrast.key_encoder)
    for step in range(3):
        keys = contrast(*views(step), IDS, step).keys
        alone(views(step)[1])
        after_forward = buffers(contrast.key_encoder)
        contrast.advance(keys, IDS, 0.5)
        assert_same(buffers(contrast.key_encoder), after_forward)
        torch.testing.assert_close(after_forward, buffers(alone))
    theirs = buffers(contrast.encoder)
    statistics = [name for name in after_forward if "running" in name]
    assert statistics
    assert all((after_forward[name] - theirs[name]).abs().max() > 1e-3 for name in statistics)


def test_key_encoder_trains_as_the_encoder_does() -> None:
    contrast = toy_contrast(shuffle_keys=False)
    contrast.eval()
    contrast.train()
    view_a, view_b = views()
    keys = contrast(view_a, view_b, IDS, 0).keys
    assert all(layer.training for layer in contrast.modules())
    # batch norm with the batch's own statistics, which no eval mode gives
    expected = F.normalize(copy.deepcopy(contrast.key_encoder)(view_b), dim=1)
    torch.testing.assert_close(keys, expected, rtol=0, atol=1e-12)
    in_eval = F.normalize(copy.deepcopy(contrast.key_encoder).eval()(view_b), dim=1)
    assert (keys - in_eval).abs().max() > 1e-2


@pytest.mark.parametrize(("symmetric", "calls"), [(False, 1), (True, 2)])
def test_each_encoder_runs_once_for_each_term(symmetric: bool, calls: int) -> None:
    contrast = toy_contrast(symmetric=symmetric)
    counts = {"encoder": 0, "key_encoder": 0}
    for name in counts:

        def count(*_: object, name: str = name) -> None:
            counts[name] += 1

        contrast.get_submodule(name).register_forward_hook(count)
    take_step(contrast, 0)
    contrast(*views(1), IDS, 1)
    assert counts == {"encoder": 2 * calls, "key_encoder": 2 * calls}


def term(contrast: Contrast, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and keys of one term as the paper writes them."""
    queries = F.normalize(contrast.encoder(query_view), dim=1)
    keys = F.normalize(contrast.key_encoder(key_view), dim=1)
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, queries @ contrast.dictionary.keys.T], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(IMAGES, dtype=torch.long)), keys


def test_loss_is_one_term() -> None:
    contrast = toy_contrast(shuffle_keys=False)
    take_step(contrast, 0)
    view_a, view_b = views(1)
    loss, keys = term(contrast, view_a, view_b)
    contrasted = contrast(view_a, view_b, IDS, 1)
    torch.testing.assert_close(contrasted.loss, loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(contrasted.keys, keys, rtol=0, atol=1e-12)
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(IMAGES, dtype=torch.float64))


def test_symmetric_loss_is_the_sum_of_both_terms() -> None:
    contrast = toy_contrast(symmetric=True, shuffle_keys=False)
    take_step(contrast, 0)
    view_a, view_b = views(1)
    a_to_b, keys_of_b = term(contrast, view_a, view_b)
    b_to_a, keys_of_a = term(contrast, view_b, view_a)
    contrasted = contrast(view_a, view_b, IDS, 1)
    torch.testing.assert_close(contrasted.loss, a_to_b + b_to_a, rtol=0, atol=1e-12)
    both = torch.cat([keys_of_a, keys_of_b])
    torch.testing.assert_close(contrasted.keys, both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_advance_stores_the_keys_once_beside_their_ids(symmetric: bool) -> None:
    contrast = toy_contrast(symmetric=symmetric)
    before = buffers(contrast.dictionary)
    keys = take_step(contrast, 0)
    rows = len(keys)
    assert rows == (2 * IMAGES if symmetric else IMAGES)
    assert_same(contrast.dictionary.keys[:rows], keys)  # of view a, then of view b
    assert_same(contrast.dictionary.keys[rows:], before["keys"][rows:])
    assert contrast.dictionary.image_ids[:rows].tolist() == IDS.tolist() * (rows // IMAGES)
    assert int(contrast.dictionary.next_slot) == rows


@pytest.mark.parametrize("symmetric", [False, True])
def test_shuffling_is_undone(symmetric: bool) -> None:
    contrast = toy_contrast(groups=2, symmetric=symmetric)
    shuffled = keys_in_eval(contrast, shuffle=True)
    torch.testing.assert_close(shuffled, keys_in_eval(contrast, shuffle=False), rtol=0, atol=1e-12)
    assert torch.pdist(shuffled).min() > 1e-6


def test_shuffling_changes_nothing_where_one_group_holds_the_batch() -> None:
    shuffled, plain = toy_contrast(), toy_contrast(shuffle_keys=False)
    ours, theirs = shuffled(*views(), IDS, 0), plain(*views(), IDS, 0)
    torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=0, atol=1e-12)


def test_shuffling_in_groups_changes_the_keys_and_not_the_queries() -> None:
    shuffling, ordered = toy_contrast(groups=2), toy_contrast(groups=2, shuffle_keys=False)
    shuffled, in_order = (contrast(*views(), IDS, 0) for contrast in (shuffling, ordered))
    plain = toy_contrast()(*views(), IDS, 0)
    assert (shuffled.keys - plain.keys).abs().max() > 1e-3
    assert (shuffled.keys - in_order.keys).abs().max() > 1e-3
    for name in ("0.1.running_mean", "0.4.running_var"):  # what the queries left behind
        left = shuffling.encoder.state_dict()[name]
        torch.testing.assert_close(left, ordered.encoder.state_dict()[name], rtol=0, atol=0)


def test_every_step_and_every_term_shuffles_otherwise() -> None:
    contrast = toy_contrast(groups=2, symmetric=True)
    view, _ = views()
    first = contrast(view, view, IDS, 0).keys
    second = contrast(view, view, IDS, 1).keys
    assert (first - second).abs().max() > 1e-3
    assert (first[:IMAGES] - first[IMAGES:]).abs().max() > 1e-3


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("exclude_same_image", [False, True])
def test_scores_are_those_of_the_queries_against_the_queue(
    symmetric: bool, exclude_same_image: bool
) -> None:
    contrast = toy_contrast(
        symmetric=symmetric, exclude_same_image=exclude_same_image, shuffle_keys=False
    )
    take_step(contrast, 0)
    scores = contrast(*views(1), IDS, 1).scores
    negative_ids = contrast.dictionary.image_ids if exclude_same_image else torch.full((SIZE,), -1)
    view_a, view_b = views(1)
    expected = []
    for query_view, key_view in [(view_a, view_b), (view_b, view_a)][: 2 if symmetric else 1]:
        expected.append(
            pretext_scores(
                F.normalize(contrast.encoder(query_view), dim=1),
                F.normalize(contrast.key_encoder(key_view), dim=1),
                contrast.dictionary.keys,
                query_ids=IDS,
                negative_ids=negative_ids,
            )
        )
    for score, *terms in zip(scores, *expected, strict=True):
        torch.testing.assert_close(score, sum(terms) / len(terms))


def test_older_keys_of_the_same_image_are_left_out_where_the_dictionary_says_so() -> None:
    losses = []
    for exclude_same_image in (False, True):
        contrast = toy_contrast(shuffle_keys=False, exclude_same_image=exclude_same_image)
        keys = contrast(*views(), IDS, 0).keys
        contrast.advance(keys, IDS, 1.0)  # the next look-up finds the very same keys
        losses.append(contrast(*views(), IDS, 1).loss.item())
    assert losses[1] < losses[0] - 1e-3


def test_goes_on_identically_from_its_state_dict() -> None:
    contrast, restored = toy_contrast(groups=2), toy_contrast(groups=2)
    take_step(contrast, 0)
    restored.load_state_dict(contrast.state_dict())
    for step in (1, 2, 3):  # the queue wraps
        take_step(contrast, step)
        take_step(restored, step)
    assert_same(dict(contrast.state_dict()), dict(restored.state_dict()))


def rival_contrast(mechanism: str) -> Contrast:
    torch.manual_seed(0)
    bank = MemoryBank(200, DIM, negatives=20, bank_momentum=0.3).double()
    contrast = Contrast(
        toy_encoder(),
        InBatch() if mechanism == "end_to_end" else bank,
        keys_from="query_encoder" if mechanism == "end_to_end" else "query_itself",
        temperature=TEMPERATURE,
    )
    return contrast.train()


@pytest.mark.parametrize("mechanism", ["end_to_end", "memory_bank"])
def test_rivals_have_no_second_encoder_and_forward_changes_no_key(mechanism: str) -> None:
    contrast = rival_contrast(mechanism)
    take_step(contrast, 0)
    assert not hasattr(contrast, "key_encoder")
    weights, stored = parameters(contrast), dict(contrast.dictionary.state_dict())
    stored = {name: value.clone() for name, value in stored.items()}
    contrast(*views(1), IDS, 1).loss.backward()
    assert_same(parameters(contrast), weights)
    assert_same(dict(contrast.dictionary.state_dict()), stored)


def test_end_to_end_keys_carry_gradient_and_the_loss_uses_it() -> None:
    contrast = rival_contrast("end_to_end")
    view_a, view_b = views()
    view_b.requires_grad_()
    contrasted = contrast(view_a, view_b, IDS, 0)
    assert contrasted.keys.requires_grad
    contrasted.loss.backward()
    assert (view_b.grad.flatten(1).abs().sum(dim=1) > 1e-6).all()


def test_a_memory_bank_asks_nothing_of_the_second_view() -> None:
    contrast = rival_contrast("memory_bank")
    view_a, view_b = views()
    first = contrast(view_a, view_b, IDS, 0)
    second = contrast(view_a, torch.full_like(view_b, torch.nan), IDS, 0)
    assert_same(tuple(first), tuple(second))
    assert not first.keys.requires_grad
    contrast.advance(first.keys, IDS, 0.9)
    assert (contrast.dictionary.vectors[IDS] * first.keys).sum(dim=1).min() > 0.6  # moved to them


def test_the_predictor_is_for_queries_alone() -> None:
    torch.manual_seed(0)
    predictor = nn.Linear(DIM, DIM, bias=False).double()
    contrast = Contrast(toy_encoder(), InBatch(), temperature=TEMPERATURE, predictor=predictor)
    plain = Contrast(contrast.encoder, InBatch(), temperature=TEMPERATURE)
    contrasted, without = (each.train()(*views(), IDS, 0) for each in (contrast, plain))
    torch.testing.assert_close(contrasted.keys, without.keys)
    assert not torch.isclose(contrasted.loss, without.loss)
    contrasted.loss.backward()
    assert predictor.weight.grad.abs().max() > 0
    contrast.advance(contrasted.keys, IDS, 0.5)  # pairs with the encoder, not the predictor
    assert [name for name in contrast.state_dict() if name.startswith("predictor")] == [
        "predictor.weight"
    ]
