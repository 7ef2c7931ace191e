"""Every field of a recipe: its type, its bounds, and the one sentence that help, documentation and errors show.

No torch here. The tree of sections mirrors the YAML: `model`, `objective`, `data`, `train`, `evaluate`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A closed, frozen part of a recipe: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


PartName = Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
"""`package.module:Name`, a class of the user's own."""


class Backbone(Section):
    """The convolutional network that turns pixels into features."""

    name: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] | PartName = Field(
        "resnet50", description="Which network; `package.module:Name` puts in one of your own."
    )
    weights: str = Field("none", description="`imagenet` (downloaded once), the path of a state-dict file, or `none`.")
    norm: Literal["frozen", "batch"] = Field(
        "frozen", description="Batch norm with frozen statistics (published; needs pretrained weights) or trainable."
    )
    frozen_stages: int = Field(
        2, ge=0, le=5, description="How many stages from the stem on are not trained (published: stem and stage 1 = 2)."
    )
    dilation: bool = Field(
        False, description="DC5: the last stage keeps its resolution and dilates instead (bottleneck networks only)."
    )
    stage: Literal[3, 4, 5] = Field(5, description="Which stage's features enter the encoder (published: 5, i.e. C5).")
    options: dict[str, Any] = Field({}, description="Keyword arguments for a backbone of your own.")


class PositionEncoding(Section):
    """How a feature's place in the image is told to attention."""

    kind: Literal["sine", "learned"] = Field("sine", description="Fixed sines (published) or learned rows and columns.")
    temperature: float = Field(10000.0, gt=0, description="Base of the sines' wavelengths.")
    cycles: float = Field(
        1.0, gt=0, description="Turns of the fastest sine across the image (published: 1); more tell neighbours apart."
    )
    added_to: Literal["attention", "values"] = Field(
        "attention",
        description="Where positions enter: only queries and keys of attention (published), or once the tokens' values "
        "too, so that what is attended to says where it was.",
    )


class DetrModel(Section):
    """DETR and DETR-DC5 (Carion et al. 2020)."""

    family: Literal["detr"] = Field("detr", description="Which family builds the model.")
    backbone: Backbone = Field(Backbone(), description="The convolutional network.")
    position: PositionEncoding = Field(PositionEncoding(), description="Position encoding of the features.")
    width: int = Field(256, ge=8, le=2048, description="Channels of every token.")
    heads: int = Field(8, ge=1, le=64, description="Attention heads; `width` must be a multiple.")
    feedforward: int = Field(2048, ge=8, le=16384, description="Hidden channels of each layer's feed-forward part.")
    encoder_layers: int = Field(6, ge=0, le=24, description="Encoder layers.")
    decoder_layers: int = Field(
        6, ge=1, le=24, description="Decoder layers; each predicts, all but the last as auxiliary."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout inside the transformer.")
    norm_first: bool = Field(
        False, description="Layer norm before attention and feed-forward (pre-norm) instead of after."
    )
    queries: int = Field(100, ge=1, le=10000, description="Object queries: the most objects that one image can get.")
    query_content: Literal["zero", "learned"] = Field(
        "zero", description="What a query's content starts from: zeros (published) or a learned vector of its own."
    )
    class_head: PartName | None = Field(None, description="A class head of your own: `package.module:Name`.")
    box_head: PartName | None = Field(None, description="A box head of your own: `package.module:Name`.")


class MatchCost(Section):
    """Weights of the matching cost, -probability, L1 and -GIoU."""

    class_weight: float = Field(1.0, ge=0, description="Weight of the class term in the matching cost.")
    l1: float = Field(5.0, ge=0, description="Weight of the L1 distance in the matching cost.")
    giou: float = Field(2.0, ge=0, description="Weight of the generalised IoU in the matching cost.")


class Objective(Section):
    """What training minimises."""

    match: MatchCost = Field(MatchCost(), description="The cost by which predictions are assigned to truths.")
    class_weight: float = Field(1.0, ge=0, description="Weight of the classification loss.")
    l1: float = Field(5.0, ge=0, description="Weight of the L1 box loss.")
    giou: float = Field(2.0, ge=0, description="Weight of the GIoU box loss.")
    no_object: float = Field(0.1, gt=0, le=1, description="Relative class weight of `no object` (softmax models).")
    auxiliary: bool = Field(True, description="Also train the predictions of the decoder layers before the last.")


class Split(Section):
    """One split, named by hand instead of found."""

    images: str = Field(description="Folder of the image files.")
    annotations: str | None = Field(None, description="COCO JSON file; without one the split can only be predicted.")


class Augment(Section):
    """What happens to a training image before the model sees it."""

    policy: Literal["detr", "square", "large_scale_jitter", "none"] = Field(
        "detr",
        description="Geometry: `detr` (published: shortest side and random crops), `square` (one fixed size, aspect "
        "not kept), `large_scale_jitter`, or `none` (as in evaluation).",
    )
    sizes: list[Annotated[int, Field(ge=16, le=4096)]] = Field(
        list(range(480, 801, 32)), min_length=1, description="Shortest sides to choose from, in pixels."
    )
    max_size: int = Field(1333, ge=16, le=8192, description="The longest side never exceeds this.")
    crop_first: list[Annotated[int, Field(ge=16, le=4096)]] = Field(
        [400, 500, 600], description="Shortest sides before the random crop (policy `detr`); empty: never crop."
    )
    crop_size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = Field(
        (384, 600), description="Smallest and largest side of the random crop, in pixels (policy `detr`)."
    )
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.1, 2.0), description="Range of the random scale (policy `large_scale_jitter`)."
    )
    flip: float = Field(0.5, ge=0, le=1, description="Chance of a horizontal flip.")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="Chance of a vertical flip.")
    photometric: bool = Field(False, description="Random brightness, contrast, saturation and hue.")
    zoom_out: float = Field(0.0, ge=0, le=1, description="Chance of placing the image on a larger canvas.")
    iou_crop: float = Field(0.0, ge=0, le=1, description="Chance of an IoU-constrained random crop (as SSD's).")


class Data(Section):
    """Where the images come from and what they go through."""

    root: str | None = Field(None, description="Dataset folder in a usual COCO layout, or `shapes`, the built-in set.")
    train: Split | None = Field(None, description="Training split by hand; otherwise found under `root`.")
    val: Split | None = Field(None, description="Validation split by hand; otherwise found under `root`.")
    dataset: PartName | None = Field(None, description="A dataset of your own: `package.module:Name`.")
    augment: Augment = Field(Augment(), description="Training augmentation.")
    eval_size: int = Field(800, ge=16, le=4096, description="Shortest side in evaluation and prediction, in pixels.")
    eval_max_size: int = Field(1333, ge=16, le=8192, description="Longest side in evaluation and prediction.")
    eval_square: bool = Field(False, description="Evaluate at `eval_size` x `eval_size`, aspect not kept.")
    workers: int = Field(2, ge=0, le=128, description="Loader processes (0: load in the training process).")
    broken_images: Literal["fail", "skip"] = Field("fail", description="What to do with a file that cannot be decoded.")


class Schedule(Section):
    """How the learning rate moves."""

    kind: Literal["step", "cosine", "constant"] = Field("step", description="Shape of the schedule after warm-up.")
    drop_epochs: list[Annotated[int, Field(ge=1)]] = Field(
        [200], description="Epochs after which the rate is multiplied by `drop_factor` (kind `step`)."
    )
    drop_factor: float = Field(0.1, gt=0, lt=1, description="What a step multiplies the rate by.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    final_factor: float = Field(0.0, ge=0, le=1, description="Share of the rate left at the end (kind `cosine`).")


class Train(Section):
    """The optimisation."""

    epochs: int = Field(300, ge=1, description="Passes over the training images.")
    max_minutes: float | None = Field(
        None, gt=0, description="Time limit: the schedule is stretched to fit, and the run ends in good order."
    )
    batch_size: int = Field(16, ge=1, description="Images per optimizer step, over all processes and micro-batches.")
    accumulate: int = Field(
        1, ge=1, description="Micro-batches per optimizer step; their losses are normalised together."
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="How many processes the command starts on this machine, each with its share of the cores or a GPU "
        "of its own; Python's train() always uses one.",
    )
    lr: float = Field(1e-4, gt=0, description="Learning rate of the transformer at `reference_batch_size`.")
    backbone_lr: float = Field(1e-5, ge=0, description="Learning rate of the backbone; 0 freezes it.")
    reference_batch_size: int = Field(16, ge=1, description="The batch size that the learning rates are stated for.")
    scale_lr: Literal["none", "sqrt", "linear"] = Field(
        "none", description="How the rates follow batch_size / reference_batch_size."
    )
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's weight decay, on every parameter as published.")
    clip_norm: float = Field(0.1, ge=0, description="Largest total gradient norm; 0 does not clip.")
    schedule: Schedule = Field(Schedule(), description="How the learning rate moves.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast; matching, losses and boxes stay fp32."
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of the averaged weights that are evaluated and saved; 0: none."
    )
    ema_warmup: int = Field(2000, ge=1, description="Steps n after which the decay is at 1 - 1/e of its value.")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Seed of initialisation, order and augmentation.")
    eval_every: int = Field(1, ge=1, description="Epochs between evaluations; the last epoch is always evaluated.")
    eval_limit: int | None = Field(None, ge=1, description="Evaluate on the first N validation images while training.")
    save_every: int = Field(1, ge=1, description="Epochs between writings of checkpoints/last.")
    keep_every: int = Field(0, ge=0, description="Keep every N-th epoch's checkpoint as well; 0: only last and best.")
    patience: int = Field(0, ge=0, description="Stop after this many evaluations without a better AP; 0: never.")
    log_every: int = Field(10, ge=1, description="Optimizer steps between lines of metrics.jsonl.")
    tensorboard: bool = Field(False, description="Also write TensorBoard files (needs the tensorboard package).")


class Evaluate(Section):
    """How predictions become detections and scores."""

    batch_size: int = Field(8, ge=1, description="Images per step in evaluation and prediction.")
    max_dets: int = Field(100, ge=1, description="Most detections per image and class that the COCO metrics count.")
    score: float = Field(0.5, ge=0, le=1, description="Score above which `predict` shows a detection.")


class Recipe(Section):
    """One training setting, whole."""

    model: DetrModel = Field(DetrModel(), description="The detector.")
    objective: Objective = Field(Objective(), description="What training minimises.")
    data: Data = Field(Data(), description="Where the images come from.")
    train: Train = Field(Train(), description="The optimisation.")
    evaluate: Evaluate = Field(Evaluate(), description="How predictions become scores.")
