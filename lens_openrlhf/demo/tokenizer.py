"""A character-level tokenizer: one token for each printable ASCII character and the newline."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD = "<pad>"
EOS = "<eos>"
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer; characters outside ``CHARACTERS`` are dropped.

    It is a byte-level BPE without merges, because ``AutoTokenizer`` reads the tokenizer of a Qwen2 model as
    one, whatever class and splitting rule were saved.  The unknown token is never produced; it is named so that
    Qwen2's default one is not added behind the model's vocabulary.
    """
    # Byte-level tokenizers spell the two invisible characters with visible stand-ins.
    spelling = {"\n": "Ċ", " ": "Ġ"}
    tokens = [PAD, EOS, *(spelling.get(character, character) for character in CHARACTERS)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=EOS,
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
