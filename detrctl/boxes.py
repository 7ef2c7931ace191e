"""Box formats as types, conversions between them, and overlaps.

A box says what it is: `Cxcywh` and `Xyxy` are fractions of the image (0..1), `XyxyPx` is in pixels of the original
image. COCO's (x, y, width, height) lives only where COCO files are read or written.

Shapes: N, M boxes; the last axis always holds the four numbers of a box.
"""

from typing import NewType

import torch
from torch import Tensor

Cxcywh = NewType("Cxcywh", Tensor)
Xyxy = NewType("Xyxy", Tensor)
XyxyPx = NewType("XyxyPx", Tensor)


def cxcywh_to_xyxy(boxes: Cxcywh) -> Xyxy:
    """(..., 4) -> (..., 4)"""
    centre, size = boxes.split(2, dim=-1)
    return Xyxy(torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1))


def xyxy_to_cxcywh(boxes: Xyxy) -> Cxcywh:
    """(..., 4) -> (..., 4)"""
    low, high = boxes.split(2, dim=-1)
    return Cxcywh(torch.cat([(low + high) / 2, high - low], dim=-1))


def xyxy_to_pixels(boxes: Xyxy, size_hw: Tensor) -> XyxyPx:
    """(..., N, 4), (..., 2) -> (..., N, 4); `size_hw` is the original image's height and width. Nothing is clipped."""
    height, width = size_hw.unbind(-1)
    scale = torch.stack([width, height, width, height], dim=-1)
    return XyxyPx(boxes * scale.unsqueeze(-2))


def area(boxes: Xyxy | XyxyPx) -> Tensor:
    """(..., 4) -> (...); negative sides give what the multiplication gives, as in the published code."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width * height


def _overlap(a: Xyxy, b: Xyxy) -> tuple[Tensor, Tensor]:
    """Intersection and union of boxes that already broadcast: (..., 4), (..., 4) -> (...), (...)"""
    sides = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, area(a) + area(b) - intersection


def _generalised(a: Xyxy, b: Xyxy) -> Tensor:
    """GIoU of boxes that already broadcast: (..., 4), (..., 4) -> (...)

    Source: Rezatofighi et al., "Generalized Intersection over Union", algorithm 1.
    """
    intersection, union = _overlap(a, b)
    sides = (torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])).clamp(min=0)
    enclosing = sides[..., 0] * sides[..., 1]
    return intersection / union - (enclosing - union) / enclosing


def pairwise_iou(a: Xyxy, b: Xyxy) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M)"""
    intersection, union = _overlap(Xyxy(a[..., :, None, :]), Xyxy(b[..., None, :, :]))
    return intersection / union


def pairwise_giou(a: Xyxy, b: Xyxy) -> Tensor:
    """(..., N, 4), (..., M, 4) -> (..., N, M)"""
    return _generalised(Xyxy(a[..., :, None, :]), Xyxy(b[..., None, :, :]))


def paired_iou(a: Xyxy, b: Xyxy) -> Tensor:
    """Row i of `a` against row i of `b`: (N, 4), (N, 4) -> (N,); 0 where both are empty."""
    intersection, union = _overlap(a, b)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def paired_giou(a: Xyxy, b: Xyxy) -> Tensor:
    """Row i of `a` against row i of `b`: (N, 4), (N, 4) -> (N,)"""
    return _generalised(a, b)


def at_least_fp32(values: Tensor) -> Tensor:
    """What autocast has made half as long becomes fp32, in which boxes and losses are computed; fp64 stays."""
    return values.float() if values.itemsize < 4 else values


def inverse_sigmoid(fractions: Tensor, *, eps: float) -> Tensor:
    """Fractions as logits, both ends held off by `eps`: (...) -> (...)

    1e-5 in Deformable and Conditional DETR, 1e-3 in DAB-DETR, DN-DETR and DINO; it moves their numbers.
    """
    fractions = fractions.clamp(0, 1)
    return (fractions.clamp(min=eps) / (1 - fractions).clamp(min=eps)).log()
