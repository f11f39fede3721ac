"""CLIP's tokenizer against transformers' (golden/tokenizer.json, by golden/make_tokenizer.py), and class prompts."""

import json

import numpy as np
import pytest
from helpers import message
from pretrained_helpers import golden, pipeline, vocabulary

from jaxdd import pretrained

END = "<|endoftext|>"


@pytest.mark.parametrize(
    "pad, files",
    [
        (END, {}),
        (END, {"tokenizer_config": {"pad_token": None}}),
        ("!", {"tokenizer_config": {"pad_token": "!"}}),
        ("!", {"tokenizer_config": {"pad_token": END}, "special_tokens_map": {"pad_token": "!"}}),
        (END, {"tokenizer_config": {"pad_token": "!"}, "special_tokens_map": {"pad_token": {"content": END}}}),
    ],
)
def test_tokens_are_those_of_transformers(pad, files, tmp_path):
    tokens = pretrained.tokenizer(vocabulary(tmp_path, **files))(golden()["texts"])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, golden()["ids"][pad])


def test_no_texts(tmp_path):
    assert pretrained.tokenizer(vocabulary(tmp_path))([]).shape == (0, 77)


def test_vocabularies_that_are_refused(tmp_path):
    read = lambda: pretrained.tokenizer(tmp_path)
    assert "vocab.json" in message(read)
    for line in ("t", "t h e", "z t", "t 猫"):
        (vocabulary(tmp_path) / "merges.txt").write_text(f"#version: 0.2\nt h\n{line}\n")
        text = message(read)
        assert "merges.txt, line 3" in text and line in text
    (tmp_path / "merges.txt").unlink()
    assert "merges.txt" in message(read)
    vocabulary(tmp_path, special_tokens_map={"pad_token": "[PAD]"})
    assert "[PAD]" in message(read)
    (tmp_path / "vocab.json").write_text(json.dumps({END: 0}))
    assert "<|startoftext|>" in message(read)
    (tmp_path / "vocab.json").write_text(json.dumps({END: "0"}))
    assert "vocab.json" in message(read)


@pytest.mark.slow
def test_class_context(tmp_path):
    apply, variables = pipeline(tmp_path, len(golden()["vocab"]))
    prompts = ["a photo of the cat", "cars", "the 9", "an ant"]
    context = pretrained.class_context(tmp_path, prompts, batch_size=2)
    assert context.shape == (5, 77, 8) and context.dtype == np.float32
    tokens = pretrained.tokenizer(tmp_path)([*prompts, ""])
    np.testing.assert_allclose(context, apply(variables, tokens), atol=1e-5)
    np.testing.assert_allclose(pretrained.class_context(tmp_path, prompts), context, atol=1e-5)
    np.testing.assert_allclose(pretrained.class_context(tmp_path, []), context[-1:], atol=1e-5)


@pytest.mark.slow
def test_tokenizer_and_text_encoder_of_different_models(tmp_path):
    pipeline(tmp_path, 50)
    text = message(lambda: pretrained.class_context(tmp_path, ["the cat"]))
    assert str(tmp_path) in text and "50" in text
