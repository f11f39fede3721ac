"""Stored soft labels: what is kept of an answer, and that students cannot tell them from the teacher."""

import json
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import drawn
from helpers import message
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_lanes import LINEAR, SHAPE, A, B, close, dataset, lane, linear_apply, linear_init

from experiments import teachers
from jaxdd import nn
from jaxdd.data import augment, distilled, permutations
from jaxdd.data.augment import Augment
from jaxdd.ground import losses
from jaxdd.ground.normalise import Normalisation
from jaxdd.stages.relabel import stored as labels
from jaxdd.stages.relabel.stored import LabelSettings, decode, encode, materialise, open_labels
from jaxdd.students import evaluation as evaluate
from jaxdd.students import lanes as students
from jaxdd.students import protocol, train
from jaxdd.students.train import TrainSettings

# Nine images in batches of four for four epochs: nine steps, the last batch of which is full, too.
SOFT = replace(protocol.SOFT, temperature=4.0, train=TrainSettings(4, 4, "sgd", 0.05, augment=Augment(crop="none")))
TEACHER = linear_init(jax.random.key(5), SHAPE)
CLASSES = 6
T = 20.0

logits = arrays(np.float32, (3, CLASSES), elements=st.floats(-60, 60, width=32))
softmax = lambda z: np.asarray(jax.nn.softmax(np.asarray(z, np.float32)), np.float64)
FEW = examples(max_examples=40, deadline=None)


KEEP, TELL = jax.jit(encode, static_argnums=(0, 2)), jax.jit(decode, static_argnums=1)


def round_trip(form, z):
    kept = KEEP(form, z, T)
    kind = labels.record(form, CLASSES)
    assert {name: (x.dtype, x.shape[1:]) for name, x in kept.items()} == {
        name: (kind[name].base, kind[name].shape) for name in kind.names
    }
    return kept, np.asarray(TELL(kept, CLASSES), np.float64)


# Forms


@FEW
@given(logits)
def test_eight_bits_are_off_by_half_a_step_at_most(z):
    kept, found = round_trip(LabelSettings("int8"), z)
    scale = np.asarray(kept["scale"], np.float64)
    assert (scale <= np.maximum(np.ptp(z, 1) / 255, 2.0**-14) * (1 + 2.0**-10)).all()
    # Float32 sums up to sixty are exact to 4e-6.
    assert (np.abs(found - (z - z.min(1, keepdims=True))).max(1) <= scale / 2 + 1e-5).all()


@FEW
@given(logits)
def test_floats_are_the_logits_up_to_a_constant_and_their_rounding(z):
    np.testing.assert_array_equal(round_trip(LabelSettings("float32"), z)[1], z)
    centred = z - z.mean(1, keepdims=True, dtype=np.float64)
    error = np.abs(round_trip(LabelSettings("float16"), z)[1] - centred)
    assert (error <= 2.0**-11 * np.abs(centred) + 1e-5).all()


@FEW
@given(logits, st.sampled_from([1, 2, 5]))
def test_the_largest_keep_their_probability_and_the_others_share_what_remains(z, top):
    kept, found = round_trip(LabelSettings("topk", top), z)
    p, q = softmax(z / T), softmax(found / T)
    chosen = np.zeros(z.shape, bool)
    np.put_along_axis(chosen, np.asarray(kept["classes"]), True, 1)
    assert (chosen.sum(1) == top).all() and (np.where(chosen, p, 1).min(1) >= np.where(chosen, 0, p).max(1)).all()
    want = np.where(chosen, p, (p * ~chosen).sum(1, keepdims=True) / (CLASSES - top))
    # Logits of up to 240 above the tail (its level is at most T log K off), in steps of 1/8, at T = 20.
    np.testing.assert_allclose(q, want, rtol=2 * 0.0625 / T + 1e-4)
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)


@FEW
@given(logits)
def test_with_all_classes_kept_nothing_is_spread(z):
    _, found = round_trip(LabelSettings("topk", CLASSES), z)
    np.testing.assert_allclose(softmax(found / T), softmax(z / T), rtol=2 * 0.0625 / T + 1e-4)


def test_a_record_takes_what_is_said_of_it():
    size = lambda *given, classes=1000: labels.record(LabelSettings(*given), classes).itemsize
    assert [size(form) for form in ("float32", "float16", "int8")] == [4000, 2000, 1002]
    assert size("topk", 50) == 200 and size("topk", 50, classes=256) == 150
    assert "'int4'" in message(lambda: size("int4")) and "0 epochs" in message(lambda: size("int8", 1, 0))
    assert "top 11 of 10" in message(lambda: size("topk", 11, classes=10))


# Students


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(dataset, seed, **settings) -> labels of the linear teacher, made once."""
    root, made = tmp_path_factory.mktemp("labels"), {}

    def make(data, seed, form="float32", epochs=4, shard_bytes=2**26, asked=SOFT):
        name = (id(data), seed, form, epochs, shard_bytes, asked)
        if name not in made:
            how = LabelSettings(form, 3, epochs)
            made[name] = materialise(root / str(len(made)), data, asked, linear_apply, TEACHER, how, seed, shard_bytes)
        return made[name]

    return make


@pytest.fixture(scope="module")
def stored_trainer(kept):
    """(epochs) -> the trainer for labels of so many."""
    return lru_cache(lambda epochs: evaluate.student_trainer(LINEAR, SOFT, None, A, kept(A, 1, epochs=epochs)))


@pytest.mark.parametrize("form, tolerance", [("float32", 1e-5), ("int8", 1e-2)])
def test_a_student_of_stored_labels_is_the_teachers_own(kept, stored_trainer, replayed, form, tolerance):
    stored = [kept(A, 1, form), kept(B, 2, form)]
    found = evaluate.train_students(stored_trainer(4), SOFT, [A, B], [1, 2], None, labels=stored)
    close(found, replayed, tolerance)
    assert np.abs(found[1][0] - found[1][1]).max() > 0.1
    one = evaluate.train_student(stored_trainer(4), SOFT, B, 2, None, labels=stored[1])
    close(one, (lane(found[0], 1), found[1][1]))


@pytest.fixture(scope="module")
def replayed():
    trainer = evaluate.student_trainer(LINEAR, SOFT, linear_apply, A)
    return evaluate.train_students(trainer, SOFT, [A, B], [1, 2], TEACHER)


def test_all_forms_tell_the_same_of_the_same_images(kept):
    told = {form: kept(A, 1, form).read(np.arange(9)) for form in labels.FORMS}
    p = {form: softmax(TELL(part, 3) / SOFT.temperature) for form, part in told.items()}
    assert p["float32"].shape == (9, 4, 3) and np.ptp(p["float32"]) > 0.2
    for form, tolerance in {"float16": 1e-3, "topk": 1e-3, "int8": 1e-2}.items():
        np.testing.assert_allclose(p[form], p["float32"], rtol=tolerance)


CHANGE = augment.pipeline(SOFT.train.augment)
OPTIMIZER = train.optimizer(SOFT.train, SOFT.train.steps(9))


@jax.jit
def step_by_hand(params, state, key, images, weights, t):
    images, _ = CHANGE(jax.random.fold_in(key, t), images, jnp.zeros((4, 3)))
    wanted = linear_apply(TEACHER, images).logits

    def loss(params):
        return (weights * losses.distillation(linear_apply({"params": params}, images).logits, wanted, 4.0)).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def by_hand(data, seed, stream, stored, steps):
    """A student whose step t sees what step t mod ``stored`` of the stream saw; no trainer of the library's."""
    key = jax.random.fold_in(jax.random.key(stream), 1)
    params = linear_init(jax.random.fold_in(jax.random.key(seed), 0), SHAPE)["params"]
    rows, weights = list(islice(permutations(9, 4, stream), stored)), data.loss_weights()
    state, curve = OPTIMIZER.init(params), []
    for t in np.arange(steps) % stored:
        params, state, value = step_by_hand(params, state, key, data.images[rows[t]], weights[rows[t]], t)
        curve.append(value)
    return params, np.array(curve)


@pytest.mark.parametrize(
    "limits, sent, reads",
    [
        ({}, None, [3]),
        ({"together": 3, "launch": 9}, None, [3]),
        ({"together": 2, "launch": 2, "resident_bytes": 1700}, 1, [2] * 5 * 2),
        # Nine steps at a time are more than nine launches need, and for the next lane they are sent again.
        ({"resident_bytes": 1700}, 2**20, [9] * 3),
        ({"resident_bytes": 1700}, 2 * 2 * 48, [2] * 5 * 3),
        ({"together": 3, "resident_bytes": 0}, None, [1] * 9),
    ],
)
def test_who_learns_for_longer_sees_the_stream_again_wherever_it_lies(
    kept, stored_trainer, monkeypatch, limits, sent, reads
):
    """Three stored steps, nine to go; from one shard or from three, from the device, or from the disk."""
    stored = [kept(B, 7, epochs=1), kept(A, 8, epochs=1, shard_bytes=1), kept(B, 7, epochs=1)]
    assert [len(part.shards) for part in stored] == [1, 3, 1]
    seeds, asked, found, read = [2, 1, 1], [B, A, B], [], students._labels
    monkeypatch.setattr(students, "_labels", lambda parts, steps: found.append(len(steps)) or read(parts, steps))
    monkeypatch.setattr(students, "_SENT_BYTES", sent)
    variables, curves = evaluate.train_students(stored_trainer(1), SOFT, asked, seeds, None, labels=stored, **limits)
    for s, (data, seed) in enumerate(zip(asked, seeds)):
        params, curve = by_hand(data, seed, stored[s].seed, 3, 9)
        close((lane(variables, s)["params"], curves[s]), (params, curve))
    assert found == reads


def test_an_image_of_weight_zero_changes_nothing(kept, stored_trainer):
    images, weights = A.images.copy(), A.weights.copy()
    images[4], weights[4] = 9.0, 0.0
    sets = replace(A, weights=weights), replace(A, weights=weights, images=images)
    stored = [kept(data, 3) for data in sets]
    run = partial(evaluate.train_students, stored_trainer(4), datasets=sets, seeds=[0, 0], context=None, labels=stored)
    variables, curves = run(SOFT)
    np.testing.assert_array_equal(curves[0], curves[1])
    close(lane(variables, 0), lane(variables, 1), 0)
    _, blind = run(replace(SOFT, weights="uniform"))
    assert np.abs(blind[0] - blind[1]).max() > 0.1 and np.abs(blind[0] - curves[0]).max() > 1e-3


# On disk


def test_what_was_cut_off_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    make = lambda name: materialise(
        tmp_path / name, A, SOFT, linear_apply, TEACHER, LabelSettings("int8", 3, 4), 1, 2 * 4 * 5
    )
    whole = make("whole")
    assert [shard.shape for shard in whole.shards] == [(2, 4)] * 4 + [(1, 4)] and whole.nbytes == 9 * 4 * 5
    assert sum(f.stat().st_size for f in (tmp_path / "whole").glob("*.npy")) - whole.nbytes < 5 * 256

    save, written = np.save, []

    def fails(file, records, **more):
        if len(written) == 2:
            file.write(b"half")
            raise OSError("disk full")
        written.append(records)
        save(file, records, **more)

    monkeypatch.setattr(labels.np, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        make("cut")
    monkeypatch.setattr(labels.np, "save", save)
    names = lambda folder: sorted(f.name for f in (tmp_path / folder).iterdir())
    assert names("cut") == ["00000.npy", "00001.npy", "labels.json"]
    assert "cut off at step 4 of 9" in message(lambda: open_labels(tmp_path / "cut"))
    before = (tmp_path / "cut" / "00001.npy").stat().st_mtime_ns
    make("cut")
    assert (tmp_path / "cut" / "00001.npy").stat().st_mtime_ns == before
    assert names("cut") == names("whole")
    for name in names("whole"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    found = open_labels(tmp_path / "cut").read(np.array([8, 3]))
    for name, values in found.items():
        np.testing.assert_array_equal(values, np.concatenate(whole.shards)[[8, 3]][name])


def test_labels_of_something_else_are_refused(kept, stored_trainer):
    stored, trainer = kept(A, 1), stored_trainer(4)

    def ask(data=A, how=SOFT, part=stored, trainer=trainer):
        return message(lambda: evaluate.train_student(trainer, how, data, 0, None, labels=part))

    change = lambda **more: replace(SOFT, train=replace(SOFT.train, **more))
    assert "other images" in ask(B)
    assert "other images" in ask(replace(A, norm=Normalisation(np.zeros(1), np.full(1, 2.0))))
    assert "augment" in ask(how=change(augment=Augment(crop="none", flip=False)))
    assert "batch size 4" in ask(how=change(batch_size=3))
    assert "labels soft" in ask(how=replace(SOFT, labels="hard"))
    assert "temperature 4.0" in ask(how=replace(SOFT, temperature=2.0), part=kept(A, 1, "topk"))
    assert "3 steps" in ask(part=kept(A, 1, epochs=1))
    assert "neither" in ask(part=None)
    assert "neither" in ask(trainer=evaluate.student_trainer(LINEAR, SOFT, linear_apply, A))
    several = lambda *parts: message(lambda: evaluate.train_students(trainer, SOFT, [A, A], [0, 1], None, labels=parts))
    assert "2 students and stored labels for 1" in several(stored)
    assert "form='int8'" in several(stored, kept(A, 1, "int8"))


def test_a_folder_keeps_its_labels(tmp_path):
    make = lambda data=A, teacher=TEACHER, form="int8", place=tmp_path / "x": materialise(
        place, data, SOFT, linear_apply, teacher, LabelSettings(form, 3, 4), 1, 16
    )
    assert "no stored labels" in message(lambda: open_labels(tmp_path))
    make()
    assert "int8" in message(lambda: make(form="topk"))
    assert "images" in message(lambda: make(B)) and "teacher" in message(
        lambda: make(teacher=jax.tree.map(lambda x: x + 1, TEACHER))
    )
    (tmp_path / "x" / "00001.npy").write_bytes(b"nothing")
    assert "00001.npy is damaged" in message(lambda: open_labels(tmp_path / "x"))
    np.save(tmp_path / "x" / "00001.npy", np.zeros((1, 4)))
    assert "not what labels.json" in message(lambda: open_labels(tmp_path / "x"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "holds no labels" in message(lambda: make(place=tmp_path / "other"))
    broken = jax.tree.map(lambda x: x * jnp.nan, TEACHER)
    for form in ("topk", "int8"):
        assert f"no numbers as {form}" in message(partial(make, form=form, teacher=broken, place=tmp_path / form))
        assert not (tmp_path / form).exists()


def test_the_programs_label_a_run_folder_and_learn_from_it(program, tmp_path, digits, monkeypatch):
    info = {
        "dataset": "digits", "image_shape": [8, 8, 1], "class_names": list(digits.class_names), "model": "convnet3",
        "width": 8, "stem": "auto", "mean": [0.3], "std": [0.4], "holdout": 0.0, "seed": 0,
        "train": asdict(SOFT.train), "accuracy": 0.1,
    }  # fmt: skip
    model = nn.get("convnet3", 10, 8, width=8)
    variables = drawn(lambda key: model.init(key, (8, 8, 1)), 0)
    norm = Normalisation(*np.float32([[0.3], [0.4]]))
    teachers.save_teacher(tmp_path / "teacher", teachers.Teacher(model, variables, norm, info))
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    data = replace(dataset(0, 10), images=images, labels=np.arange(10), class_names=digits.class_names, norm=norm)
    data = replace(data, provenance={"method": "mine"})
    distilled.save(data, tmp_path / "distilled")
    config = {"dataset": "digits", "data_dir": None, "flip": None, "memory_gib": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))

    flags = ("--form", "topk", "--top", 4, "--epochs", 3, "--protocol", "wmdd:plain", "--seed", 6)
    status, out, err = program("relabel", tmp_path, *flags)
    assert status == 0, err
    assert "top 4, 3 epochs" in out and "360 bytes" in out
    pictures = sum(place.stat().st_size for place in tmp_path.glob("distilled/train/*/*.png"))
    assert f"{pictures:,d} bytes" in out
    made = open_labels(tmp_path)
    # Ten images are one batch.
    assert (made.steps, made.batch_size, made.seed) == (3, 10, 6)
    labels.check_fits(made, distilled.load(tmp_path), protocol.named("wmdd:plain"))
    want = KEEP(LabelSettings("topk", 4), model.apply(variables, images).logits, 20.0)
    for t, rows in enumerate(islice(permutations(10, 10, 6), 3)):
        found = made.read([t])
        np.testing.assert_array_equal(found["classes"][0], np.asarray(want["classes"])[rows])
        np.testing.assert_allclose(found["above"][0], np.asarray(want["above"])[rows], rtol=5e-3, atol=5e-3)
    status, out, err = program("relabel", tmp_path, "--protocol", "hard")
    assert status == 2 and "hard labels" in err

    # Who evaluates the folder may learn from them, the baselines from the teacher.
    asked = []

    def trained(trainer, protocol, datasets, seeds, context, title, labels):
        asked.append((context is None, labels and [part.steps for part in labels]))
        yield students.Trained(np.arange(len(datasets)), np.zeros(len(datasets)), None)

    monkeypatch.setattr("experiments.evaluate.side_by_side", trained)
    monkeypatch.setattr("experiments.evaluate.accuracies", lambda apply, variables, norm, batches: variables)
    flags = ("--stored", "--seeds", 2, "--full", 0, "--baselines", "random", "--out", tmp_path / "rows.json")
    status, out, err = program("evaluate", tmp_path, *flags, "--protocols", "hard", "wmdd:plain")
    assert status == 0, err
    assert asked == [(False, None), (False, None), (True, [3, 3])]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["method"], row["labels"]) for row in rows] == [
        ("random", "hard"), ("mine", "hard"), ("random", "wmdd:plain"), ("mine", "wmdd:plain"),
    ]  # fmt: skip
    status, out, err = program("evaluate", tmp_path, *flags, "--protocols", "hard", "soft")
    assert status == 2 and "stored labels are for augment" in err and len(asked) == 3
