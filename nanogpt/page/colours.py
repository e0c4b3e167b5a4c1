"""Colour maps for weights and for differences, in even perceptual steps.

The maps of weights change steadily in lightness, so they can be read without telling hues apart. Colours are
computed in OKLab (Ottosson 2020), where equal distances appear equally large.
"""

import numpy as np

Anchors = list[tuple[float, float, float]]

# Anchors are points on the path of a map: lightness, chroma, and hue in degrees.
PAPER, NIGHT = (0.965, 0.012, 100.0), (0.22, 0.05, 280.0)
INK: Anchors = [PAPER, (0.83, 0.09, 185), (0.64, 0.115, 230), (0.44, 0.125, 262), NIGHT]
WARM: Anchors = [PAPER, (0.82, 0.095, 75), (0.62, 0.14, 50), (0.40, 0.11, 40)]
COLD: Anchors = [PAPER, (0.82, 0.085, 230), (0.62, 0.125, 250), (0.40, 0.12, 265)]
EMBER: Anchors = [NIGHT, (0.44, 0.10, 45), (0.66, 0.14, 60), (0.90, 0.09, 90)]
FROST: Anchors = [NIGHT, (0.44, 0.12, 262), (0.66, 0.115, 235), (0.90, 0.06, 215)]


def colour_maps() -> dict[str, np.ndarray]:
    """Maps by name, for weights from 0 to 1 and differences from -1 to 1: sRGB, uint8 `[256, 3]` each."""
    ink = _path(INK, 256)
    return {
        "light": ink,
        "dark": ink[::-1],
        "light_difference": _diverging(COLD, WARM),
        "dark_difference": _diverging(FROST, EMBER),
    }


def _diverging(negative: Anchors, positive: Anchors) -> np.ndarray:
    """Diverging map: entry 128 is the middle, 1 and 255 are the ends, and 0 equals 1."""
    below, above = _path(negative, 128), _path(positive, 128)
    return np.concatenate([below[-1:], below[:0:-1], above])


def _path(anchors: Anchors, steps: int) -> np.ndarray:
    """Colours in even steps along straight lines from anchor to anchor: sRGB, uint8 `[steps, 3]`."""
    lightness, chroma, hue = np.array(anchors).T
    points = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], 1)
    travelled = np.insert(np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum(), 0, 0.0)
    evenly = np.linspace(0, travelled[-1], steps)
    lab = np.stack([np.interp(evenly, travelled, axis) for axis in points.T], 1)
    return _srgb(lab)


def _srgb(lab: np.ndarray) -> np.ndarray:
    """Colours of OKLab coordinates `[..., 3]`: sRGB, uint8 `[..., 3]`."""
    to_cones = [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
    to_light = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    light = (lab @ np.array(to_cones).T) ** 3 @ np.array(to_light).T
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
    return np.round(255 * np.clip(curved, 0, 1)).astype(np.uint8)
