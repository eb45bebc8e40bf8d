"""The pictures, decoded from their files and read with no knowledge of the simulation, tell what the text says."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.world.build import BuildReport, Told, tell
from data_pipeline.world.config import CELL, COLOURS, EVENTS, SHAPES, WorldConfig
from data_pipeline.world.draw import draw
from whilst.video import read_frames, write_video

HARD = WorldConfig(grid=4, colours=tuple(COLOURS), shapes=SHAPES, events=dict.fromkeys(EVENTS, 1.0), segments=(6, 6))


def seen(tile: np.ndarray) -> str | None:
    """What a (16, 16, 3) cell of the default world shows, by colour and form; None for the background."""
    inner = tile[2:-2, 2:-2].astype(int)
    coloured = inner.max(axis=-1) - inner.min(axis=-1) > 60
    if not coloured.any():
        return None
    mean = inner[coloured].mean(axis=0)
    colour = min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))
    shape = "square" if coloured[0, 0] else "circle" if coloured.mean() > 0.6 else "star"
    return f"{colour}-{shape}"


def cells(image: np.ndarray) -> dict[int, str]:
    """What each cell shows, by its number; empty cells left out."""
    grid = image.shape[0] // CELL
    found = {}
    for cell in range(grid * grid):
        row, column = divmod(cell, grid)
        thing = seen(image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL])
        if thing is not None:
            found[cell] = thing
    return found


def parted(frame: dict[int, str]) -> tuple[dict[int, str], dict[int, str]]:
    """(objects, stars)"""
    stars = {cell: thing for cell, thing in frame.items() if thing.endswith("star")}
    return {cell: thing for cell, thing in frame.items() if cell not in stars}, stars


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Told, np.ndarray]]:
    """60 worlds with the pictures that were decoded back from their files."""
    path, config = tmp_path_factory.mktemp("films") / "film.mp4", WorldConfig()
    films = []
    for one in tell(config, "train", 60, BuildReport()):
        write_video(path, draw(one.world, config), 2.0)
        films.append((one, read_frames(path, 2.0).images))
    return films


def test_the_pictures_show_the_edges_and_the_stars(films: list[tuple[Told, np.ndarray]]) -> None:
    for one, images in films:
        told = []
        stars = []
        for before, after in zip(images[::2], images[1::2], strict=True):
            (was, star), (now, star_after) = parted(cells(before)), parted(cells(after))
            assert star == star_after and len(star) == 1 and 4 not in star
            stars.append("star-" + next(iter(star.values())).split("-")[0])
            if was == now == {}:
                told.append(None)
                continue
            ((cell, x),), ((cell_after, x_after),) = was.items(), now.items()
            assert x == x_after
            assert (cell == 4) != (cell_after == 4)
            told.append(("in" if cell_after == 4 else "out", x))
        happened = {edge.start: (edge.relation, edge.head) for edge in one.source.graph.edges if edge.tail == "box"}
        assert told == [happened.get(float(k)) for k in range(len(images) // 2)]
        assert stars == [scene.star for scene in one.world.scenes]


def test_later_pictures_do_not_tell_what_happened_earlier(films: list[tuple[Told, np.ndarray]]) -> None:
    for _, images in films:
        shown: dict[str, set[int]] = {}
        for i, image in enumerate(images):
            for thing in parted(cells(image))[0].values():
                shown.setdefault(thing, set()).add(i)
        for at in shown.values():  # both frames of its entry, of its exit, or of both
            assert len(at) in (2, 4)
            assert all((i ^ 1) in at for i in at)


def test_the_star_changes_its_place_and_colour(films: list[tuple[Told, np.ndarray]]) -> None:
    placed = [next(iter(parted(cells(image))[1].items())) for _, images in films for image in images[::2]]
    assert {cell for cell, _ in placed} == set(range(9)) - {4}
    assert {star for _, star in placed} == {"red-star", "green-star", "blue-star", "yellow-star"}


def test_the_box_is_there_and_looks_empty_unless_something_goes_in_or_out(
    films: list[tuple[Told, np.ndarray]],
) -> None:
    empty = films[0][1][0][16:32, 16:32].astype(int)
    assert empty[0].max() < 40 and empty[:, -1].max() < 40 and abs(empty[8, 8] - 128).max() <= 2
    for _, images in films:
        for image in images:
            box = image[16:32, 16:32].astype(int)
            assert (np.abs(box - empty).max() <= 2) == (4 not in cells(image))


def test_the_pictures_come_back_from_the_file(tmp_path: Path) -> None:
    for one in tell(HARD, "train", 5, BuildReport()):
        images = draw(one.world, HARD)
        assert images.shape == (12, 64, 64, 3)
        write_video(tmp_path / "film.mp4", images, 2.0)
        assert np.abs(read_frames(tmp_path / "film.mp4", 2.0).images.astype(int) - images).max() <= 2


def test_harder_events_are_drawn_one_object_in_one_cell() -> None:
    events = set()
    for one in tell(HARD, "train", 60, BuildReport()):
        images = draw(one.world, HARD)
        for k, scene in enumerate(one.world.scenes):
            events.add(scene.event)
            for placed, image in ((scene.before, images[2 * k]), (scene.after, images[2 * k + 1])):
                occupied = [cell for cell, _ in placed]
                assert len(set(occupied)) == len(occupied)
                for cell in set(range(16)) - set(occupied) - {HARD.box}:
                    row, column = divmod(cell, 4)
                    assert (image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] == 128).all()
            if scene.event == "touch":
                (mover, _), (partner, _) = scene.after[:2]
                assert abs(mover // 4 - partner // 4) + abs(mover % 4 - partner % 4) == 1
                assert abs(scene.before[0][0] // 4 - partner // 4) + abs(scene.before[0][0] % 4 - partner % 4) > 1
            if scene.event == "change":
                assert scene.objects[0].split("-")[1] == scene.objects[1].split("-")[1]
    assert events == set(EVENTS)


def test_every_sprite_differs_from_every_other() -> None:
    tiles = {}
    for one in tell(HARD, "train", 150, BuildReport()):
        images = draw(one.world, HARD)
        for k, scene in enumerate(one.world.scenes):
            for cell, sprite in scene.before:
                if cell != HARD.box:
                    row, column = divmod(cell, 4)
                    tiles[sprite] = images[2 * k, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    assert len(tiles) >= 40
    assert len({tile.tobytes() for tile in tiles.values()}) == len(tiles)
