"""Models: from a batch to its summed loss, with documents kept apart.

::

    check_tokenizer         a model's token ids mean those of the shards    vocabulary.py
    build_model             recipe, shards, seed -> LanguageModel           build.py
      ├─ load_model         a model that transformers saved
      └─ _keep_apart        choose spans or a mask by a trial batch
    LanguageModel           batch -> summed loss, or nats of tokens         model.py
      ├─ span_attention     attention within the spans of documents         attention.py
      └─ cross entropy      states, head, targets -> nats, without logits   loss.py
    apply_options           recomputed activations, compiled code           build.py
    count_parameters, Utilisation     size, operations, MFU                 flops.py
"""
