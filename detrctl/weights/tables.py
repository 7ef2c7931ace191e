"""Published parameter names and ours, as tables. `*` stands for one number or name between dots, kept in order.

A row maps a prefix: what follows it (`.weight`, `.bias`, a deeper path) is kept.
"""

import re
from collections.abc import Sequence

Table = Sequence[tuple[str, str]]

RESNET: Table = (
    ("backbone.0.body.conv1", "backbone.body.conv1"),
    ("backbone.0.body.bn1", "backbone.body.bn1"),
    ("backbone.0.body.layer1", "backbone.body.layers.0"),
    ("backbone.0.body.layer2", "backbone.body.layers.1"),
    ("backbone.0.body.layer3", "backbone.body.layers.2"),
    ("backbone.0.body.layer4", "backbone.body.layers.3"),
)

_DENSE_ENCODER: Table = (
    ("transformer.encoder.layers.*.self_attn.in_proj", "encoder.layers.*.attention.attention.in_proj"),
    ("transformer.encoder.layers.*.self_attn.out_proj", "encoder.layers.*.attention.attention.out_proj"),
    ("transformer.encoder.layers.*.linear1", "encoder.layers.*.feedforward.linear1"),
    ("transformer.encoder.layers.*.linear2", "encoder.layers.*.feedforward.linear2"),
    ("transformer.encoder.layers.*.norm1", "encoder.layers.*.attention_step.norm"),
    ("transformer.encoder.layers.*.norm2", "encoder.layers.*.feedforward_step.norm"),
)

DETR: Table = (
    *RESNET,
    ("backbone.1.row_embed", "neck.position.rows"),
    ("backbone.1.col_embed", "neck.position.columns"),
    ("input_proj", "neck.projections.0"),
    ("query_embed", "queries.position"),
    ("class_embed", "decoder.heads.class_head"),
    ("bbox_embed.layers.*", "decoder.heads.box_head.layers.*"),
    ("transformer.encoder.norm", "encoder.norm"),
    *_DENSE_ENCODER,
    ("transformer.decoder.norm", "decoder.norm"),
    ("transformer.decoder.layers.*.self_attn.in_proj", "decoder.layers.*.self_attention.attention.in_proj"),
    ("transformer.decoder.layers.*.self_attn.out_proj", "decoder.layers.*.self_attention.attention.out_proj"),
    ("transformer.decoder.layers.*.multihead_attn.in_proj", "decoder.layers.*.cross_attention.attention.in_proj"),
    ("transformer.decoder.layers.*.multihead_attn.out_proj", "decoder.layers.*.cross_attention.attention.out_proj"),
    ("transformer.decoder.layers.*.linear1", "decoder.layers.*.feedforward.linear1"),
    ("transformer.decoder.layers.*.linear2", "decoder.layers.*.feedforward.linear2"),
    ("transformer.decoder.layers.*.norm1", "decoder.layers.*.self_step.norm"),
    ("transformer.decoder.layers.*.norm2", "decoder.layers.*.cross_step.norm"),
    ("transformer.decoder.layers.*.norm3", "decoder.layers.*.feedforward_step.norm"),
)
"""facebookresearch/detr; its decoder norms are 1 = self, 2 = cross, 3 = feed-forward."""


_CONDITIONAL: Table = (
    *RESNET,
    ("backbone.1.row_embed", "neck.position.rows"),
    ("backbone.1.col_embed", "neck.position.columns"),
    ("input_proj", "neck.projections.0"),
    ("class_embed", "decoder.heads.class_head"),
    ("bbox_embed.layers.*", "decoder.heads.box_head.layers.*"),
    *_DENSE_ENCODER,
    ("transformer.decoder.norm", "decoder.norm"),
    ("transformer.decoder.query_scale", "decoder.places.scale"),
    ("transformer.decoder.layers.*.sa_qcontent_proj", "decoder.layers.*.self_attention.query_content"),
    ("transformer.decoder.layers.*.sa_qpos_proj", "decoder.layers.*.self_attention.query_position"),
    ("transformer.decoder.layers.*.sa_kcontent_proj", "decoder.layers.*.self_attention.key_content"),
    ("transformer.decoder.layers.*.sa_kpos_proj", "decoder.layers.*.self_attention.key_position"),
    ("transformer.decoder.layers.*.sa_v_proj", "decoder.layers.*.self_attention.value"),
    ("transformer.decoder.layers.*.self_attn.out_proj", "decoder.layers.*.self_attention.out_proj"),
    ("transformer.decoder.layers.*.ca_qcontent_proj", "decoder.layers.*.cross_attention.query_content"),
    ("transformer.decoder.layers.*.ca_qpos_proj", "decoder.layers.*.cross_attention.query_position"),
    ("transformer.decoder.layers.*.ca_qpos_sine_proj", "decoder.layers.*.cross_attention.query_sine"),
    ("transformer.decoder.layers.*.ca_kcontent_proj", "decoder.layers.*.cross_attention.key_content"),
    ("transformer.decoder.layers.*.ca_kpos_proj", "decoder.layers.*.cross_attention.key_position"),
    ("transformer.decoder.layers.*.ca_v_proj", "decoder.layers.*.cross_attention.value"),
    ("transformer.decoder.layers.*.cross_attn.out_proj", "decoder.layers.*.cross_attention.out_proj"),
    ("transformer.decoder.layers.*.linear1", "decoder.layers.*.feedforward.linear1"),
    ("transformer.decoder.layers.*.linear2", "decoder.layers.*.feedforward.linear2"),
    ("transformer.decoder.layers.*.norm1", "decoder.layers.*.self_step.norm"),
    ("transformer.decoder.layers.*.norm2", "decoder.layers.*.cross_step.norm"),
    ("transformer.decoder.layers.*.norm3", "decoder.layers.*.feedforward_step.norm"),
)
"""What Conditional DETR and DAB-DETR have in common."""

CONDITIONAL: Table = (
    *_CONDITIONAL,
    ("query_embed", "queries.position"),
    ("transformer.decoder.ref_point_head", "queries.reference"),
)
"""Atten4Vis/ConditionalDETR"""

DAB: Table = (
    *_CONDITIONAL,
    ("transformer.encoder.query_scale", "encoder.scale"),
    ("transformer.encoder.layers.*.activation", "encoder.layers.*.feedforward.activation"),
    ("transformer.decoder.layers.*.activation", "decoder.layers.*.feedforward.activation"),
    ("transformer.decoder.ref_point_head", "decoder.places.from_box"),
    ("transformer.decoder.ref_anchor_head", "decoder.places.expected_size"),
    ("transformer.decoder.bbox_embed.layers.*", "decoder.heads.box_head.layers.*"),
    ("refpoint_embed", "queries.boxes"),
    ("transformer.patterns", "queries.patterns"),
    ("label_enc", "denoising.labels"),
)
"""IDEA-Research/DN-DETR's DN-DAB-DETR, and DAB-DETR without its last row. Its box head has a second name."""


_DEFORMABLE_LAYERS: Table = (
    ("transformer.level_embed", "neck.level_embedding.weight"),
    ("input_proj.*", "neck.projections.*"),
    ("transformer.encoder.layers.*.self_attn", "encoder.layers.*.attention.attention"),
    ("transformer.encoder.layers.*.linear1", "encoder.layers.*.feedforward.linear1"),
    ("transformer.encoder.layers.*.linear2", "encoder.layers.*.feedforward.linear2"),
    ("transformer.encoder.layers.*.norm1", "encoder.layers.*.attention_step.norm"),
    ("transformer.encoder.layers.*.norm2", "encoder.layers.*.feedforward_step.norm"),
    ("transformer.decoder.layers.*.cross_attn", "decoder.layers.*.cross_attention.attention"),
    ("transformer.decoder.layers.*.self_attn", "decoder.layers.*.self_attention.attention"),
    ("transformer.decoder.layers.*.linear1", "decoder.layers.*.feedforward.linear1"),
    ("transformer.decoder.layers.*.linear2", "decoder.layers.*.feedforward.linear2"),
    ("transformer.decoder.layers.*.norm1", "decoder.layers.*.cross_step.norm"),
    ("transformer.decoder.layers.*.norm2", "decoder.layers.*.self_step.norm"),
    ("transformer.decoder.layers.*.norm3", "decoder.layers.*.feedforward_step.norm"),
    ("transformer.enc_output", "queries.proposals.project"),
    ("transformer.enc_output_norm", "queries.proposals.norm"),
)
"""Deformable DETR and DINO; their decoder norms are 1 = cross, 2 = self, 3 = feed-forward."""


def deformable_table(*, layers: int, per_layer: bool, two_stage: bool) -> Table:
    """fundamentalvision/Deformable-DETR. It lists its heads once per decoder layer even where all are the same one; in
    two stages a further one at the end serves the encoder."""
    encoder: Table = (
        (f"class_embed.{layers}", "queries.proposals.class_head"),
        (f"bbox_embed.{layers}", "queries.proposals.box_head"),
        ("transformer.pos_trans_norm", "queries.norm"),
        ("transformer.pos_trans", "queries.from_box"),
    )
    first = encoder if two_stage else ()
    own = "*" if per_layer else ""
    heads: Table = (
        ("class_embed.*", f"decoder.heads.class_head.{own}".rstrip(".")),
        ("bbox_embed.*", f"decoder.heads.box_head.{own}".rstrip(".")),
    )
    decoders = tuple((f"transformer.decoder.{theirs}", ours) for theirs, ours in (*first[:2], *heads))
    points: Table = (("query_embed", "queries.slots"), ("transformer.reference_points", "queries.reference"))
    return (*RESNET, *_DEFORMABLE_LAYERS, *first, *heads, *decoders, *points)


def dab_deformable_table(*, per_layer: bool) -> Table:
    """IDEA-Research/DAB-DETR's DAB-Deformable-DETR and, with its last row, IDEA-Research/DN-DETR's DN-Deformable-DETR.

    Both list their heads as Deformable DETR does.
    """
    return (
        *deformable_table(layers=0, per_layer=per_layer, two_stage=False),
        ("transformer.decoder.ref_point_head", "decoder.places.from_box"),
        ("transformer.decoder.query_scale", "decoder.places.scale"),
        ("tgt_embed", "queries.content"),
        ("refpoint_embed", "queries.boxes"),
        ("label_enc", "denoising.labels"),
    )


def dino_table(*, per_layer_class: bool, per_layer_box: bool) -> Table:
    """IDEA-Research/DINO; it lists its heads once per decoder layer even where all are the same one, and twice."""
    heads: Table = (
        ("class_embed.*", f"decoder.heads.class_head.{'*' if per_layer_class else ''}".rstrip(".")),
        ("bbox_embed.*", f"decoder.heads.box_head.{'*' if per_layer_box else ''}".rstrip(".")),
    )
    return (
        *RESNET,
        *_DEFORMABLE_LAYERS,
        *heads,
        *((f"transformer.decoder.{theirs}", ours) for theirs, ours in heads),
        ("transformer.decoder.norm", "decoder.norm"),
        ("transformer.decoder.ref_point_head", "decoder.places.from_box"),
        ("transformer.tgt_embed", "queries.content"),
        ("transformer.enc_out_class_embed", "queries.proposals.class_head"),
        ("transformer.enc_out_bbox_embed", "queries.proposals.box_head"),
        ("label_enc", "denoising.labels"),
    )


def our_name(published: str, table: Table) -> str | None:
    """Our name of a published parameter, or None if the table does not know it."""
    # PyTorch's attention spells its packed projection in_proj_weight, everything else says .weight.
    name = re.sub(r"in_proj_(weight|bias)$", r"in_proj.\1", published)
    for theirs, ours in table:
        found = re.match(re.escape(theirs).replace(r"\*", r"(\w+)") + r"(?=\.|$)", name)
        if found:
            numbers = iter(found.groups())
            return re.sub(r"\*", lambda _: next(numbers), ours) + name[found.end() :]  # noqa: B023
    return None
