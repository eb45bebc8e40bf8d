"""A world as pictures: one object in one cell of 16 x 16 pixels, large and saturated, on grey."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline.world.config import CELL, COLOURS, WorldConfig
from data_pipeline.world.simulate import SCREEN, Placed, World

GREY = 128
DARK = 20  # the box
LIGHT = 245  # the screen
RIM = 2  # pixels of the box's frame, and of the free margin around every object
FINE = 8  # shapes are drawn this much larger and then reduced, so that their edges lie where they should


def draw(world: World, config: WorldConfig) -> np.ndarray:
    """(2 * segments, H, W, 3) uint8: each scene before and after its event."""
    placed = [frame for scene in world.scenes for frame in (scene.before, scene.after)]
    images = np.full((len(placed), config.grid * CELL, config.grid * CELL, 3), GREY, np.uint8)
    for image, sprites in zip(images, placed, strict=True):
        _draw_frame(image, sprites, config)
    return images


def _draw_frame(image: np.ndarray, sprites: Placed, config: WorldConfig) -> None:
    box = _cell(image, config.box, config.grid)
    box[:] = DARK
    box[RIM:-RIM, RIM:-RIM] = GREY  # closed: it looks empty
    for cell, sprite in sprites:
        tile = _cell(image, cell, config.grid)
        if sprite == SCREEN:
            tile[:] = LIGHT
        else:
            colour, shape = sprite.split("-")
            tile[_mask(shape)] = COLOURS[colour]


def _cell(image: np.ndarray, cell: int, grid: int) -> np.ndarray:
    row, column = divmod(cell, grid)
    return image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]


@cache
def _mask(shape: str) -> np.ndarray:
    """(CELL, CELL) bool: the pixels of a shape, within the box's frame."""
    large = Image.new("L", (CELL * FINE, CELL * FINE))
    pen = ImageDraw.Draw(large)
    low, high, middle = RIM * FINE, (CELL - RIM) * FINE - 1, CELL * FINE / 2
    radius = middle - low
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=255)
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=255)
    elif shape == "cross":
        arm = radius / 3
        pen.rectangle((low, middle - arm, high, middle + arm), fill=255)
        pen.rectangle((middle - arm, low, middle + arm, high), fill=255)
    else:
        # corners (angle in turns from the top, radius)
        corners = {
            "triangle": [(0.0, 1.0), (0.375, 1.4), (0.625, 1.4)],
            "diamond": [(i / 4, 1.0) for i in range(4)],
            "star": [(i / 10, 1.1 if i % 2 == 0 else 0.45) for i in range(10)],
        }[shape]
        turns = [(2 * np.pi * turn, min(r * radius, radius * 1.4)) for turn, r in corners]
        pen.polygon([(middle + r * np.sin(a), middle - r * np.cos(a)) for a, r in turns], fill=255)
    return np.asarray(large.resize((CELL, CELL), Image.Resampling.BOX)) > 127
