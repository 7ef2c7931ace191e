"""The two detectors of other libraries that ours are measured against, behind one small interface.

Both start from random weights, and every batch norm of both is trainable. What differs from the library's own defaults
stands here, with its reason, and nowhere else.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detrctl.boxes import Cxcywh, Xyxy, cxcywh_to_xyxy, xyxy_to_pixels
from detrctl.structures import Batch, Detections, ImageBatch, Targets


class Opponent(Protocol):
    """A detector of another library."""

    module: nn.Module
    clip_norm: float

    def optimizer(self, lr: float) -> torch.optim.Optimizer: ...

    def loss(self, batch: Batch) -> Tensor: ...

    def detect(self, images: ImageBatch) -> list[Detections]: ...


def _detections(images: ImageBatch, i: int, scores: Tensor, labels: Tensor, boxes: Xyxy, queries: Tensor) -> Detections:
    """(K,), (K,), (K, 4) as fractions of image i, (K,) -> the same in pixels of the original image."""
    pixels = xyxy_to_pixels(boxes, images.original_sizes_hw[i])
    return Detections(scores, labels, pixels, queries, images.image_ids[i])


def _decay_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay, norms and biases do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class FasterRcnn:
    """torchvision's Faster R-CNN on a ResNet-18 with feature pyramid; SGD with momentum, as its references train it."""

    clip_norm = 10.0  # from scratch, the first steps of SGD can burst; normal steps stay below this

    def __init__(self, *, num_classes: int, size: int, keep: int, rois: int = 128):
        from torchvision.models.detection import FasterRCNN
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        backbone = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        # 32 to 512 pixels belong to 800-pixel images. One size a level, from size / 16 to the whole image.
        sizes = tuple((size * 2**level // 16,) for level in range(5))
        self.size = size
        self.module: nn.Module = FasterRCNN(
            backbone,
            num_classes=num_classes + 1,
            min_size=size,
            max_size=size,
            # The batch is normalised already, as for every other model here.
            image_mean=[0.0, 0.0, 0.0],
            image_std=[1.0, 1.0, 1.0],
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            # A threshold of 0.05, the default, cuts the tail of the precision-recall curve.
            box_score_thresh=0.001,
            box_detections_per_img=keep,
            box_batch_size_per_image=rois,  # the library's 512 take twice the time per image here
            # Images come in the size that they are trained at; without this, all would be made `size` again.
            _skip_resize=True,
        )

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(_decay_groups(self.module, 1e-4), lr=lr, momentum=0.9)

    @staticmethod
    def _target(target: Targets, size: int) -> dict[str, Tensor]:
        boxes = cxcywh_to_xyxy(target.boxes) * size
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # the library refuses boxes without area
        return {"boxes": boxes[solid], "labels": target.labels[solid] + 1}

    def loss(self, batch: Batch) -> Tensor:
        targets = [self._target(target, batch.images.pixels.shape[-1]) for target in batch.targets]
        return torch.stack(list(self.module(list(batch.images.pixels), targets).values())).sum()

    def detect(self, images: ImageBatch) -> list[Detections]:
        rows = self.module(list(images.pixels))
        found = [(row["scores"], row["labels"] - 1, Xyxy(row["boxes"] / self.size)) for row in rows]
        return [_detections(images, i, *one, torch.arange(len(one[0]))) for i, one in enumerate(found)]


def _float32(value: Any) -> Any:
    """Every floating tensor inside lists, tuples and dicts, in full precision."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_float32(item) for item in value)
    if isinstance(value, dict):
        return {key: _float32(item) for key, item in value.items()}
    return value


def _in_full_precision(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Matching and losses outside autocast, as in our own training."""

    def wrapped(
        logits: Tensor, labels: Any, device: Any, pred_boxes: Tensor, config: Any, *rest: Any, **named: Any
    ) -> Any:
        with torch.autocast(logits.device.type, enabled=False):
            return loss(
                *_float32((logits, labels)), device, pred_boxes.float(), config, *_float32(rest), **_float32(named)
            )

    return wrapped


_REDRAWN = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Embedding)


def _last_layers(module: nn.Module) -> Iterable[nn.Linear]:
    """The last layer of every box head: of the proposals and of each decoder layer."""
    yield module.model.enc_bbox_head.layers[-1]  # type: ignore[union-attr,index]
    for head in module.model.decoder.bbox_embed:  # type: ignore[union-attr]
        yield head.layers[-1]


@torch.no_grad()
def published_initialisation(module: nn.Module) -> None:
    """Give an RT-DETR of `transformers` the starting point that the official code gives it.

    The library draws the norms' scales outside the backbone from N(0, 0.01), and convolutions and linear layers
    likewise, which is no matter where a checkpoint is loaded next, as is usual there. Official: torch's defaults,
    then the decoder's own rules (`RTDETRTransformer._reset_parameters`).
    """
    keep = ("backbone", "sampling_offsets", "attention_weights", "value_proj", "output_proj")
    for name, part in module.named_modules():
        if not any(word in name for word in keep) and isinstance(part, _REDRAWN):
            part.reset_parameters()
    for name, part in module.named_modules():
        if name.endswith(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")):
            # As nn.MultiheadAttention: one (3D, D) matrix, Xavier over the whole.
            bound = (6 / (4 * part.in_features)) ** 0.5
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.zeros_(part.bias)
        elif name.endswith(("self_attn.out_proj", "self_attn.o_proj")):
            nn.init.zeros_(part.bias)
    inner = module.model
    for linear in (inner.enc_output[0], *inner.decoder.query_pos_head.layers):  # type: ignore[union-attr,index]
        nn.init.xavier_uniform_(linear.weight)
    for scores in (inner.enc_score_head, *inner.decoder.class_embed):  # type: ignore[union-attr]
        nn.init.constant_(scores.bias, -4.595)  # probability 0.01
    for last in _last_layers(module):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class RtDetr:
    """`transformers`' RT-DETR with a ResNet-18, the settings of the published `rtdetr_r18vd_6x_coco`; AdamW.

    One learning rate for all: the published tenth of it for the backbone is for pretrained weights.
    """

    clip_norm = 0.1  # as published

    def __init__(self, *, num_classes: int, keep: int, library_init: bool = False):
        from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

        backbone = RTDetrResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_indices=[2, 3, 4]
        )
        config = RTDetrConfig(
            backbone_config=backbone,
            freeze_backbone_batch_norms=False,
            encoder_in_channels=[128, 256, 512],
            encoder_hidden_dim=256,
            hidden_expansion=0.5,
            decoder_layers=3,
            num_queries=300,
            num_denoising=100,
            num_labels=num_classes,
        )
        self.keep = keep
        module = RTDetrForObjectDetection(config)
        if not library_init:
            published_initialisation(module)
        module.loss_function = _in_full_precision(module.loss_function)
        self.module: nn.Module = module

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(_decay_groups(self.module, 1e-4), lr=lr, betas=(0.9, 0.999))

    def loss(self, batch: Batch) -> Tensor:
        labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in batch.targets]
        return self.module(batch.images.pixels, labels=labels).loss

    def detect(self, images: ImageBatch) -> list[Detections]:
        """The best pairs of query and class, as published (which keeps 300 of them)."""
        out = self.module(images.pixels)
        num_classes = out.logits.shape[2]
        scores, pairs = out.logits.float().sigmoid().flatten(1).topk(self.keep, dim=1)
        queries = pairs // num_classes
        boxes = cxcywh_to_xyxy(Cxcywh(out.pred_boxes.float()))
        return [
            _detections(images, i, scores[i], pairs[i] % num_classes, Xyxy(boxes[i][queries[i]]), queries[i])
            for i in range(len(images))
        ]
