"""Pictures of images as they grow, and of atoms among points: what is drawn is what was given."""

import numpy as np
import pytest
from helpers import message
from sklearn.decomposition import PCA

from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import Normalisation
from jaxdd.reports.film import Film
from jaxdd.reports.projection import atoms_among_points, principal_plane
from jaxdd.stages.context import Snapshot

NORM = Normalisation(np.float32([0.0]), np.float32([1.0]))


def snapshot(step, classes, levels, first=None, side=64):
    """Images [k, 2, side, side, 1], the first of each class uniform in a level of [0, 255], the second white."""
    images = np.ones((len(classes), 2, side, side, 1), np.float32)
    images[:, 0] = np.float32(levels).reshape(-1, 1, 1, 1) / 255
    first = np.zeros(len(classes), int) if first is None else np.array(first)
    return Snapshot(np.array(classes), images, first, step, 100, NORM)


def tiles(film, shown=64):
    """The level in the middle of each cell, [rows, columns]; 255 where nothing is drawn."""
    cell, middle = shown + 4, shown // 2
    picture = np.asarray(film.picture())
    rows, columns = len(film.class_names), max(1, len(film.steps()))
    height, width = picture.shape[0] - cell * rows, picture.shape[1] - cell * columns
    assert (picture[height:, width:].std(-1) == 0).all()  # grey images on white
    return picture[height + middle :: cell, width + middle :: cell, 0]


def test_a_film_has_a_row_a_class_and_a_column_a_snapshot():
    film = Film(("cat", "dog", "owl"))
    film(snapshot(0, [0, 2], [10, 30]))
    film(snapshot(50, [0, 2], [40, 60]))
    assert film.steps() == [0, 50]
    np.testing.assert_array_equal(tiles(film), [[10, 40], [255, 255], [30, 60]])
    film(snapshot(0, [1], [20]))
    film(snapshot(50, [1], [50]))
    np.testing.assert_array_equal(tiles(film), [[10, 40], [20, 50], [30, 60]])


def test_a_film_shows_one_image_of_a_class_wherever_its_slice_begins():
    film = Film(("cat", "dog"), image=2)
    film(snapshot(0, [0, 0, 1, 1], [1, 2, 3, 4], first=[0, 2, 2, 0]))
    np.testing.assert_array_equal(tiles(film), [[2], [3]])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 40])
def test_of_many_snapshots_the_first_and_the_last_are_drawn(count):
    film = Film(("cat",), most=4)
    for step in range(count):
        film(snapshot(step, [0], [step]))
    assert film.steps() == ([0, 13, 26, 39] if count == 40 else [0, 1, 3, 4] if count == 5 else list(range(count)))
    np.testing.assert_array_equal(tiles(film), [film.steps()])


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (28, 56), (32, 64), (96, 96), (128, 128), (512, 128)])
def test_images_of_any_size_are_drawn(side, shown):
    film = Film(("cat", "dog"))
    film(snapshot(0, [0, 1], [10, 20], side=side))
    film(snapshot(50, [0, 1], [30, 40], side=side))
    np.testing.assert_array_equal(tiles(film, shown), [[10, 30], [20, 40]])


def test_a_film_of_many_or_hostile_classes():
    film = Film([f"\n${k}" * 30 for k in range(30)])
    assert film.picture().size[0] < 500  # without any snapshot
    film(snapshot(0, [3, 25], [7, 8]))
    assert tiles(film).shape == (20, 1) and tiles(film)[3, 0] == 7
    for call in (lambda: Film(()), lambda: Film(("a",), most=1), lambda: Film(("a",), classes=0)):
        assert "give" in message(call)


def test_the_plane_is_that_of_principal_components():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 6)) * [1, 9, 2, 1, 5, 1] + 100
    centre, directions, shares = principal_plane(points)
    truth = PCA(2).fit(points)
    np.testing.assert_allclose(centre, truth.mean_)
    np.testing.assert_allclose(abs(np.sum(directions * truth.components_, 1)), 1, rtol=1e-9)
    np.testing.assert_allclose(shares, truth.explained_variance_ratio_, rtol=1e-9)
    assert (directions[np.arange(2), abs(directions).argmax(1)] > 0).all()
    flat = np.zeros((5, 3))  # all the same: any plane will do
    assert np.isfinite(principal_plane(flat)[1]).all() and (principal_plane(flat)[2] == 0).all()


def test_atoms_lie_among_the_points_with_areas_of_their_weights(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)) * [4, 2, 0.1]
    atoms = Measure(points[[7, 30]], np.float32([0.75, 0.25]))
    figure = atoms_among_points(points, atoms, "owls $1", tmp_path / "atoms.png")
    real, chosen = figure.axes[0].collections
    np.testing.assert_allclose(chosen.get_offsets(), real.get_offsets()[[7, 30]])
    areas = chosen.get_sizes()
    assert len(real.get_offsets()) == 50 and areas[0] == pytest.approx(3 * areas[1])
    assert "% of the variance" in figure.axes[0].get_xlabel() and (tmp_path / "atoms.png").stat().st_size > 5000


def test_atoms_that_do_not_fit_the_points_are_refused():
    points, weights = np.zeros((5, 3)), np.ones(2) / 2
    for atoms in (Measure(np.zeros((2, 4)), weights), Measure(np.zeros((3, 3)), weights)):
        assert "[n, d], [m, d] and [m]" in message(lambda atoms=atoms: atoms_among_points(points, atoms))
    assert "d of two or more" in message(lambda: atoms_among_points(points[:, :1], Measure(np.zeros((2, 1)), weights)))
    assert "finite" in message(lambda: atoms_among_points(points * np.nan, Measure(np.zeros((2, 3)), weights)))
