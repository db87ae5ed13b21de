"""A vocabulary cut to the pieces that some texts use: first the tokenizer, then the rows of a model's embedding.

Multilingual encoders keep most of their weights in the embeddings of pieces that one pair of languages never uses
(Abdaoui, Pradel & Sigel 2020, "Load What You Need"). What is cut here changes nothing for the texts it was cut to.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilingua.errors import UserError

KINDS = ("Unigram", "WordPiece", "BPE")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte of a character that has no piece
SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("pad", "unk", "bos", "eos", "cls", "sep", "mask"))


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], folder: Path) -> None:
    """Writes a tokenizer that splits `texts` as `tokenizer` does and has no more pieces than that takes.

    It also keeps special tokens, every byte, and every single character of the texts' scripts, so that other text in
    them still has pieces. The pieces keep their order.

    Args:
        texts: as the model will read them, prefix included.
        folder: for `AutoTokenizer.from_pretrained`.

    Raises:
        UserError: a tokenizer of another kind than Unigram, WordPiece or BPE of the `tokenizers` library.
    """
    recipe = _recipe(tokenizer)
    model, full = recipe["model"], Tokenizer.from_str(json.dumps(recipe))
    added = {token["content"] for token in recipe["added_tokens"]}
    scripts = {"", *(_script(c) for text in texts for c in text)}
    keep = added | set(tokenizer.all_special_tokens) | _needed(full, model, texts)
    keep |= {piece for piece in _pieces(model) if _is_character(piece, model, scripts)}
    old = full.get_vocab(with_added_tokens=True)
    inside = sorted((p for p in _pieces(model) if p in keep), key=lambda piece: old[piece])
    outside = sorted(added - set(inside), key=lambda piece: old[piece])  # these get the ids after the model's own
    ids = {piece: i for i, piece in enumerate([*inside, *outside])}
    _cut(model, inside, ids)
    for token in recipe["added_tokens"]:
        token["id"] = ids[token["content"]]
    recipe["added_tokens"].sort(key=lambda token: token["id"])
    _renumber(recipe["post_processor"], ids)
    trimmed = Tokenizer.from_str(json.dumps(recipe))
    _check_same_pieces(full, trimmed, texts)
    tokenizer.save_pretrained(folder)
    trimmed.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings.pop("added_tokens_decoder", None)  # has the old ids
    settings["tokenizer_class"] = "TokenizersBackend"  # classes named after a model rebuild what tokenizer.json says
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), "utf-8")


def _recipe(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A tokenizer's tokenizer.json."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    recipe: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    kind = recipe["model"]["type"] if recipe else type(tokenizer).__name__
    if kind not in KINDS:
        raise UserError(
            f"student.trim_vocabulary=true: the tokenizer is a {kind}; only {', '.join(KINDS)} of the tokenizers "
            f"library can be trimmed. Set student.trim_vocabulary=false."
        )
    recipe["truncation"] = recipe["padding"] = None  # left over from the last call
    return recipe


def _cut(model: dict[str, Any], inside: Sequence[str], ids: dict[str, int]) -> None:
    """Leaves these pieces of a tokenizer's model, under their new ids."""
    if model["type"] == "Unigram":
        scores = dict(model["vocab"])
        unknown = model["vocab"][model["unk_id"]][0] if model["unk_id"] is not None else None
        model["vocab"] = [[piece, scores[piece]] for piece in inside]
        model["unk_id"] = ids[unknown] if unknown is not None else None
        return
    model["vocab"] = {piece: ids[piece] for piece in inside}
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in model["merges"] if _merged(pair, model) in model["vocab"]]


def _check_same_pieces(full: Tokenizer, trimmed: Tokenizer, texts: Sequence[str]) -> None:
    for text, before, after in zip(texts, _tokens(full, texts), _tokens(trimmed, texts), strict=True):
        if before != after:
            raise UserError(
                f"student.trim_vocabulary=true: {text!r} would become {after}, expected {before}. "
                f"Set student.trim_vocabulary=false, and please report this tokenizer."
            )


def kept_rows(trimmed: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase) -> list[int]:
    """For every piece of the trimmed tokenizer, in order, its row in the original's embedding."""
    old, new = original.get_vocab(), trimmed.get_vocab()
    return [old[piece] for piece in sorted(new, key=lambda piece: new[piece])]


def trim_embeddings(model: PreTrainedModel, rows: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Leaves these rows of the model's input embedding, and of its output embedding if it has one.

    Args:
        rows: see `kept_rows`.
        tokenizer: the trimmed one, whose special tokens the configuration will name.

    Raises:
        UserError: the padding piece gets another number, and the model counts positions from it.
    """
    pad_id, reserved = tokenizer.pad_token_id, reserved_rows(model)
    if reserved and pad_id != reserved - 1:
        raise UserError(
            f"student.trim_vocabulary=true: the padding piece would move from {reserved - 1} to {pad_id}, and "
            f"{type(model).__name__} counts positions from it. Set student.trim_vocabulary=false."
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    embedding.weight = _rows(embedding.weight, rows)
    embedding.num_embeddings = len(rows)
    if embedding.padding_idx is not None:
        embedding.padding_idx = pad_id
    if head is not None:
        head.weight = embedding.weight if tied else _rows(head.weight, rows)
        head.out_features = len(rows)
        if head.bias is not None:
            head.bias = _rows(head.bias, rows)
        model.set_output_embeddings(head)  # models that keep the bias in two places set both
    model.config.vocab_size = len(rows)
    for config in filter(None, (model.config, getattr(model, "generation_config", None))):
        for name in SPECIAL_IDS:
            if getattr(config, name, None) is not None:
                setattr(config, name, getattr(tokenizer, name))


def reserved_rows(model: PreTrainedModel) -> int:
    """Rows of the position table that no piece ever has: RoBERTa and its kin count from the padding piece's id on."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def _rows(weight: Tensor, rows: Sequence[int]) -> nn.Parameter:
    return nn.Parameter(weight.detach()[torch.tensor(rows, device=weight.device)].clone())


def _pieces(model: dict[str, Any]) -> Iterable[str]:
    return [piece for piece, _ in model["vocab"]] if model["type"] == "Unigram" else model["vocab"]


def _is_character(piece: str, model: dict[str, Any], scripts: set[str]) -> bool:
    """A byte, or a character of one of these scripts."""
    core = piece.removeprefix(model.get("continuing_subword_prefix") or "")
    core = core.removesuffix(model.get("end_of_word_suffix") or "")
    if BYTE.fullmatch(piece) is not None:
        return True
    # BPE often spells bytes as letters of its own choice
    return len(core) == 1 and (model["type"] == "BPE" or _script(core) in scripts)


def _script(character: str) -> str:
    """LATIN, CJK, CYRILLIC …: Unicode names begin with it. The same for all that is no letter, such as digits."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    return unicodedata.name(character, "?").split()[0]


def _needed(full: Tokenizer, model: dict[str, Any], texts: Sequence[str]) -> set[str]:
    """The pieces of these texts, and those without which the algorithm would come to other pieces."""
    used = {piece for tokens in _tokens(full, texts) for piece in tokens}
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            used.add(model["vocab"][model["unk_id"]][0])
        # an unknown character costs the lowest score minus 10
        return used | {min(model["vocab"], key=lambda entry: entry[1])[0]}
    used |= {model["unk_token"]} - {None}
    if model["type"] == "WordPiece":
        return used | _tried(full, model, texts)
    parts: dict[str, set[str]] = {}  # a piece is reached through the pieces it is merged from
    for pair in model["merges"]:
        parts.setdefault(_merged(pair, model), set()).update(pair)
    ahead = used
    while ahead := {part for piece in ahead for part in parts.get(piece, ())} - used:
        used |= ahead
    return used


def _tried(full: Tokenizer, model: dict[str, Any], texts: Sequence[str]) -> set[str]:
    """Pieces inside words that WordPiece gives up on: without them it might find another way through the word."""
    words = {
        text[start:end]
        for text, encoding in zip(texts, _encodings(full, texts), strict=True)
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
        if token == model["unk_token"]
    }
    inside = set()
    for word in words:
        letters = full.normalizer.normalize_str(word) if full.normalizer is not None else word
        if len(letters) <= model["max_input_chars_per_word"]:  # it does not even try longer ones
            for start in range(len(letters)):
                begin = model["continuing_subword_prefix"] if start else ""
                inside |= {begin + letters[start:end] for end in range(start + 1, len(letters) + 1)}
    return inside & set(model["vocab"])


def _merged(pair: Sequence[str], model: dict[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(model.get("continuing_subword_prefix") or "")


def _encodings(tokenizer: Tokenizer, texts: Sequence[str], batch: int = 1000) -> Iterator[Any]:
    for start in range(0, len(texts), batch):
        yield from tokenizer.encode_batch(texts[start : start + batch], add_special_tokens=False)


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[str]]:
    return (encoding.tokens for encoding in _encodings(tokenizer, texts))


def _renumber(part: Any, ids: dict[str, int]) -> None:
    """Puts new ids into a post-processor, wherever it names a token."""
    if isinstance(part, dict):
        if "tokens" in part and "ids" in part:
            part["ids"] = [ids[token] for token in part["tokens"]]
        for name in ("cls", "sep"):
            if isinstance(part.get(name), list):
                part[name] = [part[name][0], ids[part[name][0]]]
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _renumber(inner, ids)
