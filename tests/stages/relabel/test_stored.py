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
from helpers import diverged, message
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lane_helpers import LINEAR, SHAPE, UNIT, A, B, close, dataset, lane, linear_apply, linear_init

from jaxdd import nn
from jaxdd.data import augment, distilled, permutations
from jaxdd.data.augment import Augment
from jaxdd.ground import losses
from jaxdd.ground.normalise import Normalisation
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel import forms, stored
from jaxdd.stages.relabel.forms import decode, encode
from jaxdd.stages.relabel.labelling import HardLabels, SoftLabels
from jaxdd.stages.relabel.stored import LabelSettings, open_labels
from jaxdd.stages.relabel.storing import materialise
from jaxdd.students import evaluation, lanes, protocol, train
from jaxdd.students.evaluation import Lane
from jaxdd.students.lanes import Limits
from jaxdd.students.train import TrainSettings
from jaxdd.workspace import teachers

# Nine images in batches of four for four epochs: nine steps, the last batch of which is full, too.
SOFT = replace(
    protocol.SOFT,
    labels=SoftLabels(temperature=4.0),
    train=TrainSettings(4, 4, "sgd", 0.05, augment=Augment(crop="none")),
)
STREAM = SOFT.stream(9)
TEACHER = Teacher(linear_apply, linear_init(jax.random.key(5), SHAPE), UNIT)
CLASSES = 6
T = 20.0

logits = arrays(np.float32, (3, CLASSES), elements=st.floats(-60, 60, width=32))
softmax = lambda z: np.asarray(jax.nn.softmax(np.asarray(z, np.float32)), np.float64)
FEW = examples(max_examples=40, deadline=None)


KEEP, TELL = jax.jit(encode, static_argnums=(0, 2)), jax.jit(decode, static_argnums=1)


def round_trip(form, z):
    kept = KEEP(form, z, T)
    kind = forms.record(form, CLASSES)
    assert {name: (x.dtype, x.shape[1:]) for name, x in kept.items()} == {
        name: (kind[name].base, kind[name].shape) for name in kind.names
    }
    return kept, np.asarray(TELL(kept, CLASSES), np.float64)


# Forms


@FEW
@given(logits)
def test_eight_bits_are_off_by_half_a_step_at_most(z):
    kept, decoded = round_trip(LabelSettings("int8"), z)
    scale = np.asarray(kept["scale"], np.float64)
    assert (scale <= np.maximum(np.ptp(z, 1) / 255, 2.0**-14) * (1 + 2.0**-10)).all()
    # Float32 sums up to sixty are exact to 4e-6.
    assert (np.abs(decoded - (z - z.min(1, keepdims=True))).max(1) <= scale / 2 + 1e-5).all()


@FEW
@given(logits)
def test_floats_are_the_logits_up_to_a_constant_and_their_rounding(z):
    np.testing.assert_array_equal(round_trip(LabelSettings("float32"), z)[1], z)
    centred = z - z.mean(1, keepdims=True, dtype=np.float64)
    error = np.abs(round_trip(LabelSettings("float16"), z)[1] - centred)
    assert (error <= 2.0**-11 * np.abs(centred) + 1e-5).all()


@pytest.mark.slow
@FEW
@given(logits, st.sampled_from([1, 2, 5]))
def test_the_largest_keep_their_probability_and_the_others_share_what_remains(z, top):
    kept, decoded = round_trip(LabelSettings("topk", top), z)
    p, q = softmax(z / T), softmax(decoded / T)
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
    _, decoded = round_trip(LabelSettings("topk", CLASSES), z)
    np.testing.assert_allclose(softmax(decoded / T), softmax(z / T), rtol=2 * 0.0625 / T + 1e-4)


def test_a_record_takes_what_is_said_of_it():
    size = lambda *fields, classes=1000: forms.record(LabelSettings(*fields), classes).itemsize
    assert [size(form) for form in ("float32", "float16", "int8")] == [4000, 2000, 1002]
    assert size("topk", 50) == 200 and size("topk", 50, classes=256) == 150
    assert "'int4'" in message(lambda: size("int4")) and "0 epochs" in message(
        lambda: LabelSettings("int8", 1, 0).steps(9, 3)
    )
    assert "`top` 11 of 10" in message(lambda: size("topk", 11, classes=10))


# Students


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(dataset, seed, **settings) -> labels of the linear teacher, made once."""
    root, made = tmp_path_factory.mktemp("labels"), {}

    def make(data, seed, form="float32", epochs=4, shard_bytes=2**26):
        name = (id(data), seed, form, epochs, shard_bytes)
        if name not in made:
            how = LabelSettings(form, 3, epochs)
            made[name] = materialise(root / str(len(made)), data, STREAM, TEACHER, how, seed, shard_bytes)
        return made[name]

    return make


@pytest.fixture(scope="module")
def stored_trainer(kept):
    """(epochs) -> the trainer for labels of so many."""
    return lru_cache(lambda epochs: evaluation.student_trainer(LINEAR, SOFT, None, A, kept(A, 1, epochs=epochs)))


@pytest.mark.slow
@pytest.mark.parametrize("form, tolerance", [("float32", 1e-5), ("int8", 1e-2)])
def test_a_student_of_stored_labels_is_the_teachers_own(kept, stored_trainer, replayed, form, tolerance):
    students = [Lane(A, 1, kept(A, 1, form)), Lane(B, 2, kept(B, 2, form))]
    variables, losses = evaluation.train_students(stored_trainer(4), SOFT, students, None)
    close((variables, losses), replayed, tolerance)
    assert np.abs(losses[0] - losses[1]).max() > 0.1
    one = evaluation.train_student(stored_trainer(4), SOFT, B, 2, None, kept(B, 2, form))
    close(one, (lane(variables, 1), losses[1]))


@pytest.fixture(scope="module")
def replayed():
    trainer = evaluation.student_trainer(LINEAR, SOFT, linear_apply, A)
    return evaluation.train_students(trainer, SOFT, [Lane(A, 1), Lane(B, 2)], TEACHER.variables)


@pytest.mark.slow
def test_all_forms_tell_the_same_of_the_same_images(kept):
    answers = {form: kept(A, 1, form).read(np.arange(9)) for form in forms.FORMS}
    p = {form: softmax(TELL(part, 3) / SOFT.labels.temperature) for form, part in answers.items()}
    assert p["float32"].shape == (9, 4, 3) and np.ptp(p["float32"]) > 0.2
    for form, tolerance in {"float16": 1e-3, "topk": 1e-3, "int8": 1e-2}.items():
        np.testing.assert_allclose(p[form], p["float32"], rtol=tolerance)


CHANGE = augment.pipeline(SOFT.train.augment)
OPTIMIZER = train.optimizer(SOFT.train, SOFT.train.steps(9))


@jax.jit
def step_by_hand(params, state, key, images, weights, t):
    images, _ = CHANGE(jax.random.fold_in(key, t), images, jnp.zeros((4, 3)))
    wanted = linear_apply(TEACHER.variables, images).logits

    def loss(params):
        return (weights * losses.distillation(linear_apply({"params": params}, images).logits, wanted, 4.0)).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def by_hand(data, seed, stream, cycle, steps):
    """A student whose step t sees what step t mod ``cycle`` of the stream saw; no trainer of the library's."""
    key = jax.random.fold_in(jax.random.key(stream), 1)
    params = linear_init(jax.random.fold_in(jax.random.key(seed), 0), SHAPE)["params"]
    rows, weights = list(islice(permutations(9, 4, stream), cycle)), data.loss_weights()
    state, curve = OPTIMIZER.init(params), []
    for t in np.arange(steps) % cycle:
        params, state, value = step_by_hand(params, state, key, data.images[rows[t]], weights[rows[t]], t)
        curve.append(value)
    return params, np.array(curve)


@pytest.mark.slow
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
    one, three = kept(B, 7, epochs=1), kept(A, 8, epochs=1, shard_bytes=1)
    assert (len(one.shards), len(three.shards)) == (1, 3)
    students, counts, read = [Lane(B, 2, one), Lane(A, 1, three), Lane(B, 1, one)], [], lanes._labels
    monkeypatch.setattr(lanes, "_labels", lambda parts, steps: counts.append(len(steps)) or read(parts, steps))
    monkeypatch.setattr(lanes, "_SENT_BYTES", sent)
    variables, curves = evaluation.train_students(stored_trainer(1), SOFT, students, None, Limits(**limits))
    for s, student in enumerate(students):
        params, curve = by_hand(student.dataset, student.seed, student.labels.seed, 3, 9)
        close((lane(variables, s)["params"], curves[s]), (params, curve))
    assert counts == reads


@pytest.mark.slow
def test_an_image_of_weight_zero_changes_nothing(kept, stored_trainer):
    images, weights = A.images.copy(), A.weights.copy()
    images[4], weights[4] = 9.0, 0.0
    sets = replace(A, weights=weights), replace(A, weights=weights, images=images)
    students = [Lane(data, 0, kept(data, 3)) for data in sets]
    run = partial(evaluation.train_students, stored_trainer(4), students=students, context=None)
    variables, curves = run(SOFT)
    np.testing.assert_array_equal(curves[0], curves[1])
    close(lane(variables, 0), lane(variables, 1), 0)
    _, blind = run(replace(SOFT, weights="uniform"))
    assert np.abs(blind[0] - blind[1]).max() > 0.1 and np.abs(blind[0] - curves[0]).max() > 1e-3


# On disk


def test_what_was_cut_off_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    make = lambda name: materialise(tmp_path / name, A, STREAM, TEACHER, LabelSettings("int8", 3, 4), 1, 2 * 4 * 5)
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

    monkeypatch.setattr(stored.np, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        make("cut")
    monkeypatch.setattr(stored.np, "save", save)
    names = lambda folder: sorted(f.name for f in (tmp_path / folder).iterdir())
    assert names("cut") == ["00000.npy", "00001.npy", "labels.json"]
    assert "cut off at step 4 of 9" in message(lambda: open_labels(tmp_path / "cut"))
    before = (tmp_path / "cut" / "00001.npy").stat().st_mtime_ns
    make("cut")
    assert (tmp_path / "cut" / "00001.npy").stat().st_mtime_ns == before
    assert names("cut") == names("whole")
    for name in names("whole"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    records = open_labels(tmp_path / "cut").read(np.array([8, 3]))
    assert set(records) == {"codes", "scale"}
    for name, values in records.items():
        np.testing.assert_array_equal(values, np.concatenate(whole.shards)[[8, 3]][name])


def test_labels_of_something_else_are_refused(kept, stored_trainer):
    labels, trainer = kept(A, 1), stored_trainer(4)

    def ask(data=A, how=SOFT, part=labels, trainer=trainer):
        return message(lambda: evaluation.train_student(trainer, how, data, 0, None, part))

    change = lambda **more: replace(SOFT, train=replace(SOFT.train, **more))
    assert "other images" in ask(B)
    assert "other images" in ask(replace(A, norm=Normalisation(np.zeros(1), np.full(1, 2.0))))
    assert "augment" in ask(how=change(augment=Augment(crop="none", flip=False)))
    assert "batch size 4" in ask(how=change(batch_size=3))
    hard = ask(how=replace(SOFT, labels=HardLabels()))
    assert "the protocol has hard labels" in hard and "stored labels are soft" in hard
    colder = replace(SOFT, labels=SoftLabels(temperature=2.0))
    assert "temperature 4.0" in ask(how=colder, part=kept(A, 1, "topk"))
    assert "3 steps" in ask(part=kept(A, 1, epochs=1))
    assert "or to none" in ask(part=None)
    assert "or to none" in ask(trainer=evaluation.student_trainer(LINEAR, SOFT, linear_apply, A))
    several = lambda *parts: message(
        lambda: evaluation.train_students(trainer, SOFT, [Lane(A, seed, part) for seed, part in enumerate(parts)], None)
    )
    assert "all of its students, or to none" in several(labels, None)
    assert "form='int8'" in several(labels, kept(A, 1, "int8"))
    assert "hard labels" in message(
        lambda: evaluation.student_trainer(LINEAR, replace(SOFT, labels=HardLabels()), None, A, labels)
    )


def test_a_folder_keeps_its_labels(tmp_path):
    make = lambda data=A, teacher=TEACHER, form="int8", place=tmp_path / "x": materialise(
        place, data, STREAM, teacher, LabelSettings(form, 3, 4), 1, 16
    )
    changed = lambda change: TEACHER._replace(variables=jax.tree.map(change, TEACHER.variables))
    assert "no stored labels" in message(lambda: open_labels(tmp_path))
    make()
    line = message(lambda: make(form="topk"))
    assert f"{tmp_path / 'x'} holds labels of other settings: `form` was int8 and is topk now" in line
    assert "`images` was another one" in message(lambda: make(B))
    assert "teacher" in message(lambda: make(teacher=changed(lambda x: x + 1)))
    (tmp_path / "x" / "00001.npy").write_bytes(b"nothing")
    assert "00001.npy is damaged" in message(lambda: open_labels(tmp_path / "x"))
    np.save(tmp_path / "x" / "00001.npy", np.zeros((1, 4)))
    assert "not what labels.json" in message(lambda: open_labels(tmp_path / "x"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "holds no labels" in message(lambda: make(place=tmp_path / "other"))
    broken = changed(lambda x: x * jnp.nan)
    for form in ("topk", "int8"):
        line = diverged(partial(make, form=form, teacher=broken, place=tmp_path / form))
        assert f"step 0 are not finite as {form}" in line
        assert not (tmp_path / form).exists()
    huge = changed(lambda x: x * 1e6)
    assert "huge; use `form` float32" in message(lambda: make(form="topk", teacher=huge, place=tmp_path / "huge"))
    assert not (tmp_path / "huge").exists()


@pytest.mark.slow
def test_the_programs_label_a_run_folder_and_learn_from_it(program, tmp_path, digits, monkeypatch):
    info = {
        "dataset": "digits", "image_shape": [8, 8, 1], "class_names": list(digits.class_names), "model": "convnet3",
        "width": 8, "stem": "auto", "mean": [0.3], "std": [0.4], "holdout": 0.0, "seed": 0,
        "train": asdict(SOFT.train), "accuracy": 0.1,
    }  # fmt: skip
    model = nn.get("convnet3", 10, 8, width=8)
    variables = drawn(lambda key: model.init(key, (8, 8, 1)), 0)
    norm = Normalisation(*np.float32([[0.3], [0.4]]))
    teachers.save_teacher(tmp_path / "teacher", Teacher(model.apply, variables, norm, info))
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    data = replace(dataset(0, 10), images=images, labels=np.arange(10), class_names=digits.class_names, norm=norm)
    data = replace(data, weights=np.ones(10, np.float32), provenance={"method": "mine"})
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
    stored.check_fits(made, distilled.load(tmp_path), protocol.named("wmdd:plain").stream(10))
    want = KEEP(LabelSettings("topk", 4), model.apply(variables, images).logits, 20.0)
    for t, rows in enumerate(islice(permutations(10, 10, 6), 3)):
        records = made.read([t])
        np.testing.assert_array_equal(records["classes"][0], np.asarray(want["classes"])[rows])
        np.testing.assert_allclose(records["above"][0], np.asarray(want["above"])[rows], rtol=5e-3, atol=5e-3)
    status, out, err = program("relabel", tmp_path, "--protocol", "hard")
    assert status == 2 and "hard labels" in err

    # Who evaluates the folder may learn from them, the baselines from the teacher.
    calls = []

    def trained(trainer, protocol, students, context, limits):
        calls.append((context is None, [student.labels and student.labels.steps for student in students]))
        yield lanes.Trained(np.arange(len(students)), np.zeros(len(students)), None)

    monkeypatch.setattr("jaxdd.workspace.comparison.side_by_side", trained)
    monkeypatch.setattr("jaxdd.workspace.comparison.accuracies", lambda apply, variables, norm, batches: variables)
    flags = ("--stored", "--seeds", 2, "--full", 0, "--baselines", "random", "--out", tmp_path / "rows.json")
    status, out, err = program("evaluate", tmp_path, *flags, "--protocols", "hard", "wmdd:plain")
    assert status == 0, err
    # Under hard labels four students of both methods; under soft ones each method is trained by itself.
    assert calls == [(False, [None] * 4), (False, [None] * 2), (True, [3, 3])]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["method"], row["labels"]) for row in rows] == [
        ("random", "hard"), ("mine", "hard"), ("random", "wmdd:plain"), ("mine", "wmdd:plain"),
    ]  # fmt: skip
    status, out, err = program("evaluate", tmp_path, *flags, "--protocols", "hard", "soft")
    assert status == 2 and "stored labels are for augment" in err and len(calls) == 3
