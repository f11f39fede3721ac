"""Writes tokenizer.json, what transformers' CLIPTokenizer makes of a few texts with a made-up vocabulary.

    python tests/golden/make_tokenizer.py

Needs transformers; nothing else in the project does. The vocabulary has bytes without an entry, which become the
unknown token.
"""

import json
import tempfile
from pathlib import Path

import transformers

LETTERS = [*"abcdefghijklmnoprstuvwxyz0123456789!,.'-<|>"] + ["Ã", "©"]
MERGES = ["t h", "th e</w>", "c a", "ca t</w>", "ca r", "i n", "in g</w>", "p h", "ph o", "pho t", "phot o</w>", "a n"]
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
TEXTS = [
    "",
    "a photo of the cat",
    "  A   Photo\tof\nthe CAT!!  ",
    "the cat's 1234 cars, it'll sing...",
    "CAFÉ cafe\u0301",
    "quick 猫 cat",
    "an and <|endoftext|> then",
    "the cat " * 50,
]


def main():
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *(m.replace(" ", "") for m in MERGES), *SPECIAL]
    vocab = {token: i for i, token in enumerate(tokens)}
    ids = {}
    for pad in ("<|endoftext|>", "!"):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "vocab.json").write_text(json.dumps(vocab))
            Path(folder, "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
            Path(folder, "tokenizer_config.json").write_text(
                json.dumps({"tokenizer_class": "CLIPTokenizer", "pad_token": pad, "model_max_length": 77})
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        ids[pad] = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=77)["input_ids"]
    record = {"vocab": vocab, "merges": MERGES, "texts": TEXTS, "ids": ids}
    Path(__file__).with_name("tokenizer.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
