"""The only wiring: every variant of the family is this class with other parts in it."""

from collections.abc import Sequence

from torch import nn

from detrctl.structures import Denoised, DetectorOutput, ImageBatch, Targets


class Detector(nn.Module):
    """image -> backbone -> neck -> encoder -> queries (+ denoising) -> decoder (attend, read boxes and classes)

    Truths, given in training, reach nothing but `denoising`, which puts noised copies of them before the queries.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        encoder: nn.Module,
        queries: nn.Module,
        denoising: nn.Module,
        decoder: nn.Module,
    ):
        super().__init__()
        self.backbone, self.neck, self.encoder = backbone, neck, encoder
        self.queries, self.denoising, self.decoder = queries, denoising, decoder

    def forward(self, images: ImageBatch, targets: Sequence[Targets] | None = None) -> DetectorOutput:
        memory = self.encoder(self.neck(self.backbone(images), images.is_padding))
        queries, known = self.denoising(self.queries(memory), targets)
        layers = self.decoder(queries, memory)
        denoised = None
        if known is not None:
            denoised = Denoised(tuple(layer.take(0, known.size) for layer in layers), known)
            layers = tuple(layer.take(known.size) for layer in layers)
        return DetectorOutput(layers, memory, queries.proposals, denoised, queries.groups)
