"""From the raw predictions of the last layer to detections: the two published ways.

B batch, Q queries, C classes, K detections kept per image. Boxes come out as xyxy in pixels of the original image and
are not clipped to it, as in the published code.
"""

import torch
from torch import Tensor

from detrctl.boxes import Cxcywh, XyxyPx, at_least_fp32, cxcywh_to_xyxy, xyxy_to_pixels
from detrctl.structures import Detections, PostProcess, Predictions


def softmax_top_queries(
    predictions: Predictions, original_sizes_hw: Tensor, image_ids: tuple[int, ...]
) -> list[Detections]:
    """Every query with its best real class, best first: (B, Q, C + 1) logits, (B, 2) -> B times Q detections.

    The last column, `no object`, takes part in the softmax and is then dropped. Source: Carion et al. 2020, appendix
    A.4 (inference).
    """
    probabilities = at_least_fp32(predictions.logits).softmax(dim=-1)[..., :-1]
    scores, labels = probabilities.max(dim=-1)
    scores, queries = scores.sort(dim=-1, descending=True, stable=True)
    return _detections(predictions, original_sizes_hw, image_ids, scores, labels.gather(-1, queries), queries)


def sigmoid_top_k(k: int) -> PostProcess:
    """The best `k` pairs of query and class: (B, Q, C) logits, (B, 2) -> B times min(k, Q * C) detections.

    One query may answer with several classes. Published k: 100 in Deformable and Conditional DETR, 300 in DINO, which
    pays because COCO's limit of 100 detections counts per image and class.
    """

    def top_k(predictions: Predictions, original_sizes_hw: Tensor, image_ids: tuple[int, ...]) -> list[Detections]:
        probabilities = at_least_fp32(predictions.logits).sigmoid().flatten(1)
        classes = predictions.logits.shape[-1]
        scores, pairs = probabilities.topk(min(k, probabilities.shape[1]), dim=-1)
        return _detections(predictions, original_sizes_hw, image_ids, scores, pairs % classes, pairs // classes)

    return top_k


def _detections(
    predictions: Predictions,
    original_sizes_hw: Tensor,
    image_ids: tuple[int, ...],
    scores: Tensor,
    labels: Tensor,
    queries: Tensor,
) -> list[Detections]:
    """Fetches the boxes of the chosen `queries` (B, K) and splits the batch into images."""
    chosen = torch.gather(at_least_fp32(predictions.boxes), 1, queries.unsqueeze(-1).expand(-1, -1, 4))
    boxes = xyxy_to_pixels(cxcywh_to_xyxy(Cxcywh(chosen)), original_sizes_hw)
    return [
        Detections(scores=scores[i], labels=labels[i], boxes=XyxyPx(boxes[i]), queries=queries[i], image_id=image_id)
        for i, image_id in enumerate(image_ids)
    ]
