"""The text condition of Stable Diffusion: CLIP's tokenizer, and its text encoder applied to the prompts of classes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxdd.ground import extras, reading
from jaxdd.ground.errors import InputError, shown
from jaxdd.latent import clip
from jaxdd.pretrained.hub import component, read_json
from jaxdd.pretrained.latent import text_encoder

_LENGTH = 77
# Tokens of a vocabulary.
_MOST = 10**6
_START, _END = "<|startoftext|>", "<|endoftext|>"
# Special tokens, contractions, words, single digits and runs of other characters (Radford et al. 2021, section 2.4).
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def tokenizer(place: str | Path, subfolder: str = "tokenizer") -> Callable[[Sequence[str]], np.ndarray]:
    """CLIP's byte-level byte-pair encoding, from vocab.json and merges.txt.

    Args:
      place: a folder, or "owner/name[@revision]" on the Hugging Face hub; see `find`.
      subfolder: the folder of this component in ``place``; if it is missing, ``place`` is the component itself.

    Returns:
      A function from N texts to int32 [N, 77]: the start token, the text's tokens and the end token, truncated to 77.
      The padding is the token in special_tokens_map.json or tokenizer_config.json, or else the end token.

    Raises:
      InputError: no such component, damaged files, or the tokenizers library is not installed.
    """
    try:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    except ImportError as error:
        raise InputError(f"to read texts, tokenizers is missing; {extras.install('pretrained')}") from error
    folder = component(place, subfolder, "vocab.json")
    vocab, merges = _vocabulary(folder)
    pad = _padding(folder, vocab)
    encoder = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=_END))
    encoder.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.post_processor = processors.BertProcessing((_END, vocab[_END]), (_START, vocab[_START]))
    encoder.add_special_tokens([_START, _END, pad])
    encoder.enable_truncation(_LENGTH)
    encoder.enable_padding(length=_LENGTH, pad_id=vocab[pad], pad_token=pad)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.array([row.ids for row in encoder.encode_batch(list(texts))], np.int32).reshape(-1, _LENGTH)

    return encode


def _vocabulary(folder):
    file = folder / "vocab.json"
    vocab = read_json(file)
    if not all(type(i) is int and 0 <= i < _MOST for i in vocab.values()) or len(set(vocab.values())) < len(vocab):
        raise InputError(f"{file} is no map from tokens to numbers; download it again")
    try:
        "".join(vocab).encode()
    except UnicodeEncodeError:
        raise InputError(f"{file} has a token with half of a surrogate pair; download it again") from None
    for token in (_START, _END):
        if token not in vocab:
            raise InputError(f"{file} has no token {token}; give CLIP's vocabulary")
    file = folder / "merges.txt"
    lines = reading.read_text(file, "download it again").split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        if (number == 1 and line.startswith("#version")) or not line.strip():
            continue
        parts = tuple(line.split())
        if len(parts) != 2 or any(token not in vocab for token in (*parts, "".join(parts))):
            raise InputError(f"{file}, line {number}: {shown(line)} does not merge two tokens of vocab.json into a "
                             "third; download both again")  # fmt: skip
        merges.append(parts)
    return vocab, merges


def _padding(folder, vocab):
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        pad = read_json(folder / name).get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        if pad is None:
            continue
        if not isinstance(pad, str) or pad not in vocab:
            raise InputError(f"{folder / name}: pad_token {shown(pad)} is not in vocab.json; correct it")
        return pad
    return _END


def class_context(
    place: str | Path, prompts: Sequence[str], batch_size: int = 32, negative_prompt: str = ""
) -> np.ndarray:
    """The context of a UNet for each class: the output of the text encoder for its prompt.

    Args:
      place: a folder, or "owner/name[@revision]" on the Hugging Face hub, with tokenizer/ and text_encoder/.
      prompts: one per class, K in total.
      batch_size: the number of texts encoded at a time.
      negative_prompt: the prompt of the null class, from which guidance leads away.

    Returns:
      float32 [K + 1, 77, d]. The last row is that of the negative prompt.

    Raises:
      InputError: see `tokenizer` and `text_encoder`, or the two are of different models.
    """
    tokens = tokenizer(place)([*prompts, negative_prompt])
    config, variables = text_encoder(place)
    if tokens.max() >= config.vocab_size:
        raise InputError(f"token {tokens.max()} of the tokenizer in {place} is beyond the {config.vocab_size} of its "
                         "text encoder; give both of the same model")  # fmt: skip
    apply = jax.jit(clip.text_encoder(config).apply)
    variables = jax.device_put(variables)
    size = min(batch_size, len(tokens))
    # The last batch is padded, so that all batches share one compilation.
    filled = np.concatenate([tokens, tokens[:1].repeat(-len(tokens) % size, 0)]).reshape(-1, size, _LENGTH)
    return np.concatenate([np.asarray(apply(variables, batch)) for batch in filled])[: len(tokens)]
