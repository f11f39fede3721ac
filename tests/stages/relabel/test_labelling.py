"""Kinds of labels: their losses in closed form, and that what repeats or travels is what a student sees."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import message
from lane_helpers import LINEAR, SHAPE, UNIT, A, B, close, linear_apply, linear_init

from jaxdd import nn
from jaxdd.data.augment import Augment
from jaxdd.nn.convnet import ConvNet
from jaxdd.stages.context import Teacher
from jaxdd.stages.relabel import labelling, storing
from jaxdd.stages.relabel.forms import LabelForm
from jaxdd.stages.relabel.labelling import FixedLabels, MseLabels, SoftLabels
from jaxdd.stages.relabel.stored import LabelSettings
from jaxdd.students import evaluation, protocol
from jaxdd.students.evaluation import Lane
from jaxdd.students.train import TrainSettings

RNG = np.random.default_rng(0)
LOGITS, ANSWERS = RNG.normal(size=(2, 5, 3)).astype(np.float32) * 3
TARGETS = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]]
# Nine images in batches of four for four epochs: nine steps.
SOFT = replace(
    protocol.SOFT,
    labels=SoftLabels(temperature=4.0),
    train=TrainSettings(4, 4, "sgd", 0.05, augment=Augment(crop="none")),
)
TEACHER = Teacher(linear_apply, linear_init(jax.random.key(5), SHAPE), UNIT)


def said(labels):
    """The losses of some logits, given the answers of a teacher that always says the same."""
    criterion = labels.criterion(lambda variables, images: nn.Output(ANSWERS, ANSWERS, {}))
    return np.asarray(criterion(LOGITS, None, TARGETS, None))


CROSS = np.asarray(optax.softmax_cross_entropy(LOGITS, TARGETS))


def test_a_share_of_the_hard_label_is_a_share_of_the_loss():
    soft = said(SoftLabels(temperature=4.0))
    for share in (0.0, 0.3, 1.0):
        got = said(SoftLabels(temperature=4.0, hard_share=share))
        np.testing.assert_allclose(got, (1 - share) * soft + share * CROSS, rtol=1e-5)


def test_mse_compares_logits_up_to_a_constant():
    d = (LOGITS - ANSWERS).astype(np.float64)
    want = np.square(d - d.mean(1, keepdims=True)).mean(1)
    np.testing.assert_allclose(said(MseLabels(hard_share=0.0)), want, rtol=1e-5)
    np.testing.assert_allclose(said(MseLabels()), 0.975 * want + 0.025 * CROSS, rtol=1e-5)
    # At a high temperature the distillation loss is half of it (Hinton et al. 2015, section 2.1).
    np.testing.assert_allclose(2 * said(SoftLabels(temperature=60.0)), want, rtol=0.1)


def test_labels_are_rounded_as_they_travel():
    exact = said(SoftLabels(temperature=4.0))
    coarse = said(SoftLabels(temperature=4.0, form=LabelForm("topk", 1)))
    close_by = said(SoftLabels(temperature=4.0, form=LabelForm("int8")))
    np.testing.assert_allclose(close_by, exact, rtol=5e-2, atol=1e-3)
    assert np.abs(coarse - exact).max() > 0.05


def test_one_soft_label_an_image_is_the_tempered_answer_and_some_of_the_class():
    labels = np.array([0, 1, 2, 1, 0])
    p = np.asarray(jax.nn.softmax(ANSWERS / 4.0))
    np.testing.assert_allclose(FixedLabels().targets(ANSWERS, labels), p, rtol=1e-5)
    mixed = FixedLabels(hard_share=0.25).targets(ANSWERS, labels)
    np.testing.assert_allclose(mixed, 0.75 * p + 0.25 * TARGETS, rtol=1e-5)
    got = FixedLabels().criterion()(LOGITS, None, mixed, None)
    np.testing.assert_allclose(got, 16 * optax.softmax_cross_entropy(LOGITS / 4.0, mixed), rtol=1e-5)


@pytest.mark.parametrize("labels", [SoftLabels(temperature=0.0), FixedLabels(temperature=-1.0)])
def test_a_temperature_is_positive(labels):
    assert "use a positive one" in message(labels.check)


@pytest.mark.slow
def test_a_pool_of_views_is_what_stored_labels_of_as_many_epochs_hold(tmp_path):
    """A student of a pool of two epochs, asked of the teacher again and again, is that of labels stored for two."""
    form = LabelForm("int8")
    pooled = replace(SOFT, labels=replace(SOFT.labels, pool=2, form=form))
    trainer = evaluation.student_trainer(LINEAR, pooled, linear_apply, A)
    assert trainer.cycle == 5  # nine images twice in batches of four
    got = evaluation.train_students(trainer, pooled, [Lane(A, 1), Lane(B, 1)], TEACHER.variables)
    kept = [
        storing.materialise(tmp_path / str(k), data, SOFT.stream(9), TEACHER, LabelSettings("int8", epochs=2), 1)
        for k, data in enumerate([A, B])
    ]
    trainer = evaluation.student_trainer(LINEAR, SOFT, None, A, kept[0])
    want = evaluation.train_students(trainer, SOFT, [Lane(A, 1, kept[0]), Lane(B, 1, kept[1])], None)
    close(got, want)
    whole = evaluation.student_trainer(LINEAR, SOFT, linear_apply, A)
    assert np.abs(evaluation.train_student(whole, SOFT, A, 1, TEACHER.variables)[1][5:] - got[1][0][5:]).max() > 1e-3


@pytest.mark.slow
def test_targets_of_a_lane_take_the_place_of_its_classes():
    fixed = replace(SOFT, labels=FixedLabels())
    trainer = evaluation.student_trainer(LINEAR, fixed, None, A)
    targets = FixedLabels().targets(np.asarray(linear_apply(TEACHER.variables, A.images).logits), A.labels)
    lanes = [Lane(A, 1), Lane(A, 1, targets=targets), Lane(A, 1, targets=np.eye(3, dtype=np.float32)[A.labels])]
    _, losses = evaluation.train_students(trainer, fixed, lanes, None)
    np.testing.assert_array_equal(losses[0], losses[2])
    assert np.abs(losses[0] - losses[1]).max() > 0.1


@pytest.mark.slow
def test_in_batch_mode_a_teacher_normalises_by_the_moments_of_the_batch():
    model = nn.from_linen(ConvNet(3, depth=1, width=4))
    variables = model.init(jax.random.key(0), SHAPE)
    teacher = Teacher(model.apply, variables, UNIT, apply_train=model.apply_train)
    images = jnp.asarray(A.images) * 3 + 1
    usual, by_batch = labelling.answering(teacher, False), labelling.answering(teacher, True)
    assert usual is model.apply and by_batch is labelling.answering(teacher, True)
    np.testing.assert_allclose(by_batch(variables, images).logits, model.apply_train(variables, images)[0])
    assert np.abs(by_batch(variables, images).logits - usual(variables, images).logits).max() > 1e-2
    assert not nn.foldable(by_batch, variables, SHAPE) and nn.foldable(usual, variables, SHAPE)
    assert "no apply_train" in message(lambda: labelling.answering(TEACHER, True))
    stream = replace(SOFT, labels=SoftLabels(batch_statistics=True)).stream(9)
    assert stream.batch_statistics and stream != SOFT.stream(9)
