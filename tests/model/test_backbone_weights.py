from http.client import HTTPException
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from detrctl.errors import DetrctlError
from detrctl.model.backbone import ResNet
from detrctl.model.backbone_layernorm import LayerNormNetwork
from detrctl.model.backbone_weights import read_weights


def test_files_that_cannot_be_used_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(DetrctlError, match=r"^nowhere\.pt: no such file of backbone weights"):
        read_weights("nowhere.pt", "resnet18")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    with pytest.raises(DetrctlError, match=r"broken\.pt: not a file of weights that can be read safely$"):
        read_weights(str(broken), "resnet18")
    listing = tmp_path / "list.pt"
    torch.save([1, 2], listing)
    with pytest.raises(DetrctlError, match=r"list\.pt: holds no state dict"):
        read_weights(str(listing), "resnet18")
    with pytest.raises(DetrctlError, match="no ImageNet weights are published for resnet10"):
        read_weights("imagenet", "resnet10")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02.",  # nothing on the stack: IndexError
        b"\x80\x02h\x05.",  # a memo that was never made: KeyError
        b"\x80\x02K\x01}b.",  # a state for a number
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02]}K\x01s.",
        b"",
        b"PK\x03\x04 and nothing more",
        bytes(range(256)),
    ],
)
def test_bytes_that_are_no_weights_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(DetrctlError) as caught:
        read_weights(str(path), "resnet18")
    assert str(caught.value) == f"{path}: not a file of weights that can be read safely"


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "mine.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_weights("~/mine.pt", "resnet18")["a"] == 1


def test_weights_of_another_network_are_named_with_the_first_difference() -> None:
    with torch.device("meta"):
        resnet, swin = ResNet(name="resnet50", norm="frozen"), LayerNormNetwork(name="swin_t")
        basic = resnet18().state_dict()
    with pytest.raises(DetrctlError) as caught:
        resnet.load_published(basic, source="mine.pt for resnet50")
    assert str(caught.value) == (
        "mine.pt for resnet50: the weights do not fit the backbone: 188 of 265 tensors, first layers.0.0.conv1.weight "
        "(found (64, 64, 3, 3), expected (64, 64, 1, 1))"
    )
    with pytest.raises(DetrctlError, match=r"181 of 181 tensors, first features\.0\.0\.weight \(missing\)$"):
        swin.load_published(basic)
    with pytest.raises(DetrctlError, match=r"265 of 265 tensors, first conv1\.weight \(missing\)$"):
        resnet.load_published({"layers.0.blocks.0.norm1.weight": torch.zeros(96)})


@pytest.mark.parametrize("name", ["resnet50", "swin_t", "swin_v2_b", "convnext_small"])
@pytest.mark.parametrize("kind", [OSError, RuntimeError, HTTPException])
def test_a_download_that_fails_says_what_to_do(
    kind: type[Exception], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args, **_kwargs):
        raise kind("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(DetrctlError) as caught:
        read_weights("imagenet", name)
    assert str(caught.value) == (
        f"ImageNet weights of {name} could not be downloaded (no route to host); "
        "set model.backbone.weights to a local file or to none"
    )
