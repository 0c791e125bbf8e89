"""The evaluations as plain functions: from features, or from images, to plain data.

    from moco import evaluate
    result = evaluate.knn(train, test)

`train` and `test` are `FeatureSet`s: one network's features of some images, and their labels.
"""

from __future__ import annotations

from moco.evaluation.feature_set import FeatureSet as FeatureSet
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
