"""Every family by its name in recipes (`model.family`)."""

from detrctl.families.detr import detr

FAMILIES = {
    "detr": detr,
}
