"""Published files of weights: where they lie, and how to know that a download is whole."""

from dataclasses import dataclass

from detrctl.errors import DetrctlError


@dataclass(frozen=True)
class PublishedFile:
    """`recipe` is the shipped recipe of the same model. `sha256` is the start of the file's hash, None if unknown here.

    `url` is None where authors publish behind a page that a program cannot follow; `page` is for people. What lies
    `beside` is fetched too, into a folder of its own.
    """

    name: str
    recipe: str
    page: str
    url: str | None = None
    sha256: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return (self.url or "").rsplit("/", 1)[-1]

    @property
    def needs_folder(self) -> bool:
        """Whether its file's name says nothing of the model."""
        return bool(self.beside)


def _detr(name: str, stem: str, sha256: str) -> PublishedFile:
    """The name of an official DETR file ends in the first eight digits of its SHA-256, as PyTorch's hub wants it."""
    return PublishedFile(
        name,
        name,
        "github.com/facebookresearch/detr",
        f"https://dl.fbaipublicfiles.com/detr/{stem}-{sha256}.pth",
        sha256,
    )


def _hub(name: str, recipe: str, repository: str) -> PublishedFile:
    base = f"https://huggingface.co/{repository}"
    return PublishedFile(
        name, recipe, base.removeprefix("https://"), f"{base}/resolve/main/model.safetensors", beside=("config.json",)
    )


def _behind_page(name: str, recipe: str, repository: str) -> PublishedFile:
    return PublishedFile(name, recipe, f"github.com/{repository}")


PUBLISHED = (
    _detr("detr_r50", "detr-r50", "e632da11"),
    _detr("detr_dc5_r50", "detr-r50-dc5", "f0fb7ef5"),
    _detr("detr_r101", "detr-r101", "2c7b67e5"),
    _detr("detr_dc5_r101", "detr-r101-dc5", "a2e86def"),
    _hub("hf_detr_r50", "detr_r50", "facebook/detr-resnet-50"),
    _hub("hf_detr_dc5_r50", "detr_dc5_r50", "facebook/detr-resnet-50-dc5"),
    _hub("hf_detr_r101", "detr_r101", "facebook/detr-resnet-101"),
    _hub("hf_detr_dc5_r101", "detr_dc5_r101", "facebook/detr-resnet-101-dc5"),
    _hub("hf_deformable", "deformable", "SenseTime/deformable-detr"),
    _hub("hf_deformable_ss", "deformable_ss", "SenseTime/deformable-detr-single-scale"),
    _hub("hf_deformable_ss_dc5", "deformable_ss_dc5", "SenseTime/deformable-detr-single-scale-dc5"),
    _hub("hf_deformable_refine", "deformable_refine", "SenseTime/deformable-detr-with-box-refine"),
    _hub("hf_deformable_two_stage", "deformable_two_stage", "SenseTime/deformable-detr-with-box-refine-two-stage"),
    _hub("hf_conditional_r50", "conditional_r50", "microsoft/conditional-detr-resnet-50"),
    _hub("hf_dab_r50", "dab_r50", "IDEA-Research/dab-detr-resnet-50"),
    *(
        _behind_page(name, name, "fundamentalvision/Deformable-DETR")
        for name in (
            "deformable",
            "deformable_ss",
            "deformable_ss_dc5",
            "deformable_refine",
            "deformable_two_stage",
        )
    ),
    _behind_page("conditional_r50", "conditional_r50", "Atten4Vis/ConditionalDETR"),
    _behind_page("dab_r50", "dab_r50", "IDEA-Research/DAB-DETR"),
    _behind_page("dab_deformable_r50", "dab_deformable_r50", "IDEA-Research/DAB-DETR"),
    _behind_page("dn_dab_r50", "dn_dab_r50", "IDEA-Research/DN-DETR"),
    _behind_page("dn_deformable_r50", "dn_deformable_r50", "IDEA-Research/DN-DETR"),
    _behind_page("dino_4scale_r50", "dino_4scale_r50", "IDEA-Research/DINO"),
    _behind_page("dino_5scale_r50", "dino_5scale_r50", "IDEA-Research/DINO"),
)
"""By the names that `detrctl weights download` takes."""


def published_file(name: str) -> PublishedFile:
    """DetrctlError, one line, for an unknown name and for what no program can fetch."""
    found = next((file for file in PUBLISHED if file.name == name), None)
    if found is None:
        raise DetrctlError(f"{name}: no published file of this name; `detrctl weights list` shows them")
    if found.url is None:
        raise DetrctlError(
            f"{name}: its authors publish it behind a page only: get it at {found.page} and give its path to --ckpt, "
            "--init-from or `detrctl weights inspect`"
        )
    return found
