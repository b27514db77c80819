"""A tiny sentence encoder, and a static one distilled from it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from penstock.selectors.encoders.distillation import distil, encode_vocabulary
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder

SENTENCES = [
    "Plants make sugar from light and water.",
    "Photosynthesis turns sunlight into food for a leaf.",
    "The striker scored twice before half time.",
    "",
    "The match ended in a draw after extra time.",
    " \n\t",
    "water " * 400,
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of two narrow layers with random weights, in a directory."""
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:  # before version 6
        from sentence_transformers.models import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
    words = sorted({word.strip(".").lower() for text in SENTENCES for word in text.split()})
    vocabulary = {token: index for index, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(directory / "bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(directory / "bert")
    module = Transformer(str(directory / "bert"), max_seq_length=32)
    pooling = Pooling(config.hidden_size)
    SentenceTransformer(modules=[module, pooling], device="cpu").save(str(directory / "model"))
    return directory / "model"


@pytest.fixture(scope="session")
def sentences() -> pa.Array:
    return pa.array(SENTENCES, pa.large_string())


@pytest.fixture(scope="session")
def static(tiny: Path, sentences: pa.Array) -> StaticEncoder:
    return distil(encode_vocabulary(SentenceEncoder(str(tiny)), dim=8), sentences)
