"""Folders and models in memory without a tokenizer take token ids and refuse strings; one BOS or none."""

import pytest

import mechsteer as ms
from mechsteer.errors import DataError
from mechsteer.models import has_hooked, tokenize
from tests import toys


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def bare(family, tmp_path_factory):
    path = tmp_path_factory.mktemp("bare") / family
    toys.hf_model(family).save_pretrained(path)
    return path


def test_ids_work_and_strings_are_refused_on_every_way_of_loading(family, bare):
    ways = {"folder": ms.load_model(bare), "memory": ms.load_model(toys.hf_model(family))}
    if has_hooked():
        ways["hooked"] = ms.load_model(bare, backend="hooked")
    wanted = ms.generate(toys.shared(family), [[5, 6, 7]], max_new_tokens=4, stop_tokens=()).tokens
    for way, model in ways.items():
        assert model.tokenizer is None, way
        out = ms.generate(model, [[5, 6, 7]], max_new_tokens=4, stop_tokens=())
        assert out.tokens == wanted, way
        assert out.texts == [""], way
        with pytest.raises(DataError, match="no tokenizer"):
            ms.generate(model, ["ab"])
        store = ms.capture(model, [[5, 6, 7], [8]], [ms.Site(1, "resid_post")])
        assert store[ms.Site(1, "resid_post")].lengths.tolist() == [3, 1]


def test_a_text_that_brings_its_own_bos_has_one(family):
    model = toys.shared(family)
    bos = model.tokenizer.bos_token_id
    given, own = tokenize(model, ["ab", model.tokenizer.bos_token + "ab"])
    assert own.count(bos) == 1
    assert own[0] == bos
    assert [i for i in given if i != bos] == own[1:]
