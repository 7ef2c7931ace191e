"""The only wiring: every variant of the family is this class with other parts in it."""

from torch import nn

from detrctl.structures import DetectorOutput, ImageBatch


class Detector(nn.Module):
    """image -> backbone -> neck -> encoder -> queries -> decoder (attend, read boxes and classes) -> predictions"""

    def __init__(
        self, *, backbone: nn.Module, neck: nn.Module, encoder: nn.Module, queries: nn.Module, decoder: nn.Module
    ):
        super().__init__()
        self.backbone, self.neck, self.encoder = backbone, neck, encoder
        self.queries, self.decoder = queries, decoder

    def forward(self, images: ImageBatch) -> DetectorOutput:
        memory = self.encoder(self.neck(self.backbone(images)))
        return DetectorOutput(layers=self.decoder(self.queries(memory), memory), memory=memory)
