"""Tokenizers: vocab.json, merges.txt and the maps of special tokens."""

import json
from pathlib import Path

from faults.fuzz import mutate
from faults.fuzz.rules import Target, packed, placed, unpacked

from jaxdd import pretrained

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tokenizer.json").read_text())
BASE = {
    "tokenizer/vocab.json": json.dumps(GOLDEN["vocab"]).encode(),
    "tokenizer/merges.txt": "\n".join(["#version: 0.2", *GOLDEN["merges"], ""]).encode(),
    "tokenizer/special_tokens_map.json": json.dumps({"pad_token": {"content": "<|endoftext|>"}}).encode(),
    "tokenizer/tokenizer_config.json": json.dumps({"pad_token": "!"}).encode(),
}
TOKENS = ["<|startoftext|>", "<|endoftext|>", "t", "h", "th", "e</w>", "the</w>", "!"]
SMALL = {
    "tokenizer/vocab.json": json.dumps({token: i for i, token in enumerate(TOKENS)}).encode(),
    "tokenizer/merges.txt": b"t h\nth e</w>\n",
}


def read(folder, data):
    with placed(folder, unpacked(data, BASE), BASE):
        tokens = pretrained.tokenizer(folder)(["a photo of the cat", "", "CAFÉ 猫 <|endoftext|>", "!" * 200])
        assert tokens.shape == (4, 77) and tokens.min() >= 0


TARGET = Target(
    "tokens",
    lambda: [packed({}), packed(SMALL)],
    mutate.of_files(BASE, {".json": mutate.as_json, ".txt": mutate.as_lines}),
    read,
)
