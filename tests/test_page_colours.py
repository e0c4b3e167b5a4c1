"""The colour maps of the page, as seen by eyes with and without colour blindness."""

import numpy as np
import pytest

from nanogpt.page.colours import colour_maps

# Colours as seen without one kind of cone, in linear light (Machado et al. 2009, severity 1).
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
TRITANOPIA = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]
EYES = {"three cones": np.eye(3), "no M": DEUTERANOPIA, "no L": PROTANOPIA, "no S": TRITANOPIA}


def linear_light(map_: np.ndarray) -> np.ndarray:
    return ((map_ / 255 + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["light", "dark"])
def test_weights_change_lightness_steadily_for_every_eye(name: str, eye: str) -> None:
    light = linear_light(colour_maps()[name]) @ np.transpose(EYES[eye])
    lightness = np.cbrt(np.maximum(light @ [0.2126, 0.7152, 0.0722], 0))[::8]
    steps = np.diff(lightness) * (-1 if name == "light" else 1)
    assert (steps > 0.25 * steps.mean()).all()


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["light_difference", "dark_difference"])
def test_every_eye_can_tell_more_from_less(name: str, eye: str) -> None:
    light = np.cbrt(np.clip(linear_light(colour_maps()[name]) @ np.transpose(EYES[eye]), 0, 1))
    less, more = light[127:0:-1], light[129:]
    apart = np.linalg.norm(less - more, axis=1)
    assert (apart[32:] > 0.15).all()
    from_none = np.linalg.norm(light - light[128], axis=1)
    assert (np.diff(from_none[128::8]) > 0).all()
    assert (np.diff(from_none[128:0:-8]) > 0).all()
