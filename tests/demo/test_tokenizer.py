from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lens_openrlhf.demo.tokenizer import CHARACTERS, EOS, PAD, build_tokenizer

TOKENIZER = build_tokenizer(256)


@given(st.text(alphabet=CHARACTERS))
def test_decoding_gives_the_encoded_text_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(alphabet=CHARACTERS.replace("<", ""), max_size=40))
def test_one_token_per_character_and_no_special_tokens_added(text):
    assert len(TOKENIZER.encode(text)) == len(text)


def test_special_tokens_are_distinct_and_skipped_on_request():
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token) == (PAD, EOS)
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    ids = TOKENIZER.encode("1+1") + [TOKENIZER.eos_token_id, TOKENIZER.pad_token_id]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "1+1"


def test_reloaded_tokenizer_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    text = " 7+8=15 \\boxed{385}\n  two  spaces ,. 's"
    assert reloaded.encode(text) == TOKENIZER.encode(text)
    assert reloaded.decode(reloaded.encode(text)) == text
    assert (reloaded.eos_token_id, reloaded.pad_token_id) == (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id)
    assert reloaded(["1", "123"], padding=True)["attention_mask"][0] == [0, 0, 1]
