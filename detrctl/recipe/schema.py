"""Every field of a recipe: its type, its bounds, and the one sentence that help, documentation and errors show.

No torch here. The tree of sections mirrors the YAML: `model`, `objective`, `data`, `train`, `evaluate`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A closed, frozen part of a recipe: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


PartName = Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
"""`package.module:Name`, a class of the user's own."""


BackboneName = Literal[
    "slim_32",
    "slim_48",
    "slim_64",
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "swin_t",
    "swin_s",
    "swin_b",
    "swin_v2_t",
    "swin_v2_s",
    "swin_v2_b",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
]


class Backbone(Section):
    """The convolutional network that turns pixels into features."""

    name: BackboneName | PartName = Field(
        "resnet50",
        description="Which network; slim ones have no published weights, and `package.module:Name` puts in one of your "
        "own.",
    )
    weights: str = Field("none", description="`imagenet` (downloaded once), the path of a state-dict file, or `none`.")
    norm: Literal["frozen", "batch"] = Field(
        "frozen",
        description="The batch norm of a ResNet or slim network, with frozen statistics (published; needs pretrained "
        "weights) or trainable; others have layer norms.",
    )
    frozen_stages: int = Field(
        2,
        ge=0,
        le=5,
        description="How many stages from the stem on are not trained (published: 2 of a ResNet's, the stem and its "
        "first blocks; 0 of a Swin's or ConvNeXt's).",
    )
    dilation: bool = Field(
        False, description="DC5: the last stage keeps its resolution and dilates instead (ResNets of bottlenecks only)."
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stochastic depth of the last block, growing from 0 in the first; of Swin and ConvNeXt only.",
    )
    options: dict[str, Any] = Field({}, description="Keyword arguments for a backbone of your own.")

    @property
    def has_frozen_norm(self) -> bool:
        """Whether there are statistics that training never moves, so that they have to come from weights."""
        return self.norm == "frozen" and self.name.startswith(("resnet", "slim_"))


class OneStage(Backbone):
    """A backbone of which one stage is used."""

    stage: Literal[3, 4, 5] = Field(5, description="Which stage's features enter the encoder (published: 5, i.e. C5).")


class SeveralStages(Backbone):
    """A backbone of which several stages are used, the finest first."""

    stages: list[Literal[2, 3, 4, 5]] = Field(
        [3, 4, 5],
        min_length=1,
        description="Whose features enter the encoder, the finest first (published: 3, 4, 5, i.e. C3 to C5).",
    )


class PositionEncoding(Section):
    """How a feature's place in the image is told to attention."""

    kind: Literal["sine", "learned"] = Field("sine", description="Fixed sines (published) or learned rows and columns.")
    temperature: float = Field(10000.0, gt=0, description="Base of the sines' wavelengths.")
    offset: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Added to the count of rows and columns, which starts at 1 (Deformable DETR: -0.5, cell centres).",
    )
    cycles: float = Field(
        1.0, gt=0, description="Turns of the fastest sine across the image (published: 1); more tell neighbours apart."
    )
    added_to: Literal["attention", "values"] = Field(
        "attention",
        description="Where positions enter: only queries and keys of attention (published), or once the tokens' values "
        "too, so that what is attended to says where it was.",
    )


class Model(Section):
    """What every model of the DETR wiring has. A family's section adds its own and overrides defaults."""

    implied_objective: ClassVar[dict[str, Any]] = {"kind": "focal"}

    family: str = Field(description="Which family builds the model.")
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
    queries: int = Field(300, ge=1, le=10000, description="Object queries: the most objects that one image can get.")
    query_groups: int = Field(
        1,
        ge=1,
        le=32,
        description="Groups of queries in training, each matched on its own, so that every truth teaches so many "
        "queries (Group DETR); only the first group predicts afterwards.",
    )
    class_head: PartName | None = Field(None, description="A class head of your own: `package.module:Name`.")
    box_head: PartName | None = Field(None, description="A box head of your own: `package.module:Name`.")


class DetrModel(Model):
    """DETR and DETR-DC5 (Carion et al. 2020)."""

    implied_objective: ClassVar[dict[str, Any]] = {"kind": "softmax"}

    family: Literal["detr"] = Field("detr", description="Which family builds the model.")
    backbone: OneStage = Field(OneStage(), description="The convolutional network.")
    norm_first: bool = Field(
        False, description="Layer norm before attention and feed-forward (pre-norm) instead of after."
    )
    queries: int = Field(100, ge=1, le=10000, description="Object queries: the most objects that one image can get.")
    query_content: Literal["zero", "learned"] = Field(
        "zero", description="What a query's content starts from: zeros (published) or a learned vector of its own."
    )


class TopPairs(Model):
    """A model with one sigmoid per class, so that a query can be detected as several classes."""

    detections: int = Field(
        100, ge=1, le=10000, description="How many of the best pairs of query and class are detections."
    )


class Conditional(TopPairs):
    """What the models that attend by content and by place, each on its own, have in common."""

    backbone: OneStage = Field(OneStage(), description="The convolutional network.")


class ConditionalModel(Conditional):
    """Conditional DETR (Meng et al. 2021)."""

    family: Literal["conditional"] = Field("conditional", description="Which family builds the model.")


class GroupedDenoising(Section):
    """DN-DETR's denoising (Li et al. 2022)."""

    kind: Literal["none", "grouped"] = Field(
        "none", description="Whether noised truths are further queries in training (DN-DETR) or not (DAB-DETR)."
    )
    groups: int = Field(5, ge=1, le=100, description="How often each truth occurs, every time with other noise.")
    label_noise: float = Field(0.2, ge=0, le=1, description="The chance that a noised label is a random one.")
    box_noise: float = Field(
        0.4, ge=0, description="How far a box moves: its centre in halves of its sides, the sides in themselves."
    )


class DabModel(Conditional):
    """DAB-DETR (Liu et al. 2022) and, with denoising, DN-DETR (Li et al. 2022)."""

    implied_objective: ClassVar[dict[str, Any]] = {"kind": "focal", "class_weight": 1.0}

    family: Literal["dab"] = Field("dab", description="Which family builds the model.")
    position: PositionEncoding = Field(
        PositionEncoding(temperature=20.0), description="Position encoding of the features."
    )
    activation: Literal["prelu", "relu", "gelu", "selu"] = Field(
        "prelu",
        description="Between the layers of feed-forward parts (published: a ReLU with a slope learned below 0).",
    )
    patterns: int = Field(
        0, ge=0, le=100, description="Contents that every learned box is a query with; 0: one query each, content zero."
    )
    reference: Literal["fixed", "refined", "refined_twice"] = Field(
        "refined_twice",
        description="What a layer's box is measured from: the query's first box, the box of the layer before "
        "(iterative refinement), or that box with its gradient (published code).",
    )
    detections: int = Field(
        300, ge=1, le=10000, description="How many of the best pairs of query and class are detections."
    )
    denoising: GroupedDenoising = Field(GroupedDenoising(), description="Noised truths as further queries in training.")


class Deformable(TopPairs):
    """What the models with deformable attention have in common."""

    backbone: SeveralStages = Field(SeveralStages(), description="The convolutional network.")
    position: PositionEncoding = Field(
        PositionEncoding(offset=-0.5), description="Position encoding of the features, of each level on its own."
    )
    extra_levels: int = Field(
        1, ge=0, le=4, description="Coarser levels after the last stage's, each at half the resolution (published: 1)."
    )
    encoder_points: int = Field(4, ge=1, le=64, description="Points that a token looks at, per head and level.")
    decoder_points: int = Field(4, ge=1, le=64, description="Points that a query looks at, per head and level.")
    reference: Literal["fixed", "refined", "refined_twice"] = Field(
        "fixed",
        description="What a layer's box is measured from: the query's first point or box, the box of the layer before "
        "(iterative refinement), or that box with its gradient (look forward twice).",
    )
    prediction_heads: Literal["shared", "per_layer", "class_per_layer", "box_per_layer"] = Field(
        "shared",
        description="One class head and box head for all decoder layers, or one each (published if refined), or one "
        "each of only one kind.",
    )


class Proposing(Deformable):
    """What the models have in common whose queries come, or can come, from the encoder's proposals."""

    smallest_anchor: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Side of the boxes that proposals start from on the finest level, as a fraction of the image "
        "(published: 0.05); each coarser level doubles it.",
    )
    proposal_nms: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="IoU above which a proposal repeats a better one and becomes a query only when others do not "
        "suffice (DDQ: 0.8); null chooses by score alone, as published for Deformable DETR and DINO.",
    )


class DeformableModel(Proposing):
    """Deformable DETR (Zhu et al. 2021), also with refinement and in two stages."""

    family: Literal["deformable"] = Field("deformable", description="Which family builds the model.")
    feedforward: int = Field(1024, ge=8, le=16384, description="Hidden channels of each layer's feed-forward part.")
    query_source: Literal["learned", "proposals"] = Field(
        "learned", description="Where queries come from: learned points, or the encoder's best proposals (two-stage)."
    )
    ranking: Literal["foreground", "best_class"] = Field(
        "foreground",
        description="What ranks proposals, and what their class head learns: object or not (published), or classes.",
    )


class DabDeformableModel(Deformable):
    """DAB-Deformable-DETR (Liu et al. 2022) and, with denoising, DN-Deformable-DETR (Li et al. 2022)."""

    implied_objective: ClassVar[dict[str, Any]] = {"kind": "focal", "class_weight": 1.0}

    family: Literal["dab_deformable"] = Field("dab_deformable", description="Which family builds the model.")
    reference: Literal["fixed", "refined", "refined_twice"] = Field(
        "refined",
        description="What a layer's box is measured from: the query's first box, the box of the layer before "
        "(iterative refinement, published), or that box with its gradient (look forward twice).",
    )
    prediction_heads: Literal["shared", "per_layer", "class_per_layer", "box_per_layer"] = Field(
        "per_layer",
        description="One class head and box head for all decoder layers, or one each (published), or one each of only "
        "one kind.",
    )
    denoising: GroupedDenoising = Field(GroupedDenoising(), description="Noised truths as further queries in training.")


class ContrastiveDenoising(Section):
    """DINO's contrastive denoising."""

    copies: int = Field(
        100,
        ge=0,
        le=1000,
        description="Noised truths of the fullest image, in as many groups as they fill; from 1 to 49, as published, "
        "twice that many groups of all its truths; 0: no denoising.",
    )
    label_noise: float = Field(0.5, ge=0, le=2, description="Twice the chance that a noised label is a random one.")
    box_noise: float = Field(1.0, ge=0, description="How far corners move, in halves of the box's sides.")


class DinoModel(Proposing):
    """DINO (Zhang et al. 2023)."""

    implied_objective: ClassVar[dict[str, Any]] = {
        "kind": "focal",
        "class_weight": 1.0,
        "encoder": "selected_proposals",
    }

    family: Literal["dino"] = Field("dino", description="Which family builds the model.")
    position: PositionEncoding = Field(
        PositionEncoding(temperature=20.0), description="Position encoding of the features, of each level on its own."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside the transformer.")
    queries: int = Field(900, ge=1, le=10000, description="Object queries: the most objects that one image can get.")
    reference: Literal["fixed", "refined", "refined_twice"] = Field(
        "refined_twice",
        description="What a layer's box is measured from: the query's first point or box, the box of the layer before "
        "(iterative refinement), or that box with its gradient (look forward twice).",
    )
    detections: int = Field(
        300, ge=1, le=10000, description="How many of the best pairs of query and class are detections."
    )
    proposal_heads: Literal["own", "decoder_class", "decoder_box", "decoder"] = Field(
        "own",
        description="What reads classes and boxes off the encoder's proposals: heads of their own (published), or the "
        "decoder's class head, box head or both, which prediction_heads has to share.",
    )
    denoising: ContrastiveDenoising = Field(
        ContrastiveDenoising(), description="Noised truths as further queries in training."
    )


class RegionProposals(Section):
    """What Faster R-CNN's first stage hands to the second."""

    before_nms: int = Field(1000, ge=1, description="Best anchors of each level that enter non-maximum suppression.")
    after_nms: int = Field(1000, ge=1, description="Most proposals of an image that go on to the second stage.")
    train_before_nms: int = Field(2000, ge=1, description="`before_nms` in training.")
    train_after_nms: int = Field(2000, ge=1, description="`after_nms` in training.")
    nms: float = Field(0.7, gt=0, le=1, description="Overlap (IoU) above which the weaker of two proposals goes.")


class FasterRcnnModel(Section):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017): the baseline, not of the DETR wiring."""

    implied_objective: ClassVar[dict[str, Any]] = {"kind": "rcnn"}

    family: Literal["faster_rcnn"] = Field("faster_rcnn", description="Which family builds the model.")
    backbone: Backbone = Field(Backbone(), description="The convolutional network.")
    pyramid_width: int = Field(256, ge=8, le=2048, description="Channels of the feature pyramid (Faster R-CNN).")
    anchor_sizes: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [32, 64, 128, 256, 512],
        min_length=1,
        description="Side of the square anchors, in pixels of the resized image: one for each level of the pyramid, "
        "which are the backbone's four and a coarser one.",
    )
    anchor_ratios: list[Annotated[float, Field(gt=0, le=100)]] = Field(
        [0.5, 1.0, 2.0], min_length=1, description="Height by width of the anchors at every place."
    )
    proposals: RegionProposals = Field(RegionProposals(), description="What the first stage hands to the second.")
    box_head_width: int = Field(1024, ge=8, le=16384, description="Hidden channels of the second stage's two layers.")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Below this score nothing is a detection; 0.05, as published, costs some AP."
    )
    nms: float = Field(
        0.5, gt=0, le=1, description="Overlap (IoU) above which the weaker of two detections of a class goes."
    )
    detections: int = Field(100, ge=1, le=10000, description="Most detections of an image.")


class MatchCost(Section):
    """Weights of the matching cost: the class term, L1 and -GIoU."""

    class_weight: float = Field(1.0, ge=0, description="Weight of the class term in the matching cost.")
    l1: float = Field(5.0, ge=0, description="Weight of the L1 distance in the matching cost.")
    giou: float = Field(2.0, ge=0, description="Weight of the generalised IoU in the matching cost.")


class FocalMatchCost(MatchCost):
    """The same with the published weights of the focal class cost."""

    class_weight: float = Field(2.0, ge=0, description="Weight of the class term in the matching cost.")
    alpha: float = Field(
        0.25,
        ge=0,
        le=1,
        description="What a positive weighs against a negative in the class term of the matching cost.",
    )


class SetObjective(Section):
    """What training by matching minimises, whatever the class loss."""

    kind: str = Field(description="The class loss: softmax with no-object, or focal.")
    match: MatchCost = Field(MatchCost(), description="The cost by which predictions are assigned to truths.")
    class_weight: float = Field(1.0, ge=0, description="Weight of the classification loss.")
    l1: float = Field(5.0, ge=0, description="Weight of the L1 box loss.")
    giou: float = Field(2.0, ge=0, description="Weight of the GIoU box loss.")
    auxiliary: bool = Field(True, description="Also train the predictions of the decoder layers before the last.")


class SoftmaxObjective(SetObjective):
    """Cross-entropy over the classes and no-object (Carion et al. 2020)."""

    kind: Literal["softmax"] = Field("softmax", description="The class loss: softmax with no-object, or focal.")
    no_object: float = Field(0.1, gt=0, le=1, description="Relative class weight of `no object` (softmax models).")


class FocalObjective(SetObjective):
    """One sigmoid per class with the focal loss (Lin et al. 2017), as Deformable DETR and all after it."""

    kind: Literal["focal"] = Field("focal", description="The class loss: softmax with no-object, or focal.")
    match: FocalMatchCost = Field(FocalMatchCost(), description="The cost by which predictions are assigned to truths.")
    class_weight: float = Field(2.0, ge=0, description="Weight of the classification loss.")
    alpha: float = Field(
        0.25,
        ge=0,
        le=1,
        description="What a positive weighs against a negative in the focal loss; with class_target iou what a "
        "negative weighs (published there: 0.75).",
    )
    gamma: float = Field(2.0, ge=0, description="How much the focal loss plays down what is already right.")
    encoder: Literal["none", "all_proposals", "selected_proposals"] = Field(
        "all_proposals",
        description="Which of the encoder's proposals are trained too, in models whose queries come from them.",
    )
    class_target: Literal["one", "iou"] = Field(
        "one",
        description="What a matched query's class learns: 1 (published), or its box's IoU with the truth under the "
        "varifocal loss, so that scores also say how well boxes fit.",
    )
    encoder_matches: int = Field(
        1,
        ge=1,
        le=100,
        description="How many of the encoder's proposals each truth teaches (published: 1): the cheapest ones; the "
        "decoder, whose queries see each other, settles on one.",
    )


class RcnnObjective(Section):
    """Faster R-CNN's four losses, each with weight 1, on anchors and proposals drawn at random."""

    kind: Literal["rcnn"] = Field("rcnn", description="What is minimised: the losses of Faster R-CNN's two stages.")
    anchors_per_image: int = Field(
        256, ge=2, description="Anchors drawn for the first stage's losses, at most half of them on objects."
    )
    rois_per_image: int = Field(
        512, ge=4, description="Proposals drawn for the second stage's losses, at most a quarter of them on objects."
    )


Objective = SoftmaxObjective | FocalObjective | RcnnObjective
"""What training minimises, by `kind`."""


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
    plain_end: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training, at its end and in whole epochs, without zoom_out and iou_crop: objects "
        "then have the sizes and shapes that evaluation shows.",
    )


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
    init_model: Literal["recipe", "checkpoint"] = Field(
        "recipe",
        description="Whose model is trained with the weights of `--init-from`: the recipe's, as far as they fit it, or "
        "the checkpoint's, with its objective and image sizes.",
    )
    optimizer: Literal["adamw", "sgd", "muon"] = Field(
        "adamw",
        description="AdamW (published for the DETR family), SGD with momentum 0.9 (for Faster R-CNN), or Muon, which "
        "takes AdamW's rates and learns more from each image in a short training from scratch.",
    )
    lr: float = Field(1e-4, gt=0, description="Learning rate of all but the backbone, at `reference_batch_size`.")
    backbone_lr: float = Field(1e-5, ge=0, description="Learning rate of the backbone; 0 freezes it.")
    sampling_lr_factor: float = Field(
        1.0,
        ge=0,
        description="Multiplies `lr` for what says where deformable attention looks: sampling offsets and learned "
        "reference points (Deformable DETR: 0.1).",
    )
    reference_batch_size: int = Field(16, ge=1, description="The batch size that the learning rates are stated for.")
    scale_lr: Literal["none", "sqrt", "linear"] = Field(
        "none", description="How the rates follow batch_size / reference_batch_size."
    )
    weight_decay: float = Field(
        1e-4, ge=0, description="The optimizer's weight decay, on every parameter as published."
    )
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


AnyModel = DetrModel | ConditionalModel | DabModel | DeformableModel | DabDeformableModel | DinoModel | FasterRcnnModel
"""Every family's section, told apart by `family`."""


class Recipe(Section):
    """One training setting, whole."""

    model: AnyModel = Field(DetrModel(), discriminator="family", description="The detector.")
    objective: Objective = Field(
        default_factory=lambda made: _objective_of(made["model"]),
        discriminator="kind",
        description="What training minimises.",
    )
    data: Data = Field(Data(), description="Where the images come from.")
    train: Train = Field(Train(), description="The optimisation.")
    evaluate: Evaluate = Field(Evaluate(), description="How predictions become scores.")


OBJECTIVES: dict[str, type[SoftmaxObjective] | type[FocalObjective] | type[RcnnObjective]] = {
    "softmax": SoftmaxObjective,
    "focal": FocalObjective,
    "rcnn": RcnnObjective,
}
FAMILIES: dict[str, type[Model] | type[FasterRcnnModel]] = {
    section.model_fields["family"].default: section
    for section in (
        DetrModel,
        ConditionalModel,
        DabModel,
        DeformableModel,
        DabDeformableModel,
        DinoModel,
        FasterRcnnModel,
    )
}


def _objective_of(model: Model | FasterRcnnModel) -> Objective:
    implied = model.implied_objective
    return OBJECTIVES[implied["kind"]](**implied)


def implied_kinds(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values with what the model's family implies of the objective, where the recipe does not say it."""
    model, objective = values.get("model"), values.get("objective", {})
    family = model.get("family", "detr") if isinstance(model, dict) else "detr"
    implied = FAMILIES[family].implied_objective if isinstance(family, str) and family in FAMILIES else {}
    implied = {"kind": "softmax", **implied}
    if not isinstance(objective, dict) or objective.get("kind", implied["kind"]) != implied["kind"]:
        return values
    return {**values, "objective": {**implied, **objective}}
