"""The evaluations as plain functions: from features, or from images, to plain data.

    from moco import evaluate
    train, test = (evaluate.features("RUN", source) for source in ("TRAIN", "TEST"))
    result = evaluate.knn(train, test)

`train` and `test` are `FeatureSet`s: one network's features of some images, and their labels.
"""

from __future__ import annotations

from pathlib import Path

from moco.data.sources.opening import open_images
from moco.device import pick_device
from moco.evaluation.comparison import Comparison as Comparison
from moco.evaluation.comparison import compare_rivals as compare_rivals
from moco.evaluation.comparison import in_words as in_words
from moco.evaluation.embedding import as_feature_set, source_labels
from moco.evaluation.feature_files import read_features as read_features
from moco.evaluation.feature_files import write_features as write_features
from moco.evaluation.feature_set import FeatureSet as FeatureSet
from moco.evaluation.feature_set import Task
from moco.evaluation.features import extract_features
from moco.evaluation.few_labels import FewLabelsResult as FewLabelsResult
from moco.evaluation.few_labels import few_labels as few_labels
from moco.evaluation.finetune import FinetuneResult as FinetuneResult
from moco.evaluation.finetune import finetune as finetune
from moco.evaluation.knn import KnnResult as KnnResult
from moco.evaluation.knn import knn as knn
from moco.evaluation.label_free import LabelFreeResult as LabelFreeResult
from moco.evaluation.label_free import label_free as label_free
from moco.evaluation.linear_fast import LinearResult as LinearResult
from moco.evaluation.linear_fast import linear as linear
from moco.evaluation.linear_official import OfficialLinearResult as OfficialLinearResult
from moco.evaluation.linear_official import official_linear as official_linear
from moco.evaluation.linear_protocols import LinearProtocol as LinearProtocol
from moco.evaluation.linear_protocols import linear_protocol as linear_protocol
from moco.evaluation.retrieval import RetrievalResult as RetrievalResult
from moco.evaluation.retrieval import retrieval as retrieval
from moco.found_model import find_model


def features(
    model: str | Path,
    images: str | Path,
    *,
    layer: str = "backbone",
    task: Task | None = None,
    device: str = "auto",
    workers: int = 0,
) -> FeatureSet:
    """Return a network's features of all images that can be read, with labels where there are any.

    Args:
        model: a run, or another word that `find_model` knows, such as `untrained:RUN`.
        images: any source (docs/sources.md).
        layer: "backbone", "head", or the name of a layer of the backbone.
        task: what labels are; None for what they look like. Say it where one source of a pair could
            look otherwise, such as numbers that happen to be whole.

    Raises:
        UsageError, CheckpointError: There is no such model, layer or device.
        DataError: There are no images, or none can be read.
    """
    found, source = find_model(str(model), layer=layer), open_images(images)
    labels = source_labels(source, images, task)
    on = pick_device(device)
    network = None if found.network is None else found.network.to(on)
    taken = extract_features(network, source, found.views, device=on, workers=workers)
    return as_feature_set(taken, source, labels, encoder=found.encoder, title=str(images))
